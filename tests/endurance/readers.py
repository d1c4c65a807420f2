"""Readers without pause, in processes of their own, over many rotations (P1).

`make readers`, or `python -m tests.endurance.readers --rotations 500 --cache 15m`. Full cycles on real parts: a
secret becomes due, is rotated by an event, the sweep or HTTP, its grace passes on the moved clock, the sweep retires
the old user, and again. Meanwhile each reader reads the secret as Airflow does and logs in, and two sessions stay
open all along. Printed is what failed, and for how long.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from rotators.dispatch import deliver, sweep
from rotators.policy import RotationState, duration, read_state
from rotators.rotation import rotate
from sandbox.airflow_server import ensure_installed
from sandbox.postgresql import PostgreSQL
from tests.endurance.board import Board
from tests.endurance.consumers import Failure, Instructions, Outage, ReaderReport, SessionReport
from tests.world import ADMIN_SECRET, World, user_of, world

ROOT = Path(__file__).parents[2]
READERS = 8
# Airflow's `[secrets] cache_ttl_seconds`.
AIRFLOW_CACHE = timedelta(minutes=15)
# Finer than the cache lives, so that it outlives some jumps and not others.
STEP = timedelta(minutes=5)
# What a publishing takes that goes badly: Key Vault's time-outs are longer.
SLOW = timedelta(seconds=30)
# Eight readers and Airflow's libraries start at once, maybe on a busy machine.
WAIT_SECONDS = 180
POLL_SECONDS = 0.002

type Strategy = Literal["alternating-users", "single-user"]
type Way = Literal["event", "sweep", "slow", "forced", "overtaken"]
# `slow`: an event, and publishing takes SLOW, in which everybody reads the old version anew. `forced`: over HTTP, not
# due. `overtaken`: so too, before the sweep has retired the user whose turn it is.
WAYS: tuple[Way, ...] = ("event", "sweep", "slow", "forced", "event", "overtaken")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does.

    Attributes:
        rotations: how many, if the time allows.
        strategy: of the secret.
        caches: how long each reader keeps what it read, on the moved clock; so many readers there are.
        grace, every: the tags of that name.
        admin: the tag rotation-admin; by default an admin's secret.
        with_airflow: let the first reader be Airflow's own AzureKeyVaultBackend, in Airflow's environment.
        longest: no rotation begins later than this.
    """

    rotations: int
    strategy: Strategy = "alternating-users"
    caches: tuple[timedelta, ...] = (timedelta(0),) * READERS
    grace: str = "15m"
    every: str = "1h"
    admin: str = ADMIN_SECRET
    with_airflow: bool = False
    longest: timedelta = timedelta.max


