"""The engine on real PostgreSQL, as the admin that a managed one gives: CREATEROLE, not superuser."""

import contextlib
import logging
import os
import secrets
import selectors
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql, waiting
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn

from rotators.connection_secret import ConnectionSecret, parse
from rotators.credential import Credential, Password, new_password
from rotators.databases import AdminSession
from rotators.databases.head_start import HeadStart
from rotators.databases.postgresql import PostgreSQLEngine
from rotators.errors import (
    DatabaseRefusedError,
    LockHeldError,
    LoginRefusedError,
    PolicyError,
    RotationError,
    TransientError,
)
from sandbox.certificates import certificates
from sandbox.postgresql import HOST, PostgreSQL
from tests.versions import VERSIONS, older_server

SECRET = "airflow-connections-warehouse"
IDENTIFIER = f"https://vault.example/secrets/{SECRET}"
SOON = timedelta(milliseconds=200)
ENGINE = PostgreSQLEngine(connect_timeout=timedelta(seconds=2), lock_timeout=SOON)


@dataclass(frozen=True)
class User:
    """A user of the server that nothing else has to do with."""

    name: str
    password: str
    uri: str

    @property
    def connection(self) -> ConnectionSecret:
        return connection(self.uri)

    def with_password(self, password: str | Password) -> Credential:
        return Credential(self.name, Password(password) if isinstance(password, str) else password)


def connection(uri: str, **options: str) -> ConnectionSecret:
    text = make_conninfo(uri, **options) if options else uri
    return parse(Password(text), secret=SECRET, tags={})


def new_user(server: PostgreSQL, *, database: str = "postgres", by_admin: bool = True) -> User:
    name, password = f"app_{secrets.token_hex(4)}", f"clear-{secrets.token_hex(12)}"
    return User(name, password, server.create_user(name, password, database=database, by_admin=by_admin))


@pytest.fixture
def user(postgresql: PostgreSQL) -> User:
    return new_user(postgresql)


@pytest.fixture
def admin(postgresql: PostgreSQL) -> Iterator[AdminSession]:
    with log_in(postgresql) as session:
        yield session


type Verify = Callable[..., tuple[str, ...]]


@pytest.fixture(params=["at once", "reached before"])
def verify(request: pytest.FixtureRequest) -> Verify:
    """Both ways of `Engine` have the same result, and raise the same."""

    def reached_before(connection: ConnectionSecret, *, secret: str, acts_as: str | None = None) -> tuple[str, ...]:
        with ENGINE.reach(connection, secret=secret) as verify:
            return verify(acts_as=acts_as)

    return ENGINE.verify if request.param == "at once" else reached_before


def log_in(server: PostgreSQL) -> AdminSession:
    return ENGINE.admin(connection(server.admin_dsn), secret=SECRET)


@pytest.fixture
def any_user(server: PostgreSQL) -> User:
    return new_user(server)


@pytest.fixture
def any_admin(server: PostgreSQL) -> Iterator[AdminSession]:
    with log_in(server) as session:
        yield session


@pytest.fixture
def clone(any_admin: AdminSession, any_user: User) -> ConnectionSecret:
    """A second user as the engine makes it."""
    second = any_user.connection.with_credential(Credential(f"{any_user.name}_alt", new_password()))
    any_admin.create_second(any_user.name, second.credential, claim=IDENTIFIER)
    return second


class Raised:
    """Expects an error, and that neither it nor any frame of ours on its way shows a password."""

    def __init__(self, kind: type[RotationError], *passwords: str) -> None:
        self.kind = kind
        self.passwords = passwords
        self.text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert kind is self.kind, error or "nothing was raised"
        assert error is not None
        assert error.__context__ is None
        assert error.__cause__ is None
        self.text = str(error)
        frames = [frame for frame, _ in traceback.walk_tb(trace) if frame.f_code.co_filename != __file__]
        assert frames
        shown = [self.text, repr(error), repr(vars(error)), *(repr(frame.f_locals) for frame in frames)]
        assert not [password for password in self.passwords if any(password in text for text in shown)]
        assert "SCRAM-SHA-256" not in "".join(shown)
        assert SECRET in self.text
        return True


def session_of(uri: str, **parameters: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(uri, autocommit=True, **parameters)  # type: ignore[arg-type]  # its other keywords


# -- logging in ----------------------------------------------------------------------------------------------------


def test_a_credential_that_logs_in_is_verified_without_a_word(user: User, verify: Verify) -> None:
    """What logs in and is who it says raises nothing and warns of nothing."""
    assert verify(user.connection, secret=SECRET) == ()


@pytest.mark.parametrize("as_admin", [False, True])
@pytest.mark.parametrize("change", ["NOLOGIN", "VALID UNTIL '2001-01-01'", "PASSWORD NULL", None])
def test_a_credential_that_is_not_let_in(
    postgresql: PostgreSQL, user: User, change: str | None, *, as_admin: bool
) -> None:
    """A wrong password, a missing one, NOLOGIN and VALID UNTIL are all about the credential."""
    asked = user.connection if change else user.connection.with_credential(user.with_password("clear-wrong"))
    if change:
        postgresql.execute(f"ALTER ROLE {user.name} {change}")
    with Raised(LoginRefusedError, user.password, "clear-wrong") as raised:
        (ENGINE.admin if as_admin else ENGINE.verify)(asked, secret=SECRET)
    assert f"'{user.name}' can't log in at {HOST}:{postgresql.port}: FATAL: " in raised.text


def test_a_user_that_does_not_exist(postgresql: PostgreSQL, verify: Verify) -> None:
    """The server does not tell a missing user from a wrong password, and neither do we."""
    with Raised(LoginRefusedError, "clear-any"):
        verify(connection(postgresql.dsn("nobody_such", "clear-any")), secret=SECRET)


def test_a_user_at_its_connection_limit_is_busy(postgresql: PostgreSQL, user: User, verify: Verify) -> None:
    """That the user has all its sessions is no fault of the credential, and passes."""
    postgresql.execute(f"ALTER ROLE {user.name} CONNECTION LIMIT 1")
    with session_of(user.uri), Raised(TransientError, user.password) as raised:
        verify(user.connection, secret=SECRET)
    assert "too many connections for role" in raised.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP DATABASE {0}", "does not exist"),
        ("REVOKE CONNECT ON DATABASE {0} FROM PUBLIC", "permission denied for database"),
        ("ALTER DATABASE {0} ALLOW_CONNECTIONS false", "not currently accepting connections"),
    ],
)
def test_a_database_that_is_not_open_for_the_user(
    postgresql: PostgreSQL, user: User, change: str, said: str, verify: Verify
) -> None:
    """A database that lets nobody in is a permanent error, and not one of the credential."""
    postgresql.create_database(user.name)
    postgresql.execute(change.format(user.name))
    with Raised(DatabaseRefusedError, user.password) as raised:
        verify(connection(user.uri, dbname=user.name), secret=SECRET)
    assert said in raised.text


