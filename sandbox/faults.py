"""Requests that fail on demand, and the record of what was asked."""

import functools
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, Protocol

from sandbox.http_service import Request, Response


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request without its query, headers and body; `status` is None when the connection was dropped."""

    method: str
    path: str
    status: int | None


class RequestLog:
    """All requests in the order of their answers; safe to read from any thread."""

    def __init__(self) -> None:
        self._requests: list[LoggedRequest] = []
        self._lock = threading.Lock()

    def add(self, request: Request, status: int | None) -> None:
        """Note a request that is about to be answered."""
        with self._lock:
            self._requests.append(LoggedRequest(request.method, path_of(request), status))

    def since(self, mark: int = 0, *, method: str | None = None, path: str = "") -> tuple[LoggedRequest, ...]:
        """Return the requests after the first `mark`, of one method, whose path matches the expression."""
        with self._lock:
            requests = self._requests[mark:]
        return tuple(r for r in requests if method in (None, r.method) and re.search(path, r.path))


When = Literal["before", "after", "later"]


class Dropped(ConnectionAbortedError):  # noqa: N818 (a signal to the service: close without an answer)
    """The connection ends without an answer."""


class Call(Protocol):
    """A call to an outside system, on its way. Each method may return another answer, wait, or raise Dropped."""

    def before(self) -> Response | None:
        """Do something before the call has an effect; with an answer it has none."""

    def after(self) -> Response | None:
        """Do something when it has had its effect, before the caller learns it."""


type Tap = Callable[[str], Call]
"""Called with what is asked, as each call comes in."""


@dataclass(slots=True, eq=False)
class Fault:
    """What `fail` returns: `fired` tells how often it happened, `remove()` ends it, `land()` is for "later"."""

    method: str | None
    path: re.Pattern[str]
    when: When
    times: int | None
    skip: int
    delay: float
    run: Callable[[], object] | None
    drop: bool
    answer: Response | None
    fired: int = 0
    on_their_way: list[Callable[[], object]] = field(default_factory=list)

    def remove(self) -> None:
        """Let requests pass from now on."""
        self.times = 0

    def land(self) -> int:
        """Carry out the requests that were to take effect later; return how many."""
        landing, self.on_their_way = self.on_their_way, []
        for request in landing:
            request()
        return len(landing)

    def _matches(self, request: Request) -> bool:
        return self.method in (None, request.method) and bool(self.path.search(path_of(request)))


class Faults:
    """The faults of one server; `error` renders a status and a code as that server's errors look."""

    def __init__(self, error: Callable[[int, str, Mapping[str, str]], Response]) -> None:
        self.tap: Tap | None = None
        self._error = error
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(  # noqa: PLR0913 (each is a way to fail, by keyword)
        self,
        *,
        method: str | None = None,
        path: str = "",
        status: int | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        drop: bool = False,
        delay: float = 0,
        run: Callable[[], object] | None = None,
        body: str | None = None,
        when: When = "before",
        times: int | None = 1,
        skip: int = 0,
    ) -> Fault:
        """Make matching requests fail.

        Args:
            method: GET, PUT, PATCH, POST, DELETE; None is all.
            path: a regular expression searched for in the path, which has no trailing slash and no query.
            status: the answer's status, with `code` in its body and `headers` besides.
            body: the answer's body instead, as a gateway's page; with `status` 200 an answer that is none.
            drop: close the connection without an answer.
            code: the error code in the body; without one it follows from the status.
            headers: further headers of the answer, `{"Retry-After": "1"}` for instance.
            delay: seconds of real time to wait first; alone it makes a request slow, not wrong.
            run: called first, in the server's thread: another writer that comes in between, for instance.
            when: "before": the request has no effect; "after": it has been carried out (only requests that succeed
                count), and the caller does not learn it; "later": it takes effect when the fault's `land()` is called,
                and until then it is on its way in some network.
            times: how many requests; None is all until `remove()`.
            skip: how many matching requests pass first.
        """
        answer = None if status is None else self._error(status, code or _code(status), headers or {})
        if answer is not None and body is not None:
            answer = Response.text(answer.status, body)
        fault = Fault(method, re.compile(path), when, times, skip, delay, run, drop, answer)
        with self._lock:
            self._faults.append(fault)
        return fault

    def around(self, request: Request, handle: Callable[[Request], Response]) -> Response:
        """Return what `handle` answers, or what a fault does. Raise Dropped when there is to be no answer."""
        if self.tap is None:
            return self._around(request, handle)
        call = self.tap(f"{request.method} {path_of(request)}")
        if interruption := call.before():
            return interruption
        response = self._around(request, handle)
        return call.after() or response

    def _around(self, request: Request, handle: Callable[[Request], Response]) -> Response:
        if interruption := self._strike(request, "before"):
            return interruption
        if interruption := self._strike(request, "later", handle):
            return interruption
        response = handle(request)
        succeeded = response.status < HTTPStatus.BAD_REQUEST
        return (succeeded and self._strike(request, "after")) or response

    def _strike(
        self, request: Request, when: When, handle: Callable[[Request], Response] | None = None
    ) -> Response | None:
        fault = self._due(request, when)
        if fault is None:
            return None
        if handle:
            fault.on_their_way.append(functools.partial(handle, request))
        time.sleep(fault.delay)
        if fault.run:
            fault.run()
        if fault.drop:
            raise Dropped
        return fault.answer

    def _due(self, request: Request, when: When) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.when != when or fault.times == 0 or not fault._matches(request):  # noqa: SLF001 (its list)
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.fired += 1
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return None


def path_of(request: Request) -> str:
    """Return the path without the slash that the SDK writes before an omitted version."""
    return request.path.rstrip("/") or "/"


def _code(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "Throttled"
    return HTTPStatus(status).phrase.replace(" ", "")
