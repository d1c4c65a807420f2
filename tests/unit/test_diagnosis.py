"""What tags and dates alone say about a secret."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotators.decision import Current
from rotators.diagnosis import Diagnosis, Finding, Result, connection_id_of, dates, state, tags
from rotators.policy import RotationPolicy, RotationState, policy_and_complaints, read_policy
from tests.wrong_tags import ALTERNATING, WRONG_TAGS, named

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def policy(**changes: str) -> RotationPolicy:
    read = read_policy("warehouse", {**ALTERNATING, **{k.replace("_", "-"): v for k, v in changes.items()}}, prefix="x")
    assert read is not None
    return read


def current(*, age: int = 0, expires: int | None = 90, retire_at: int | None = None) -> Current:
    """Return a version, its dates in days from now."""
    retire = NOW + timedelta(days=retire_at) if retire_at else None
    made = RotationState("1", "sweep", "timer", None, NOW, retire_at=retire) if retire else None
    expiry = NOW + timedelta(days=expires) if expires is not None else None
    return Current("v", NOW - timedelta(days=age), expiry, made)


def line(check: str, one: Current, **changes: str) -> Finding:
    found = {finding.check: finding for finding in dates("warehouse", one, policy(**changes), NOW)}
    assert set(found) == {"next-rotation", "by-hand", "validity", "near-expiry-event"}
    return found[check]


@pytest.mark.parametrize(
    ("results", "ready"),
    [
        ({}, True),
        ({"tls": "remark", "topic": "not tried", "vault-write": "not tried", "airflow-logs": "not tried"}, True),
        ({"tls": "not tried"}, False),
        ({"tls": "mend"}, False),
        ({"airflow-logs": "mend"}, False),
    ],
)
def test_ready_is_what_has_nothing_to_mend_and_was_tried(results: Mapping[str, Result], ready: bool) -> None:
    """But for what nobody can try without doing it."""
    checks = (Finding("format", "fine", "x"), *(Finding(check, result, "x") for check, result in results.items()))
    assert Diagnosis("warehouse", checks).ready is ready
    assert Diagnosis("warehouse", checks).as_json()["ready"] is ready


def test_each_complaint_is_a_line_of_its_own() -> None:
    """P7: and it is the complaint that the rotation would raise."""
    wrong = {**ALTERNATING, "rotation-every": "soon", "rotation-grace": "1m", "rotation-evry": "1d"}
    read, complaints = policy_and_complaints("warehouse", wrong, prefix="x")
    found = list(tags(read, complaints))
    assert [one.detail.partition(" ")[0] for one in found] == ["rotation-every", "rotation-grace", "rotation-evry"]
    assert {(one.check, one.result) for one in found} == {("tags", "mend")}


@pytest.mark.parametrize(("wrong", "complaint"), WRONG_TAGS)
def test_every_wrong_tag_leaves_a_policy_to_go_on_with(wrong: Mapping[str, str], complaint: str) -> None:
    """The other checks go on with what can be read; each complaint begins with its tag."""
    read, complaints = policy_and_complaints("warehouse", named(wrong, "warehouse"), prefix="x")
    assert any(complaint.replace("{secret}", "warehouse") in one for one in complaints)
    may_be_named = {*wrong, "rotation-admin", "rotation-validity", "rotation-grace"}
    assert {one.partition(" ")[0] for one in complaints} <= may_be_named
    assert len(list(dates("warehouse", current(), read, NOW))) == 4


def test_the_policy_is_said_as_it_was_written() -> None:
    (found,) = tags(policy(rotation_every="36h", rotation_grace="90m"), ())
    assert found.detail == "alternating-users, every 1d 12h, with a grace of 1h 30m"


def test_the_event_that_comes_when_the_rotation_is_due_is_fine() -> None:
    """The default: a version expires 30 days after it is due."""
    found = line("near-expiry-event", current())
    assert found.result == "fine"
    assert "announces the expiry (2027-02-23T12:00:00Z) at 2027-01-24T12:00:00Z" in found.detail


def test_an_event_that_came_already_is_no_reason_to_wait_for_it() -> None:
    found = line("near-expiry-event", current(age=80, expires=20))
    assert found.result == "fine"
    assert "which is over" in found.detail


@pytest.mark.parametrize("expires", [20, 31])
def test_an_event_that_comes_before_the_rotation_is_due_is_told(expires: int) -> None:
    """Key Vault announces a short life at once: passed over, since rotating on it would never end."""
    found = line("near-expiry-event", current(expires=expires), rotation_every="1d" if expires > 30 else "60d")
    assert found.result == ("remark" if expires < 30 else "fine")


def test_a_version_without_an_expiry_date_is_told() -> None:
    found = line("near-expiry-event", current(expires=None))
    assert (found.result, "2027-01-24T11:00:00Z" in found.detail) == ("remark", True)


def test_a_validity_that_makes_it_due_early_is_told() -> None:
    """Who says every 60 days and 30 of validity gets a rotation every 20 days."""
    found = line("validity", current(), rotation_validity="30d")
    assert found.result == "remark"
    assert "that lives 30d is due after 20d, before rotation-every (60d)" in found.detail
    assert line("validity", current()).detail == "a version lives 90d and is due after 59d 23h"


@given(every=st.integers(1, 1600), extra=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_validity_by_default_never_makes_it_due_early(every: int, extra: int) -> None:
    """For any period, in minutes beyond an hour: the 30 days more are enough."""
    found = line("validity", current(), rotation_every=f"{60 * every + extra}m", rotation_grace="15m")
    assert found.result == "fine"


@pytest.mark.parametrize(
    ("one", "changes", "next_rotation", "by_hand"),
    [
        (current(), {}, ("fine", "due at 2027-01-24T11:00:00Z"), ("fine", "at any time")),
        (current(age=61), {}, ("fine", "the next event or sweep rotates it"), ("fine", "at any time")),
        (current(), {"rotation_enabled": "false"}, ("remark", "paused"), ("remark", "needs force")),
        (current(retire_at=1), {}, ("fine", "due at"), ("remark", "in grace")),
        (
            current(age=61),
            {"rotation_window": "0 2 * * * for 1h"},
            ("remark", "opens at 2026-11-26T02:00:00Z"),
            ("fine", "at any time"),
        ),
    ],
)
def test_when_the_next_rotation_is(
    one: Current, changes: Mapping[str, str], next_rotation: tuple[str, str], by_hand: tuple[str, str]
) -> None:
    """By itself, and when somebody asks for it."""
    for check, (result, said) in {"next-rotation": next_rotation, "by-hand": by_hand}.items():
        found = line(check, one, **changes)
        assert (found.result, said in found.detail) == (result, True), found


@pytest.mark.parametrize(
    ("secret", "connection_id", "result", "said"),
    [
        ("airflow-connections-lake", "lake", "fine", "connection 'lake'"),
        ("airflow-connections-my-lake", "my-lake", "fine", "'my-lake' and for 'my_lake'"),
        ("airflow-connections-my-lake", "my_lake", "fine", "'my_lake' and for 'my-lake'"),
        ("Airflow-Connections-Lake", "lake", "fine", "connection 'lake'"),
        ("airflow-connections-lake", "warehouse", "remark", "from secret 'airflow-connections-warehouse', not from"),
        ("billing", "billing", "remark", "airflow-connections-billing"),
    ],
)
def test_which_connection_of_airflow_a_secret_is(secret: str, connection_id: str, result: str, said: str) -> None:
    """As its backend looks for it: `_` becomes `-`, and upper case does not count."""
    found = connection_id_of(secret, connection_id, "airflow-connections")
    assert (found.result, said in found.detail) == (result, True), found


def test_a_state_that_this_program_did_not_write_is_told() -> None:
    made = RotationState("1", "sweep", "timer", None, NOW)
    assert state({"rotation-state": made.as_tag()}, made).detail == "rotated at 2026-11-25T12:00:00Z (sweep)"
    assert state({"rotation-state": "mine"}, None).result == "remark"
    assert state({}, None).result == "fine"
