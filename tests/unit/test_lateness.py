"""Since when a secret is overdue: what an alert is set on, so that neither a window nor a grace rings anybody."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rotators.decision import LATE, STATES, Current, Schedule, Trigger, decide, overdue_since, possible_at, state_of
from rotators.policy import RotationPolicy, RotationState, read_policy
from rotators.settings import read_settings

CREATED = datetime(2026, 11, 1, 12, tzinfo=UTC)
# `rotation-every` less an hour of slack.
DUE = CREATED + timedelta(days=9, hours=23)
CURRENT = Current("v1", CREATED, CREATED + timedelta(days=200), None)


def sweeps(schedule: str) -> Schedule:
    return read_settings({"KEY_VAULT_URL": "https://v", "ROTATION_SWEEP_SCHEDULE": schedule}).sweeps


SWEEPS = sweeps("0 */15 * * * *")


def policy(**tags: str) -> RotationPolicy:
    base = {"rotation-strategy": "alternating-users", "rotation-admin": "admin", "rotation-every": "10d"}
    read = read_policy("s", {**base, **{name.replace("_", "-"): value for name, value in tags.items()}}, prefix="p")
    assert read is not None
    return read


def test_it_is_overdue_when_it_is_due_for_longer_than_an_hour() -> None:
    assert overdue_since(CURRENT, policy(), DUE + LATE - timedelta(seconds=1), SWEEPS) is None
    assert overdue_since(CURRENT, policy(), DUE + LATE, SWEEPS) == DUE


def test_a_version_without_expiry_is_overdue_like_any_other() -> None:
    unlimited, nightly = replace(CURRENT, expires=None), policy(rotation_window="0 2 * * * for 3h")
    assert overdue_since(unlimited, policy(), DUE + LATE, SWEEPS) == DUE
    assert possible_at(unlimited, nightly, SWEEPS) == datetime(2026, 11, 12, 2, tzinfo=UTC)


def test_what_is_paused_is_not_overdue() -> None:
    assert overdue_since(CURRENT, policy(rotation_enabled="false"), DUE + timedelta(days=5), SWEEPS) is None


@pytest.mark.parametrize(
    ("window", "possible"),
    [
        # Open when it fell due: no reason to wait.
        ("0 8 * * * for 6h", DUE),
        # It opens at two in the night after.
        ("0 2 * * * for 3h", datetime(2026, 11, 12, 2, tzinfo=UTC)),
    ],
)
def test_a_window_that_has_not_opened_is_no_delay(window: str, possible: datetime) -> None:
    """Its count begins when it could have been rotated, also while the window is closed again."""
    tagged = policy(rotation_window=window)
    assert overdue_since(CURRENT, tagged, possible + LATE - timedelta(seconds=1), SWEEPS) is None
    assert overdue_since(CURRENT, tagged, possible + LATE, SWEEPS) == possible
    assert overdue_since(CURRENT, tagged, possible + timedelta(hours=20), SWEEPS) == possible


def test_a_window_that_closes_before_the_sweep_comes_is_no_chance() -> None:
    """It is open until a quarter past eleven, and due at eleven: the next window counts."""
    tagged, at_half_past = policy(rotation_window="0 8 * * * for 195m"), sweeps("0 30 * * * *")
    assert possible_at(CURRENT, tagged, SWEEPS) == DUE
    assert possible_at(CURRENT, tagged, at_half_past) == datetime(2026, 11, 12, 8, tzinfo=UTC)


def test_nothing_is_late_before_the_sweep_had_its_turn() -> None:
    """It runs at three in the night only."""
    nightly = sweeps("0 0 3 * * *")
    turn = datetime(2026, 11, 12, 3, tzinfo=UTC)
    assert overdue_since(CURRENT, policy(), turn + LATE - timedelta(seconds=1), nightly) is None
    assert overdue_since(CURRENT, policy(), turn + LATE, nightly) == DUE


def test_a_sweep_that_ran_a_second_before_has_had_no_turn() -> None:
    """One that runs at that very second has."""
    at_eleven = sweeps("0 0 11 * * *")
    missed = replace(CURRENT, created=CREATED + timedelta(seconds=1))
    assert overdue_since(CURRENT, policy(), DUE + LATE, at_eleven) == DUE
    tomorrow = DUE + timedelta(days=1) + LATE
    assert overdue_since(missed, policy(), tomorrow - timedelta(seconds=1), at_eleven) is None
    assert overdue_since(missed, policy(), tomorrow, at_eleven) == DUE + timedelta(seconds=1)


def test_a_third_of_a_validity_may_end_within_a_second() -> None:
    """The sweep of that second counts, and the hour is still a whole one."""
    due = datetime(2026, 11, 8, 4, microsecond=666_667, tzinfo=UTC)
    shortly = replace(CURRENT, expires=CREATED + timedelta(days=10, seconds=1))
    assert overdue_since(shortly, policy(), due + LATE - timedelta(microseconds=1), SWEEPS) is None
    assert overdue_since(shortly, policy(), due + LATE, SWEEPS) == due


def test_an_expired_version_does_not_wait_for_its_window() -> None:
    """Due it is since a third of its validity before, but only now it could be rotated."""
    expired = replace(CURRENT, expires=DUE)
    tagged = policy(rotation_window="0 0 1 1 * for 3h")
    assert overdue_since(expired, tagged, DUE - timedelta(seconds=1), SWEEPS) is None
    assert overdue_since(expired, tagged, DUE + LATE, SWEEPS) == DUE


def test_the_other_users_grace_is_no_delay() -> None:
    """With one user there is no other, and nothing to wait for."""
    state = RotationState("1", "http", "key", "v0", CREATED, retire_at=DUE + timedelta(days=2))
    current = replace(CURRENT, state=state)
    assert overdue_since(current, policy(), DUE + timedelta(days=2), SWEEPS) is None
    assert overdue_since(current, policy(), DUE + timedelta(days=3), SWEEPS) == state.usable_until(CREATED)
    single = policy(rotation_strategy="single-user", rotation_admin="self")
    assert overdue_since(current, single, DUE + timedelta(days=2), SWEEPS) == DUE


def test_each_decision_of_the_sweep_has_a_state_that_metrics_know() -> None:
    trigger = Trigger("sweep", "s", "1", "timer")
    finished = RotationState("0", "http", "key", "v0", CREATED)
    cases = {
        "fresh": (CURRENT, policy(), CREATED),
        "due": (CURRENT, policy(), DUE),
        "paused": (CURRENT, policy(rotation_enabled="false"), DUE),
        "outside window": (CURRENT, policy(rotation_window="0 2 * * * for 3h"), DUE),
        "in grace": (replace(CURRENT, state=replace(finished, retire_at=DUE + LATE)), policy(), DUE),
        "pending": (replace(CURRENT, state=replace(finished, pending=("refresh",))), policy(), CREATED),
    }
    found = {name: state_of(decide(trigger, current, tagged, now)) for name, (current, tagged, now) in cases.items()}
    assert found == {name: name for name in cases}
    assert {*cases, "unusable policy"} == set(STATES)
