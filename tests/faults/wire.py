"""The calls of the program to the outside, numbered as they come in over the wire; at one of them something happens."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sandbox.faults import Tap
from sandbox.http_service import Response

type When = Literal["before", "after"]
type Act = Callable[[], Response | None]


class Wire:
    """Counts the calls to all systems that are given one of its taps. Begins anew with `reset`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(
        self, number: int | None = None, when: When = "before", act: Act | None = None, *, system: str = ""
    ) -> None:
        """Forget the calls so far; before or after call `number` (of a system), counted from 0, do `act`, once."""
        with self._lock:
            self.calls: list[str] = []
            self.struck: str | None = None
            self._number, self._when, self._act, self._system = number, when, act, system

    def tap(self, system: str) -> Tap:
        """Return what a stand-in or proxy of this system is to call."""

        def begin(what: str) -> _Call:
            with self._lock:
                number = sum(call.startswith(self._system) for call in self.calls)
                self.calls.append(f"{system}: {what}")
                return _Call(self, number if system.startswith(self._system) else None, self.calls[-1])

        return begin

    def strike(self, call: "_Call", when: When) -> Response | None:
        with self._lock:
            if self._act is None or call.number is None or (call.number, when) != (self._number, self._when):
                return None
            act, self._act = self._act, None
            self.struck = f"{when} call {call.number}, {call.what}"
        return act()


@dataclass(frozen=True, slots=True)
class _Call:
    wire: Wire
    number: int | None
    what: str

    def before(self) -> Response | None:
        return self.wire.strike(self, "before")

    def after(self) -> Response | None:
        return self.wire.strike(self, "after")
