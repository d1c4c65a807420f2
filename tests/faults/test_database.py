"""A database server that restarts, fails over, is full, in the middle of a rotation."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

import psycopg
import pytest

from rotators.dispatch import deliver
from rotators.rotation import rotate
from sandbox.faults import Dropped
from sandbox.http_service import Response
from sandbox.postgresql import HOST, PostgreSQL
from tests.faults.conftest import THOROUGH, Outside, outside_of
from tests.faults.stories import Case, later_rotation
from tests.faults.wire import When
from tests.world import ADMIN_SECRET, logs_in, world

pytestmark = pytest.mark.timeout(600)

KINDS = (("alternating-users", "secret"), ("single-user", "secret"), ("single-user", "self"))
REDELIVERIES = 3
# Of the calls, where there is no time for all: the next kind meets others.
EVERY = 1 if THOROUGH else 4


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Outside]:
    """A server of its own, which may be restarted."""
    with PostgreSQL() as server, outside_of(tmp_path, server) as made:
        yield made


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS, ids=" by ".join)
def test_a_server_that_crashes_and_comes_back(alone: Outside, kind: tuple[str, str], when: When) -> None:
    """P1, P2, P4: it crashes at any call to the database; what was committed is there, what was not is not."""

    def crash() -> Response | None:
        alone.here.server.restart(immediate=True)
        is_back.set()
        raise Dropped

    is_back = Event()

    number = KINDS.index(kind) % EVERY
    with alone.instance() as instance:
        while True:
            case = Case.begin(alone, instance, kind, later_rotation)
            alone.wire.reset(number, when, crash, system="database")
            result = alone.act(instance, case.what)
            if (where := alone.wire.struck) is None:
                break
            alone.wire.reset()
            is_back.wait()
            is_back.clear()
            case.check_in_between(where)
            for _ in range(REDELIVERIES):
                if result.is_transient:
                    result = alone.act(instance, case.what)
            assert result.error is None, (where, result)
            case.check_in_the_end(where)
            case.end()
            number += EVERY
    assert number >= EVERY


def test_a_server_at_its_connection_limit(alone: Outside) -> None:
    """P2: nothing is changed while nobody gets in, and the next delivery rotates."""
    kind = ("alternating-users", "secret")
    with alone.instance() as instance, ExitStack() as sessions:
        case = Case.begin(alone, instance, kind, later_rotation)
        before = alone.here.versions(case.name)
        with suppress(psycopg.OperationalError):
            while True:
                sessions.enter_context(psycopg.connect(alone.here.server.admin_dsn))
        full = alone.act(instance, case.what)
        assert full.is_transient, full
        assert "reserved" in str(full.error) or "too many" in str(full.error)
        assert alone.here.versions(case.name) == before
        sessions.close()
        assert alone.act(instance, case.what).error is None
        case.check_in_the_end("afterwards")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("strategy", ["alternating-users", "single-user"])
def test_a_failover_while_the_new_version_is_written(tmp_path: Path, strategy: str, when: When) -> None:
    """P1, P2, P4: the primary is gone for good; its synchronous standby has all that was committed."""
    hba = ("host all all all scram-sha-256", "host replication all all scram-sha-256")
    with (
        PostgreSQL(hba=hba) as primary,
        PostgreSQL(hba=hba, standby_of=primary) as standby,
        world(tmp_path, primary) as here,
    ):
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")

        def on_both(uri: str) -> str:
            return uri.replace(f":{primary.port}", f":{primary.port},{HOST}:{standby.port}")

        def fail_over() -> None:
            primary.stop(immediate=True)
            standby.promote()

        here.admin(on_both(primary.admin_dsn))
        tags = {"rotation-strategy": strategy, "rotation-admin": ADMIN_SECRET}
        name = here.secret(on_both(primary.create_user("app")), tags)
        rotate(here.systems, here.trigger(name))
        here.make_due()
        event = here.near_expiry(name)
        before = here.value(name)
        here.vault.fail(method="PUT", path=f"/secrets/{name}$", run=fail_over, when=when)
        deliver(here.systems, event)
        deliver(here.systems, event)
        assert len(here.versions(name)) == 3
        assert logs_in(here.value(name))
        assert logs_in(before) == (strategy == "alternating-users")