@dataclass(slots=True)
class Figures:
    """What came of it."""

    plan: Plan
    rotated: Counter[Way] = field(default_factory=Counter)
    retired: int = 0
    rotation_milliseconds: list[float] = field(default_factory=list)
    logins_meanwhile: int = 0
    seconds: float = 0
    readers: list[ReaderReport] = field(default_factory=list)
    sessions: list[SessionReport] = field(default_factory=list)
    owner: str = ""

    @property
    def logins(self) -> int:
        return sum(reader.logins for reader in self.readers)

    @property
    def failures(self) -> list[Failure]:
        return [failure for reader in self.readers for failure in reader.failures]

    @property
    def outages(self) -> list[Outage]:
        return [outage for reader in self.readers for outage in reader.outages]

    def broken(self) -> list[str]:
        """Return what was not as promised, in words."""
        broken = [f"{len(reader.unread)} reads failed: {reader.unread[0]}" for reader in self.readers if reader.unread]
        broken += [f"a session as {s.user} ended: {s.error}" for s in self.sessions if s.error]
        broken += [f"tables belong to {s.owners}" for s in self.sessions if not s.error and s.owners != [self.owner]]
        # Slower than the rotations, they would have seen nothing.
        least = min(reader.logins + len(reader.failures) for reader in self.readers)
        if least < 2 * self.rotated.total():
            broken.append(f"a reader tried only {least} times to log in")
        if self.plan.strategy == "alternating-users" and self.failures:
            broken.append(f"{len(self.failures)} of {self.logins} logins failed: {self.failures[0].text}")
        strange = [failure.text for failure in self.failures if "password authentication failed" not in failure.text]
        if strange:
            broken.append(f"{len(strange)} logins failed in another way: {strange[0]}")
        out = sum(reader.is_out for reader in self.readers)
        if out:
            broken.append(f"{out} readers could not log in at the end")
        return broken

    def table(self) -> str:
        """Return the figures for people."""
        plan = self.plan
        ways = ", ".join(f"{count} {way}" for way, count in self.rotated.items())
        lines = [
            ("strategy", f"{plan.strategy}, rotation-grace {plan.grace}, rotation-every {plan.every}"),
            *(self._group(cache) for cache in sorted(set(plan.caches))),
            ("rotations", f"{self.rotated.total()} in {self.seconds:.0f} s ({ways})"),
            ("a rotation takes", _distribution(self.rotation_milliseconds)),
            ("retirements", f"{self.retired}"),
            ("logins", f"{self.logins}, {self.logins / self.seconds:.0f} a second"),
            ("... while a rotation ran", f"{self.logins_meanwhile}"),
            ("... of the slowest reader", f"{min(reader.logins for reader in self.readers)}"),
            ("reads failed", f"{sum(len(reader.unread) for reader in self.readers)}"),
            ("logins failed", f"{len(self.failures)}{self._when()}"),
        ]
        if self.outages:
            lines.append(("an outage lasts", _distribution([outage.milliseconds for outage in self.outages])))
            if any(plan.caches):
                minutes = sorted(outage.moved_seconds / 60 for outage in self.outages)
                lines.append(("on the moved clock", f"at most {minutes[-1]:.1f} min"))
        lines += [
            (
                f"session as {s.user}",
                f"{s.statements} statements, {s.tables} tables of {', '.join(s.owners)}, {s.error or 'no error'}",
            )
            for s in self.sessions
        ]
        return "\n".join(f"{name:32}{value}" for name, value in lines)

    def _group(self, cache: timedelta) -> tuple[str, str]:
        readers = [reader for reader, life in zip(self.readers, self.plan.caches, strict=True) if life == cache]
        reads, logins = sum(reader.reads for reader in readers), sum(reader.logins for reader in readers)
        name = f"{len(readers)} readers, cache {cache}" if cache else f"{len(readers)} readers, no cache"
        return name, f"{reads} reads, {logins} logins, {sum(len(reader.failures) for reader in readers)} failed"

    def _when(self) -> str:
        if not self.failures or any(self.plan.caches):
            return ""
        early = sum(failure.was_current for failure in self.failures)
        return f": {early} with the new version before its commit, {len(self.failures) - early} with the old after it"


def run(here: World, folder: Path, plan: Plan, tell: Callable[[str], object] = lambda _: None) -> Figures:
    """Rotate one secret as planned while readers read it; return the figures.

    Raise RuntimeError when a rotation or a retirement did not happen, or a process ended too early.
    """
    tags = {"rotation_grace": plan.grace, "rotation_every": plan.every, "rotation_admin": plan.admin}
    name = here.alternating(**tags) if plan.strategy == "alternating-users" else here.single(**tags)
    board = Board.create(folder, consumers=len(plan.caches) + 2)
    figures = Figures(plan, owner=here.user_of(name))
    with contextlib.closing(board), _Crew(board, folder) as crew:
        cycle = _Cycle(here, name, board, crew, figures)
        for number, cache in enumerate(plan.caches):
            way = "airflow" if plan.with_airflow and number == 0 else "sdk"
            crew.start(
                "reader",
                Instructions(str(folder), number, here.vault.url, name, way, cache.total_seconds()),
            )
        crew.start("session", Instructions(str(folder), len(plan.caches), uri=here.value(name)))
        crew.wait(whole=1)
        board.start()
        started = time.monotonic()
        for number in range(plan.rotations):
            if time.monotonic() - started > plan.longest.total_seconds():
                break
            cycle.turn(WAYS[number % len(WAYS)], is_overtaken=WAYS[(number + 1) % len(WAYS)] == "overtaken")
            if number == 0 and plan.strategy == "alternating-users":
                crew.start("session", Instructions(str(folder), len(plan.caches) + 1, uri=here.value(name)))
            if number % 50 == 49:
                tell(f"{number + 1} rotations, {time.monotonic() - started:.0f} s")
        crew.wait()
        figures.seconds = time.monotonic() - started
        reports = list(crew.reports())
    figures.readers = [_reader_report(report) for kind, report in reports if kind == "reader"]
    figures.sessions = [SessionReport(**report) for kind, report in reports if kind == "session"]
    return figures


