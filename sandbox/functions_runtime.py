"""The Functions host stand-in behind its HTTP side: it loads the app, runs functions, and fires timers."""

import asyncio
import os
import re
import uuid
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cronsim import CronSim, CronSimError

from sandbox.functions_console import Console
from sandbox.functions_routes import Route
from sandbox.worker import Datum, Function, Invocation, Worker, WorkerError, timer_datum

BY_HOST_API = "This function was programmatically called via the host APIs."


class Runtime:
    """The functions of one app. But for `begin` and `begin_by_hand` it belongs to the event loop that made it."""

    def __init__(self, worker: Worker, console: Console, timeout: float | None) -> None:
        self.functions: list[Function] = []
        """Those that can run."""
        self.errors: dict[str, str] = {}
        """Why the others cannot."""
        self.routes: list[Route] = []
        self._timers: list[_Timer] = []
        self._worker = worker
        self._console = console
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def function_of(self, invocation: str | None) -> str | None:
        """Return the function that an invocation runs."""
        return self._running.get(invocation or "")

    async def load(self, app: Path, prefix: str) -> None:
        """Load the app. What fails is printed, and the host goes on with the rest, as the real one does."""
        try:
            found = await self._worker.load(app)
        except WorkerError as error:
            self._console.log("Error", "Host", f"Worker failed to index functions\nResult: Failure\nException: {error}")
            found = []
        names: set[str] = set()
        for function in found:
            try:
                self._admit(function, names, prefix)
            except ValueError as error:
                self.errors[function.name] = str(error)
                self._console.log("Error", "Host", f"The '{function.name}' function is in error: {error}")
            names.add(function.name.lower())
        if not self.functions:
            self._console.log("Warning", "Host", "No job functions found.")

    def _admit(self, function: Function, names: set[str], prefix: str) -> None:
        name = function.name
        # The library accepts names that the host refuses.
        if not re.fullmatch(r"[a-z][a-z0-9_\-]{0,127}", name, re.IGNORECASE) or name.lower() == "host":
            raise ValueError(f"'{name}' is not a valid function name.")
        if name.lower() in names:
            raise ValueError(f"The function name '{name}' must be unique, without regard to case.")
        if any(is_true(os.environ.get(f"AzureWebJobs{dot}{name}{dot}Disabled")) for dot in (".", "__")):
            self._console.say(f"Function {name} is disabled.")
            return
        match function.kind:
            case "httpTrigger":
                self.routes.append(Route(function, prefix))
            case "timerTrigger":
                try:
                    self._timers.append(_Timer.read(function))
                except ValueError as error:
                    raise ValueError(
                        f"Microsoft.Azure.WebJobs.Host: Error indexing method 'Functions.{name}'. "
                        f"Microsoft.Azure.WebJobs.Host: {error}"
                    ) from None
            case "eventGridTrigger":
                pass
            case kind:
                raise ValueError(f"this stand-in does not serve triggers of type {kind}.")
        self.functions.append(function)

    def begin(self, function: Function, value: Datum, reason: str) -> Future[Invocation]:
        """Start a run; to be called from any thread but the loop's."""
        return asyncio.run_coroutine_threadsafe(self._invoke(function, value, reason), self._loop)

    def begin_by_hand(self, function: Function, value: str) -> Future[Invocation]:
        """Start a run with the text that /admin/functions takes: for Event Grid the JSON of one event."""
        datum = Datum(value, "json")
        if function.kind == "timerTrigger":
            timer = next(timer for timer in self._timers if timer.function is function)
            datum = timer.datum(datetime.now(UTC))
        return self.begin(function, datum, BY_HOST_API)

    def start_timers(self) -> None:
        """Run each timer function on its schedule from now on."""
        for timer in self._timers:
            task = self._loop.create_task(self._run_timer(timer))
            self._tasks.add(task)
            task.add_done_callback(self._timer_ended)

    async def finish(self, grace: float) -> bool:
        """Start no timer function any more and let what runs end; tell whether it did."""
        self._ending.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        return not self._running

    async def _invoke(self, function: Function, value: Datum, reason: str) -> Invocation:
        invocation = str(uuid.uuid4())
        name, category = f"'Functions.{function.name}'", f"Function.{function.name}"
        self._console.log("Information", category, f"Executing {name} (Reason='{reason}', Id={invocation})")
        self._running[invocation] = function.name
        self._idle.clear()
        try:
            ended = await self._worker.invoke(function, value, invocation_id=invocation, limit=self._timeout)
        finally:
            del self._running[invocation]
            if not self._running:
                self._idle.set()
        took = f"Id={invocation}, Duration={ended.milliseconds}ms"
        if ended.exception is None:
            self._console.log("Information", category, f"Executed {name} (Succeeded, {took})")
        else:
            self._console.log(
                "Error",
                category,
                f"Executed {name} (Failed, {took})\n"
                f"System.Private.CoreLib: Exception while executing function: Functions.{function.name}. "
                f"System.Private.CoreLib: Result: Failure\nException: {ended.exception}\nStack: {ended.traceback}",
            )
        return ended

    def _timer_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._console.log("Error", "Host", f"A timer has ended: {error!r}")

    async def _run_timer(self, timer: "_Timer") -> None:
        """Run a timer function until the end, one run at a time: times that pass meanwhile are left out."""
        last = datetime.now(UTC)
        if timer.function.trigger.get("runOnStartup"):
            await self._invoke(timer.function, timer.datum(last), f"Timer fired at {last.isoformat()}")
        while True:
            due = timer.following(datetime.now(UTC))
            # Waits are short, so that a laptop that was suspended, or its clock set, is late by seconds only.
            while (wait := (due - datetime.now(UTC)) / timedelta(seconds=1)) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), min(wait, 5))
                    return
            await self._invoke(timer.function, timer.datum(due, last), f"Timer fired at {due.isoformat()}")
            last = due


@dataclass(frozen=True, slots=True)
class _Timer:
    function: Function
    schedule: str

    @classmethod
    def read(cls, function: Function) -> "_Timer":
        """Read the schedule of a function. Raise ValueError if it is none."""
        timer = cls(function, _resolve(str(function.trigger["schedule"])))
        timer.following(datetime.now(UTC))
        return timer

    def following(self, after: datetime) -> datetime:
        """Return the first time after `after`. Raise ValueError if there is none."""
        # What cron's libraries know and NCRONTAB does not: the last day, a day's number in the month.
        if not re.search(r"[#?]|\bLW?\b|\dL", self.schedule, re.IGNORECASE):
            with suppress(CronSimError, StopIteration):
                times = CronSim(self.schedule, after)
                times.day_and = True  # both day fields must match; for cron one of them does
                return next(times)
        raise ValueError(
            f"The schedule expression '{self.schedule}' was not recognized as a valid cron expression "
            "or timespan string."
        )

    def datum(self, fired: datetime, last: datetime | None = None) -> Datum:
        """Make what the function gets."""
        return timer_datum(last=(last or fired).isoformat(), following=self.following(fired).isoformat())


def _resolve(text: str) -> str:
    """Replace each `%NAME%` by the app setting. Raise ValueError if there is none."""

    def setting(found: re.Match[str]) -> str:
        value = os.environ.get(found[1]) or os.environ.get(found[1].replace(":", "__"))
        if not value:
            raise ValueError(f"'{found[0]}' does not resolve to a value.")
        return value

    return re.sub(r"%([^%]+)%", setting, text)


def is_true(value: str | None) -> bool:
    """Read an app setting that is a boolean."""
    return (value or "").strip().lower() in {"1", "true"}
