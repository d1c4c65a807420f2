"""Drives Microsoft's worker library for Python functions in the place of the .NET host and its gRPC channel.

The library (`azure-functions-runtime`) is what runs on Azure: it imports `function_app.py`, checks it, turns what
a trigger delivers into the objects that a function sees, and runs functions in its thread pool. It expects the
host's protocol messages as a namespace of classes; the few that it touches are given here as plain classes.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure_functions_runtime as library
from azure_functions_runtime import native_invocation
from azure_functions_runtime.bindings.datumdef import Datum
from azure_functions_runtime.version import VERSION

__all__ = [
    "VERSION",
    "Datum",
    "Function",
    "Invocation",
    "Worker",
    "WorkerError",
    "current_invocation",
    "event_datum",
    "http_datum",
    "timer_datum",
]


class WorkerError(Exception):
    """The library could not load the app: no function exists. The text is what it said."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the app."""

    name: str
    id: str
    bindings: tuple[Mapping[str, Any], ...]
    """As they would stand in function.json."""

    @property
    def trigger(self) -> Mapping[str, Any]:
        """The binding that makes it run."""
        return next(binding for binding in self.bindings if binding["type"].endswith("Trigger"))

    @property
    def kind(self) -> str:
        """The type of the trigger: `httpTrigger`, `eventGridTrigger`, `timerTrigger`, ..."""
        return str(self.trigger["type"])


@dataclass(frozen=True, slots=True)
class Invocation:
    """A run of a function that has ended."""

    id: str
    function: str
    milliseconds: int
    exception: str | None = None
    """The exception's repr, when the function raised one."""
    traceback: str = ""
    returned: Any = None
    """The library's Datum."""


class Worker:
    """The library, loaded with one app; there can be one in a process. Its methods belong to one event loop."""

    async def load(self, app: Path) -> list[Function]:
        """Import the app, which must be on `sys.path`, and list its functions.

        Raise WorkerError if it cannot be loaded.
        """
        library.start_threadpool_executor()
        request = SimpleNamespace(
            request=SimpleNamespace(
                worker_init_request=SimpleNamespace(capabilities={}, function_app_directory=str(app))
            ),
            properties={"host": "127.0.0.1", "protos": _messages()},
        )
        result = (await library.worker_init_request(request)).result
        if result.status == _Status.Failure:
            raise WorkerError(f"{result.exception.message}\nStack: {result.exception.stack_trace}")
        functions = (await library.functions_metadata_request(None)).function_metadata_results or ()
        return [
            Function(function.name, function.function_id, tuple(map(json.loads, function.raw_bindings)))
            for function in functions
        ]

    async def invoke(
        self, function: Function, value: Datum, *, invocation_id: str = "", limit: float | None = None
    ) -> Invocation:
        """Run a function and wait for its end; what it raises is in the result.

        After `limit` seconds the run counts as failed, but a `def` function goes on in its thread: the real host
        would end the whole process here.
        """
        invocation_id = invocation_id or str(uuid.uuid4())
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                _, returned, _, exception, trace = await native_invocation.invocation_request_native(
                    invocation_id, function.id, [(function.trigger["name"], value)], {}
                )
        except TimeoutError:
            returned, trace = None, ""
            exception = f"Timeout value of {limit:g} s exceeded by function: Functions.{function.name}"
        milliseconds = round((time.monotonic() - started) * 1000)
        return Invocation(invocation_id, function.name, milliseconds, exception, trace or "", returned)


def current_invocation() -> str | None:
    """Give the invocation on whose behalf the calling code runs; a function's own threads have none."""
    return library.invocation_id_cv.get()  # type: ignore[no-any-return]  # the library has no types


def event_datum(event: object) -> Datum:
    """Make what an Event Grid trigger delivers: one event."""
    return Datum(json.dumps(event), "json")


def timer_datum(*, last: str, following: str, past_due: bool = False) -> Datum:
    """Make what a timer trigger delivers, with times in ISO format."""
    status = {"Last": last, "Next": following, "LastUpdated": last}
    value = {"Schedule": {"AdjustForDST": True}, "IsPastDue": past_due, "ScheduleStatus": status}
    return Datum(json.dumps(value), "json")


def http_datum(  # noqa: PLR0913 (an HTTP request has that many parts)
    *,
    method: str,
    url: str,
    headers: Mapping[str, str],
    route: Mapping[str, str],
    query: Mapping[str, str],
    body: bytes,
) -> Datum:
    """Make what an HTTP trigger delivers; the host leaves out headers and queries without a value."""

    def strings(values: Mapping[str, str]) -> dict[str, Datum]:
        return {name: Datum(value, "string") for name, value in values.items() if value}

    value = {
        "method": Datum(method, "string"),
        "url": Datum(url, "string"),
        "headers": strings(headers),
        "params": strings(route),
        "query": strings(query),
        "body": Datum(body, "bytes"),
    }
    return Datum(value, "http")


class _Status:
    """StatusResult: a class, since the library reads its constants and makes instances of it."""

    Failure, Success, Cancelled = 0, 1, 2

    def __init__(self, *, status: int, exception: Any = None) -> None:
        self.status = status
        self.exception = exception


class _BindingInfo:
    undefined, string, binary, stream = range(4)  # of data_type
    out, inout = 1, 2  # of direction

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


def _messages() -> SimpleNamespace:
    """Stand in for the module of protocol messages: those that the library makes, which only keep what they get."""
    plain = (
        "RpcException WorkerMetadata WorkerInitResponse FunctionMetadataResponse RpcFunctionMetadata "
        "RpcRetryOptions FunctionLoadResponse FunctionEnvironmentReloadResponse"
    )
    messages = {name: type(name, (SimpleNamespace,), {}) for name in plain.split()}
    return SimpleNamespace(**messages, StatusResult=_Status, BindingInfo=_BindingInfo)
