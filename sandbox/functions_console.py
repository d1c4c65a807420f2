"""What the Functions host stand-in prints: lines as `func start` has them, and the logs of the functions."""

import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import override

from sandbox.worker import VERSION, Function, current_invocation

LEVELS = ("Trace", "Debug", "Information", "Warning", "Error", "Critical", "None")

# The worker calls what these log "system logs"; func shows them only with --verbose.
_SYSTEM_LOGGERS = ("azure.functions", "azure_functions_runtime", "proxy_worker")


class Console:
    """Prints to stdout, whole lines at a time, what host.json's `logging.logLevel` lets through."""

    def __init__(self, log_level: Mapping[str, str], *, verbose: bool = False, debug: bool = False) -> None:
        self._lock = threading.Lock()
        defaults = {
            "": "Information" if verbose else "Warning",
            "Function": "Debug" if debug else "Information",
        }
        chosen = {category.removeprefix("default"): level for category, level in log_level.items()}
        if "" in chosen:
            defaults["Function"] = chosen[""]
        self._levels = {category: LEVELS.index(level) for category, level in (defaults | chosen).items()}

    def say(self, text: str) -> None:
        """Print what func prints without a time."""
        with self._lock:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def log(self, level: str, category: str, message: str) -> None:
        """Print a log line, if its level reaches that of the longest category that begins its own."""
        known = max((known for known in self._levels if _begins(category, known)), key=len)
        if LEVELS.index(level) >= self._levels[known]:
            self.say(f"[{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z] {level} {category}: {message}")

    def show_functions(self, functions: Sequence[Function], url: str, routes: Mapping[str, str]) -> None:
        """Print the list that func prints at its start; `routes` has the path of each HTTP function."""
        lines = [f"Functions host stand-in, azure-functions-runtime {VERSION}, Python {sys.version.split()[0]}", ""]
        if functions:
            lines += ["Functions:", ""]
        for function in sorted(functions, key=lambda function: (function.name not in routes, function.name)):
            if function.name in routes:
                methods = ",".join(method.upper() for method in function.trigger.get("methods") or ("GET", "POST"))
                lines += [f"\t{function.name}: [{methods}] {url}{routes[function.name]}", ""]
            else:
                lines += [f"\t{function.name}: {function.kind}", ""]
        lines.append("For detailed output, run func with --verbose flag.")
        self.say("\n".join(lines))


class LogHandler(logging.Handler):
    """Sends what Python code logs to the console, under the function on whose behalf it was logged.

    What no running invocation logged is dropped, as the real host does (`GrpcWorkerChannel.Log`): while
    function_app.py is imported, in a thread of the app's own, after the end of a run.
    """

    def __init__(self, console: Console, function_of: Callable[[str | None], str | None]) -> None:
        super().__init__()
        self._console = console
        self._function_of = function_of

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
        except Exception:  # noqa: BLE001 (a bad log call must not fail the function)
            self.handleError(record)
            return
        function = self._function_of(current_invocation())
        if record.module == "native_invocation":
            return  # an exception, which the host prints with the end of the run
        if any(_begins(record.name, system) for system in _SYSTEM_LOGGERS):
            category = "Worker"
        elif function:
            category = f"Function.{function}.User"
        else:
            return
        self._console.log(_level(record.levelno), category, message)


def read_log_level(host_json: Mapping[str, object]) -> Mapping[str, str]:
    """Take `logging.logLevel` of host.json. Raise ValueError if a level is unknown."""
    section = host_json.get("logging")
    levels = section.get("logLevel", {}) if isinstance(section, dict) else {}
    chosen = {str(category): str(level).capitalize() for category, level in levels.items()}
    if unknown := sorted(set(chosen.values()) - set(LEVELS)):
        raise ValueError(f"host.json: logging.logLevel: {json.dumps(unknown)}: expected one of {', '.join(LEVELS)}")
    return chosen


def _begins(category: str, start: str) -> bool:
    return not start or category == start or category.startswith(start + ".")


def _level(number: int) -> str:
    thresholds = {logging.DEBUG: 0, logging.INFO: 1, logging.WARNING: 2, logging.ERROR: 3, logging.CRITICAL: 4}
    return LEVELS[max((rank + 1 for least, rank in thresholds.items() if number >= least), default=0)]
