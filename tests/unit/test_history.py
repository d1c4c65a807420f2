"""Versions as rotations: their order, whose they are, and what became of them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotators.credential import Password
from rotators.history import Entry, history, in_order
from rotators.policy import Cause, RotationState
from rotators.vault import SecretVersion

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TAGS = {"rotation-strategy": "alternating-users", "rotation-admin": "postgres-admin"}
SINGLE = {"rotation-strategy": "single-user"}
DAY = timedelta(days=1)


def state(before: str | None, cause: Cause = "sweep", at: datetime = NOW, **changes: object) -> RotationState:
    made = RotationState(f"id-{before}", cause, "timer", before, at, retire_at=at + DAY)
    return replace(made, **changes)  # type: ignore[arg-type]


def version(
    name: str, created: datetime, made: RotationState | None = None, tags: Mapping[str, str] = TAGS
) -> SecretVersion:
    return SecretVersion(
        name="airflow-connections-a",
        version=name,
        value=Password("postgresql://app:c0rrect-h0rse@db/d"),
        tags={**tags, **({"rotation-state": made.as_tag()} if made else {})},
        content_type=None,
        enabled=True,
        created=created,
        expires=created + 90 * DAY,
    )


def chain(length: int, step: timedelta, tags: Mapping[str, str] = TAGS) -> list[SecretVersion]:
    """Return versions v0, v1 and so on, oldest first, each made from the one before; the first by hand."""
    versions = [version("v0", NOW, None, tags)]
    for number in range(1, length):
        at = NOW + number * step
        versions.append(version(f"v{number}", at, state(f"v{number - 1}", at=at), tags))
    return versions


def entries(versions: Sequence[SecretVersion], user: str | None = "app") -> list[Entry]:
    """Return the history of versions that were made in this order, as Key Vault may list them."""
    listed = random.Random(7).sample(versions, len(versions))  # noqa: S311 (an order, not a secret)
    return history(listed, versions[-1].version, user, prefix="airflow-connections")


def users(versions: Sequence[SecretVersion], user: str | None = "app") -> dict[str, str | None]:
    return {entry.version.version: entry.user for entry in entries(versions, user)}


@given(st.integers(1, 12), st.sampled_from([timedelta(0), timedelta(milliseconds=400), DAY]), st.randoms())
def test_versions_are_newest_first_also_within_a_second(length: int, step: timedelta, order: random.Random) -> None:
    """The vault lists by random ids and cuts times to seconds: what was made from another comes after it."""
    versions = [replace(v, created=v.created.replace(microsecond=0)) for v in chain(length, step)]
    listed = order.sample(versions, length)
    expected = [f"v{number}" for number in reversed(range(length))]
    assert [v.version for v in in_order(listed, versions[-1].version)] == expected


def test_a_version_by_hand_that_is_current_is_the_newest_of_its_second() -> None:
    versions = [*chain(3, timedelta(0)), version("hand", NOW)]
    assert [entry.version.version for entry in entries(versions)] == ["hand", "v2", "v1", "v0"]


def test_a_chain_that_bites_its_tail_ends_all_the_same() -> None:
    """P2: anybody who may write tags may write nonsense."""
    versions = [version("v0", NOW, state("v1")), version("v1", NOW, state("v0"))]
    assert [entry.version.version for entry in entries(versions)] == ["v1", "v0"]


def test_each_entry_says_when_why_and_by_whom() -> None:
    at = NOW + DAY
    made = state("v0", "http", at, by="ann", reason="quarterly", pending=("refresh",))
    newest, first = (entry.as_json() for entry in entries([version("v0", NOW), version("v1", at, made)]))
    assert newest == {
        "version": "v1",
        "current": True,
        "createdOn": "2026-11-25T12:00:00Z",
        "expiresOn": "2027-02-23T12:00:00Z",
        "enabled": True,
        "cause": "http",
        "reason": "quarterly",
        "by": "ann",
        "rotationId": "id-v0",
        "previousVersion": "v0",
        "pending": ["refresh"],
        "user": "app",
        "retireAt": None,
        "retiredOn": None,
        "retired": False,
    }
    assert (first["cause"], first["by"], first["retireAt"]) == ("by hand", None, "2026-11-26T12:00:00Z")


def test_what_a_person_wrote_is_by_hand_also_after_the_program_took_it_over() -> None:
    """Who wrote it, Key Vault's own log knows: not whoever delivered the event."""
    taken_over = version("v1", NOW + DAY, state("v0", "reconcile", NOW + DAY, by="event-grid"))
    shown = entries([version("v0", NOW), taken_over])[0].as_json()
    assert (shown["cause"], shown["by"], shown["rotationId"]) == ("by hand", None, "id-v0")


