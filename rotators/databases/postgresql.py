"""PostgreSQL 13 and later, through psycopg 3.

psycopg's exceptions hold the connection string, password and all: none leaves this module, and what is raised in
their place is raised outside the `except` block. No variable of a frame that may fail holds a password in clear.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, LiteralString, Self, override

import psycopg
from psycopg import sql
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn

from rotators.beside import beside
from rotators.connection_secret import ConnectionSecret
from rotators.credential import Credential, Password
from rotators.databases import AdminSession, Role, Users, UserSession, Verify
from rotators.databases.head_start import HeadStart
from rotators.errors import DatabaseRefusedError, LockHeldError, LoginRefusedError, PolicyError, TransientError

APPLICATION_NAME = "credential-rotation"
MAX_NAME_BYTES = 63
_VERSION_16 = 160000

# Passed on to libpq as the secret says them. What is in neither list does not matter to a login.
_PASSED_ON = frozenset(
    """
    channel_binding client_encoding gssencmode keepalives keepalives_count keepalives_idle keepalives_interval
    load_balance_hosts max_protocol_version min_protocol_version options require_auth ssl_max_protocol_version
    ssl_min_protocol_version sslcert sslcertmode sslcrl sslkey sslmode sslnegotiation sslpassword sslrootcert sslsni
    target_session_attrs tcp_user_timeout
    """.split()  # noqa: SIM905 (a list would take a screen)
)
# Each could lead to another server than the one that was checked, or to another password.
_REFUSED = ("hostaddr", "service", "servicefile", "passfile")

# What the secret may say otherwise: a server that is gone is noticed within half a minute, not after two hours.
_DEFAULTS = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
_ADMIN_PARAMETERS = {"target_session_attrs": "primary", "client_encoding": "UTF8"}
_NO_OVERRIDES: Mapping[str, str] = {}
_ADMIN_SETTINGS = {
    # What the database's owner has planted in other schemas is not called with the admin's rights.
    "search_path": "pg_catalog, pg_temp",
    # A user or a database with this setting has passwords too. A standby refuses all the same.
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "'read committed'",
    "datestyle": "ISO",
    # So does the server notice that the admin is gone: its lock goes with the session.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # While single-user writes to Key Vault, the transaction waits; nobody may wait for it for ever.
    "idle_in_transaction_session_timeout": "'2min'",
}

_PREFIX = re.compile(r'connection failed: |connection to server at "[^"]*"(?: \([^)]*\))?, port \d+ failed: ')
# When connecting there is no SQLSTATE, only text. Of several lines (several hosts; with and without TLS) the one
# about the credential counts most: `no pg_hba.conf entry` is what the attempt without TLS adds to it.
_LOGIN_REFUSED = re.compile(
    r'authentication failed for user "|role ".*" is not permitted to log in|FATAL:\s+role ".*" does not exist'
    r"|no password supplied"
)
_BUSY = re.compile(
    r"too many (?:connections|clients)|connection slots are reserved|system is (?:starting up|shutting down|in recovery"
    r"|not yet accepting|not accepting)|server is (?:not )?in hot standby|session is (?:not )?read-only"
    r"|server closed the connection|Connection (?:refused|reset)|timeout expired|could not (?:receive|send)|SYSCALL"
    # PgBouncer's words
    r"|no more connections allowed|cannot connect to server|server login has been failing"
)
_MISCONFIGURED = re.compile(
    r'pg_hba\.conf|database ".*" (?:does not exist|is not currently accepting)'
    r"|server does not support SSL|certificate (?:verify failed|file)|(?:server|root) certificate|channel binding"
    r'|authentication method|invalid .*value|parameter "'
)
# Connection, concurrency, resources, operator, system, internal; lock not available, read-only, idle in transaction.
_TRANSIENT_STATES = ("08", "40", "53", "57", "58", "XX", "55P03", "25006", "25P03", "25P04")

# Settings that PostgreSQL keeps as one text and takes as a list: as in pg_dump (variable_is_guc_list_quote).
_LIST_SETTINGS = frozenset(
    ("local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
     "temp_tablespaces", "unix_socket_directories")
)  # fmt: skip
_CLAIM = re.compile(r"\[credential-rotation secret=([^\s\]]+)\]")

# In a consumer's session names are qualified; the admin's has a search_path of its own. With some encodings that a
# secret may ask for, SQL_ASCII for one, names would come as bytes.
_USER_QUERY = "SET client_encoding = 'UTF8'; SELECT session_user"
# A new session looks up nothing in the catalogs that it need not: that takes longer than all of the rest.
_RIGHTS_QUERY = """
    SET client_encoding = 'UTF8';
    SELECT session_user, current_user,
        pg_catalog.pg_has_role(session_user, r.oid, 'USAGE') OR pg_catalog.pg_has_role(current_user, r.oid, 'USAGE'),
        (
            SELECT pg_catalog.substr(setting, 6)
            FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) setting
            WHERE s.setrole = r.oid AND s.setdatabase IN (0, d.oid) AND setting LIKE 'role=%'
            ORDER BY s.setdatabase DESC LIMIT 1
        )
    FROM pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_roles r ON r.rolname = {acts_as}
    WHERE d.datname = pg_catalog.current_database()