def test_a_server_without_tls_that_is_asked_for_it(user: User, verify: Verify) -> None:
    """A server that has no TLS will have none at the next try either."""
    with Raised(DatabaseRefusedError, user.password) as raised:
        verify(connection(user.uri, sslmode="require"), secret=SECRET)
    assert "server does not support SSL" in raised.text


def test_a_server_that_turns_the_address_away_and_one_that_is_full(verify: Verify) -> None:
    """pg_hba.conf is the server's to mend; a server without a free slot is busy."""
    settings = {"max_connections": "4", "superuser_reserved_connections": "1", "reserved_connections": "0"}
    hba = ["host all turned_away all reject", "host postgres all all scram-sha-256"]
    with PostgreSQL(settings=settings, hba=hba) as server:
        turned_away, user = server.create_user("turned_away", "clear-1"), new_user(server)
        with Raised(DatabaseRefusedError, "clear-1") as raised:
            verify(connection(turned_away), secret=SECRET)
        assert "pg_hba.conf rejects connection" in raised.text
        with Raised(DatabaseRefusedError, user.password) as raised:
            verify(connection(user.uri, dbname="elsewhere"), secret=SECRET)
        assert "no pg_hba.conf entry" in raised.text
        with contextlib.ExitStack() as sessions, Raised(TransientError, user.password) as raised:
            for _ in range(20):
                verify(user.connection, secret=SECRET)
                # Its slot may not be free again yet.
                with contextlib.suppress(psycopg.OperationalError):
                    sessions.enter_context(session_of(user.uri))
        assert "connection slots are reserved" in raised.text or "too many clients" in raised.text


@pytest.mark.parametrize("version", VERSIONS[:-1])  # the wheel's has no TLS
def test_a_wrong_password_on_a_server_that_wants_tls(version: int, tmp_path: Path, verify: Verify) -> None:
    """Where libpq tries again without TLS and adds a line about pg_hba.conf, the password is still what was wrong."""
    pem = certificates(tmp_path).server.read_bytes()
    with older_server(version, certificate=(pem, pem), hba=["hostssl all all all scram-sha-256"]) as server:
        user = new_user(server)
        verify(user.connection, secret=SECRET)
        with Raised(LoginRefusedError, user.password, "clear-wrong") as raised:
            verify(user.connection.with_credential(user.with_password("clear-wrong")), secret=SECRET)
        assert "no pg_hba.conf entry" in raised.text
        with Raised(DatabaseRefusedError, user.password) as raised:
            verify(connection(user.uri, sslmode="disable"), secret=SECRET)
        with Raised(DatabaseRefusedError, user.password) as raised:
            verify(connection(user.uri, sslmode="verify-full", sslrootcert="system"), secret=SECRET)
        assert "certificate verify failed" in raised.text


def test_a_server_that_is_not_there(user: User, verify: Verify) -> None:
    """A closed port and an unknown name may be there again at the next try."""
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        with Raised(TransientError, user.password) as raised:
            verify(connection(user.uri, port=str(closed.getsockname()[1])), secret=SECRET)
    assert "Connection refused" in raised.text
    with Raised(TransientError, user.password) as raised:
        verify(connection(user.uri, host="nowhere.invalid"), secret=SECRET)
    assert "nowhere.invalid" in raised.text


def test_a_server_that_does_not_answer_is_not_waited_for(user: User, verify: Verify) -> None:
    """The secret's connect_timeout does not make a rotation wait longer than it wants to; 0 would be for ever."""
    with socket.create_server((HOST, 0)) as silent:
        port = str(silent.getsockname()[1])
        for asked in ("0", "600"):
            begun = time.monotonic()
            with Raised(TransientError, user.password):
                verify(connection(user.uri, port=port, connect_timeout=asked), secret=SECRET)
            assert time.monotonic() - begun < 4


@pytest.mark.timeout(30)
def test_a_server_that_falls_silent_in_the_middle_is_given_up(postgresql: PostgreSQL) -> None:
    """P2: its own time-outs need a server that runs; what became of the statement is not known, so nothing follows."""
    engine = PostgreSQLEngine(answer_timeout=timedelta(seconds=0.5))
    with engine.admin(connection(postgresql.admin_dsn), secret=SECRET) as admin:
        server = psycopg_connection(admin).info.backend_pid
        os.kill(server, signal.SIGSTOP)
        try:
            for _ in range(2):
                with Raised(TransientError):
                    admin.roles(("a",))
        finally:
            os.kill(server, signal.SIGCONT)


@pytest.mark.parametrize("asked", ["9" * 5000, "-1", "\u0663", "soon", ""])
def test_a_connect_timeout_that_is_no_number_of_seconds_is_ours_instead(user: User, asked: str, verify: Verify) -> None:
    """P7: Python refuses to read 5000 digits, and libpq what is no number; neither keeps a credential from login."""
    assert verify(connection(f"{user.uri}?connect_timeout={quote(asked)}"), secret=SECRET) == ()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "UTF8", "auto"])
def test_names_are_read_whatever_encoding_the_secret_asks_for(user: User, encoding: str, verify: Verify) -> None:
    """P1: with SQL_ASCII they come as bytes; a version that was published would be called one that does not work."""
    assert verify(connection(f"{user.uri}?client_encoding={encoding}"), secret=SECRET, acts_as=user.name) == ()


@pytest.mark.parametrize("answer", [b"", b"SFATAL\0C57P03\0MDas Datenbanksystem startet\0\0"])
def test_a_server_that_ends_the_session_before_it_has_seen_a_password(
    user: User, answer: bytes, verify: Verify
) -> None:
    """What a server says before it has asked for the password, in whatever language, is not about the password."""
    with fake_server(answer, asks_for_password=False) as port, Raised(TransientError, user.password):
        verify(connection(user.uri, port=port, sslmode="disable"), secret=SECRET)