def test_a_state_that_was_copied_along_is_not_believed() -> None:
    """The later of two versions with one state is a person's."""
    versions = chain(2, DAY)
    copied = version("copy", NOW + 2 * DAY, versions[1].state)
    causes = {entry.version.version: entry.as_json()["cause"] for entry in entries([*versions, copied])}
    assert causes == {"v0": "by hand", "v1": "sweep", "copy": "by hand"}


def test_two_users_take_turns_back_to_the_first() -> None:
    """Derived from the current one: no old value is read for it."""
    assert users(chain(4, DAY)) == {"v3": "app", "v2": "app_alt", "v1": "app", "v0": "app_alt"}


def test_named_users_take_turns_too() -> None:
    tags = {**TAGS, "rotation-users": "reader, writer"}
    assert users(chain(3, DAY, tags), "writer") == {"v2": "writer", "v1": "reader", "v0": "writer"}


def test_one_user_stays() -> None:
    assert users(chain(3, DAY, SINGLE)) == {"v2": "app", "v1": "app", "v0": "app"}


def test_a_rollback_takes_the_other_user_as_any_rotation() -> None:
    back = version("v3", NOW + 3 * DAY, state("v2", "rollback", NOW + 3 * DAY))
    assert users([*chain(3, DAY), back]) == {"v3": "app", "v2": "app_alt", "v1": "app", "v0": "app_alt"}


@pytest.mark.parametrize(
    "current",
    [version("hand", NOW + 9 * DAY), version("hand", NOW + 9 * DAY, state("v2", "reconcile"))],
    ids=["not seen yet", "taken over"],
)
def test_what_a_person_wrote_ends_what_is_known_of_users(current: SecretVersion) -> None:
    """It may name anybody, so nothing is guessed about the versions before."""
    assert users([*chain(3, DAY), current]) == {"hand": "app", "v2": None, "v1": None, "v0": None}


@pytest.mark.parametrize("tags", [{**TAGS, "rotation-users": "x,y"}, {**TAGS, "rotation-every": "soon"}, {}])
def test_a_policy_that_does_not_fit_ends_what_is_known_of_users(tags: Mapping[str, str]) -> None:
    versions = chain(3, DAY)
    versions[1] = replace(versions[1], tags={**tags, "rotation-state": versions[1].tags["rotation-state"]})
    assert users(versions) == {"v2": "app", "v1": None, "v0": None}


def test_nothing_is_known_of_users_when_the_current_version_cannot_be_read() -> None:
    assert set(users(chain(3, DAY), None).values()) == {None}


def test_retired_is_what_was_retired_or_disabled_but_never_the_current() -> None:
    """A rotation that overtook a retirement leaves it to the next: then being disabled is what tells."""
    versions = chain(4, DAY)
    versions[0] = replace(versions[0], enabled=False)
    retired = replace(state("v1", at=NOW + 2 * DAY), retired=NOW + 4 * DAY)
    versions[2] = version("v2", NOW + 2 * DAY, retired)
    versions[3] = replace(versions[3], enabled=False)
    shown = {entry.version.version: entry.as_json() for entry in entries(versions)}
    assert {name: entry["retired"] for name, entry in shown.items()} == {
        "v3": False,
        "v2": False,
        "v1": True,
        "v0": True,
    }
    assert shown["v1"]["retiredOn"] == "2026-11-28T12:00:00Z"
    assert shown["v0"]["retireAt"] == "2026-11-26T12:00:00Z"
