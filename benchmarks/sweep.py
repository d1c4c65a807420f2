"""A sweep over many secrets of which few are due, beside a client that only lists them."""

import dataclasses
import logging
import math
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from azure.keyvault.secrets import SecretClient

from benchmarks.plot import Frame, plot
from benchmarks.section import BenchmarkError, Section
from benchmarks.sweep_told import DUE, IDLE, LIST, PLOT, Asked, limits, lines, section
from rotators.dispatch import sweep
from rotators.policy import STATE_TAG, RotationState
from rotators.systems import connect
from sandbox.postgresql import PostgreSQL
from tests.world import ADMIN_SECRET, World, environment, logs_in, user_of, world

SIZES = (100, 1_000, 10_000)
ROUNDS = 6
ONE_DUE_IN = 100
_PAGE = 25
# Longer than all rounds together.
_NEVER_DUE = {"rotation-every": "3650d", "rotation-validity": "3700d"}


def run(part: float = 1.0) -> Section:
    """Measure in this part of the rounds; return a section of the results.

    Raise BenchmarkError if a secret that is due is not rotated once, or another one is read or changed.
    """
    with _estates() as estates:
        # Each one's first sweep makes the second users; in those after it the credentials of before are retired.
        memory = {estate.size: estate.memory() for estate in estates}
        samples: dict[int, dict[str, list[float]]] = {size: {DUE: [], IDLE: [], LIST: []} for size in SIZES}
        asked: dict[int, Asked] = {}
        for number in range(math.ceil(ROUNDS * part)):
            for estate in estates if number % 2 else reversed(estates):
                seconds = samples[estate.size]
                with estate.counting() as calls:
                    seconds[DUE].append(estate.sweep_due())
                asked[estate.size] = calls()
                contest = [(IDLE, estate.sweep_idly), (LIST, estate.list)]
                for name, take in contest if number % 2 else reversed(contest):
                    with estate.counting() as calls:
                        seconds[name].append(take())
                    if (idle := calls()) != Asked(asked[estate.size].pages):
                        raise BenchmarkError(f"nothing of {estate.size} secrets was due, and {name} asked for {idle}")
    frame = Frame("A sweep", "secrets in the vault", f"times as long as {LIST}, of {SIZES[0]}", is_log=True)
    return Section(section(samples, asked, memory), {PLOT: plot(frame, lines(samples), limits(samples))})