def test_a_server_that_speaks_another_language(user: User, verify: Verify) -> None:
    """A server that took the password and then said no, in words that we do not know, means the credential."""
    answer = "SFATAL\0C28P01\0MPasswort-Authentifizierung für Benutzer »app« fehlgeschlagen\0\0".encode()
    with fake_server(answer, asks_for_password=True) as port, Raised(LoginRefusedError, user.password) as raised:
        verify(connection(user.uri, port=port, sslmode="disable"), secret=SECRET)
    assert "Passwort-Authentifizierung" in raised.text


def test_a_server_that_repeats_the_password(user: User, verify: Verify) -> None:
    """Whatever a server writes into its refusal, the password is not in our error (P3)."""
    answer = f"SFATAL\0C28P01\0Mtoken {user.password} is too old\0\0".encode()
    with fake_server(answer, asks_for_password=True) as port, Raised(LoginRefusedError, user.password) as raised:
        verify(connection(user.uri, port=port, sslmode="disable"), secret=SECRET)
    assert "token *** is too old" in raised.text


@contextlib.contextmanager
def fake_server(answer: bytes, *, asks_for_password: bool) -> Iterator[str]:
    """Speak just enough of the protocol to refuse one login; yield the port."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                if asks_for_password:
                    client.sendall(b"R" + (8).to_bytes(4) + (3).to_bytes(4))
                    client.recv(4096)
                if answer:
                    client.sendall(b"E" + (len(answer) + 4).to_bytes(4) + answer)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield str(listener.getsockname()[1])
        thread.join()


def test_of_several_hosts_the_one_that_answers_counts(postgresql: PostgreSQL, user: User, verify: Verify) -> None:
    """A host that is down neither hinders a login nor hides that the password is wrong."""
    two = connection(user.uri, host=f"{HOST},{HOST}", port=f"1,{postgresql.port}")
    assert verify(two, secret=SECRET) == ()
    with Raised(LoginRefusedError, "clear-wrong") as raised:
        verify(two.with_credential(user.with_password("clear-wrong")), secret=SECRET)
    assert f"{HOST}:1,{HOST}:{postgresql.port}" in raised.text


def test_an_admin_needs_the_server_that_takes_writes(postgresql: PostgreSQL, verify: Verify) -> None:
    """Consumers may read from a standby; passwords are changed on the primary, whatever the secret prefers."""
    with PostgreSQL() as standby:
        user = new_user(standby)
        standby.stop()
        (standby.folder / "data" / "standby.signal").touch()
        standby.start()
        assert verify(user.connection, secret=SECRET) == ()
        with Raised(TransientError) as raised:
            log_in(standby)
        assert "hot standby" in raised.text
        hosts = {"host": f"{HOST},{HOST}", "port": f"{standby.port},{postgresql.port}"}
        both = connection(postgresql.admin_dsn, **hosts, target_session_attrs="any")
        with ENGINE.admin(both, secret=SECRET) as session:
            session.lock("a", wait=SOON)


@pytest.mark.parametrize("option", ["hostaddr", "service", "passfile"])
def test_options_that_lead_elsewhere_are_refused(user: User, option: str) -> None:
    """A secret that would send its credential past the check of its host is refused before anything is sent (P6)."""
    led_astray = connection(f"{user.uri}?{option}=10.0.0.1")
    for call in (ENGINE.admin, ENGINE.verify):
        with Raised(PolicyError, user.password) as raised:
            call(led_astray, secret=SECRET)
        assert repr(option) in raised.text


def test_options_are_passed_on_and_the_session_has_a_name(postgresql: PostgreSQL, user: User, verify: Verify) -> None:
    """Verification logs in with the consumer's options, as an application that can be told from the others."""
    with log_in(postgresql) as session:
        names = postgresql.execute("SELECT application_name FROM pg_stat_activity WHERE usename = %s", (session.user,))
    assert ("credential-rotation",) in names
    with Raised(DatabaseRefusedError, user.password) as raised:
        verify(connection(user.uri, options="-c no_such_setting=1"), secret=SECRET)
    assert "no_such_setting" in raised.text


# -- reaching a server before logging in ---------------------------------------------------------------------------


def test_a_server_that_is_reached_is_told_nothing_before_the_login(user: User) -> None:
    """P1: a name that it heard before the new password is set, it might look up before, too."""
    with socket.create_server((HOST, 0)) as listener:
        there = connection(user.uri, port=str(listener.getsockname()[1]), sslmode="disable")
        with ENGINE.reach(there, secret=SECRET) as verify:
            heard, _ = listener.accept()
            heard.settimeout(0.2)
            with heard, pytest.raises(TimeoutError):
                heard.recv(1)
            with Raised(TransientError, user.password):
                verify()


def test_a_password_that_is_set_after_the_server_was_reached_logs_in(postgresql: PostgreSQL, user: User) -> None:
    new = user.connection.with_credential(user.with_password("clear-new"))
    with ENGINE.reach(new, secret=SECRET) as verify:
        postgresql.execute(f"ALTER ROLE {user.name} PASSWORD 'clear-new'")
        assert verify() == ()


def test_a_server_that_is_left_alone_again_has_no_connection_left(user: User) -> None:
    """P2: whatever keeps the new password from being set, nothing half-done stays behind."""
    with socket.create_server((HOST, 0)) as listener:
        there = connection(user.uri, port=str(listener.getsockname()[1]))
        with ENGINE.reach(there, secret=SECRET) as verify:
            heard, _ = listener.accept()
        heard.settimeout(5)
        with heard:
            assert heard.recv(1) == b""
        assert verify


def test_a_login_that_waits_leaves_the_processor_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hundreds of rotations at once, there are few processors and many that wait."""
    asked: list[float | None] = []

    class Selector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            asked.append(timeout)
            return super().select(timeout)

    monkeypatch.setattr(waiting, "DefaultSelector", Selector)
    with socket.create_server((HOST, 0)) as silent:
        conninfo = make_conninfo("", host=HOST, port=silent.getsockname()[1], user="app", sslmode="disable")
        start = HeadStart(PGconn.connect_start(conninfo.encode()))
        with contextlib.closing(start), pytest.raises(psycopg.OperationalError, match="timeout expired"):
            start.log_in(timeout=1)
    assert 1 < len(asked) < 100


def test_of_several_servers_none_is_reached_before(user: User) -> None:
    """Each is to have a time-out of its own, which psycopg gives them when it logs in."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(0.2)
        there = connection(user.uri, host=f"{HOST},{HOST}", port=f"{listener.getsockname()[1]},1")
        with ENGINE.reach(there, secret=SECRET), pytest.raises(TimeoutError):
            listener.accept()


