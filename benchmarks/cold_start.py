"""Cold start: fresh processes of the bare app and of the program take turns, and each is held to what it is for."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import certifi

from benchmarks.cold_start_told import COMPILING, LATE, NEEDED, Cost, Late, Round, median_of, parts_of_imports, section
from benchmarks.section import BenchmarkError, Section
from rotators.rotation import rotate
from sandbox.event_schemas import key_vault_event
from sandbox.postgresql import PostgreSQL
from tests.world import World, environment, world

ROUNDS = 30
# The first ones read the files, and compile them.
_WARM_UP = 2
_WARM_ROTATIONS = 3
_LOOKED_AT = 5
_ROOT = Path(__file__).parents[1]
_BARE = Path(__file__).parent / "bare_app"
_MODULES = (_ROOT / "function_app.py", *(_ROOT / "rotators").rglob("*.py"))
# By default a secret is due after sixty.
_INTERVAL = timedelta(days=61)
_PATIENCE_SECONDS = 60


def run(part: float = 1.0) -> Section:
    """Measure in this part of the rounds; return a section of the results.

    Raise BenchmarkError if a process does not do what it is measured for.
    """
    rounds, looked_at = math.ceil(ROUNDS * part), math.ceil(_LOOKED_AT * part)
    with _place((_WARM_UP + rounds) * (1 + _WARM_ROTATIONS) + 2 * looked_at) as here:
        for _ in range(_WARM_UP):
            _round(here, is_bare_first=True)
        measured = [_round(here, is_bare_first=number % 2 == 0) for number in range(rounds)]
        late = [_late(here, next(here.secrets)) for _ in range(looked_at)]
        imported = [_imports(here, next(here.secrets)) for _ in range(looked_at)]
    return Section(section(measured, late, imported))


# -- the place ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Servers, and secrets that are due and have been rotated once: both users are there."""

    world: World
    secrets: Iterator[str]

    def event(self, secret: str) -> dict[str, Any]:  # Any: JSON
        """Return the event that says of a secret that it is due."""
        current = self.world.vault.current(secret)
        identifier = f"{self.world.vault.url}/secrets/{secret}/{current.version}"
        return key_vault_event("SecretNearExpiry", identifier, current.expires_on)


@contextmanager
def _place(number: int) -> Iterator[_Place]:
    """Start the servers, beside the processes that are measured, with so many secrets."""
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgreSQL(settings={"log_statement": "none"}) as server,
        # The clock of the processes is the real one, so the vault's has to catch up.
        world(Path(folder), server, behind=2 * _INTERVAL) as here,
        environment({"REQUESTS_CA_BUNDLE": str(_authorities(Path(folder), here))}),
    ):
        server.create_database("app")
        users = [server.create_user(f"app_{n}", database="app") for n in range(number)]
        secrets = [here.alternating(user) for user in users]
        here.make_due(_INTERVAL.days)
        for secret in secrets:
            rotate(here.systems, here.trigger(secret, "sweep"))
        here.make_due(_INTERVAL.days)
        yield _Place(here, iter(secrets))


def _authorities(folder: Path, here: World) -> Path:
    """Return all that are trusted on Azure and the vault's own: to read them is a part of a first connection."""
    bundle = folder / "authorities.pem"
    bundle.write_text(Path(certifi.where()).read_text() + here.vault.ca_file.read_text())
    return bundle


# -- the processes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a process answered. Costs are from its start."""

    loaded: Cost
    begun: Cost
    done: Cost
    modules: Sequence[str]


class _Process:
    """A worker process with one app, from `with` to its end."""

    def __init__(self, app: Path, *options: str) -> None:
        self._command = [sys.executable, *options, "-m", "benchmarks.cold_worker", str(app)]

    def __enter__(self) -> Self:
        self._log = tempfile.NamedTemporaryFile("w")
        settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._started = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 (our own interpreter)
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=_ROOT, env=settings,
            text=True,
        )  # fmt: skip
        self._orders, self._answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        # At the end of its orders it ends.
        self._process.communicate(timeout=_PATIENCE_SECONDS)
        self._log.close()

    def ask(self, **order: object) -> _Answer:
        """Give an order and wait for its end. Raise BenchmarkError if it fails."""
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        line = self._answers.readline()
        answer: dict[str, Any] = json.loads(line or '{"exception": "it has ended"}')
        if answer["exception"] is not None:
            raise BenchmarkError(f"a worker process failed: {answer['exception']}\n{self.printed()[-2000:]}")
        loaded, begun, done = (self._cost(answer[moment]) for moment in ("loaded", "begun", "done"))
        return _Answer(loaded, begun, done, answer["modules"])

    def import_(self, names: Sequence[str]) -> dict[str, Cost]:
        """Return what it costs to import each of these there, one after the other."""
        answers = {name: self.ask(**{"import": [name]}) for name in names}
        return {name: answer.done - answer.begun for name, answer in answers.items()}

    def printed(self) -> str:
        """Return what it has printed on its standard error."""
        return Path(self._log.name).read_text()

    def _cost(self, moment: Mapping[str, float]) -> Cost:
        return Cost(moment["seconds"] - self._started, moment["resident"], moment["unique"])


def _round(here: _Place, *, is_bare_first: bool) -> Round:
    """Run a process of each kind, and return what each of their parts has cost."""
    secrets = [next(here.secrets) for _ in range(1 + _WARM_ROTATIONS)]
    if is_bare_first:
        bare, imports, trust = _bare(here, secrets[0])
        ours, warm = _ours(here, secrets)
    else:
        ours, warm = _ours(here, secrets)
        bare, imports, trust = _bare(here, secrets[0])
    return Round(bare.loaded, bare.done, imports, trust, ours.loaded, ours.done, warm)


def _bare(here: _Place, secret: str) -> tuple[_Answer, dict[str, Cost], Cost]:
    event = here.event(secret)
    with _Process(_BARE) as process:
        answer, imports = process.ask(event=event), process.import_(NEEDED)
        trust = process.ask(trust=os.environ["REQUESTS_CA_BUNDLE"])
    return answer, imports, trust.done - trust.begun


def _ours(here: _Place, secrets: Sequence[str]) -> tuple[_Answer, Cost]:
    """Rotate these, the first one cold. Raise BenchmarkError if one was not rotated, or too much was loaded for it."""
    before = {secret: len(here.world.versions(secret)) for secret in secrets}
    first, *later = (here.event(secret) for secret in secrets)
    with _Process(_ROOT) as process:
        cold = process.ask(event=first, loaded=LATE)
        warm = [process.ask(event=event) for event in later]
    for secret in secrets:
        if len(here.world.versions(secret)) != before[secret] + 1 or not here.world.logs_in(secret):
            raise BenchmarkError(f"a worker process has not made one version of {secret} that logs in")
    if cold.modules:
        raise BenchmarkError(f"the first rotation has imported {', '.join(cold.modules)}")
    return cold, median_of([answer.done - answer.begun for answer in warm])


def _late(here: _Place, secret: str) -> Late:
    with _Process(_ROOT) as process:
        ours, imports = process.ask(event=here.event(secret)).done, process.import_(LATE)
        compiled = process.ask(compile=[str(file) for file in _MODULES])
    return Late(ours, {**imports, COMPILING: compiled.done - compiled.begun})


def _imports(here: _Place, secret: str) -> dict[str, float]:
    with _Process(_ROOT, "-X", "importtime") as process:
        process.ask(event=here.event(secret))
        return parts_of_imports(process.printed())
