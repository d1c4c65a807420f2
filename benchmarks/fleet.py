"""Instances of the program as Azure runs them, and what they meet: one PostgreSQL, one Key Vault, Event Grid.

What they take is read from /proc: on Linux only.
"""

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import process_time

import psycopg
from azure.keyvault.secrets._shared import HttpChallengeCache
from psycopg import sql

from benchmarks.burst_told import LIMIT, MAX_CONNECTIONS, SECRETS, THREADS, Effort
from benchmarks.slow_network import SlowLink
from sandbox.certificates import certificates
from sandbox.clock import Clock
from sandbox.event_grid import Event, EventGrid
from sandbox.functions_host import FunctionsHost
from sandbox.key_vault import KeyVault
from sandbox.postgresql import HOST, PostgreSQL
from tests.world import ADMIN_SECRET, logs_in

APP = Path(__file__).resolve().parent.parent
_AGE = timedelta(days=61)
_PREFIX = "airflow-connections-"
_DATABASE = "warehouse"
_TAGS = {"rotation-strategy": "alternating-users", "rotation-admin": ADMIN_SECRET, "rotation-every": "60d"}


@dataclass(frozen=True, slots=True)
class Instance:
    """A function app's process: the Functions host stand-in with Microsoft's worker in it."""

    host: FunctionsHost

    @property
    def memory(self) -> float:
        """MiB that it holds now."""
        return _status(self.host.process_id, "VmRSS")

    @property
    def peak_memory(self) -> float:
        """MiB that it held at most since `forget_peak`."""
        return _status(self.host.process_id, "VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.host.process_id}/clear_refs").write_text("5")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Instances that wait for work, and the parts around them.

    Attributes:
        vault: what it says about itself, and what its events say, has the address of its link.
        links: the slow networks to `vault`, `database` and `topic`.
        names: the secrets, each of two users that take turns; their second users are there.
        certificate: of every stand-in, for those that come later.
        listeners: who is told of the vault's events.
    """

    vault: KeyVault
    server: PostgreSQL
    instances: Sequence[Instance]
    links: Mapping[str, SlowLink]
    names: Sequence[str]
    certificate: Path
    listeners: list[EventGrid]

    def delay(self, seconds: float) -> None:
        """Let each round trip take so much longer from now on."""
        for link in self.links.values():
            link.delay = seconds

    def make_due(self, names: Sequence[str]) -> None:
        """Let these secrets look as if they had been written two months ago."""
        for name in names:
            expires = self.vault.clock.now() + _AGE + timedelta(days=29)
            self.vault.put(name, self.vault.current(name).value, tags=_TAGS, expires_on=expires, silent=True)

    def use_up(self) -> None:
        """Let others write as often as the vault takes it in a window."""
        with self.vault.client() as client, ThreadPoolExecutor(4) as pool:
            for written in [pool.submit(client.set_secret, "of-others", "x", retry_total=0) for _ in range(LIMIT)]:
                written.result()

    def identifier(self, name: str) -> str:
        """Return what names the current version of a secret."""
        return f"{self.vault.url}/secrets/{name}/{self.vault.current(name).version}"

    @contextmanager
    def event_grid(self, instances: int) -> Iterator[EventGrid]:
        """Let Event Grid spread the events over so many instances, evenly.

        Each has a part of the secrets, where Azure has an address for all instances and a balancer behind it.
        """
        with EventGrid(parallel=len(self.names), certificate=self.certificate) as event_grid:
            self.links["topic"].server_port = int(event_grid.topic_endpoint.rsplit(":", 1)[1].partition("/")[0])
            for part in range(len(self.instances)):
                host = self.instances[part % instances].host
                url = f"{host.url}/runtime/webhooks/EventGrid?functionName=rotation_event"
                event_grid.subscribe(url, subject_begins_with=f"{_PREFIX}{part}-")
                event_grid.subscribe(
                    url,
                    source="topic",
                    event_types=["SecretRotation.Requested"],
                    subject_begins_with=f"secrets/{_PREFIX}{part}-",
                )
            self.listeners.append(event_grid)
            try:
                yield event_grid
            finally:
                self.listeners.clear()

    def effort(self) -> Effort:
        """Return the processor time that each party has had so far."""
        postmaster = int((self.server.folder / "data" / "postmaster.pid").read_text().split()[0])
        return Effort(
            program=sum(_seconds(instance.host.process_id) for instance in self.instances),
            database=_seconds(postmaster) + sum(map(_seconds, _children(postmaster))),
            stand_ins=process_time(),
        )

    def refused(self, names: Sequence[str]) -> list[str]:
        """Return those whose current version does not log in."""
        # Past the link: nobody has to wait for this.
        link, past_it = f":{self.links['database'].port}/", f":{self.server.port}/"
        values = [self.vault.current(name).value.replace(link, past_it) for name in names]
        with ThreadPoolExecutor(4) as pool:
            return [name for name, is_fine in zip(names, pool.map(logs_in, values), strict=True) if not is_fine]


@contextmanager
def fleet(instances: int) -> Iterator[Fleet]:
    """Start all of it; nothing has been rotated yet, and nothing is due."""
    HttpChallengeCache.clear()
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory()))
        server = enter(PostgreSQL(settings={"log_statement": "none", "max_connections": str(MAX_CONNECTIONS)}))
        links = {name: enter(SlowLink()) for name in ("vault", "database", "topic")}
        links["database"].server_port = server.port
        listeners: list[EventGrid] = []

        def on_event(event: Event) -> None:
            for event_grid in listeners:
                event_grid.publish(event)

        clock, address = Clock(behind=_AGE), address_of(links["vault"])
        vault = enter(KeyVault(folder, clock=clock, address=address, on_event=on_event))
        links["vault"].server_port = vault.port
        names = [f"{_PREFIX}{number % instances}-{number:03}" for number in range(SECRETS)]
        _put_secrets(vault, server, links["database"].port, names)
        environment = {
            **vault.environment(),
            "EVENT_GRID_TOPIC_ENDPOINT": f"{address_of(links['topic'])}/api/events",
            "PYTHON_THREADPOOL_THREAD_COUNT": str(THREADS),
            # Only when it is told to.
            "ROTATION_SWEEP_SCHEDULE": "0 0 0 1 1 *",
        }
        hosts = [stack.push(FunctionsHost(APP, environment=environment)) for _ in range(instances)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(FunctionsHost.start, hosts))
        yield Fleet(vault, server, list(map(Instance, hosts)), links, names, certificates(folder).server, listeners)


def address_of(link: SlowLink) -> str:
    return f"https://{HOST}:{link.port}"


def _put_secrets(vault: KeyVault, server: PostgreSQL, port: int, names: Sequence[str]) -> None:
    """Make two users for each secret as the program does, with a database for all of them."""
    password = secrets.token_urlsafe(24)
    vault.put(ADMIN_SECRET, _through(port, server.admin_dsn), tags={"rotation-admin-for": f"{_PREFIX}*"})
    server.create_database(_DATABASE)
    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        # One for all of them: no user's name is part of it, and each costs a round of hashing.
        verifier = admin.pgconn.encrypt_password(password.encode(), b"anybody", b"scram-sha-256").decode()
        for name in names:
            first, second = (sql.Identifier(user) for user in users_of(name))
            mark = f"[credential-rotation secret={vault.url}/secrets/{name}]"
            admin.execute(
                sql.SQL(
                    "CREATE ROLE {first} LOGIN PASSWORD {verifier}; CREATE ROLE {second} LOGIN PASSWORD {verifier}; "
                    "GRANT {first} TO {second} WITH INHERIT TRUE, SET TRUE; ALTER ROLE {second} SET role = {role}; "
                    "COMMENT ON ROLE {first} IS {mark}; COMMENT ON ROLE {second} IS {mark}"
                ).format(first=first, second=second, verifier=verifier, role=users_of(name)[0], mark=mark)
            )
            uri = server.dsn(users_of(name)[0], password, _DATABASE)
            vault.put(name, _through(port, uri), tags=_TAGS, silent=True)


def users_of(name: str) -> tuple[str, str]:
    first = name.removeprefix(_PREFIX).replace("-", "_")
    return f"app_{first}", f"app_{first}_alt"


def _through(port: int, uri: str) -> str:
    """Return this URI with the link's port in it; the wheel's server has no TLS, and nobody is to ask it each time."""
    host, _, database = uri.rpartition("/")
    return f"{host.rpartition(':')[0]}:{port}/{database}?sslmode=disable"


def _status(process: int, name: str) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def _seconds(process: int) -> float:
    """Return the processor time of a process and of the children that it has seen end."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, text.rpartition(")")[2].split()[11:15])) / os.sysconf("SC_CLK_TCK")


def _children(process: int) -> list[int]:
    return [
        int(it) for task in Path(f"/proc/{process}/task").iterdir() for it in (task / "children").read_text().split()
    ]