def test_a_network_that_has_not_answered_by_then_is_connected_to_anew(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a name may be several addresses, and libpq's steps have no time-out for each; psycopg has."""
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        there = full.getsockname()
        uri = make_conninfo(user.uri, port=there[1])
        with (
            socket.create_connection(there),
            contextlib.closing(HeadStart(PGconn.connect_start(uri.encode()))) as start,
        ):
            assert not start.is_connected
    monkeypatch.setattr(HeadStart, "is_connected", property(lambda _: False))
    monkeypatch.setattr(HeadStart, "log_in", None)
    with ENGINE.reach(user.connection, secret=SECRET) as verify:
        assert verify() == ()


# -- verifying -----------------------------------------------------------------------------------------------------


def test_a_second_user_without_the_rights_of_the_first(server: PostgreSQL, any_user: User, verify: Verify) -> None:
    """The error says what to run; once that has run, a warning remains about whose its tables will be."""
    second = new_user(server)
    with Raised(DatabaseRefusedError, second.password) as raised:
        verify(second.connection, secret=SECRET, acts_as=any_user.name)
    server.execute(raised.text.partition("; run ")[2])
    (warning,) = verify(second.connection, secret=SECRET, acts_as=any_user.name)
    assert f"what '{second.name}' creates" in warning
    server.execute(warning.partition("; run ")[2])
    assert verify(second.connection, secret=SECRET, acts_as=any_user.name) == ()


def test_a_second_user_that_has_the_rights_only_by_acting_as_the_first(
    server: PostgreSQL, any_user: User, verify: Verify
) -> None:
    """A pair that a DBA made without inheritance does as well: what counts is whom its sessions begin as."""
    second = new_user(server)
    for statement in (
        f"ALTER ROLE {second.name} NOINHERIT",
        f"GRANT {any_user.name} TO {second.name}",
        f"ALTER ROLE {second.name} SET role = {any_user.name}",
    ):
        server.execute(statement)
    assert verify(second.connection, secret=SECRET, acts_as=any_user.name) == ()


def test_a_first_user_that_does_not_exist_gives_no_rights(user: User, verify: Verify) -> None:
    """Rights of somebody who is not there are rights that are missing."""
    with Raised(DatabaseRefusedError, user.password):
        verify(user.connection, secret=SECRET, acts_as="nobody_such")


# -- the lock ------------------------------------------------------------------------------------------------------


def test_one_rotation_of_a_secret_at_a_time(postgresql: PostgreSQL, admin: AdminSession, user: User) -> None:
    """The lock of a secret is held by one session, and other secrets do not mind (P4)."""
    admin.lock(user.name, wait=SOON)
    admin.assert_locked(user.name)
    with log_in(postgresql) as other:
        other.lock(f"{user.name}'s neighbour", wait=SOON)
        begun = time.monotonic()
        with Raised(LockHeldError):
            other.lock(user.name, wait=SOON)
        assert 0.1 < time.monotonic() - begun < 2
        with Raised(LockHeldError):
            other.lock(user.name, wait=timedelta(0))
        with Raised(TransientError):
            other.assert_locked(user.name)


def test_a_lock_that_is_waited_for_comes_when_the_other_leaves(postgresql: PostgreSQL, user: User) -> None:
    """A duplicate waits for the first delivery and goes on when that is done, without asking again and again."""
    with log_in(postgresql) as second:
        with log_in(postgresql) as first:
            first.lock(user.name, wait=SOON)
            leave = threading.Timer(0.3, first.__exit__, (None, None, None))
            leave.start()
            second.lock(user.name, wait=timedelta(seconds=5))
            leave.join()
        second.assert_locked(user.name)


def test_a_lock_that_is_gone_is_noticed(admin: AdminSession) -> None:
    """A pooler that moves us to another session takes the lock away without a word (P4)."""
    admin.lock("a", wait=SOON)
    with psycopg_connection(admin).transaction():
        psycopg_connection(admin).execute("SELECT pg_advisory_unlock_all()")
    looks: list[Callable[[], object]] = [lambda: admin.assert_locked("a"), lambda: admin.look(["any"], lock="a")]
    for look in looks:
        with Raised(TransientError) as raised:
            look()
        assert "connection pooler" in raised.text


def test_a_lock_that_a_pooler_takes_away_at_once_is_noticed_before_anything_is_done(
    admin: AdminSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In transaction mode the next message may go to another session (P4)."""
    connection = psycopg_connection(admin)
    execute = connection.execute

    def execute_and_move(statement: sql.Composed, parameters: Sequence[object] | None = None) -> object:
        cursor = execute(statement, parameters)
        if "pg_advisory_lock" in statement.as_string():
            execute("SELECT pg_advisory_unlock_all()")
        return cursor

    monkeypatch.setattr(connection, "execute", execute_and_move)
    with Raised(TransientError):
        admin.lock("a", wait=SOON)


def psycopg_connection(session: AdminSession) -> psycopg.Connection[tuple[object, ...]]:
    """Reach below the interface, to do to the session what a pooler would."""
    return cast("psycopg.Connection[tuple[object, ...]]", getattr(session, "connection"))  # noqa: B009 (no part of the protocol)


def test_a_session_that_was_ended_has_lost_its_lock(postgresql: PostgreSQL, admin: AdminSession) -> None:
    """Ended by an administrator, the session knows at its next step (P4)."""
    admin.lock("b", wait=SOON)
    postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (admin.user,))
    for _ in range(2):
        with Raised(TransientError):
            admin.assert_locked("b")


@pytest.mark.parametrize("immediate", [False, True])
def test_a_server_that_restarts_in_the_middle(*, immediate: bool) -> None:
    """After a restart or a crash every step of the old session is transient, and a new session finds no lock."""
    with PostgreSQL() as server:
        user = new_user(server)
        with log_in(server) as session:
            session.lock("c", wait=SOON)
            server.restart(immediate=immediate)
            steps: list[Callable[[], object]] = [
                lambda: session.assert_locked("c"),
                lambda: session.roles([user.name]),
                lambda: session.set_password(user.with_password("clear-new")),
                lambda: session.lock("c", wait=SOON),
                lambda: session.end_sessions(user.name),
            ]
            for step in steps:
                with Raised(TransientError, "clear-new"):
                    step()
        with log_in(server) as session:
            session.lock("c", wait=SOON)
        server.stop()
        with Raised(TransientError, user.password):
            ENGINE.verify(user.connection, secret=SECRET)


# -- users and claims ----------------------------------------------------------------------------------------------


def test_users_as_the_server_knows_them(server: PostgreSQL, any_admin: AdminSession, any_user: User) -> None:
    """One question tells who is there, who may log in, whose they are, and who has whose rights."""
    name, second, absent = any_user.name, new_user(server).name, "nobody_such"
    server.execute(f"GRANT {name} TO {second}")
    server.execute(f"ALTER ROLE {second} NOLOGIN")
    any_admin.claim(second, IDENTIFIER)
    roles = any_admin.roles([name, second, absent])
    assert set(roles) == {name, second}
    assert (roles[name].can_login, roles[second].can_login) == (True, False)
    assert (roles[name].claimed_by, roles[second].claimed_by) == (None, IDENTIFIER)
    assert (roles[name].member_of, roles[second].member_of) == (frozenset(), frozenset({name}))
    assert roles[name].privileges == roles[second].privileges == set()


@pytest.mark.parametrize("privilege", ["superuser", "replication", "bypassrls", "createrole"])
def test_rights_that_are_too_strong_are_seen(
    server: PostgreSQL, any_admin: AdminSession, any_user: User, privilege: str
) -> None:
    """A strong right is seen on the user itself, and on a role that it could become with SET ROLE (P6)."""
    strong = new_user(server).name
    server.execute(f"ALTER ROLE {strong} {privilege}")
    server.execute(f"GRANT {strong} TO {any_user.name}")
    roles = any_admin.roles([any_user.name, strong])
    assert roles[strong].privileges == {privilege}
    assert roles[any_user.name].privileges == {f"{privilege} through {strong}"}


def test_what_others_planted_is_not_asked(postgresql: PostgreSQL) -> None:
    """The owner of the admin's database can't put functions of its own in the place of the server's (P6)."""
    database, claim = f"planted_{secrets.token_hex(4)}", "[credential-rotation secret=planted]"
    postgresql.create_database(database)
    for statement in (
        "CREATE SCHEMA evil",
        "GRANT USAGE ON SCHEMA evil TO PUBLIC",
        f"CREATE FUNCTION evil.shobj_description(oid, name) RETURNS text LANGUAGE sql AS $$SELECT '{claim}'$$",
        "CREATE VIEW evil.pg_roles AS SELECT * FROM pg_catalog.pg_roles WHERE rolname <> 'rotator'",
        "GRANT SELECT ON evil.pg_roles TO PUBLIC",
        f"ALTER DATABASE {database} SET search_path = evil, pg_catalog",
    ):
        postgresql.execute(statement, database=database)
    with ENGINE.admin(connection(postgresql.admin_dsn, dbname=database), secret=SECRET) as session:
        assert session.roles(["rotator"])["rotator"].claimed_by is None


def test_a_claim_keeps_what_stands_in_the_comment(postgresql: PostgreSQL, admin: AdminSession, user: User) -> None:
    """The claim is added once to what people wrote; it is read back from wherever it stands."""
    postgresql.execute(f"COMMENT ON ROLE {user.name} IS 'The warehouse''s, 100%; ask {{ops}}'")
    for _ in range(2):
        admin.claim(user.name, IDENTIFIER)
    (row,) = postgresql.execute("SELECT shobj_description(%s::regrole, 'pg_authid')", (user.name,))
    assert row[0] == f"The warehouse's, 100%; ask {{ops}} [credential-rotation secret={IDENTIFIER}]"
    assert admin.roles([user.name])[user.name].claimed_by == IDENTIFIER


def test_of_two_claims_in_the_same_moment_one_is_refused(
    postgresql: PostgreSQL, admin: AdminSession, user: User
) -> None:
    """The second secret waits for the first to have written the comment, and sees it (P6)."""
    patient = PostgreSQLEngine(lock_timeout=timedelta(seconds=5))
    with (
        patient.admin(connection(postgresql.admin_dsn), secret=SECRET) as other,
        ThreadPoolExecutor() as pool,
    ):
        with admin.transaction():
            admin.claim(user.name, IDENTIFIER)
            second = pool.submit(other.claim, user.name, f"{IDENTIFIER}-2")
            assert not wait([second], timeout=0.3).done
        with pytest.raises(PolicyError, match=f"belongs to {IDENTIFIER},"):
            second.result()
    assert admin.roles([user.name])[user.name].claimed_by == IDENTIFIER


# -- passwords -----------------------------------------------------------------------------------------------------


def test_a_new_password_logs_in_and_the_old_one_does_not(server: PostgreSQL, any_admin: AdminSession) -> None:
    """A password is changed at once; a user that was locked out may log in again."""
    user = new_user(server)
    new = user.connection.with_credential(user.with_password(new_password()))
    any_admin.lock_out(user.name)
    with Raised(LoginRefusedError, user.password):
        ENGINE.verify(user.connection, secret=SECRET)
    any_admin.set_password(new.credential)
    assert ENGINE.verify(new, secret=SECRET) == ()
    with Raised(LoginRefusedError, user.password):
        ENGINE.verify(user.connection, secret=SECRET)


@pytest.mark.parametrize("name", ['o\'Brien "x" {y} %s', "größe", "x" * 63, "ALL"])
def test_names_and_passwords_are_not_read_as_sql(postgresql: PostgreSQL, admin: AdminSession, name: str) -> None:
    """Any name that PostgreSQL takes can be created, changed, claimed, cloned and locked out."""
    password = "p'a\"s\\s {0} %s ü"
    dsn = postgresql.create_user(name, "before")
    made = connection(dsn).with_credential(Credential(name, Password(password)))
    second = made.with_credential(Credential(f"{name[:40]}_alt", Password(password)))
    try:
        admin.set_password(made.credential)
        admin.claim(name, IDENTIFIER)
        assert ENGINE.verify(made, secret=SECRET) == ()
        admin.create_second(name, second.credential, claim=IDENTIFIER)
        assert ENGINE.verify(second, secret=SECRET, acts_as=name) == ()
        assert (admin.sessions(name), admin.end_sessions(name)) == ((), 0)
        admin.lock_out(name)
        assert not admin.roles([name])[name].can_login
    finally:
        postgresql.execute(psycopg.sql.SQL("DROP ROLE IF EXISTS {}").format(psycopg.sql.Identifier(name)))


def test_a_name_that_the_server_would_cut_off(postgresql: PostgreSQL, admin: AdminSession, user: User) -> None:
    """A name of more than 63 bytes would mean another user: nothing is sent (P6)."""
    long = f"{user.name}{'ö' * 30}"
    before = postgresql.log()
    steps: list[Callable[[], object]] = [
        lambda: admin.set_password(Credential(long, Password("clear-new"))),
        lambda: admin.create_second(user.name, Credential(long, Password("clear-new")), claim=IDENTIFIER),
        lambda: admin.lock_out(long),
    ]
    for step in steps:
        with Raised(PolicyError, "clear-new") as raised:
            step()
        assert "63 bytes" in raised.text
    assert "ROLE" not in postgresql.log()[len(before) :]


def test_in_a_transaction_the_old_password_counts_until_its_end(admin: AdminSession, user: User) -> None:
    """Consumers log in with the old password until COMMIT, and with the new one from then on (P1)."""
    new = user.connection.with_credential(user.with_password(new_password()))
    with admin.transaction():
        admin.set_password(new.credential)
        assert ENGINE.verify(user.connection, secret=SECRET) == ()
    assert ENGINE.verify(new, secret=SECRET) == ()


def test_a_transaction_that_fails_changes_nothing(admin: AdminSession, user: User) -> None:
    """What the caller raises comes out as it is, and the old password still logs in (P2)."""

    def change_and_fail() -> None:
        with admin.transaction():
            admin.set_password(user.with_password("clear-new"))
            raise KeyError("vault")

    with pytest.raises(KeyError, match="vault"):
        change_and_fail()
    assert ENGINE.verify(user.connection, secret=SECRET) == ()
    admin.roles([user.name])


def test_a_transaction_whose_session_is_lost_does_not_look_committed(
    postgresql: PostgreSQL, admin: AdminSession, user: User
) -> None:
    """A session that ends between the change and the commit is an error, with or without a step in between (P2)."""
    end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s"
    with Raised(TransientError, user.password, "clear-new"), admin.transaction():
        admin.set_password(user.with_password("clear-new"))
        postgresql.execute(end, (admin.user,))
    with log_in(postgresql) as other, Raised(TransientError, user.password), other.transaction():
        postgresql.execute(end, (other.user,))
        with contextlib.suppress(TransientError):
            other.roles([user.name])
    assert ENGINE.verify(user.connection, secret=SECRET) == ()


@pytest.mark.parametrize("acting", [False, True])
def test_a_user_changes_its_own_password(clone: ConnectionSecret, any_user: User, *, acting: bool) -> None:
    """With `self` a user without any right does it, even one that acts as another; a rollback leaves the old one."""
    own = clone if acting else any_user.connection
    new = own.with_credential(Credential(own.credential.user, new_password()))
    with ENGINE.admin(own, secret=SECRET) as session:
        assert session.user == own.credential.user
        with contextlib.suppress(KeyError), session.transaction():
            session.set_password(new.credential)
            raise KeyError
        assert ENGINE.verify(own, secret=SECRET) == ()
        session.lock("self", wait=SOON)
        with session.transaction():
            session.set_password(new.credential)
            session.assert_locked("self")
        assert session.sessions(session.user) == ()
    assert ENGINE.verify(new, secret=SECRET) == ()


def test_a_user_that_only_reads_changes_its_own_password(postgresql: PostgreSQL, user: User) -> None:
    """`default_transaction_read_only` keeps a user's reports honest, not its password old."""
    postgresql.execute(f"ALTER ROLE {user.name} SET default_transaction_read_only = on")
    new = user.connection.with_credential(user.with_password(new_password()))
    with ENGINE.admin(user.connection, secret=SECRET) as session:
        session.set_password(new.credential)
    assert ENGINE.verify(new, secret=SECRET) == ()


def test_a_user_that_another_transaction_changes_is_waited_for_briefly(postgresql: PostgreSQL, user: User) -> None:
    """A forgotten transaction does not hold a rotation up for longer than the lock's time-out."""
    with session_of(postgresql.superuser) as other, log_in(postgresql) as admin, other.transaction():
        other.execute(f"ALTER ROLE {user.name} CONNECTION LIMIT 5")
        with Raised(TransientError, "clear-new") as raised:
            admin.set_password(user.with_password("clear-new"))
    assert "another session holds it" in raised.text


# -- rights that are missing ---------------------------------------------------------------------------------------


def test_an_admin_without_rights_over_the_user_is_told_what_to_grant(postgresql: PostgreSQL) -> None:
    """From version 16 on CREATEROLE is not enough; what the error says to run is what is needed (P7)."""
    user = new_user(postgresql, by_admin=False)
    with log_in(postgresql) as admin:
        steps: list[Callable[[], object]] = [
            lambda: admin.set_password(user.with_password("clear-new")),
            lambda: admin.claim(user.name, IDENTIFIER),
            lambda: admin.lock_out(user.name),
            lambda: admin.create_second(
                user.name, Credential(f"{user.name}_alt", Password("clear-new")), claim=IDENTIFIER
            ),
        ]
        for step in steps:
            with Raised(DatabaseRefusedError, "clear-new") as raised:
                step()
            assert "ADMIN option" in raised.text
            assert raised.text.endswith(f'; run GRANT "{user.name}" TO "rotator" WITH ADMIN OPTION')
        assert set(admin.roles([user.name, f"{user.name}_alt"])) == {user.name}
        postgresql.execute(raised.text.partition("; run ")[2])
        for step in steps:
            step()


def test_an_admin_that_is_none_is_told_what_it_lacks(server: PostgreSQL, any_user: User) -> None:
    """A user without CREATEROLE changes nobody and creates nobody."""
    weak = new_user(server)
    with ENGINE.admin(weak.connection, secret=SECRET) as session:
        steps: list[Callable[[], object]] = [
            lambda: session.set_password(any_user.with_password("clear-new")),
            lambda: session.create_second(
                any_user.name, Credential(f"{any_user.name}_alt", Password("clear-new")), claim=IDENTIFIER
            ),
        ]
        for step in steps:
            with Raised(DatabaseRefusedError, "clear-new", weak.password) as raised:
                step()
            assert f'; run ALTER ROLE "{weak.name}" CREATEROLE' in raised.text


def test_sessions_of_another_user(server: PostgreSQL, any_user: User, any_admin: AdminSession) -> None:
    """Who uses a user is seen as far as the admin may see; ending it needs a grant, which the error names."""
    assert any_admin.sessions(any_user.name) == ()
    with session_of(any_user.uri, application_name="first"), session_of(any_user.uri, application_name="second"):
        seen = any_admin.sessions(any_user.name)
        assert [(one.application, one.address, one.since) for one in seen] == [
            ("first", "", None),
            ("second", "", None),
        ]
        with Raised(DatabaseRefusedError) as raised:
            any_admin.end_sessions(any_user.name)
        server.execute(raised.text.partition("; run ")[2])
        server.execute("GRANT pg_read_all_stats TO rotator")
        try:
            seen = any_admin.sessions(any_user.name)
            assert [(one.application, one.address) for one in seen] == [("first", HOST), ("second", HOST)]
            assert all(one.since is not None and one.since.tzinfo is not None for one in seen)
            assert any_admin.end_sessions(any_user.name) == 2
            deadline = time.monotonic() + 5
            while any_admin.sessions(any_user.name):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            server.execute("REVOKE pg_signal_backend, pg_read_all_stats FROM rotator")


# -- the second user -----------------------------------------------------------------------------------------------


def test_a_second_user_is_the_first_but_for_its_name(
    server: PostgreSQL, any_admin: AdminSession, any_user: User, clone: ConnectionSecret
) -> None:
    """What the second creates belongs to the first, row security sees the first, and RESET ROLE comes back to it."""
    assert ENGINE.verify(clone, secret=SECRET, acts_as=any_user.name) == ()
    any_admin.lock_out(any_user.name)
    server.execute(f"GRANT CREATE ON DATABASE postgres TO {any_user.name}")
    with session_of(clone.render().reveal()) as session:
        session.execute(f"CREATE SCHEMA made_{any_user.name}")
        for statement in ("RESET ROLE", "DISCARD ALL"):
            session.execute(statement)
            assert session.execute("SELECT current_user::text").fetchall() == [(any_user.name,)]
    owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = %s"
    assert server.execute(owner, (f"made_{any_user.name}",)) == [(any_user.name,)]
    role = any_admin.roles([any_user.name, clone.credential.user])[clone.credential.user]
    assert (role.claimed_by, role.member_of, role.privileges) == (IDENTIFIER, frozenset({any_user.name}), frozenset())


def test_settings_of_the_first_come_along(server: PostgreSQL, any_admin: AdminSession, any_user: User) -> None:
    """Settings, also those of one database, the limit and the end of validity are those of the first."""
    name, second = any_user.name, f"{any_user.name}_alt"
    server.create_database(name)
    for statement in (
        f"ALTER ROLE {name} CONNECTION LIMIT 7 VALID UNTIL '2099-05-01 12:00+02'",
        f"""ALTER ROLE {name} SET search_path = "$user", "A ""b"",c", public, ''""",
        f"ALTER ROLE {name} SET timezone = 'Europe/Berlin'",
        f"ALTER ROLE {name} SET application_name = 'a = b, \"c\" {{d}} %s'",
        f"ALTER ROLE {name} SET statement_timeout = 1",
        f"ALTER ROLE {name} IN DATABASE {name} SET work_mem = '5MB'",
        f"ALTER ROLE {name} IN DATABASE {name} SET temp_tablespaces = ''",
    ):
        server.execute(statement)
    any_admin.create_second(name, Credential(second, new_password()), claim=IDENTIFIER)
    settings = "SELECT setdatabase, unnest(setconfig) FROM pg_db_role_setting WHERE setrole = %s::regrole ORDER BY 1, 2"
    of_first, of_second = (server.execute(settings, (role,)) for role in (name, second))
    assert of_second == sorted([*of_first, (0, f"role={name}")])
    limits = "SELECT rolconnlimit, rolvaliduntil FROM pg_roles WHERE rolname = %s"
    assert server.execute(limits, (second,)) == server.execute(limits, (name,))


def test_a_setting_is_never_read_as_sql(admin: AdminSession, user: User) -> None:
    """The first user writes its own settings: the admin, who copies them, does not run what stands in them (P6)."""
    with session_of(user.uri) as session:
        session.execute("SELECT set_config('search_path', 'x;ALTER/**/ROLE/**/CURRENT_USER/**/CREATEDB,Y', false)")
        session.execute(f"ALTER ROLE {user.name} SET search_path FROM CURRENT")
    second = Credential(f"{user.name}_alt", new_password())
    admin.create_second(user.name, second, claim=IDENTIFIER)
    with session_of(user.connection.with_credential(second).render().reveal()) as session:
        rows = session.execute("SELECT current_setting('search_path')").fetchall()
    assert rows == [('"x;alter/**/role/**/current_user/**/createdb", y',)]


def test_a_first_user_that_acts_as_somebody_itself(server: PostgreSQL, any_admin: AdminSession, any_user: User) -> None:
    """Where sessions of the first begin as the owner of the tables, those of the second do so too."""
    owner = new_user(server).name
    server.execute(f"GRANT {owner} TO {any_user.name}")
    server.execute(f"ALTER ROLE {any_user.name} SET role = {owner}")
    second = any_user.connection.with_credential(Credential(f"{any_user.name}_alt", new_password()))
    any_admin.create_second(any_user.name, second.credential, claim=IDENTIFIER)
    assert ENGINE.verify(second, secret=SECRET, acts_as=any_user.name) == ()
    with session_of(second.render().reveal()) as session:
        assert session.execute("SELECT current_user::text").fetchall() == [(owner,)]


def test_a_second_user_is_made_whole_or_not_at_all(postgresql: PostgreSQL, admin: AdminSession, user: User) -> None:
    """A setting that only a superuser may copy stops it, nothing is left behind, and the error says what to grant."""
    second = Credential(f"{user.name}_alt", Password("clear-new"))
    postgresql.execute(f"ALTER ROLE {user.name} SET log_min_duration_statement = 100")
    with Raised(DatabaseRefusedError, "clear-new") as raised:
        admin.create_second(user.name, second, claim=IDENTIFIER)
    assert second.user not in admin.roles([second.user])
    postgresql.execute(raised.text.partition("superuser run ")[2])
    admin.create_second(user.name, second, claim=IDENTIFIER)
    assert second.user in admin.roles([second.user])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER ROLE {second} VALID UNTIL '2020-01-01'", "VALID UNTIL 'infinity'"),
        ("ALTER ROLE {second} CONNECTION LIMIT 0", "CONNECTION LIMIT -1"),
        ("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC", 'GRANT CONNECT ON DATABASE "{database}" TO "{second}"'),
        ("ALTER ROLE {second} NOLOGIN", ""),
    ],
)
def test_what_keeps_a_user_out_is_seen_from_outside(
    server: PostgreSQL, any_admin: AdminSession, any_user: User, change: str, said: str
) -> None:
    """What `verify` would find, of a user that nobody can log in as; a password and LOGIN the rotation gives."""
    database = any_user.name.replace("app", "db")
    server.create_database(database)
    second = f"{any_user.name}_alt"
    any_admin.create_second(any_user.name, Credential(second, new_password()), claim=IDENTIFIER)
    assert any_admin.hindrances(second, database=database, acts_as=any_user.name) == ()
    names = {"second": second, "database": database}
    server.execute(change.format(**names))
    found = any_admin.hindrances(second, database=database, acts_as=any_user.name)
    assert len(found) == bool(said)
    assert said.format(**names) in "".join(found)
    for hindrance in found:
        server.execute(hindrance.partition("run ")[2].partition(", or ")[0])
    assert any_admin.hindrances(second, database=database, acts_as=any_user.name) == ()


