"""A Functions host for laptops without `func`: Microsoft's worker library behind the real host's HTTP routes.

As a program it runs until Ctrl-C or SIGTERM:

    python -m sandbox.functions_host --app . --port 7071 --settings local.settings.json

`FunctionsHost` runs that program for tests and the demo. What the real host does and this one does not: it keeps
no state (a timer's missed runs are not made up for), serves HTTP, Event Grid and timer triggers only, ignores output
bindings, and lets a run that exceeds `functionTimeout` go on where the real one ends the process.
"""

import argparse
import asyncio
import http.client
import json as json_format
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from sandbox.functions_console import Console

_STARTED = "Now listening on: "


class FunctionsHost:
    """Runs the program as a process in a group of its own, from `start` (or `with`) to `stop` or `kill`.

    It can be started again after its end, and keeps port, keys and output. Its environment is the one of this
    process and `environment` on top; a local.settings.json is read only when it is given.
    """

    def __init__(  # noqa: PLR0913 (each is an option of the program)
        self,
        app: Path | str = ".",
        *,
        environment: Mapping[str, str] | None = None,
        settings: Path | str | None = None,
        port: int = 0,
        authorize: bool = True,
        function_key: str = "",
        master_key: str = "",
        event_grid_key: str = "",
        debug_logging: bool = False,
        verbose: bool = False,
        log: Path | None = None,
        python: Path | str = sys.executable,
    ) -> None:
        self.app = Path(app).resolve()
        self.port = port
        """A free one is taken at the first start when none is given."""
        self.function_key = function_key or secrets.token_urlsafe(24)
        self.master_key = master_key or secrets.token_urlsafe(24)
        self.event_grid_key = event_grid_key
        self.environment = dict(environment or {})
        self._settings = settings
        self._flags = [
            *([] if authorize else ["--no-auth"]),
            *(["--debug-logging"] if debug_logging else []),
            *(["--verbose"] if verbose else []),
        ]
        self._log = log
        self._python = str(python)
        self._keep_log = log is not None
        self._printed = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, known after `start`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process_id(self) -> int:
        """The process, which is also its group's number."""
        if not self._process:
            raise RuntimeError("the Functions host is not running")
        return self._process.pid

    def start(self, timeout: float = 60) -> Self:
        """Start the program, once more if it has ended, and wait until it answers.

        Raise RuntimeError if it ends before, TimeoutError if it takes too long.
        """
        self.kill()
        if self._log is None:
            descriptor, path = tempfile.mkstemp(prefix="functions-host-", suffix=".log")
            os.close(descriptor)
            self._log = Path(path)
            self._log.write_text(self._printed)
        start = len(self.output())
        settings = str(Path(self._settings).resolve()) if self._settings else ""
        command = [self._python, "-m", "sandbox.functions_host", "--app", str(self.app), "--port", str(self.port)]
        # The keys go by the environment: a command line is everybody's to read.
        keys = {
            "SANDBOX_FUNCTION_KEY": self.function_key,
            "SANDBOX_MASTER_KEY": self.master_key,
            "SANDBOX_EVENT_GRID_KEY": self.event_grid_key,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--settings", settings, *self._flags],
                cwd=Path(__file__).resolve().parent.parent,
                env={**os.environ, **self.environment, **keys},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            line = self.wait_for_output(_STARTED + r"http://127\.0\.0\.1:(\d+)", timeout, start=start)
        except BaseException:
            self._close()
            raise
        self.port = int(line[1])
        return self

    def stop(self, timeout: float = 15) -> int:
        """End it with SIGTERM, which lets running functions finish for some seconds; give its exit code."""
        if not self._process:
            return 0
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self._end()

    def wait_for_end(self, timeout: float = 20) -> int:
        """Wait until the program ends by itself; give its exit code. Raise subprocess.TimeoutExpired."""
        if self._process:
            self._process.wait(timeout)
        return self._end()

    def kill(self) -> None:
        """End the whole process group at once, as a crash does."""
        self._end()

    def _end(self) -> int:
        process, self._process = self._process, None
        if not process:
            return 0
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # children of the app too
        return process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._close()

    def _close(self) -> None:
        self.kill()
        if self._log and not self._keep_log:
            self._printed = self.output()
            self._log.unlink()
            self._log = None

    def output(self) -> str:
        """Give all that it has printed, over all starts."""
        return self._log.read_text(errors="replace") if self._log and self._log.exists() else self._printed

    def wait_for_output(self, pattern: str, timeout: float = 20, *, start: int = 0) -> re.Match[str]:
        """Wait until the output, from character `start` on, has the regular expression.

        Raise RuntimeError if the program ends before, TimeoutError if it takes too long.
        """
        end = time.monotonic() + timeout
        while True:
            ended = self._process is None or self._process.poll() is not None
            if found := re.compile(pattern).search(self.output(), start):
                return found
            if ended:
                raise RuntimeError(f"the Functions host has ended without printing {pattern!r}:\n{self.output()}")
            if time.monotonic() > end:
                raise TimeoutError(f"no {pattern!r} within {timeout:g} s in the output:\n{self.output()}")
            time.sleep(0.01)

    def http(  # noqa: PLR0913 (an HTTP request has that many parts)
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        key: bool | str = True,
        timeout: float = 60,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request, with the function key unless `key` is False or another key."""
        sent = dict(headers or {})
        if json is not None:
            body = json_format.dumps(json)
            sent = {"Content-Type": "application/json", **sent}
        if key:
            sent.setdefault("x-functions-key", self.function_key if key is True else key)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def post_event(self, event: object, function: str = "rotation_event", *, timeout: float = 60) -> tuple[int, str]:
        """Deliver an event, or a list of them, as Event Grid does; give status and body."""
        status, _, body = self.http(
            "POST",
            f"/runtime/webhooks/EventGrid?functionName={function}",
            json=event,
            headers={"aeg-event-type": "Notification"},
            key=self.event_grid_key or False,
            timeout=timeout,
        )
        return status, body.decode()

    def run_timer(self, function: str = "rotation_sweep", *, timeout: float = 120) -> dict[str, Any]:
        """Run a timer function now and wait for its end: `succeeded`, `exception`, `milliseconds`, `invocationId`.

        The waiting (`?wait=true`) is an addition of this stand-in. Raise RuntimeError if there is no such function.
        """
        status, _, body = self.http(
            "POST", f"/admin/functions/{function}?wait=true", json={"input": ""}, key=self.master_key, timeout=timeout
        )
        if status != http.client.OK:
            raise RuntimeError(f"the function {function!r} could not be started: {status} {body.decode()}")
        return dict(json_format.loads(body))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="sandbox.functions_host", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--app", type=Path, default=Path(), help="the folder of function_app.py and host.json")
    parser.add_argument("--port", type=int, default=7071, help="0 takes a free one")
    parser.add_argument("--settings", help="default: local.settings.json of the app, if there is one; '' for none")
    parser.add_argument("--no-auth", action="store_true", help="check no keys, as func start does")
    parser.add_argument("--function-key", default=os.environ.pop("SANDBOX_FUNCTION_KEY", ""))
    parser.add_argument("--master-key", default=os.environ.pop("SANDBOX_MASTER_KEY", ""))
    parser.add_argument(
        "--event-grid-key",
        default=os.environ.pop("SANDBOX_EVENT_GRID_KEY", ""),
        help="the system key that the Event Grid webhook asks for; default: it is open",
    )
    parser.add_argument(
        "--debug-logging", action="store_true", help="set PYTHON_ENABLE_DEBUG_LOGGING=1, as func start does"
    )
    parser.add_argument("--verbose", action="store_true", help="show the worker's own logs")
    parser.add_argument("--grace", type=float, default=5, help="seconds that running functions get at the end")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(options))
    except (ValueError, OSError) as error:
        print(f"functions_host: {error}", file=sys.stderr)
        return 1
    # Python would wait for functions that take longer than they may, and a thread cannot be ended from outside.
    sys.stdout.flush()
    os._exit(0)


async def _serve(options: argparse.Namespace) -> None:
    """Serve until the process is asked to end, and then let running functions end."""
    # A test that starts the program does not need the worker library, and shall not pay for its import.
    from sandbox.functions_console import Console, LogHandler, read_log_level  # noqa: PLC0415
    from sandbox.functions_http import Endpoints, Keys  # noqa: PLC0415
    from sandbox.functions_runtime import Runtime, is_true  # noqa: PLC0415
    from sandbox.http_service import HttpService, Response  # noqa: PLC0415
    from sandbox.worker import Worker  # noqa: PLC0415

    app: Path = options.app.resolve()
    host_json = _read_json(app / "host.json") if (app / "host.json").exists() else {}
    console = Console(read_log_level(host_json), verbose=options.verbose, debug=options.debug_logging)
    keys = Keys(
        options.function_key or secrets.token_urlsafe(24),
        options.master_key or secrets.token_urlsafe(24),
        options.event_grid_key,
        checked=not options.no_auth,
    )
    runtime = Runtime(Worker(), console, _seconds(str(host_json.get("functionTimeout", "00:30:00"))))
    endpoints: Endpoints | None = None
    service = HttpService(lambda request: endpoints.answer(request) if endpoints else Response(503), port=options.port)
    _set_environment(app, options, f"localhost:{service.port}", console)
    os.chdir(app)
    sys.path[0] = str(app)  # in the place of where this module came from: as on Azure, the app is all there is
    root = logging.getLogger()
    root.addHandler(LogHandler(console, runtime.function_of))
    root.setLevel(logging.DEBUG if is_true(os.environ.get("PYTHON_ENABLE_DEBUG_LOGGING")) else logging.INFO)

    await runtime.load(app, str(host_json.get("extensions", {}).get("http", {}).get("routePrefix", "api")).strip("/"))
    endpoints = Endpoints(runtime, keys)
    routes = {route.function.name: f"/{route.template}" for route in runtime.routes}
    console.show_functions(runtime.functions, f"http://localhost:{service.port}", routes)
    if keys.checked:
        console.say(f"Function key: {keys.function}\nMaster key: {keys.master}")
    asked_to_end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_end.set)
    service.start()
    runtime.start_timers()
    console.say(f"{_STARTED}{service.url}")
    await asked_to_end.wait()
    await asyncio.to_thread(service.stop_accepting)
    if await runtime.finish(options.grace):
        await asyncio.to_thread(service.wait_idle, 1)


def _set_environment(app: Path, options: argparse.Namespace, name: str, console: "Console") -> None:
    """Put the settings into the environment as func does: what stands there already wins."""
    values: dict[str, str] = {}
    path = app / "local.settings.json" if options.settings is None else Path(options.settings)
    if options.settings or (options.settings is None and path.exists()):
        values = _read_settings(path)
    for setting, value in values.items():
        if os.environ.get(setting):
            console.say(
                f"Skipping '{setting}' from local settings as it's already defined in current environment variables."
            )
        else:
            os.environ[setting] = value
    os.environ.update(WEBSITE_HOSTNAME=name, AzureWebJobsScriptRoot=str(app), AZURE_FUNCTIONS_ENVIRONMENT="Development")
    os.environ.setdefault("FUNCTIONS_WORKER_RUNTIME", "python")
    if options.debug_logging:
        os.environ["PYTHON_ENABLE_DEBUG_LOGGING"] = "1"


def _read_settings(path: Path) -> dict[str, str]:
    settings = _read_json(path)
    if settings.get("IsEncrypted"):
        raise ValueError(f"{path}: the settings are encrypted; run `func settings decrypt`")
    values = settings.get("Values", {})
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(  # noqa: TRY004 (of a file, not of an argument)
                f"{path}: Values.{name} is {json_format.dumps(value)}, expected a string"
            )
    return dict(values)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json_format.loads(path.read_text("utf-8-sig"))
    except json_format.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object")  # noqa: TRY004 (of a file, not of an argument)
    return value


def _seconds(time_span: str) -> float | None:
    """Read a .NET time span of host.json, or `-1` for no limit. Raise ValueError if it is neither."""
    if time_span == "-1":
        return None
    found = re.fullmatch(r"(?:(\d+)\.)?(\d\d):(\d\d):(\d\d)", time_span)
    if not found:
        raise ValueError(f"host.json: functionTimeout is {time_span!r}, expected hh:mm:ss or -1")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()


if __name__ == "__main__":
    sys.exit(main())
