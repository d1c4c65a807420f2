"""A rotation is a list of outside calls: a process that is killed before or after any of them leaves nothing undone.

The calls are recorded over the wire from runs that nobody disturbs, so a new one is covered by itself. What the
outside knows after a call and before the next one is the same: so the process killed before a call is followed by the
event's redelivery, and the one killed after it by the sweep, and both meet every state there is. Where there is no time
for all, each kind of secret meets every third kill, and the next kind others: `make thorough` does all.
"""

from itertools import count

import pytest

from sandbox.faults import Dropped
from sandbox.http_service import Response
from tests.faults.conftest import THOROUGH, Outside
from tests.faults.instance import Instance
from tests.faults.stories import ASKED_FOR, STORIES, Case, Story, by_hand, rolled_back
from tests.faults.wire import When

pytestmark = pytest.mark.timeout(900)

KINDS = (
    ("alternating-users", "secret"),
    ("alternating-users", "entra"),
    ("single-user", "secret"),
    ("single-user", "entra"),
    ("single-user", "self"),
)
BEFORE: When = "before"
AFTER: When = "after"
LEAST_CALLS = 5
EVERY = 1 if THOROUGH else 3


@pytest.mark.parametrize(
    ("kind", "story"),
    [
        (kind, story)
        for kind in KINDS
        for story in STORIES
        if story is not rolled_back or kind[0] == "alternating-users"
    ],
    ids=lambda part: " by ".join(part) if isinstance(part, tuple) else part.__name__,
)
def test_whoever_is_killed_leaves_nothing_undone(outside: Outside, kind: tuple[str, str], story: Story) -> None:
    """P1, P2, P4, P5: at any outside call, and whatever comes next."""
    kills = 0
    with outside.instance() as instance:
        for moment in count(KINDS.index(kind) % EVERY, EVERY):
            number, when = moment // 2, (BEFORE, AFTER)[moment % 2]
            case = Case.begin(outside, instance, kind, story)
            outside.wire.reset(number, when, lambda: kill(instance))
            result = outside.act(instance, case.what)
            where = outside.wire.struck
            outside.wire.reset()
            if where is None:
                assert result.error is None
                break
            assert result.was_killed, (where, result)
            case.check_in_between(where)
            swept = when == AFTER and not (story is by_hand and not case.is_managed)
            is_forgotten = swept and story in ASKED_FOR and not case.is_published
            assert outside.act(instance, None if swept else case.what).error is None, where
            if not is_forgotten:  # who asked by hand has to ask again, when nothing was published
                case.check_in_the_end(where)
            case.end()
            kills += 1
        assert kills > 2 * LEAST_CALLS // EVERY
        case.check_in_the_end("undisturbed")


def kill(instance: Instance) -> Response | None:
    instance.kill()
    raise Dropped
