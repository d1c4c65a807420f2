"""Where a secret stands: one word for it, and what somebody has to see to."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from rotators.credential import Password
from rotators.policy import LOGIN_TIME, STATE_TAG, PendingStep, RotationState
from rotators.settings import read_settings
from rotators.standing import Standing, stand
from rotators.vault import SecretVersion

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
TAGS = {"rotation-strategy": "alternating-users", "rotation-admin": "postgres-admin"}


def secret(*, age: timedelta = 10 * DAY, expires: timedelta | None = 100 * DAY, **tags: str) -> SecretVersion:
    """Return a version as the list gives it; `expires` is from its creation."""
    created = NOW - age
    return SecretVersion(
        name="airflow-connections-warehouse",
        version="",
        value=Password(""),
        tags=TAGS | {name.replace("_", "-"): value for name, value in tags.items()},
        content_type=None,
        enabled=True,
        created=created,
        expires=None if expires is None else created + max(expires, age + DAY),
    )


def state(
    at: datetime,
    *pending: PendingStep,
    retire_at: datetime | None = None,
    retired: datetime | None = None,
) -> str:
    return RotationState("id-1", "sweep", "timer", "v1", at, pending, retire_at, retired).as_tag()


def standing(one: SecretVersion, sweeps: str = "0 */15 * * * *") -> Standing:
    schedule = read_settings({"KEY_VAULT_URL": "https://v", "ROTATION_SWEEP_SCHEDULE": sweeps}).sweeps
    found = stand(one, prefix="airflow-connections", now=NOW, sweeps=schedule)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("one", "expected", "said"),
    [
        (secret(), "fresh", "due 14 Jan 2027, 11:00"),
        (secret(age=60 * DAY - HOUR / 2, expires=120 * DAY), "due", "the next event or sweep rotates it"),
        (secret(age=60 * DAY + 2 * HOUR, expires=120 * DAY), "overdue", "not rotated"),
        (secret(rotation_enabled="false"), "paused", "nothing is rotated"),
        (secret(rotation_every="60 days"), "unusable policy", "expected a duration"),
        (dataclasses.replace(secret(), enabled=False), "failed", "enable that version"),
        (secret(rotation_state=state(NOW - timedelta(minutes=5), "refresh")), "pending", "refresh still to do"),
        (secret(rotation_state=state(NOW - 3 * HOUR, "verify", "refresh")), "failed", "verify and refresh still to do"),
        (secret(rotation_state=state(NOW - 3 * HOUR, retire_at=NOW - 3 * HOUR)), "failed", "revoke still to do"),
        (secret(age=70 * DAY, expires=150 * DAY, rotation_window="0 2 * * 6 for 3h"), "overdue", "not rotated"),
        (secret(age=61 * DAY, expires=150 * DAY, rotation_window="0 2 * * 6 for 3h"), "due", "its window is open"),
    ],
)
def test_one_word_for_where_it_stands(one: SecretVersion, expected: str, said: str) -> None:
    """Tags and dates alone tell it, as the list has them: no value, no version, no further request."""
    found = standing(one)
    assert (found.state, said in found.next_step) == (expected, True), found.next_step


def test_a_secret_without_a_strategy_is_not_managed() -> None:
    """What did not opt in is not on the page (P6)."""

    def never(_: datetime) -> Iterator[datetime]:
        return iter(())

    assert stand(dataclasses.replace(secret(), tags={}), prefix="airflow-connections", now=NOW, sweeps=never) is None


def test_a_sixteenth_tag_is_told_before_the_rotation_fails_on_it() -> None:
    """Key Vault would refuse the next version: said while there is time (P7)."""
    found = standing(dataclasses.replace(secret(), tags={**TAGS, **{f"team-{n}": "x" for n in range(13)}}))
    assert (found.state, "remove 1" in found.next_step) == ("unusable policy", True)


def test_a_due_secret_in_its_grace_waits_for_its_end() -> None:
    """The other user is still handed out by some cache: not overdue."""
    until = NOW + HOUR
    tag = state(NOW - 23 * HOUR, retire_at=until)
    one = secret(age=50 * HOUR, expires=90 * DAY, rotation_every="2d", rotation_grace="36h", rotation_state=tag)
    found = standing(one)
    assert (found.state, found.planned) == ("due", until + LOGIN_TIME)


def test_a_window_that_passed_without_a_rotation_makes_it_overdue() -> None:
    """Planned is when the window opened first after the due date; Saturday 02:00 has passed."""
    one = secret(age=66 * DAY, expires=150 * DAY, rotation_window="0 2 * * 6 for 3h")
    found = standing(one)
    assert found.planned == datetime(2026, 11, 21, 2, tzinfo=UTC)
    assert found.state == "overdue"


def test_an_expiry_does_not_wait_for_the_window() -> None:
    """An expired secret is rotated at once, so nothing is planned after the expiry."""
    one = secret(age=61 * DAY, expires=62 * DAY, rotation_window="0 2 1 1 * for 3h")
    assert standing(one).planned == one.expires


def test_nothing_is_late_before_the_sweep_had_its_turn() -> None:
    """A sweep at night only: what became due at noon is not overdue in the afternoon."""
    one = secret(age=60 * DAY + 2 * HOUR, expires=120 * DAY)
    assert standing(one, sweeps="0 0 3 * * *").state == "due"
    assert standing(one, sweeps="0 */15 * * * *").state == "overdue"


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (secret(), ()),
        (secret(rotation_enabled="false"), ()),
        (secret(age=60 * DAY + 2 * HOUR, expires=120 * DAY), ("not rotated",)),
        (secret(age=70 * DAY, expires=150 * DAY, rotation_enabled="false"), ("resume it, or rotate it by hand",)),
        (secret(rotation_enabled="false", rotation_state=state(NOW, "refresh")), ("paused with refresh",)),
        (secret(rotation_state=state(NOW - 2 * DAY, retire_at=NOW - 2 * HOUR)), ("to be retired",)),
        (secret(rotation_state=state(NOW - DAY, retire_at=NOW - timedelta(minutes=20))), ()),
        (secret(rotation_state=state(NOW - 2 * DAY, retire_at=NOW - DAY, retired=NOW - DAY)), ()),
        (
            secret(rotation_in_use="wait", rotation_state=state(NOW - 2 * DAY, retire_at=NOW - 2 * HOUR)),
            ("waits until nobody uses it",),
        ),
        (dataclasses.replace(secret(), expires=NOW - HOUR), ("not rotated", "Key Vault hands it out all the same")),
    ],
)
def test_what_needs_a_hand_is_said_in_sentences(one: SecretVersion, said: tuple[str, ...]) -> None:
    """And what needs none says nothing: an empty list is good news."""
    needs = standing(one).needs
    assert len(needs) == len(said)
    assert all(part in sentence for part, sentence in zip(said, needs, strict=True)), needs


def test_a_state_tag_that_a_person_broke_is_as_good_as_none() -> None:
    """The page stands whatever is written there."""
    one = secret()
    assert standing(dataclasses.replace(one, tags={**TAGS, STATE_TAG: '{"at": 5}'})).rotation is None