def test_rights_that_a_user_has_or_has_not_are_seen_from_outside(
    server: PostgreSQL, any_admin: AdminSession, any_user: User
) -> None:
    """By inheriting them, or by acting as the other; a grant that is missing is named, and what is in a transaction."""
    second = new_user(server).name

    def found() -> tuple[str, ...]:
        return any_admin.hindrances(second, database="postgres", acts_as=any_user.name)

    (missing,) = found()
    grant = f'GRANT "{any_user.name}" TO "{second}"'
    assert missing.endswith(f"run {grant}")
    assert any_admin.hindrances(second, database=None, acts_as=None) == ()
    server.execute(grant)
    assert found() == ()
    server.execute(f"ALTER ROLE {second} NOINHERIT")
    if server.version >= 16:
        server.execute(f"{grant} WITH INHERIT FALSE")
    assert found() != ()
    server.execute(f"ALTER ROLE {second} SET role = {any_user.name}")
    assert found() == ()
    assert "create it" in any_admin.hindrances("nobody_at_all", database=None, acts_as=None)[0]


def test_whether_sessions_may_be_ended_is_known_without_ending_one(
    server: PostgreSQL, any_admin: AdminSession, any_user: User
) -> None:
    """The advice is that of `end_sessions`, and right; nobody's session ends."""
    with psycopg.connect(any_user.uri) as session:
        with pytest.raises(DatabaseRefusedError, match='run GRANT pg_signal_backend TO "rotator"'):
            any_admin.check_may_end_sessions(any_user.name)
        server.execute("GRANT pg_signal_backend TO rotator")
        try:
            any_admin.check_may_end_sessions(any_user.name)
        finally:
            server.execute("REVOKE pg_signal_backend FROM rotator")
        assert session.execute("SELECT 1").fetchone() == (1,)
    with ENGINE.admin(any_user.connection, secret=SECRET) as own:
        own.check_may_end_sessions(any_user.name)