class _Cycle:
    """One secret, and its turns: rotate, let the grace pass, retire."""

    def __init__(self, here: World, name: str, board: Board, crew: "_Crew", figures: Figures) -> None:
        self.here, self.name, self.board, self.crew, self.figures = here, name, board, crew, figures
        # With a topic the sweep would hand its work out.
        self.alone = here.app(topic=None).systems

    def turn(self, way: Way, *, is_overtaken: bool) -> None:
        """Rotate in this way, and pass the grace; the sweep is late when the next rotation is to overtake it."""
        here, name = self.here, self.name
        before = here.vault.current(name)
        if way in ("event", "sweep", "slow"):
            # Further than a cache lives: everyone reads anew just when the rotation begins.
            self._jump(max(before.created + (duration(self.figures.plan.every) or timedelta()), here.clock.now()))
        began, attempts = time.monotonic(), self._attempts()
        self._rotate(way)
        if way != "slow":
            self.figures.rotation_milliseconds.append((time.monotonic() - began) * 1000)
        self.figures.logins_meanwhile += self._attempts() - attempts
        after = here.vault.current(name)
        if after.version == before.version or (
            self.figures.plan.strategy == "alternating-users" and user_of(after.value) == user_of(before.value)
        ):
            raise RuntimeError(f"{way}: no rotation happened: {here.topic.events[-1:]}")
        self.figures.rotated[way] += 1
        self.crew.wait(whole=1)
        state = self._state()
        until = state.usable_until(after.created)
        if until is None:
            raise RuntimeError(f"{way}: nothing is to be retired")
        for moment in _moments(state.at, until):
            self._jump(moment)
            if moment < until or not is_overtaken:
                sweep(self.alone)
            # No attempt spans a jump: but for the retirement, the first that ends is one that began after it.
            self.crew.wait(whole=1 if moment < until else 2)
        if not is_overtaken and self._state().retired is None:
            raise RuntimeError(f"{way}: the old credential was not retired: {here.topic.events[-1:]}")
        self.figures.retired += not is_overtaken

    def _rotate(self, way: Way) -> None:
        here, name = self.here, self.name
        match way:
            case "event":
                deliver(here.systems, here.near_expiry(name))
            case "sweep":
                sweep(self.alone)
            case "slow":
                with self._slow_publishing():
                    deliver(here.systems, here.near_expiry(name))
            case "forced" | "overtaken":
                rotate(here.systems, here.trigger(name, force=True))

    @contextmanager
    def _slow_publishing(self) -> Iterator[None]:
        """Let each reader's cache end while the new version is on its way, so that it keeps the old one longest."""
        self.crew.wait()
        self._jump(self.here.clock.now() + AIRFLOW_CACHE - SLOW / 2)

        def pass_time() -> None:
            self._advance(SLOW)
            self.crew.wait()

        fault = self.here.vault.fail(method="PUT", path=f"/secrets/{self.name}$", run=pass_time)
        yield
        fault.remove()

    def _attempts(self) -> int:
        return sum(self.board.counts[: len(self.figures.plan.caches)])

    def _jump(self, moment: datetime) -> None:
        with self.board.jump():
            self._advance(max(moment - self.here.clock.now(), timedelta()))

    def _advance(self, by: timedelta) -> None:
        self.here.clock.advance(by)
        self.board.advance(by)

    def _state(self) -> RotationState:
        state = read_state(self.here.tags(self.name))
        if state is None:
            raise RuntimeError(f"secret {self.name!r} has no state")
        return state


