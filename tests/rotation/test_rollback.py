"""The way back: the credential of before becomes the current one again, or a reason why it cannot."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest

from rotators.access import locked
from rotators.api import outcome_answer
from rotators.dispatch import sweep
from rotators.errors import LoginRefusedError
from rotators.policy import RotationState, read_state
from rotators.rotation import rotate
from tests.world import World, logs_in, user_of

# What the program says to a database when it changes something.
CHANGES = ("ALTER", "CREATE", "COMMENT", "GRANT", "DROP")


def state_of(here: World, name: str) -> RotationState:
    state = read_state(here.tags(name))
    assert state is not None
    return state


def rotated(here: World) -> str:
    """Return a secret that was rotated once, an hour ago."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(hours=1))
    return name


def test_the_credential_of_before_becomes_the_current_one_again(here: World) -> None:
    """P1: byte for byte what the version before said; and both credentials go on working."""
    name = rotated(here)
    away_from = here.value(name)
    outcome = rotate(here.systems, here.trigger(name, "rollback", by="ann", reason="reports fail"))
    assert (outcome.status, outcome.cause, outcome.reason) == ("rotated", "rollback", "reports fail")
    first, second, third = here.versions(name)
    assert third.value == first.value
    assert here.logs_in(name)
    assert logs_in(away_from)
    state = state_of(here, name)
    assert (state.cause, state.by, state.reason, state.from_version) == (
        "rollback",
        "ann",
        "reports fail",
        second.version,
    )
    assert here.topic.types == ["Completed", "Completed"]
    assert (here.topic.events[-1].data["by"], here.topic.events[-1].data["user"]) == ("ann", user_of(first.value))


def test_a_rollback_changes_no_user(here: World) -> None:
    """P2: so a kill in the middle leaves nothing half done."""
    name = rotated(here)
    log = len(here.server.log())
    rotate(here.systems, here.trigger(name, "rollback"))
    assert not any(change in here.server.log()[log:] for change in CHANGES)


def test_what_was_rolled_away_from_has_a_grace_of_its_own(here: World) -> None:
    """P1: who uses it already may go on; then it is retired, and its user is the next one's turn."""
    name = rotated(here)
    away_from = here.value(name)
    there = here.app(topic=None)
    rotate(here.systems, here.trigger(name, "rollback"))
    here.clock.advance(timedelta(hours=23, minutes=30))  # the grace of the rotation is over, not the rollback's
    sweep(there.systems)
    assert logs_in(away_from)
    assert rotate(here.systems, here.trigger(name)).obstacle == "in grace"
    here.clock.advance(timedelta(hours=1))
    sweep(there.systems)
    assert not logs_in(away_from)
    assert here.logs_in(name)
    assert state_of(here, name).retired is not None
    rotate(here.systems, here.trigger(name))
    assert here.user_of(name) == user_of(away_from)
    assert here.logs_in(name)


def test_a_rollback_makes_no_password_older_than_it_may_become(here: World) -> None:
    """The version expires when the credential that it brings back would have, and so is due before."""
    name = here.alternating(rotation_every="10d")
    here.clock.advance(timedelta(days=9))
    rotate(here.systems, here.trigger(name))
    rotate(here.systems, here.trigger(name, "rollback"))
    first, _, third = here.versions(name)
    assert third.expires_on == first.expires_on


def test_a_version_by_rollback_outlives_the_grace(here: World) -> None:
    """P1: the credential of before had expired, and its user must not be due while the other is in its grace."""
    name = here.alternating()
    here.make_due(days=91)
    rotate(here.systems, here.trigger(name))
    rotate(here.systems, here.trigger(name, "rollback"))
    state, expires_on = state_of(here, name), here.vault.current(name).expires_on
    assert state.retire_at is not None
    assert expires_on is not None
    assert expires_on >= state.retire_at - timedelta(seconds=1)
    sweep(here.app(topic=None).systems)
    assert len(here.versions(name)) == 3
    here.clock.advance(timedelta(hours=25))
    sweep(here.app(topic=None).systems)
    assert len(here.versions(name)) == 4
    assert here.logs_in(name)


def test_asked_twice_it_goes_back_once(here: World) -> None:
    """P4: who asks again because the answer was lost is not given back what was rolled away from."""
    name = rotated(here)
    rotate(here.systems, here.trigger(name, "rollback"))
    again = rotate(here.systems, here.trigger(name, "rollback"))
    assert (again.obstacle, len(here.versions(name))) == ("no way back", 3)
    assert here.value(name) == here.versions(name)[0].value