"""
_ADMIN_QUERY = """
    SELECT session_user, current_user, rolcreaterole OR rolsuper, pg_is_in_recovery()
    FROM pg_roles WHERE rolname = current_user
"""
# A member takes on the other role's attributes with SET ROLE. A superuser counts as a member of everybody. A pair is
# what somebody made of two users who had rights over both: before version 16 with CREATEROLE, from then on ADMIN over
# the second; an owner of the first alone could make anybody's user a member of it.
_ROLES_QUERY = """
    SELECT r.rolname, r.rolcanlogin, shobj_description(r.oid, 'pg_authid'),
        ARRAY(
            SELECT privilege || CASE WHEN g.oid = r.oid THEN '' ELSE ' through ' || quote_ident(g.rolname) END
            FROM pg_roles g, LATERAL (VALUES ('superuser', g.rolsuper), ('replication', g.rolreplication),
                ('bypassrls', g.rolbypassrls), ('createrole', g.rolcreaterole)) AS attribute (privilege, is_set)
            WHERE is_set AND (g.oid = r.oid OR NOT r.rolsuper AND pg_has_role(r.oid, g.oid, 'MEMBER'))
        ),
        ARRAY(
            SELECT g.rolname::text FROM pg_roles g
            WHERE g.rolname = ANY({users}) AND g.oid <> r.oid AND pg_has_role(r.oid, g.oid, 'USAGE') AND EXISTS (
                SELECT FROM pg_auth_members m JOIN pg_roles made ON made.oid = m.grantor
                WHERE m.member = r.oid AND m.roleid = g.oid AND (
                    pg_has_role(made.oid, r.oid, 'MEMBER WITH ADMIN OPTION')
                    OR current_setting('server_version_num')::int < 160000 AND made.rolcreaterole
                )
            )
        )
    FROM pg_roles r WHERE r.rolname = ANY({users})
"""
# Of other users' sessions the admin may see no more than that they are there. Parallel workers have a user too.
_OF_SESSIONS = """
    FROM pg_stat_activity
    WHERE usename = ANY({users}) AND pid <> pg_backend_pid()
        AND coalesce(backend_type, 'client backend') = 'client backend'
"""
_SESSIONS_QUERY = f"""
    SELECT usename, application_name, coalesce(host(client_addr), ''), backend_start {_OF_SESSIONS}
    ORDER BY backend_start, pid
"""
# What `_RIGHTS_QUERY` finds in the user's own session, asked from outside: a role that its sessions begin as counts
# when the user is a member of it.
_HINDRANCES_QUERY = """
    SELECT coalesce(r.rolvaliduntil <= now(), false),
        r.rolconnlimit,
        coalesce(has_database_privilege(r.oid, d.oid, 'CONNECT'), true),
        f.oid IS NULL OR pg_has_role(r.oid, f.oid, 'USAGE') OR EXISTS (
            SELECT FROM pg_db_role_setting s, unnest(s.setconfig) setting, pg_roles g
            WHERE s.setrole = r.oid AND s.setdatabase IN (0, d.oid) AND setting = 'role=' || g.rolname
                AND pg_has_role(r.oid, g.oid, 'MEMBER') AND pg_has_role(g.oid, f.oid, 'USAGE')
        )
    FROM pg_roles r
        LEFT JOIN pg_database d ON d.datname = %(database)s LEFT JOIN pg_roles f ON f.rolname = %(acts_as)s
    WHERE r.rolname = %(user)s
