"""What the model plays on: real PostgreSQL, the Key Vault stand-in, the program's wiring, and a clock that stands."""

import dataclasses
import itertools
import json
import logging
import random
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, override

import psycopg
import pytest
from psycopg import sql

from rotators.airflow import RotatedConnection
from rotators.events import EventIn, EventOut
from rotators.outcome import AirflowReport
from rotators.retries import BoundedRetry
from rotators.systems import Systems, connect
from sandbox.clock import Clock
from sandbox.key_vault import SecretVersion
from sandbox.postgresql import PostgreSQL
from tests.boundaries import Boundaries
from tests.world import ADMIN_SECRET, World, logs_in, user_of, world

START = datetime(2026, 1, 1, tzinfo=UTC)
# Nothing is searched in its log here, and a login is to be cheap.
SERVER_SETTINGS: Mapping[str, str] = {
    "scram_iterations": "1", "log_statement": "none", "log_connections": "off", "log_disconnections": "off",
}  # fmt: skip
FOREIGN = "airflow-connections-foreign"


class StandingClock(Clock):
    """Moves only when it is told, so that a run can be replayed."""

    @override
    def now(self) -> datetime:
        with self._lock:
            return START + self._ahead


class Airflow:
    """Answers as it is told, and remembers what it was told."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.refreshed: set[str] = set()

    def refresh(self, rotated: RotatedConnection) -> AirflowReport:
        if self.failure:
            raise self.failure
        self.refreshed.add(rotated.version)
        return AirflowReport("healed", connection="absent")

    def retry_failed(self, rotated: Sequence[RotatedConnection]) -> dict[str, AirflowReport]:
        if self.failure:
            raise self.failure
        return {connection.secret: AirflowReport("healed") for connection in rotated}


class Topic:
    """Keeps what it is sent; what it hands out comes back as an event."""

    def __init__(self) -> None:
        self.handed_out: list[EventIn] = []
        self.texts: list[str] = []

    def publish(self, *events: EventOut) -> None:
        for event in events:
            self.texts.append(json.dumps(event.data))
            if event.type == "Requested":
                self.handed_out.append(EventIn(str(uuid.uuid4()), "SecretRotation.Requested", event.data))


class Log(logging.Handler):
    """Keeps what the program logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.last: deque[str] = deque(maxlen=200)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        if not record.getMessage().startswith('{"event":"step"'):
            self.last.append(record.getMessage())


@dataclasses.dataclass(frozen=True, slots=True)
class RoleState:
    """What PostgreSQL keeps of a user."""

    password: str | None
    can_login: bool
    comment: str | None