def test_asked_twice_at_once_it_goes_back_once(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: decided again under the lock, on what is there then."""
    name = rotated(here)

    def roll_back_meanwhile(*args: Any) -> AbstractContextManager[object]:
        monkeypatch.undo()
        rotate(here.systems, here.trigger(name, "rollback"))
        return locked(*args)

    monkeypatch.setattr("rotators.rotation.locked", roll_back_meanwhile)
    assert "a rollback already" in rotate(here.systems, here.trigger(name, "rollback")).reason
    assert len(here.versions(name)) == 3
    assert here.logs_in(name)


def test_the_same_idempotency_key_rolls_back_once(here: World) -> None:
    """P4: also after another rotation; and a rotation with the same key is another cause."""
    name = rotated(here)
    request = here.trigger(name, "rollback", id="key-1", is_repeatable=True)
    first = rotate(here.systems, request)
    again = rotate(here.systems, request)
    assert (again.status, again.version) == ("rotated", first.version)
    here.clock.advance(timedelta(hours=25))
    rotate(here.systems, here.trigger(name, id="key-1", is_repeatable=True))
    late = rotate(here.systems, request)
    assert (late.status, late.version) == ("rotated", first.version)
    assert len(here.versions(name)) == 4


def test_a_dry_run_logs_in_and_changes_nothing(here: World) -> None:
    """P7: it says what would come back, and until when."""
    name = rotated(here)
    first = here.versions(name)[0]
    outcome = rotate(here.systems, here.trigger(name, "rollback", dry_run=True))
    assert (outcome.status, outcome.user, outcome.expires_on) == ("planned", user_of(first.value), first.expires_on)
    assert "verify" in [step.name for step in outcome.steps]
    assert len(here.versions(name)) == 2


def test_a_credential_that_does_not_log_in_is_no_way_back(here: World) -> None:
    """P1, P7: verified before anything is published."""
    name = rotated(here)
    first = here.versions(name)[0]
    here.server.execute(f"ALTER ROLE \"{user_of(first.value)}\" PASSWORD 'another'")
    with pytest.raises(LoginRefusedError, match="nothing was changed"):
        rotate(here.systems, here.trigger(name, "rollback"))
    assert len(here.versions(name)) == 2
    assert here.logs_in(name)


def disabled(here: World) -> str:
    name = rotated(here)
    here.systems.vault.disable(name, here.versions(name)[0].version)
    return name


def grace_is_over(here: World) -> str:
    name = rotated(here)
    here.clock.advance(timedelta(hours=24))
    return name


def retired(here: World) -> str:
    name = grace_is_over(here)
    sweep(here.app(topic=None).systems)
    return name


def revoked(here: World) -> str:
    here.server.execute("GRANT pg_signal_backend TO rotator")
    name = here.alternating()
    rotate(here.systems, here.trigger(name, revoke=True))
    return name


def rolled_back(here: World) -> str:
    name = rotated(here)
    rotate(here.systems, here.trigger(name, "rollback"))
    return name


def single(here: World) -> str:
    name = here.single(rotation_admin="self")
    rotate(here.systems, here.trigger(name))
    return name


def paused(here: World) -> str:
    name = rotated(here)
    current = here.systems.vault.current(name)
    here.systems.vault.write_tags(name, current.version, {**current.tags, "rotation-enabled": "false"})
    return name


def user_by_hand(here: World) -> str:
    """The current version names the user of the one before, as a person wrote it."""
    name = rotated(here)
    here.vault.put(name, here.versions(name)[0].value, tags=dict(here.tags(name)))
    return name


def server_by_hand(here: World) -> str:
    """The current version names another server, as a person wrote it."""
    name = rotated(here)
    here.vault.put(name, here.value(name).replace("127.0.0.1", "localhost"), tags=dict(here.tags(name)))
    return name


@pytest.mark.parametrize(
    ("arrange", "status", "said"),
    [
        (lambda here: here.alternating(), 409, "was not made by a rotation"),
        (single, 409, "single-user"),
        (disabled, 409, "is disabled"),
        (grace_is_over, 409, "ended at"),
        (retired, 409, "ended at"),
        (revoked, 409, "leaked and was revoked"),
        (rolled_back, 409, "is a rollback already"),
        (user_by_hand, 409, "names user"),
        (server_by_hand, 409, "for another server"),
        (paused, 409, "resume it, roll back, and pause it again"),
        (lambda here: here.secret(here.user(), {}), 422, "has no tag rotation-strategy"),
    ],
)
def test_where_there_is_no_way_back_the_reason_is_said(
    here: World, arrange: Callable[[World], str], status: int, said: str
) -> None:
    """P7: refused with the reason, and nothing changed."""
    name = arrange(here)
    before, log = here.versions(name), len(here.server.log())
    settings = dataclasses.replace(here.systems.settings, allowed_hosts=("localhost",))
    answer = outcome_answer(rotate(here.app(settings=settings).systems, here.trigger(name, "rollback")))
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
    assert said in str(answer.body["detail"])
    assert str(answer.body["title"]).startswith("Not rolled back: ")
    assert here.versions(name) == before
    assert not any(change in here.server.log()[log:] for change in CHANGES)
