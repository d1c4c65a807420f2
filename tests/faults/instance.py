"""An instance of the program in processes that can be killed.

As a program it imports what is deployed, and for each line of its standard input forks a process that does what the
line says and writes its result; so a process costs some milliseconds, and begins as on a cold start otherwise.
"""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """What became of a process: the outcomes it returned, the error it raised, or None for both when it was killed."""

    outcomes: list[dict[str, Any]] | None  # Any: JSON
    error: str | None
    is_transient: bool = False

    @property
    def was_killed(self) -> bool:
        return self.outcomes is None and self.error is None


class Instance:
    """Runs the program of this file; one invocation at a time.

    `log` takes everything that it prints, at DEBUG, with the locals of the frames of exceptions; `made` every password
    as it is made.
    """

    def __init__(self, environment: Mapping[str, str], log: Path, made: Path, *, patience: float = 0) -> None:
        self._environment = {**os.environ, **environment, "MADE": str(made), "PATIENCE": str(patience)}
        self._log = log
        self._child = 0
        self._started = threading.Event()

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "tests.faults.instance"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=self._environment,
                text=True,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def start(self, what: str, *, ahead: timedelta = timedelta(0), **arguments: object) -> None:
        """Start a process that does `what`; `result` waits for its end."""
        assert self._process.stdin is not None
        self._started.clear()
        order = {"what": what, "ahead": ahead.total_seconds(), **arguments}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._child = int(self._line())
        self._started.set()

    def result(self) -> Result:
        """Wait until the process has ended."""
        line = self._line()
        return Result(**json.loads(line)) if line.startswith("{") and self._line() else Result(None, None)

    def kill(self) -> None:
        """Kill the process, as the machine would that it runs on."""
        self._started.wait()
        os.kill(self._child, signal.SIGKILL)

    def run(self, what: str, *, ahead: timedelta = timedelta(0), **arguments: object) -> Result:
        self.start(what, ahead=ahead, **arguments)
        return self.result()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the instance has ended; its log: {self._log.read_text()[-2000:]}")
        return line


def main() -> None:
    """Import, and fork a process for each order."""
    import airflow_client.client  # noqa: F401, PLC0415
    import azure.eventgrid  # noqa: F401, PLC0415

    import rotators.dispatch  # noqa: F401, PLC0415

    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            # By the child, or a quick one's result came first.
            _say(str(os.getpid()))
            _obey(json.loads(line))
            os._exit(0)
        os.waitpid(child, 0)
        _say("end")


def _obey(order: Mapping[str, Any]) -> None:  # Any: JSON
    try:
        outcomes = _invoke(order)
        result = Result([outcome.as_json() for outcome in outcomes], None)
    except Exception as error:  # noqa: BLE001 (whatever it is, the test looks at it)
        sys.stderr.writelines(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        sys.stderr.write(f"{vars(error)!r}\n")
        from rotators.errors import TransientError  # noqa: PLC0415

        result = Result(None, f"{type(error).__name__}: {error}", isinstance(error, TransientError))
    sys.stderr.flush()
    _say(json.dumps(dataclasses.asdict(result)))


def _invoke(order: Mapping[str, Any]) -> list[Any]:  # Any: JSON, and outcomes
    from rotators import dispatch, rotation, systems  # noqa: PLC0415
    from rotators.decision import Trigger  # noqa: PLC0415
    from rotators.events import EventIn  # noqa: PLC0415

    _note_passwords(rotation)
    if patience := float(os.environ["PATIENCE"]):
        _be_impatient(patience)
    ahead = timedelta(seconds=order["ahead"])
    world = dataclasses.replace(systems.connect(), now=lambda: datetime.now(UTC) + ahead)
    match order["what"]:
        case "deliver":
            dispatch.deliver(world, EventIn(**order["event"]))
            return []
        case "sweep":
            return dispatch.sweep(world)
        case "rotate":
            return [rotation.rotate(world, Trigger(**order["trigger"]))]
    raise ValueError(order["what"])


def _note_passwords(rotation: Any) -> None:  # Any: a module
    """Write down each password before anything is done with it: the tests look for it everywhere else."""
    made: Callable[[], Any] = rotation.new_password

    def noted() -> Any:  # Any: a Password
        password = made()
        with Path(os.environ["MADE"]).open("a") as file:
            file.write(password.reveal() + "\n")
        return password

    rotation.new_password = noted


def _be_impatient(seconds: float) -> None:
    """Wait less long for answers that do not come, so that a test need not."""
    from rotators import airflow_api, events, systems, vault  # noqa: PLC0415
    from rotators.databases.postgresql import PostgreSQLEngine  # noqa: PLC0415

    for module in (airflow_api, events, systems, vault):
        for name in [name for name in vars(module) if name.endswith("_SECONDS") and ("READ" in name or "CONN" in name)]:
            setattr(module, name, seconds)
    limit = timedelta(seconds=seconds)
    engine = PostgreSQLEngine(
        connect_timeout=max(limit, timedelta(seconds=2)), statement_timeout=limit, answer_timeout=limit * 2
    )
    vars(systems)["PostgreSQLEngine"] = lambda: engine


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()