class Bench:
    """One world for one run of the model; `counts` adds up over all of them."""

    _numbers = itertools.count()

    def __init__(self, folder: Path, server: PostgreSQL, counts: Counter[str]) -> None:
        self.server, self.counts = server, counts
        self.number = next(self._numbers)
        self.boundaries = Boundaries()
        self.airflow, self.topic, self.log = Airflow(), Topic(), Log()
        self._stack = ExitStack()
        self._proven: dict[tuple[str, RoleState | None], bool] = {}
        self._users = itertools.count()
        try:
            self._open(folder)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, folder: Path) -> None:
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        # Hypothesis seeds this generator at the start of each run.
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4))
        # Repeated at once: what is waited for is not on this clock.
        patch.setattr(BoundedRetry, "sleep", lambda *_: None)
        patch.setattr("rotators.access.LOCK_WAIT", timedelta(milliseconds=20))
        self.boundaries.watch(patch)
        clock = StandingClock()
        here = world(folder, self.server, clock=clock, ROTATION_CONCURRENCY="1")
        self.here: World = self._stack.enter_context(here)
        self.vault, self.clock = self.here.vault, self.here.clock
        self.systems = dataclasses.replace(self.here.systems, airflow=self.airflow, topic=None)  # type: ignore[arg-type]
        self.session = self._stack.enter_context(psycopg.connect(self.server.superuser, autocommit=True))
        self._admin = self._stack.enter_context(psycopg.connect(self.server.admin_dsn, autocommit=True))
        logger = logging.getLogger("rotators")
        before = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self.log)
        self._stack.callback(logger.removeHandler, self.log)
        self._stack.callback(logger.setLevel, before)
        self.here.admin(self.server.admin_dsn)

    def close(self) -> None:
        for name in self.roles():
            for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
                self.session.execute(sql.SQL(statement).format(sql.Identifier(name)))
        self._stack.close()

    def restart(self) -> None:
        """Another instance of the app, with clients of its own."""
        airflow, topic, now = self.systems.airflow, self.systems.topic, self.systems.now
        self._stack.callback(self.systems.vault.close)
        self.systems = dataclasses.replace(connect(), airflow=airflow, topic=topic, now=now)

    def with_topic(self) -> Systems:
        return dataclasses.replace(self.systems, topic=self.topic)  # type: ignore[arg-type]

    # -- the database, by its superuser

    @property
    def prefix(self) -> str:
        return f"m{self.number}_"

    def user(self) -> str:
        """Make a user; return its URI. All use one database: one for each would cost more than the test."""
        name = f"{self.prefix}{next(self._users)}"
        password = f"first-{uuid.uuid4().hex}"
        self.set_password(name, password, "CREATE ROLE {} LOGIN PASSWORD {}", self._admin)
        return self.uri(name, password)

    def uri(self, user: str, password: str) -> str:
        return self.server.dsn(user, password)

    def set_password(
        self,
        user: str,
        password: str,
        statement: Any = "ALTER ROLE {} LOGIN PASSWORD {}",  # Any: a literal, to psycopg
        session: "psycopg.Connection[Any] | None" = None,
    ) -> None:
        by = session or self.session
        verifier = by.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256").decode()
        by.execute(sql.SQL(statement).format(sql.Identifier(user), verifier))

    def lock_out(self, user: str) -> None:
        self.session.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(user)))

    def end_sessions(self) -> None:
        """What a fail-over does to the program."""
        self.session.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity "
            "WHERE application_name = 'credential-rotation'"
        )

    def roles(self) -> dict[str, RoleState]:
        rows = self.session.execute(
            "SELECT rolname, rolpassword, rolcanlogin, shobj_description(oid, 'pg_authid') FROM pg_authid "
            "WHERE starts_with(rolname, %s) ORDER BY rolname DESC",
            (self.prefix,),
        ).fetchall()
        return {name: RoleState(*state) for name, *state in rows}

    def logs_in(self, uri: str, roles: Mapping[str, RoleState]) -> bool:
        """Whether it does, by a login as a consumer's; asked once for each password that the server has had."""
        asked = uri, roles.get(user_of(uri))
        if asked not in self._proven:
            self.counts["logins"] += 1
            self._proven[asked] = logs_in(uri)
        return self._proven[asked]

    # -- the vault

    def versions(self, name: str) -> tuple[SecretVersion, ...]:
        return self.vault.versions(name)

    def current(self, name: str) -> SecretVersion:
        return self.vault.current(name)

    def passwords(self) -> Iterator[str]:
        for name in {version.name for version in self.vault._store.all_current()}:  # noqa: SLF001 (no HTTP for a step)
            for version in self.versions(name):
                if "://" in version.value:
                    yield str(psycopg.conninfo.conninfo_to_dict(version.value)["password"])

    def texts(self) -> str:
        """Return what the program has said since the last call."""
        said = [*self.log.texts, *self.topic.texts]
        self.log.texts.clear()
        self.topic.texts.clear()
        return "\n".join(said)


@contextmanager
def bench_server() -> Iterator[PostgreSQL]:
    with PostgreSQL(settings=SERVER_SETTINGS) as server:
        server.execute("GRANT pg_signal_backend TO rotator")
        yield server


def policy(kind: str) -> dict[str, str]:
    """Return the tags that put a secret under rotation."""
    if kind == "alternating":
        return {"rotation-strategy": "alternating-users", "rotation-admin": ADMIN_SECRET}
    admin = ADMIN_SECRET if kind == "single" else "self"
    return {"rotation-strategy": "single-user", "rotation-admin": admin}