def test_a_second_user_of_nobody_and_one_that_exists(postgresql: PostgreSQL, admin: AdminSession, user: User) -> None:
    """There is no clone of a user that does not exist, and none that takes the name of another."""
    with Raised(DatabaseRefusedError, "clear-new") as raised:
        admin.create_second("nobody_such", Credential(f"{user.name}_alt", Password("clear-new")), claim=IDENTIFIER)
    assert "there is no user 'nobody_such'" in raised.text
    other = new_user(postgresql)
    with Raised(DatabaseRefusedError, "clear-new") as raised:
        admin.create_second(user.name, other.with_password("clear-new"), claim=IDENTIFIER)
    assert "already exists" in raised.text
    assert ENGINE.verify(other.connection, secret=SECRET) == ()


# -- leaks ---------------------------------------------------------------------------------------------------------


def test_no_password_reaches_the_server_or_a_log(caplog: pytest.LogCaptureFixture, verify: Verify) -> None:
    """With every log at its loudest there is no password in any, nor in what the server shows of itself (P3)."""
    caplog.set_level(logging.DEBUG, logger="psycopg")
    settings = {
        "log_statement": "all",
        "log_connections": "on",
        "log_min_messages": "debug1",
        "log_error_verbosity": "verbose",
    }
    with PostgreSQL(settings=settings) as server:
        user = new_user(server)
        new, second = new_password(), Credential(f"{user.name}_alt", new_password())
        with log_in(server) as session:
            session.lock("d", wait=SOON)
            with session.transaction():
                session.set_password(user.with_password(new))
                activity = repr(server.execute("SELECT * FROM pg_stat_activity"))
            session.create_second(user.name, second, claim=IDENTIFIER)
            with Raised(DatabaseRefusedError, second.password.reveal()):
                session.create_second(user.name, second, claim=IDENTIFIER)
        with Raised(LoginRefusedError, user.password):
            verify(user.connection, secret=SECRET)
        verify(user.connection.with_credential(user.with_password(new)), secret=SECRET)
        log = server.log()
    assert "ALTER ROLE" in log
    assert "ALTER ROLE" in activity
    assert "connection attempt" in caplog.text
    for password in (user.password, new.reveal(), second.password.reveal()):
        assert password not in log + activity + caplog.text
    assert "SCRAM-SHA-256" not in caplog.text
