"""Answers that do not come, come late or lie, once at each outside call; then the event comes again, and the sweep.

Like the kills next door: the calls are recorded from an undisturbed run.
"""

from collections.abc import Iterator
from threading import Event

import pytest

from sandbox.faults import Dropped
from sandbox.http_service import Response
from tests.faults.conftest import THOROUGH, Outside
from tests.faults.instance import Instance
from tests.faults.stories import Case, later_rotation
from tests.faults.wire import Act, When

pytestmark = pytest.mark.timeout(3600 if THOROUGH else 900)

# How long the program waits for an answer here, in seconds.
PATIENCE = 0.3
# A first redelivery may meet the session of the delivery before, which the server still takes for alive.
REDELIVERIES = 3
WAYS_SKIPPED = 5
BEFORE: When = "before"
AFTER: When = "after"


def dropped() -> Response | None:
    raise Dropped


def answer(status: int, **headers: str) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"error": {"code": "Made", "message": "as told"}, "detail": "as told", "statusCode": status}
    return lambda: Response.json(status, body, named)


def rubbish() -> Response:
    return Response(200, b"<html>Please sign in</html>", (("Content-Type", "text/html"),))


HTTP: dict[str, tuple[When, Act]] = {
    "429": (BEFORE, answer(429)),
    "429 with Retry-After": (BEFORE, answer(429, Retry_After="1")),
    "429 with a long Retry-After": (BEFORE, answer(429, Retry_After="3600")),
    "500": (BEFORE, answer(500)),
    "503": (BEFORE, answer(503)),
    "401": (BEFORE, answer(401)),
    "403": (BEFORE, answer(403)),
    "404": (BEFORE, answer(404)),
    "408": (BEFORE, answer(408)),
    "409": (BEFORE, answer(409)),
    "rubbish": (BEFORE, rubbish),
    "500 after it took effect": (AFTER, answer(500)),
    "403 after it took effect": (AFTER, answer(403)),
    "rubbish after it took effect": (AFTER, rubbish),
}
ANY: dict[str, tuple[When, Act]] = {
    "dropped": (BEFORE, dropped),
    "dropped after it took effect": (AFTER, dropped),
}
SILENCE: dict[str, When] = {"silence": BEFORE, "silence after it took effect": AFTER}


def faults(system: str, over: Event) -> Iterator[tuple[str, When, Act]]:
    def silent() -> Response | None:
        over.wait(60)
        raise Dropped

    for name, (when, act) in (ANY if system == "database" else {**ANY, **HTTP}).items():
        yield name, when, act
    for name, when in SILENCE.items():
        yield name, when, silent


@pytest.mark.parametrize("system", ["vault", "identity", "database", "airflow", "topic"])
@pytest.mark.parametrize(
    "kind",
    [("alternating-users", "secret"), ("single-user", "secret"), ("single-user", "self")],
    ids=" by ".join,
)
def test_an_answer_that_lies_delays_and_breaks_nothing(outside: Outside, kind: tuple[str, str], system: str) -> None:
    """P1, P2, P4, P5: whatever one call to this system answers, or does not."""
    number = 0
    with outside.instance(patience=PATIENCE) as instance:
        while disturb(outside, instance, kind, system, number):
            number += 1
    assert number > 0


def disturb(outside: Outside, instance: Instance, kind: tuple[str, str], system: str, number: int) -> bool:
    """Let this call go wrong; tell whether there is such a call.

    In each way there is where there is time for it; else in some of them, of which the next call meets others.
    """
    over = Event()
    every = 1 if THOROUGH else WAYS_SKIPPED
    for fault, when, act in list(faults(system, over))[number % every :: every]:
        case = Case.begin(outside, instance, kind, later_rotation)
        outside.wire.reset(number, when, act, system=system)
        over.clear()
        result = outside.act(instance, case.what)
        over.set()
        if outside.wire.struck is None:
            return False
        where = f"{fault} {outside.wire.struck}: {result}"
        outside.wire.reset()
        case.check_in_between(where)
        for _ in range(REDELIVERIES):
            if result.is_transient:
                result = outside.act(instance, case.what)
        assert not result.is_transient, (where, result)
        if not case.is_published or outside.state(case.name).is_unfinished or not case.is_healed:
            # What is permanent is not delivered again: it is mended, and the sweep comes by. It looks again, too, at
            # a task whose log could not be read.
            assert outside.act(instance, None).error is None, where
        case.check_in_the_end(where)
        case.end()
    return True
