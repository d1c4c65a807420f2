"""A rotation is a list of outside calls: die before and after each of them, and let the next delivery find it so.

The list is recorded from a run that is not disturbed, so a new call is covered by itself. Dying is an exception
that nothing catches: the admin's session ends without a commit, as it does when a process is killed (which
`tests/e2e` does for real, at one of them).
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from rotators.databases.postgresql import PostgreSQLEngine
from rotators.decision import Trigger
from rotators.dispatch import deliver, sweep
from rotators.errors import TransientError
from rotators.events import EventIn
from rotators.outcome import AirflowReport
from rotators.policy import read_state
from rotators.rotation import rotate
from rotators.vault import Vault
from tests.world import ADMIN_SECRET, World, logs_in

VAULT_CALLS = ("current", "version", "versions", "publish", "write_tags", "disable")
ADMIN_CALLS = ("lock", "assert_locked", "roles", "sessions", "set_password", "create_second", "claim", "lock_out",
               "end_sessions")  # fmt: skip


# Who is killed between logging in and taking hold of the session cannot close it.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


class Killed(BaseException):
    """The process is gone."""


class Airflow:
    """Counts its refreshes."""

    def __init__(self) -> None:
        self.refreshed: list[str] = []

    def refresh(self, rotated: Any) -> AirflowReport:
        self.refreshed.append(rotated.version)
        return AirflowReport("healed")

    def retry_failed(self, rotated: Any) -> dict[str, AirflowReport]:
        return {connection.secret: AirflowReport("healed") for connection in rotated}


class Boundaries:
    """Every call to the outside, in its order; `kill_at` is where the process dies: 2n before call n, 2n+1 after."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.kill_at: int | None = None

    def around[**P, T](self, name: str, call: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(call)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            number = len(self.calls)
            self.calls.append(name)
            if self.kill_at == 2 * number:
                raise Killed(f"before {name}")
            try:
                return call(*args, **kwargs)
            finally:
                if self.kill_at == 2 * number + 1:
                    raise Killed(f"after {name}")

        return called


@pytest.fixture
def boundaries(monkeypatch: pytest.MonkeyPatch) -> Boundaries:
    made = Boundaries()
    for name in VAULT_CALLS:
        monkeypatch.setattr(Vault, name, made.around(f"vault.{name}", getattr(Vault, name)))
    monkeypatch.setattr(PostgreSQLEngine, "verify", made.around("database.verify", PostgreSQLEngine.verify))
    monkeypatch.setattr(Airflow, "refresh", made.around("airflow.refresh", Airflow.refresh))
    log_in = PostgreSQLEngine.admin

    def admin(self: PostgreSQLEngine, *args: Any, **kwargs: Any) -> Any:
        session = made.around("database.admin", log_in)(self, *args, **kwargs)
        for name in ADMIN_CALLS:
            setattr(session, name, made.around(f"database.{name}", getattr(session, name)))
        transaction = session.transaction

        @contextmanager
        def around_commit() -> Iterator[None]:
            with transaction():
                yield
                made.around("database.about to commit", lambda: None)()
            made.around("database.committed", lambda: None)()

        monkeypatch.setattr(session, "transaction", around_commit)
        return session

    monkeypatch.setattr(PostgreSQLEngine, "admin", admin)
    return made


def first_rotation(_: World, name: str) -> str:
    return name


def later_rotation(here: World, name: str) -> str:
    rotate(here.systems, here.trigger(name))
    return name


def by_hand(here: World, name: str) -> str:
    """A person writes a version whose password the database does not know, and drops every tag."""
    rotate(here.systems, here.trigger(name))
    value = here.value(name)
    here.vault.put(name, value.replace(value.split(":")[2].split("@")[0], "by-hand"))
    return name


MAKE: dict[str, Callable[[World], str]] = {
    "alternating": lambda here: here.alternating(),
    "single with an admin": lambda here: here.single(rotation_admin=ADMIN_SECRET),
    "single with self": lambda here: here.single(rotation_admin="self"),
}
PREPARE = {"first": first_rotation, "later": later_rotation, "by hand": by_hand, "revoke": later_rotation}


def act(there: World, event: EventIn | Trigger) -> None:
    if isinstance(event, Trigger):
        rotate(there.systems, event)
    else:
        deliver(there.systems, event)


def what_comes(here: World, name: str, story: str) -> EventIn | Trigger:
    if story == "by hand":
        return here.event("Microsoft.KeyVault.SecretNewVersionCreated", name)
    here.make_due()
    if story == "revoke":
        return here.trigger(name, revoke=True, is_repeatable=True)
    return here.near_expiry(name)


@pytest.mark.parametrize("again", ["redelivery", "sweep"])
@pytest.mark.parametrize("story", PREPARE)
@pytest.mark.parametrize("strategy", MAKE)
def test_the_next_delivery_or_sweep_finishes_the_job(
    here: World, boundaries: Boundaries, strategy: str, story: str, again: str
) -> None:
    """P1, P2, P4: wherever it died, afterwards the current version logs in, and one cause made one version."""
    there = here.app(airflow=Airflow(), topic=None)
    undisturbed = PREPARE[story](there, MAKE[strategy](here))
    comes = what_comes(here, undisturbed, story)
    boundaries.calls.clear()
    act(there, comes)
    total = len(boundaries.calls)
    assert total > 5
    made_by_cause = len(here.versions(undisturbed))
    here.vault.delete(undisturbed)
    for boundary in range(2 * total):
        airflow = Airflow()
        there = here.app(airflow=airflow, topic=None)
        boundaries.kill_at = None
        name = PREPARE[story](there, MAKE[strategy](here))
        comes = what_comes(here, name, story)
        before = len(here.versions(name))
        boundaries.calls.clear()
        boundaries.kill_at = boundary
        try:
            act(there, comes)
        except Killed as killed:
            where = f"{strategy}, {story}, {killed}"
        else:
            # Versions of one second come in any order, so a run may take a call less than the one recorded.
            assert boundary >= 2 * len(boundaries.calls)
            break
        boundaries.kill_at = None
        if again == "redelivery" or (story == "by hand" and read_state(here.tags(name)) is None):
            act(there, comes)
        else:
            sweep(there.systems)
        assert here.logs_in(name), where
        expected = made_by_cause if again == "redelivery" else len(here.versions(name))
        assert len(here.versions(name)) == expected, where
        assert len(here.versions(name)) - before <= 1, where
        state = read_state(here.tags(name))
        assert state is not None, where
        assert not state.is_unfinished, where
        assert here.vault.current(name).version in airflow.refreshed, where
        if story == "revoke" and again == "redelivery":
            assert not here.versions(name)[-2].enabled, where
        here.vault.delete(name)


@pytest.mark.parametrize("strategy", MAKE)
def test_a_retirement_that_was_cut_off_is_finished_by_the_next_sweep(
    here: World, boundaries: Boundaries, strategy: str
) -> None:
    """P2: never the newest version, never the user that it names."""
    there = here.app(topic=None)
    undisturbed = MAKE[strategy](here)
    rotate(there.systems, here.trigger(undisturbed))
    here.clock.advance(timedelta(hours=25))
    boundaries.calls.clear()
    sweep(there.systems)
    total = len(boundaries.calls)
    assert "vault.disable" in boundaries.calls
    here.vault.delete(undisturbed)
    for boundary in range(2 * total):
        boundaries.kill_at = None
        name = MAKE[strategy](here)
        rotate(there.systems, here.trigger(name))
        here.clock.advance(timedelta(hours=25))
        boundaries.calls.clear()
        boundaries.kill_at = boundary
        try:
            sweep(there.systems)
        except Killed:
            pass
        else:
            raise AssertionError("nobody was killed")
        boundaries.kill_at = None
        sweep(there.systems)
        assert here.logs_in(name)
        assert [version.enabled for version in here.versions(name)] == [False, True]
        state = read_state(here.tags(name))
        assert state is not None
        assert state.retired is not None
        here.vault.delete(name)


@pytest.mark.parametrize("again", ["repetition", "sweep"])
def test_a_rollback_that_was_cut_off_is_finished_or_never_was(here: World, boundaries: Boundaries, again: str) -> None:
    """P1, P2, P4: by the request with the same key or by the sweep; both credentials work meanwhile."""
    total = 0
    for boundary in range(-1, 100):
        airflow = Airflow()
        there = here.app(airflow=airflow, topic=None)
        name = later_rotation(there, MAKE["alternating"](here))
        comes = here.trigger(name, "rollback", is_repeatable=True)
        boundaries.calls.clear()
        boundaries.kill_at = boundary
        try:
            act(there, comes)
        except Killed as killed:
            where = f"{again}, {killed}"
        else:
            assert total == 0, "nobody was killed"
            where, total = "undisturbed", len(boundaries.calls)
            assert {"vault.publish", "database.verify", "airflow.refresh"} <= set(boundaries.calls)
        boundaries.kill_at = None
        is_published = len(here.versions(name)) == 3
        if again == "repetition":
            act(there, comes)
        else:
            sweep(there.systems)
        assert here.logs_in(name), where
        assert all(logs_in(version.value) for version in here.versions(name)), where
        assert len(here.versions(name)) == (3 if is_published or again == "repetition" else 2), where
        state = read_state(here.tags(name))
        assert state is not None, where
        assert not state.is_unfinished, where
        assert here.vault.current(name).version in airflow.refreshed, where
        here.vault.delete(name)
        if boundary == 2 * total - 1:
            return
    raise AssertionError("there are more calls than are looked at")


@pytest.mark.parametrize("strategy", MAKE)
def test_a_transient_fault_at_each_boundary_leaves_a_credential_that_works(
    here: World, boundaries: Boundaries, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P2: also when the call failed only as far as we can tell, the event comes again and finds its work done."""
    monkeypatch.setattr(f"{__name__}.Killed", TransientError)
    there = here.app(airflow=Airflow(), topic=None)
    undisturbed = later_rotation(there, MAKE[strategy](here))
    comes = what_comes(here, undisturbed, "later")
    boundaries.calls.clear()
    act(there, comes)
    total = len(boundaries.calls)
    for boundary in range(2 * total):
        boundaries.kill_at = None
        name = later_rotation(there, MAKE[strategy](here))
        comes = what_comes(here, name, "later")
        before = len(here.versions(name))
        boundaries.calls.clear()
        boundaries.kill_at = boundary
        try:
            act(there, comes)
        except TransientError:
            boundaries.kill_at = None
            act(there, comes)
        assert here.logs_in(name), (strategy, boundary)
        assert len(here.versions(name)) == before + 1, (strategy, boundary)
