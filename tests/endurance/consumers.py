"""What uses a secret, each a process of its own: `reader` logs in without pause, `session` stays logged in.

Started by `tests.endurance.readers`: instructions come on standard input, the report goes to standard output, both
JSON. A reader may run in Airflow's environment, so nothing of ours but the board is imported.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.endurance.board import Board

CONNECT_SECONDS = 10
PAUSE_SECONDS = 0.01
STATEMENTS_A_TABLE = 50

type Credential = dict[str, str]
"""What psycopg is given."""
type Read = Callable[[], Credential]


@dataclass(frozen=True, slots=True)
class Instructions:
    """What a consumer is to do.

    Attributes:
        folder: where the board is.
        number: of the consumer, on the board.
        vault: the vault's URL.
        secret: the secret's name.
        way: how a reader reads: `sdk`, or `airflow` for its own secrets backend (only in Airflow's environment).
        cached_seconds: how long a reader keeps what it has read, on the moved clock.
        uri: what a session logs in with.
    """

    folder: str
    number: int
    vault: str = ""
    secret: str = ""
    way: str = "sdk"
    cached_seconds: float = 0
    uri: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """A login that failed.

    Attributes:
        text: what libpq said, which holds no password.
        was_current: whether reading again gave the same credential: it was published and did not work yet.
    """

    text: str
    was_current: bool


@dataclass(frozen=True, slots=True)
class Outage:
    """From the first refusal of a reader until it logged in again, in real time and on the moved clock."""

    milliseconds: float
    moved_seconds: float


@dataclass(frozen=True, slots=True)
class ReaderReport:
    """What a reader saw; `is_out` when its last login failed."""

    reads: int
    logins: int
    users: list[str]
    unread: list[str]
    failures: list[Failure]
    outages: list[Outage]
    is_out: bool


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What a session did; `owners` are those of the tables it made, `error` is what ended it too early."""

    user: str
    statements: int
    owners: list[str]
    tables: int
    error: str


def main() -> None:
    """Do as standard input says. The libraries' own output does not come into the report."""
    report, sys.stdout = sys.stdout, sys.stderr
    logging.disable()
    instructions = Instructions(**json.load(sys.stdin))
    board = Board(Path(instructions.folder))
    work = {"reader": read_without_pause, "session": work_in_one_session}[sys.argv[1]]
    json.dump(work(instructions, board), report, default=asdict)
    report.flush()
    # Airflow leaves threads behind, which would be waited for.
    os._exit(0)


def read_without_pause(instructions: Instructions, board: Board) -> ReaderReport:
    """Read the secret and log in, again and again, until the board says stop."""
    read = {"sdk": _with_the_sdk, "airflow": _with_airflow}[instructions.way](instructions)
    record = _Record(board)
    credential: Credential | None = None
    read_at = 0.0
    while not board.is_stopping:
        with board.instant():
            if credential is None or board.now() - read_at >= instructions.cached_seconds:
                try:
                    credential = read()
                    read_at = board.now()
                    record.reads += 1
                except Exception as error:  # noqa: BLE001 (whatever the client raises, a task would have failed)
                    record.unread.append(f"{type(error).__name__}: {error}")
                    credential = None
            if credential is not None:
                record.log_in(credential)
        board.count(instructions.number)
        board.await_start()
    return record.report()


def work_in_one_session(instructions: Instructions, board: Board) -> SessionReport:
    """Log in once, and work in that session until the board says stop: statements, and tables of its own."""
    user, statements, tables, owners, failure = "", 0, 0, set[str](), ""
    try:
        with psycopg.connect(instructions.uri, autocommit=True, connect_timeout=CONNECT_SECONDS) as session:
            user = session.info.user
            while not board.is_stopping:
                session.execute("SELECT 1")
                statements += 1
                if statements % STATEMENTS_A_TABLE == 1:
                    owners.add(_make_a_table(session, f"made_by_{instructions.number}"))
                    tables += 1
                board.count(instructions.number)
                board.await_start()
                time.sleep(PAUSE_SECONDS)
    except psycopg.Error as error:
        failure = str(error)
    return SessionReport(user, statements, sorted(owners), tables, failure)


def _make_a_table(session: psycopg.Connection[tuple[Any, ...]], name: str) -> str:
    """Make a table, use it, and return its owner."""
    with session.transaction():
        table = sql.Identifier(name)
        session.execute(sql.SQL("CREATE TABLE {} (id int)").format(table))
        session.execute(sql.SQL("INSERT INTO {} VALUES (1)").format(table))
        ((owner,),) = session.execute("SELECT tableowner FROM pg_tables WHERE tablename = %s", (name,)).fetchall()
        session.execute(sql.SQL("DROP TABLE {}").format(table))
    return str(owner)


@dataclass(slots=True)
class _Refusal:
    """The login that failed last, and when the failing began: in real time and on the moved clock."""

    text: str
    credential: Credential
    since: float
    since_moved: float


@dataclass(slots=True)
class _Record:
    """What a reader has seen so far."""

    board: Board
    reads: int = 0
    logins: int = 0
    users: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    refusal: _Refusal | None = None

    def log_in(self, credential: Credential) -> None:
        """Log in, and note what became of it; a failure is complete when it is known what was read after it."""
        before = self.refusal
        if before is not None:
            self.failures.append(Failure(before.text, was_current=credential == before.credential))
        text = _log_in(credential)
        if text:
            since, since_moved = time.monotonic(), self.board.now()
            self.refusal = _Refusal(
                text, credential, before.since if before else since, before.since_moved if before else since_moved
            )
            return
        self.refusal = None
        self.logins += 1
        self.users.add(credential["user"])
        if before is not None:
            milliseconds = (time.monotonic() - before.since) * 1000
            self.outages.append(Outage(milliseconds, self.board.now() - before.since_moved))

    def report(self) -> ReaderReport:
        if self.refusal is not None:
            self.failures.append(Failure(self.refusal.text, was_current=False))
        return ReaderReport(
            reads=self.reads,
            logins=self.logins,
            users=sorted(self.users),
            unread=self.unread,
            failures=self.failures,
            outages=self.outages,
            is_out=self.refusal is not None,
        )


def _log_in(credential: Credential) -> str:
    """Log in and run a statement; return what went wrong, or nothing."""
    try:
        with psycopg.connect(**credential, connect_timeout=CONNECT_SECONDS) as session:  # type: ignore[arg-type]
            session.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def _with_the_sdk(instructions: Instructions) -> Read:
    """What AzureKeyVaultBackend does: the newest version, through an unmodified SecretClient; libpq parses it."""
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415 (a session needs neither)
    from azure.keyvault.secrets import SecretClient  # noqa: PLC0415

    client = SecretClient(instructions.vault, DefaultAzureCredential())

    def read() -> Credential:
        value = client.get_secret(instructions.secret).value or ""
        return {name: str(part) for name, part in psycopg.conninfo.conninfo_to_dict(value).items() if part is not None}

    return read


def _with_airflow(instructions: Instructions) -> Read:
    """Airflow's own backend, and its own Connection."""
    from importlib import import_module  # noqa: PLC0415 (our environment has no Airflow)

    module = import_module("airflow.providers.microsoft.azure.secrets.key_vault")
    backend = module.AzureKeyVaultBackend(vault_url=instructions.vault)
    connection_id = instructions.secret.removeprefix("airflow-connections-")

    def read() -> Credential:
        connection = backend.get_connection(connection_id)
        return {
            "host": connection.host,
            "port": str(connection.port),
            "dbname": connection.schema,
            "user": connection.login,
            "password": connection.password,
        }

    return read


if __name__ == "__main__":
    main()