"""
_ALL_SETTINGS_QUERY = """
    SELECT r.rolname, split_part(setting, '=', 1), concat(setting, ' ', s.setdatabase)
    FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) setting
    WHERE r.rolname = ANY({users}) AND setting NOT LIKE 'role=%'
"""
_MAY_END_QUERY = """
    SELECT pg_has_role('pg_signal_backend', 'USAGE')
        OR EXISTS (SELECT FROM pg_roles WHERE rolname = %s AND pg_has_role(oid, 'USAGE'))
"""
# In one message, and so in one transaction: what SET LOCAL says ends with it, the lock with the session.
_TAKE_LOCK = (
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {wait}; SELECT pg_catalog.pg_advisory_lock({lock});"
)
_LOCK_QUERY = """
    SELECT 1 FROM pg_locks
    WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid::bigint << 32 | objid::bigint = {lock}
"""
_SETTINGS_QUERY = """
    SELECT d.datname, split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)
    FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) setting
    WHERE s.setrole = (SELECT oid FROM pg_roles WHERE rolname = %s)
"""

type _Parameters = Sequence[object] | Mapping[str, object] | None


class _Connection(psycopg.Connection[tuple[Any, ...]]):  # Any: what a row holds depends on its query
    """Gives up on a server that never answers.

    A server's own time-outs need a server, and TCP's notice only a network that is gone: behind a proxy or a load
    balancer whose other side died, psycopg waits for ever.
    """

    answer_timeout = timedelta(0)

    @override
    def wait[T](self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, timeout or self.answer_timeout.total_seconds() or None)
        except psycopg.OperationalError as error:
            if error.sqlstate is None:
                self.close()  # what becomes of the statement is not known, so nothing more is said here
            raise


class PostgreSQLEngine:
    """Implements Engine."""

    def __init__(
        self,
        *,
        connect_timeout: timedelta = timedelta(seconds=10),
        statement_timeout: timedelta = timedelta(seconds=15),
        lock_timeout: timedelta = timedelta(seconds=5),
        answer_timeout: timedelta = timedelta(seconds=20),
    ) -> None:
        """Set how long each host, each statement of the admin, and another's lock on a user are waited for.

        `answer_timeout` is for a server that does not even say that it took too long: longer than the others, and
        than a rotation's lock is waited for.
        """
        self._connect_timeout = connect_timeout
        self._answer_timeout = answer_timeout
        self._admin_settings = {
            **_ADMIN_SETTINGS,
            "statement_timeout": str(_milliseconds(statement_timeout)),
            "lock_timeout": str(_milliseconds(lock_timeout)),
        }

    def admin(
        self, connection: ConnectionSecret, *, secret: str, lock: str | None = None, wait: timedelta = timedelta(0)
    ) -> AdminSession:
        database = self._connect(connection, secret, overrides=_ADMIN_PARAMETERS)
        session = _PostgreSQLSession(database, secret, _where(connection))
        try:
            session.set_up(self._admin_settings, lock, wait)
        except BaseException:
            database.close()
            raise
        return session

    def verify(self, connection: ConnectionSecret, *, secret: str, acts_as: str | None = None) -> tuple[str, ...]:
        with closing(self._connect(connection, secret)) as database:
            return _ConsumerSession(database, connection, secret).verify(acts_as)

    @contextmanager
    def reach(self, connection: ConnectionSecret, *, secret: str) -> Iterator[Verify]:
        self.check(connection, secret=secret)
        head_start: HeadStart | None = None
        if len(connection.addresses) == 1:
            with suppress(psycopg.Error):  # the login tells it
                head_start = HeadStart(PGconn.connect_start(self._conninfo(connection).encode()))

        def verify(*, acts_as: str | None = None, meanwhile: Callable[[], None] = lambda: None) -> tuple[str, ...]:
            with closing(self._connect(connection, secret, head_start)) as database:
                return _ConsumerSession(database, connection, secret).verify(acts_as, meanwhile)

        try:
            yield verify
        finally:
            if head_start is not None:
                head_start.close()

    def check(self, connection: ConnectionSecret, *, secret: str) -> None:
        user = connection.credential.user
        if refused := [name for name in _REFUSED if name in connection.options]:
            raise PolicyError(
                f"secret {secret!r}: the connection of {user!r} has the option {refused[0]!r}, "
                "which could lead elsewhere than its host says; take it out"
            )
        if len(user.encode()) > MAX_NAME_BYTES:
            # The server would cut it off, say so in a notice, and change another user.
            raise PolicyError(
                f"secret {secret!r}: the user name {user!r} is longer than PostgreSQL's {MAX_NAME_BYTES} bytes; "
                "name two shorter ones in rotation-users"
            )

    def _connect(
        self,
        connection: ConnectionSecret,
        secret: str,
        head_start: HeadStart | None = None,
        overrides: Mapping[str, str] = _NO_OVERRIDES,
    ) -> _Connection:
        self.check(connection, secret=secret)
        try:
            if head_start is not None and head_start.is_connected:
                timeout = _connect_timeout(connection, self._connect_timeout)
                opened = _Connection(head_start.log_in(timeout=timeout))
            else:
                opened = _Connection.connect(self._conninfo(connection, overrides))
            opened.autocommit = True
            # Prepared statements would break on a connection pooler.
            opened.prepare_threshold = None
        except psycopg.Error as error:
            failure = _login_failure(error, connection, secret)
        else:
            opened.answer_timeout = self._answer_timeout
            return opened
        raise failure

    def _conninfo(self, connection: ConnectionSecret, overrides: Mapping[str, str] = _NO_OVERRIDES) -> str:
        return make_conninfo(
            **{**_parameters(connection, self._connect_timeout), **overrides},
            password=connection.credential.password.reveal(),
        )


class _Statements:
    """Runs statements, and says in our words what became of them."""

    def __init__(self, connection: _Connection, secret: str, where: str) -> None:
        self.connection = connection
        self.subject = f"secret {secret!r}"
        self.where = where

    def run(
        self,
        doing: str,
        statement: LiteralString,
        parameters: _Parameters = None,
        *,
        mend: str = "",
        on_wait: type[TransientError] = TransientError,
        **parts: Any,
    ) -> list[tuple[Any, ...]]:
        """Run, with `parts` in the braces of the statement, and return the rows of its last result.

        A part is SQL, or a literal: a text, a number, a list, a Password. Any: mypy takes `**` for the other arguments
        too. `mend` is what to do when a right is missing, `on_wait` what to raise when another session holds a lock.
        """
        return self.run_all(doing, statement, parameters, mend=mend, on_wait=on_wait, **parts)[-1]

    def run_all(
        self,
        doing: str,
        statements: LiteralString,
        parameters: _Parameters = None,
        *,
        mend: str = "",
        on_wait: type[TransientError] = TransientError,
        **parts: Any,
    ) -> list[list[tuple[Any, ...]]]:
        """Run several, in one message and so in one round trip; return the rows of each."""

        def results() -> list[list[tuple[Any, ...]]]:
            composed = sql.SQL(statements).format(**{name: _composable(part) for name, part in parts.items()})
            cursor = self.connection.execute(composed, parameters)
            return [result.fetchall() if result.description else [] for result in cursor.results()]

        return self.attempt(doing, results, mend=mend, on_wait=on_wait)

    def attempt[T](
        self, doing: str, call: Callable[[], T], *, mend: str = "", on_wait: type[TransientError] = TransientError
    ) -> T:
        """Call, and translate what psycopg raises."""
        try:
            return call()
        except psycopg.Error as error:
            # The fields that may quote the statement stay out.
            said = " - ".join(filter(None, (error.diag.message_primary, error.diag.message_detail))) or str(error)
            text = f"{self.subject}: {doing} failed at {self.where}: {_one_line(said)}"
            state = error.sqlstate or ""
            is_lost = not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        if state == "55P03":
            raise on_wait(f"{text}; another session holds it, and it is tried again")
        if is_lost or state.startswith(_TRANSIENT_STATES):
            raise TransientError(text)
        raise DatabaseRefusedError(f"{text}; {mend}" if mend and state == "42501" else text)


class _ConsumerSession(_Statements):
    """A session of the user that a connection names."""

    def __init__(self, database: _Connection, connection: ConnectionSecret, secret: str) -> None:
        super().__init__(database, secret, _where(connection))
        self._secret = secret
        self._user = connection.credential.user

    def verify(self, acts_as: str | None, meanwhile: Callable[[], None] = lambda: None) -> tuple[str, ...]:
        secret, user, where = self._secret, self._user, self.where
        with beside(meanwhile) as other:
            query = _USER_QUERY if acts_as is None else _RIGHTS_QUERY
            rows = self.run(f"verifying {user!r}", query, acts_as=acts_as)
        other.result()
        session_user = rows[0][0]
        if session_user != user:
            raise DatabaseRefusedError(
                f"secret {secret!r}: {user!r} is {session_user!r} to the server {where}; write that into the secret"
            )
        if acts_as is None:
            return ()
        _, current_user, has_rights, role_setting = rows[0]
        grant = f"GRANT {_quoted(acts_as)} TO {_quoted(user)}"
        if not has_rights:
            raise DatabaseRefusedError(
                f"secret {secret!r}: user {user!r} does not have the rights of {acts_as!r} at {where}; run {grant}"
            )
        # Sessions of the other user may begin as somebody else themselves.
        expected = role_setting if role_setting not in (None, "none") else acts_as
        if current_user == expected:
            return ()
        mend = f"ALTER ROLE {_quoted(user)} SET role = {_quoted(expected)}"
        return (f"what {user!r} creates at {where} belongs to {current_user!r}, not to {expected!r}; run {mend}",)


class _PostgreSQLSession(_Statements):
    """Implements AdminSession."""

    user: str
    _acting: str
    _may_create_users: bool

    def set_up(self, settings: Mapping[str, str], lock: str | None, wait: timedelta) -> None:
        """Set the session up, and take the lock of a key: in one message, which a lost session leaves undone."""
        statements = "".join(f"SET {name} = {value}; " for name, value in settings.items())
        if lock is None:
            rows = self.run("setting up the admin's session", statements + _ADMIN_QUERY)
        else:
            rows = self.run(
                "setting up the admin's session and taking the lock of this rotation",
                statements + _TAKE_LOCK + _ADMIN_QUERY,
                **_lock(lock, wait),
                on_wait=LockHeldError,
            )
        self.user, self._acting, self._may_create_users, is_standby = rows[0]
        if is_standby:
            raise TransientError(f"{self.subject}: {self.where} is a standby and takes no changes; it is tried again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def lock(self, key: str, *, wait: timedelta) -> None:
        self.run("taking the lock of this rotation", _TAKE_LOCK, **_lock(key, wait), on_wait=LockHeldError)
        # A pooler in transaction mode may answer each message with another session.
        self.assert_locked(key)

    def assert_locked(self, key: str) -> None:
        self._refuse_unless(self.run("looking for the lock of this rotation", _LOCK_QUERY, lock=_lock_number(key)))

    def _refuse_unless(self, is_locked: list[tuple[Any, ...]]) -> None:
        if not is_locked:
            raise TransientError(
                f"{self.subject}: its lock at {self.where} is lost, and it is tried again; should that go on, let "
                f"{self.user!r} log in to the server itself, not to a connection pooler in transaction mode"
            )

    def look(self, users: Collection[str], *, lock: str) -> Users:
        users = _possible(users)
        locks, roles, sessions, settings = self.run_all(
            "looking for the lock of this rotation, and looking up users",
            f"{_LOCK_QUERY}; {_ROLES_QUERY}; {_SESSIONS_QUERY}; {_ALL_SETTINGS_QUERY}",
            lock=_lock_number(lock),
            users=users,
        )
        self._refuse_unless(locks)
        return Users(
            _roles(roles),
            {user: _sessions(sessions, user) for user in users},
            {user: frozenset((name, text) for of, name, text in settings if of == user) for user in users},
        )

    def roles(self, users: Collection[str]) -> dict[str, Role]:
        return _roles(self.run("looking up users", _ROLES_QUERY, users=_possible(users)))

    def sessions(self, user: str) -> tuple[UserSession, ...]:
        return _sessions(self.run(f"looking up the sessions of {user!r}", _SESSIONS_QUERY, users=[user]), user)

    def set_password(self, credential: Credential) -> None:
        user = credential.user
        # Who changes its own password has no right to say LOGIN, nor the need, and must not be acting as another.
        alter = "SET ROLE NONE; ALTER ROLE {user}" if user == self.user else "ALTER ROLE {user} LOGIN"
        doing = f"changing the password of {user!r}"
        self._change(user, doing, alter + " PASSWORD {verifier}", verifier=self._verifier(credential))

    def create_second(self, first: str, credential: Credential, *, claim: str) -> None:
        second = credential.user
        second_name = self._name(second)
        doing = f"creating {second!r}, which acts as {first!r},"
        with self.transaction():
            rows = self.run(
                doing, "SELECT rolconnlimit, rolvaliduntil::text FROM pg_roles WHERE rolname = %s", (first,)
            )
            if not rows:
                raise DatabaseRefusedError(f"{self.subject}: there is no user {first!r} at {self.where}; create it")
            limit, valid_until = rows[0]
            self.run(
                doing,
                "CREATE ROLE {second} LOGIN INHERIT PASSWORD {verifier} CONNECTION LIMIT {limit}"
                + (" VALID UNTIL {until}" if valid_until else ""),
                mend=self._rights_over(None),
                second=second_name,
                verifier=self._verifier(credential),
                limit=limit,
                until=valid_until or "",
            )
            options = " WITH INHERIT TRUE, SET TRUE" if self._version >= _VERSION_16 else ""
            self._change(first, doing, "GRANT {user} TO {second}" + options, second=second_name)
            self._copy_settings(doing, first, second_name)
            self.claim(second, claim)

    def claim(self, user: str, secret: str) -> None:
        doing = f"writing into the comment of {user!r} whose it is"
        with self.transaction():
            # When two secrets claim one user in the same moment, the second sees what the first wrote.
            rows = self.run(
                doing,
                "SELECT pg_advisory_xact_lock({lock}); "
                "SELECT shobj_description((SELECT oid FROM pg_roles WHERE rolname = {user}), 'pg_authid')",
                lock=_lock_number(f"comment of {user}"),
                user=user,
            )
            ((comment,),) = rows
            owner = _claimed_by(comment)
            if owner not in (None, secret):
                raise PolicyError(f"{self.subject}: user {user!r} belongs to {owner}, as its comment says")
            if owner is None:
                comment = " ".join(filter(None, (comment, f"[credential-rotation secret={secret}]")))
                self._change(user, doing, "COMMENT ON ROLE {user} IS {comment}", comment=comment)

    def lock_out(self, user: str) -> None:
        self._change(user, f"locking out {user!r}", "ALTER ROLE {user} NOLOGIN")

    def end_sessions(self, user: str) -> int:
        rows = self.run(
            f"ending the sessions of {user!r}",
            f"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) {_OF_SESSIONS}",
            users=[user],
            mend=self._right_to_end_sessions,
        )
        return int(rows[0][0])

    def check_may_end_sessions(self, user: str) -> None:
        doing = f"asking whether the sessions of {user!r} may be ended"
        ((is_allowed,),) = self.run(doing, _MAY_END_QUERY, (user,))
        if not is_allowed:
            raise DatabaseRefusedError(
                f"{self.subject}: {self._acting!r} may not end the sessions of {user!r} at {self.where}; "
                f"{self._right_to_end_sessions}"
            )

    def hindrances(self, user: str, *, database: str | None, acts_as: str | None) -> tuple[str, ...]:
        parameters = {"user": user, "database": database, "acts_as": acts_as}
        rows = self.run(f"looking at what keeps {user!r} out", _HINDRANCES_QUERY, parameters)
        if not rows:
            return (f"there is no user {user!r} at {self.where}; create it",)
        is_outdated, limit, may_connect, has_rights = rows[0]
        name = _quoted(user)
        found = []
        if is_outdated:
            found.append(f"its VALID UNTIL has passed; run ALTER ROLE {name} VALID UNTIL 'infinity'")
        if 0 <= limit <= len(self.sessions(user)):
            found.append(
                f"its CONNECTION LIMIT of {limit} leaves no room; run ALTER ROLE {name} CONNECTION LIMIT -1, or end "
                "its sessions"
            )
        if not may_connect:
            grant = f"GRANT CONNECT ON DATABASE {_quoted(database or '')} TO {name}"
            found.append(f"it may not connect to database {database!r}; run {grant}")
        if not has_rights:
            grant = f"GRANT {_quoted(acts_as or '')} TO {name}"
            found.append(f"it does not have the rights of {acts_as!r}; run {grant}")
        return tuple(f"user {user!r} at {self.where}: {what}" for what in found)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        transaction = self.connection.transaction()
        self.attempt("opening a transaction", transaction.__enter__)
        try:
            yield
        except BaseException as error:
            # Should the connection be lost, so is the transaction: psycopg logs it and goes on.
            transaction.__exit__(type(error), error, error.__traceback__)
            raise
        if self.connection.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
            # Here psycopg would return as if it had committed.
            raise TransientError(f"{self.subject}: the transaction at {self.where} was lost before its end")
        self.attempt("committing", lambda: transaction.__exit__(None, None, None))

    def _copy_settings(self, doing: str, first: str, second: sql.Identifier) -> None:
        settings = self.run(doing, _SETTINGS_QUERY, (first,))
        # Where sessions of the first begin as somebody else, that setting comes later and so counts.
        for database, name, value in [(None, "role", first), *settings]:
            items = _list_items(value) if name in _LIST_SETTINGS else [value]
            self.run(
                f"{doing} with the setting {name!r}",
                "ALTER ROLE {second}"
                + (" IN DATABASE {database}" if database is not None else "")
                + " SET {name} TO {value}",
                mend=f"let a superuser run GRANT SET ON PARAMETER {name} TO {_quoted(self._acting)}",
                second=second,
                database=sql.Identifier(database or ""),
                name=sql.Identifier(*name.split(".")),
                value=sql.SQL(", ").join(map(sql.Literal, items)),
            )

    def _change(self, user: str, doing: str, statement: LiteralString, **parts: Any) -> None:
        self.run(doing, statement, mend=self._rights_over(user), user=self._name(user), **parts)

    def _verifier(self, credential: Credential) -> Password:
        """Return what the server keeps: sent in the place of the password, which then it can't log."""

        def verifier() -> bytes:
            password, user = credential.password, credential.user
            return self.connection.pgconn.encrypt_password(password.reveal().encode(), user.encode(), b"scram-sha-256")

        return Password(self.attempt(f"making the verifier of {credential.user!r}", verifier).decode())

    def _name(self, user: str) -> sql.Identifier:
        # The server would cut it off, say so in a notice, and change another user.
        if len(user.encode()) > MAX_NAME_BYTES:
            raise PolicyError(
                f"{self.subject}: the user name {user!r} is longer than PostgreSQL's {MAX_NAME_BYTES} bytes"
            )
        return sql.Identifier(user)

    @property
    def _right_to_end_sessions(self) -> str:
        return f"run GRANT pg_signal_backend TO {_quoted(self._acting)}"

    def _rights_over(self, user: str | None) -> str:
        """Return what to run so that the admin may create users, and change this one."""
        commands = [] if self._may_create_users else [f"ALTER ROLE {_quoted(self._acting)} CREATEROLE"]
        # Before version 16 CREATEROLE was a right over everybody.
        if user is not None and self._version >= _VERSION_16:
            commands.append(f"GRANT {_quoted(user)} TO {_quoted(self._acting)} WITH ADMIN OPTION")
        return "run " + " and ".join(commands) if commands else ""

    @property
    def _version(self) -> int:
        return self.connection.info.server_version