def _moments(rotated: datetime, retire_at: datetime) -> list[datetime]:
    """Return the moments to jump to: fine while a cache may hold the old version, and around the grace's end."""
    early = [rotated + n * STEP for n in range(1, AIRFLOW_CACHE // STEP + 2)]
    return sorted({m for m in (*early, retire_at - STEP) if rotated < m < retire_at} | {retire_at})


class _Crew:
    """The consumers' processes."""

    def __init__(self, board: Board, folder: Path) -> None:
        self._board = board
        self._folder = folder
        self._kinds: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def start(self, kind: str, instructions: Instructions) -> None:
        """Start one whose number on the board is the next."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        python = sys.executable
        if instructions.way == "airflow":
            python = str(ensure_installed() / "python")
            environment |= {"AIRFLOW_HOME": str(self._folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
        number = len(self._processes)
        with self._file(number, "report").open("w") as report, self._file(number, "errors").open("w") as errors:
            process = subprocess.Popen(  # noqa: S603 (our own program)
                [python, "-m", "tests.endurance.consumers", kind], cwd=ROOT, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=report, stderr=errors,
            )  # fmt: skip
        self._kinds.append(kind)
        self._processes.append(process)
        if process.stdin is not None:
            with process.stdin:
                json.dump(dataclasses.asdict(instructions), process.stdin)

    def wait(self, *, whole: int = 2) -> None:
        """Wait until each has worked so often; of two times, the second has begun after this was called.

        Raise RuntimeError when a process has ended, or works no more.
        """
        before = self._board.counts[: len(self._processes)]
        until = time.monotonic() + WAIT_SECONDS
        while any(now < then + whole for now, then in zip(self._board.counts, before, strict=False)):
            for number, process in enumerate(self._processes):
                if process.poll() is not None:
                    said = [self._file(number, name).read_text()[-2000:] for name in ("report", "errors")]
                    raise RuntimeError("\n".join([f"consumer {number} ended:", *said]))
            if time.monotonic() > until:
                raise RuntimeError(
                    f"not every consumer worked in {WAIT_SECONDS} s: {before}, then {self._board.counts}"
                )
            time.sleep(POLL_SECONDS)

    def reports(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Let all end, and yield what each reports: JSON."""
        self._board.stop()
        for number, (kind, process) in enumerate(zip(self._kinds, self._processes, strict=True)):
            process.wait(WAIT_SECONDS)
            yield kind, json.loads(self._file(number, "report").read_text())

    def _file(self, number: int, name: str) -> Path:
        return self._folder / f"{number}.{name}"


def _reader_report(report: dict[str, Any]) -> ReaderReport:
    failures = [Failure(**failure) for failure in report.pop("failures")]
    outages = [Outage(**outage) for outage in report.pop("outages")]
    return ReaderReport(**report, failures=failures, outages=outages)


def _distribution(milliseconds: Sequence[float]) -> str:
    """Return count, median, 95th percentile and maximum."""
    ordered = sorted(milliseconds)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    return (
        f"median {statistics.median(ordered):.0f} ms, 95 % {p95:.0f} ms, longest of {len(ordered)} {ordered[-1]:.0f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the arguments say, and print the figures; return 1 when something was not as promised."""
    parser = argparse.ArgumentParser(prog="tests.endurance.readers", description=__doc__)
    parser.add_argument("--rotations", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=120, help="begin no further rotation after this time")
    parser.add_argument("--readers", type=int, default=READERS)
    parser.add_argument("--cache", choices=("none", "15m", "both"), default="both", help="both: half of the readers")
    parser.add_argument("--strategy", choices=("alternating-users", "single-user"), default="alternating-users")
    parser.add_argument("--grace", default="15m")
    parser.add_argument("--every", default="1h")
    parser.add_argument("--admin", default=ADMIN_SECRET, help="rotation-admin; self for single-user only")
    parser.add_argument("--no-airflow", action="store_true", help="without the reader that is Airflow's own backend")
    chosen = parser.parse_args(arguments)
    lives = {"none": (timedelta(0),), "15m": (AIRFLOW_CACHE,), "both": (timedelta(0), AIRFLOW_CACHE)}[chosen.cache]
    plan = Plan(
        chosen.rotations,
        chosen.strategy,
        tuple(lives[number % len(lives)] for number in range(chosen.readers)),
        chosen.grace,
        chosen.every,
        chosen.admin,
        with_airflow=not chosen.no_airflow,
        longest=timedelta(minutes=chosen.minutes),
    )
    # Open sessions at each retirement are what this run is about.
    logging.getLogger("rotators").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory(prefix="readers-") as folder,
        PostgreSQL(settings={"log_statement": "none"}) as server,
        world(Path(folder), server) as here,
    ):
        figures = run(here, Path(folder), plan, tell=lambda text: print(text, file=sys.stderr))  # noqa: T201 (a program)
    print(figures.table())  # noqa: T201
    for sentence in figures.broken():
        print(f"BROKEN: {sentence}")  # noqa: T201
    return 1 if figures.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