@dataclass(slots=True)
class _Estate:
    """So many secrets under rotation in one vault; of these `due` become due, again and again."""

    here: World
    client: SecretClient
    size: int
    due: list[str] = field(default_factory=list)
    others: set[str] = field(default_factory=set)

    def fill(self) -> None:
        self.here.admin()
        managed = {"rotation-strategy": "alternating-users", "rotation-admin": ADMIN_SECRET}
        # As an earlier rotation leaves a secret, its grace long over.
        before = self.here.clock.now() - timedelta(days=30)
        retired = before + timedelta(days=1)
        for number in range(self.size):
            name = f"airflow-connections-{number:06}"
            if number % ONE_DUE_IN:
                self.others.add(name)
                done = RotationState(f"of-{number}", "sweep", "timer", "0" * 32, before, (), retired, retired)
                fresh = {**managed, **_NEVER_DUE, STATE_TAG: done.as_tag()}
                self.here.vault.put(name, "nobody reads this", tags=fresh)
            else:
                self.due.append(name)
                uri = self.here.server.create_user(f"app_{self.size}_{number}")
                self.here.vault.put(name, uri, tags=managed)

    def sweep_due(self) -> float:
        """Let those become due and sweep; return the seconds. Raise BenchmarkError unless each is rotated once."""
        self.here.make_due()
        with self._rotating_once():
            started = perf_counter()
            outcomes = sweep(self.here.systems)
            seconds = perf_counter() - started
        if Counter(outcome.status for outcome in outcomes) != {"rotated": len(self.due)}:
            raise BenchmarkError(f"of {self.size} secrets {len(self.due)} were due, and the sweep tells another story")
        return seconds

    def sweep_idly(self) -> float:
        """Sweep when nothing is due; return the seconds. Raise BenchmarkError if something is done."""
        started = perf_counter()
        outcomes = sweep(self.here.systems)
        seconds = perf_counter() - started
        if outcomes:
            raise BenchmarkError(f"nothing of {self.size} secrets was due, and the sweep did {outcomes[0].status}")
        return seconds

    def list(self) -> float:
        """List them all, with Azure's own client; return the seconds. Raise BenchmarkError if any is missing."""
        started = perf_counter()
        found = sum(1 for _ in self.client.list_properties_of_secrets())
        seconds = perf_counter() - started
        if found != self.size + 1:
            raise BenchmarkError(f"of {self.size} secrets and their admin's, {found} are listed")
        return seconds

    @contextmanager
    def counting(self) -> Iterator[Callable[[], Asked]]:
        """Give what was asked of Key Vault meanwhile, to be called at the end.

        That raises BenchmarkError if a value was read or written that is of no concern, or a page was read twice.
        """
        vault = self.here.vault
        before = len(vault.requests)

        def asked() -> Asked:
            calls: Counter[str] = Counter()
            for request in vault.requests_since(before):
                _, collection, *rest = request.path.split("/")
                name = rest[0] if rest else ""
                if collection != "secrets" or request.status != HTTPStatus.OK or name in self.others:
                    raise BenchmarkError(f"{request.method} {request.path} ({request.status}) is no part of a sweep")
                kind = "admin" if name == ADMIN_SECRET else "versions" if rest[1:] == ["versions"] else request.method
                calls[kind if name else "list"] += 1
            pages = math.ceil((self.size + 1) / _PAGE)
            if calls["list"] != pages:
                raise BenchmarkError(f"{self.size} secrets are {pages} pages, and {calls['list']} were asked for")
            return Asked(pages, calls["GET"], calls["admin"], calls["versions"], calls["PUT"], calls["PATCH"])

        yield asked

    def memory(self) -> int:
        """Return how many bytes a sweep needs at its peak, in a process of its own: the vault's are not counted."""
        self.here.make_due()
        ahead = self.here.clock.now() - datetime.now(UTC)
        with self._rotating_once(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            return apart.submit(_peak_of_a_sweep, self.here.vault.environment(), ahead).result()

    @contextmanager
    def _rotating_once(self) -> Iterator[None]:
        before = {name: user_of(self.here.value(name)) for name in self.due}
        versions = {name: len(self.here.versions(name)) for name in (*self.due, *self.others)}
        yield
        for name in self.due:
            after = self.here.value(name)
            if user_of(after) == before[name] or not logs_in(after):
                raise BenchmarkError(f"{name} has no other credential that logs in")
        made = {name: len(self.here.versions(name)) - count for name, count in versions.items()}
        if dict.fromkeys(self.due, 1) != {name: count for name, count in made.items() if count}:
            raise BenchmarkError("what was due has not got one version each, or something else has got one")


def _peak_of_a_sweep(environ: Mapping[str, str], ahead: timedelta) -> int:
    logging.basicConfig(level=logging.ERROR)
    with environment(environ):
        systems = dataclasses.replace(connect(environ), now=lambda: datetime.now(UTC) + ahead)
        with closing(systems.vault):
            # What every process has once: the connection, the token.
            systems.vault.page_of_secrets()
            tracemalloc.start()
            sweep(systems)
            return tracemalloc.get_traced_memory()[1]


@contextmanager
def _estates() -> Iterator[tuple[_Estate, ...]]:
    """Start one vault for each size, all on one database server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgreSQL(settings={"log_statement": "none"}) as server,
        ExitStack() as stack,
    ):
        estates = []
        for size in SIZES:
            # Their certificates are the same: they have one folder.
            here = stack.enter_context(world(Path(folder), server))
            here.systems = dataclasses.replace(here.systems, topic=None)
            # From here on it has its token, which lasts: the next vault's identity takes its place in the environment.
            here.systems.vault.page_of_secrets()
            client = stack.enter_context(closing(here.vault.client()))
            estate = _Estate(here, client, size)
            estate.fill()
            estates.append(estate)
        for estate in estates:
            # The next world made the SDK forget what the vaults before it had asked for, once and for all.
            estate.here.systems.vault.page_of_secrets()
            estate.list()
        yield tuple(estates)
