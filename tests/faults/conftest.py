"""The program in processes of its own, every call of it to the outside on one wire, and everything it says kept."""

import dataclasses
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from rotators.access import ENTRA_DATABASE_SCOPE
from rotators.decision import Trigger
from rotators.events import REQUESTED, EventIn
from rotators.policy import RotationState, read_state
from rotators.rotation import rotate
from sandbox.event_grid import EventGrid
from sandbox.identity import Token
from sandbox.postgresql import PostgreSQL
from sandbox.postgresql_proxy import PostgreSQLProxy
from tests.faults.airflow import PASSWORD, Airflow
from tests.faults.evidence import Evidence
from tests.faults.instance import Instance, Result
from tests.faults.wire import Wire
from tests.world import ADMIN_SECRET, World, logs_in, world

ENTRA_LOGIN = "entra-rotator"
# `make soak` has the time to go everywhere.
THOROUGH = bool(os.environ.get("THOROUGH"))
type What = EventIn | dict[str, object] | None
"""An event, what an HTTP request asks for, or the timer."""


@dataclass
class Outside:
    """A world with an Airflow and a topic, in which the program is an `instance` that can be killed."""

    here: World
    airflow: Airflow
    topic: EventGrid
    proxy: PostgreSQLProxy
    wire: Wire
    evidence: Evidence
    folder: Path
    environment: dict[str, str]

    def instance(self, *, patience: float = 0) -> Instance:
        return Instance(self.environment, self.folder / "instance.log", self.folder / "made", patience=patience)

    # -- arranging

    def secret(self, strategy: str, admin: str) -> str:
        """Put a new user's connection under rotation, with a stale copy and a failed task of its in Airflow."""
        user = f"app_{uuid.uuid4().hex[:8]}"
        uri = self.proxy.through(self.here.server.create_user(user))
        if admin == "entra":
            self.here.server.execute(f'GRANT "{user}" TO "{ENTRA_LOGIN}" WITH ADMIN OPTION')
        tag = {"secret": ADMIN_SECRET, "self": "self", "entra": f"entra:{ENTRA_LOGIN}"}[admin]
        return self.here.secret(uri, {"rotation-strategy": strategy, "rotation-admin": tag})

    def rotate(self, instance: Instance, name: str) -> None:
        """Rotate once, undisturbed, and let Airflow suffer from it."""
        request = self.request(name)
        if ENTRA_LOGIN in self.here.tags(name)["rotation-admin"]:
            self.act(instance, request)  # its token has to be the last one that was handed out
        else:
            rotate(self.here.systems, Trigger(**request))  # type: ignore[arg-type]
        self.suffer(name)

    def suffer(self, name: str) -> None:
        started = self.here.clock.now() - timedelta(minutes=5)
        self.airflow.suffer(connection_of(name), self.here.user_of(name), self.proxy.port, started=started)

    # -- acting

    def act(self, instance: Instance, what: What) -> Result:
        """Do it, and then what the sweep handed out over the topic; return how the last of it ended."""
        told = len(self.topic.received)
        self.start(instance, what)
        result = instance.result()
        for event in self.topic.received[told:]:
            if event["eventType"] == REQUESTED and what is None and not result.was_killed:
                result = self.act(instance, EventIn(str(event["id"]), REQUESTED, event["data"]))
        return result

    def start(self, instance: Instance, what: What) -> None:
        """Deliver an event, ask for a rotation, or sweep."""
        ahead = self.here.clock.now() - datetime.now(UTC)
        match what:
            case EventIn():
                instance.start("deliver", ahead=ahead, event=dataclasses.asdict(what))
            case dict():
                instance.start("rotate", ahead=ahead, trigger=what)
            case None:
                instance.start("sweep", ahead=ahead)

    def request(self, name: str, **changes: object) -> dict[str, object]:
        """Return what an HTTP request with an idempotency key asks for."""
        return {
            "kind": "http", "secret": name, "id": str(uuid.uuid4()), "by": "key", "is_repeatable": True, **changes
        }  # fmt: skip

    # -- looking

    def state(self, name: str) -> RotationState:
        state = read_state(self.here.tags(name))
        assert state is not None
        return state

    def any_version_logs_in(self, name: str) -> bool:
        return any(logs_in(version.value) for version in reversed(self.here.versions(name)))

    def forget(self, name: str) -> None:
        """Take its passwords down and the secret away, so that nothing more comes of it."""
        self.evidence.secrets_in(version.value for version in self.here.versions(name))
        self.evidence.keep(*(dict(version.tags) for version in self.here.versions(name)))
        self.here.vault.delete(name)


def connection_of(name: str) -> str:
    return name.removeprefix("airflow-connections-")


@pytest.fixture
def outside(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[Outside]:
    with outside_of(tmp_path, postgresql) as made:
        yield made


@contextmanager
def outside_of(folder: Path, postgresql: PostgreSQL) -> Iterator[Outside]:
    """P3, for each test: when it is over, no password or token is found in anything that came out."""
    with ExitStack() as stack:
        airflow = stack.enter_context(Airflow())
        topic = stack.enter_context(EventGrid())
        settings = {
            **airflow.settings(),
            "EVENT_GRID_TOPIC_ENDPOINT": topic.topic_endpoint,
            "EVENT_GRID_TOPIC_KEY": topic.topic_key,
            "ROTATION_ALLOWED_HOSTS": "127.0.0.1",
        }
        here = stack.enter_context(world(folder, postgresql, behind=timedelta(0), clock=None, **settings))
        proxy = stack.enter_context(PostgreSQLProxy(postgresql.port))
        here.admin(proxy.through(postgresql.admin_dsn))
        here.vault.identity.on_issue = _told_of_tokens(postgresql)
        evidence, wire = Evidence(), Wire()
        here.vault.watch(wire.tap("vault"))
        here.vault.identity.watch(wire.tap("identity"))
        airflow.watch(wire.tap("airflow"))
        topic.watch(wire.tap("topic"))
        proxy.tap = wire.tap("database")
        environment = {**here.vault.environment(), **settings}
        log_before = len(postgresql.log())
        outside = Outside(here, airflow, topic, proxy, wire, evidence, folder, environment)
        with evidence.of_activity(postgresql.superuser):
            yield outside
        for secret in here.vault.client().list_properties_of_secrets():
            evidence.secrets_in(version.value for version in here.versions(secret.name or ""))
        evidence.secret(PASSWORD, topic.topic_key, *airflow.tokens, *here.vault.identity.issued)
        if (folder / "made").exists():
            evidence.secret(*(folder / "made").read_text().split())
        evidence.keep_file(folder / "instance.log")
        evidence.keep(postgresql.log()[log_before:], topic.received, airflow.notes)
        assert evidence.found() == []


def _told_of_tokens(server: PostgreSQL) -> Callable[[Token], None]:
    """Let the server take the identity's tokens as Azure Database for PostgreSQL does: a login that has no password."""
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ENTRA_LOGIN,)):
        server.create_user(ENTRA_LOGIN, by_admin=False)
        server.execute(f'ALTER ROLE "{ENTRA_LOGIN}" CREATEROLE')

    def learn(token: Token) -> None:
        if token.resource != ENTRA_DATABASE_SCOPE.removesuffix("/.default"):
            return
        with psycopg.connect(server.superuser, autocommit=True) as session:
            login = ENTRA_LOGIN.encode()
            verifier = session.pgconn.encrypt_password(token.value.encode(), login, b"scram-sha-256").decode()
            session.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ENTRA_LOGIN), verifier))

    return learn