def _parameters(connection: ConnectionSecret, connect_timeout: timedelta) -> dict[str, Any]:
    """Return what libpq is given, but for the password; Any: psycopg types each of its own keywords."""
    return {
        **_DEFAULTS,
        **{name: value for name, value in connection.options.items() if name in _PASSED_ON},
        **({} if connection.database is None else {"dbname": connection.database}),
        "host": ",".join(address.host for address in connection.addresses),
        "port": ",".join(str(address.port) for address in connection.addresses),
        "user": connection.credential.user,
        "application_name": APPLICATION_NAME,
        "connect_timeout": _connect_timeout(connection, connect_timeout),
    }


def _connect_timeout(connection: ConnectionSecret, longest: timedelta) -> int:
    """Return the seconds that the secret asks for, but no more than `longest`; for libpq, 0 is for ever."""
    asked = re.fullmatch(r"[0-9]{1,9}", connection.options.get("connect_timeout", ""))
    seconds = int(longest.total_seconds())
    return min(int(asked[0]), seconds) if asked and int(asked[0]) else seconds


def _login_failure(
    error: psycopg.Error, connection: ConnectionSecret, secret: str
) -> TransientError | DatabaseRefusedError:
    text = str(error)
    # With several attempts psycopg repeats the last one before the list of all.
    said = _one_line(_PREFIX.sub("", text.partition("All failures were:")[2] or text))
    said = said.replace(connection.credential.password.reveal(), "***")
    failed = f"secret {secret!r}: {connection.credential.user!r} can't log in at {_where(connection)}: {said}"
    if not _LOGIN_REFUSED.search(text):
        if _BUSY.search(text):
            return TransientError(failed)
        if "permission denied for database" in text:
            database, user = connection.database or connection.credential.user, connection.credential.user
            grant = f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {_quoted(user)}"
            return DatabaseRefusedError(f"{failed}; run {grant}")
        if _MISCONFIGURED.search(text):
            return DatabaseRefusedError(f"{failed}; correct the connection, or the server")
        # Another language, or another product: did it see the password before it said no?
        if not (error.pgconn and error.pgconn.used_password):
            return TransientError(failed)
    return LoginRefusedError(
        f"{failed}; correct what the secret says, or in the database the user's password, LOGIN and VALID UNTIL"
    )


def _possible(users: Collection[str]) -> list[str]:
    """Return those that there may be: the server would cut a longer name off, and find another user."""
    return [user for user in users if len(user.encode()) <= MAX_NAME_BYTES]


def _roles(rows: list[tuple[Any, ...]]) -> dict[str, Role]:
    return {
        name: Role(name, can_login, frozenset(privileges), _claimed_by(comment), frozenset(member_of))
        for name, can_login, comment, privileges, member_of in rows
    }


def _sessions(rows: list[tuple[Any, ...]], user: str) -> tuple[UserSession, ...]:
    return tuple(UserSession(*session) for name, *session in rows if name == user)


def _composable(part: sql.Composable | Password | str | int | list[str] | None) -> sql.Composable:
    if isinstance(part, sql.Composable):
        return part
    return sql.Literal(part.reveal() if isinstance(part, Password) else part)


def _where(connection: ConnectionSecret) -> str:
    return ",".join(f"{address.host}:{address.port}" for address in connection.addresses)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _milliseconds(duration: timedelta) -> int:
    return max(1, duration // timedelta(milliseconds=1))  # 0 would be for ever


def _lock(key: str, wait: timedelta) -> dict[str, Any]:
    """Return the parts of `_TAKE_LOCK`; Any: see `run`."""
    return {"lock": _lock_number(key), "wait": _milliseconds(wait)}


def _lock_number(key: str) -> int:
    """Return the same 64 bits for the same key, everywhere."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _claimed_by(comment: str | None) -> str | None:
    claim = _CLAIM.search(comment or "")
    return claim[1] if claim else None


def _list_items(setting: str) -> list[str]:
    """Take a list such as `"$user", public` apart, as the server does (SplitIdentifierString)."""
    items = re.findall(r'"((?:[^"]|"")*)"|([^\s",][^\s,]*)', setting)
    return [plain.lower() or quoted.replace('""', '"') for quoted, plain in items] or [""]
