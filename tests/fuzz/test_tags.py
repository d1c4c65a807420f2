"""Tags: the policy, the state, `rotation-admin-for` and other people's, right, damaged and made up (P2, P6, P7)."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rotators.api import describe, error_answer
from rotators.credential import Password
from rotators.decision import Current, Resume, Rotate, Skip, Trigger, TriggerKind, decide
from rotators.errors import PolicyError
from rotators.policy import (
    ADMIN_FOR_TAG,
    MAXIMUM_TAG_LENGTH,
    MAXIMUM_TAGS,
    POLICY_TAGS,
    STATE_TAG,
    Cause,
    RotationState,
    admin_is_open_for,
    next_tags,
    read_policy,
    read_state,
)
from rotators.retirement import is_to_retire
from rotators.vault import SecretVersion
from tests.fuzz.inputs import any_json, as_json, attempt, damaged, deep_json, examples, near, odd_text

NOW = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)
NAME = "airflow-connections-warehouse"
STATE = {
    "id": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "cause": "near-expiry",
    "by": "event-grid",
    "from": "0123456789abcdef0123456789abcdef",
    "at": "2026-11-25T10:00:00Z",
    "pending": ["verify", "refresh"],
    "retireAt": "2026-11-26T10:00:00Z",
    "retired": "2026-11-26T10:15:00Z",
}
MOMENTS = (
    "2026-11-25T10:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+14:00",
    "2026-11-25",
    "20261125",
)

durations = near("15m", "36h", "60d", "1h", "99999d", "0d")
any_state: st.SearchStrategy[str] = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "id": near(str(STATE["id"])) | any_json,
            "cause": st.sampled_from(get_args(Cause)) | any_json,
            "by": odd_text | any_json,
            "from": near(str(STATE["from"])) | any_json,
            "at": near(*MOMENTS) | any_json,
            "pending": st.lists(st.sampled_from(["verify", "refresh"])) | any_json,
            "retireAt": near(*MOMENTS) | any_json,
            "retired": near(*MOMENTS) | any_json,
        },
    ).map(lambda changes: as_json({**STATE, **changes})),
    damaged(st.just(as_json(STATE))),
    deep_json,
    odd_text,
)
any_tags: st.SearchStrategy[dict[str, str]] = st.fixed_dictionaries(
    {"rotation-strategy": near("alternating-users", "single-user")},
    optional={
        "rotation-admin": near("postgres-admin", "self", "entra:rotator", NAME),
        "rotation-users": near("app,app_alt"),
        "rotation-every": durations,
        "rotation-validity": durations,
        "ValidityPeriodDays": near("90"),
        "rotation-window": near("0 2 * * 6 for 3h", "*/5 * * * * for 1m", "0 0 29 2 * for 99999d", "0 0 L * * for 1h"),
        "rotation-grace": durations,
        "rotation-in-use": near("proceed", "wait"),
        "rotation-enabled": near("true", "false"),
        "airflow-conn-id": near("warehouse"),
        "airflow-dags": near("daily,tag:finance"),
        ADMIN_FOR_TAG: near("*", NAME, "airflow-*"),
        STATE_TAG: any_state,
    },
)
foreign_tags = st.dictionaries(odd_text | damaged(st.sampled_from(POLICY_TAGS)), odd_text, max_size=14)


moments = st.datetimes(datetime(2015, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 (it has)
expiries = st.none() | st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
# When it was made, when it expires, and now.
dates = st.tuples(moments, expiries, moments)
triggers = st.builds(
    Trigger,
    kind=st.sampled_from(get_args(TriggerKind)),
    secret=st.just(NAME),
    id=near(str(STATE["id"])),
    by=odd_text,
    version=st.sampled_from(["v1", "v0", None]),
    force=st.booleans(),
    reason=odd_text,
)


@given(tags=st.builds(lambda foreign, ours: {**foreign, **ours}, foreign_tags, any_tags), trigger=triggers, dates=dates)
@example(
    tags={"rotation-strategy": "single-user", STATE_TAG: as_json({**STATE, "at": MOMENTS[1], "retired": None})},
    trigger=Trigger("sweep", NAME, "1", "timer"),
    dates=(NOW, None, NOW),
)
@example(
    tags={"rotation-strategy": "alternating-users", "rotation-admin": "a", "rotation-users": "app\0,other"},
    trigger=Trigger("sweep", NAME, "1", "timer"),
    dates=(NOW, None, NOW),
)
@examples(300)
def test_any_tags_lead_to_a_decision_or_a_complaint(
    tags: dict[str, str], trigger: Trigger, dates: tuple[datetime, datetime | None, datetime]
) -> None:
    """P2: what the sweep does with a listed secret never fails but by a complaint; HTTP shows what it is about."""
    created, expires, now = dates
    secret = SecretVersion(NAME, "v1", Password("x"), tags, None, enabled=True, created=created, expires=expires)
    policy = attempt(PolicyError, lambda: read_policy(NAME, secret.tags, prefix="airflow-connections"))
    shown = describe(secret, prefix="airflow-connections", now=now)
    json.dumps(shown).encode()
    if isinstance(policy, PolicyError):
        assert str(policy).startswith(f"secret {NAME!r}: ")
        assert str(policy).endswith("; mend the tags and rotate again")
        assert shown["nextStep"] == str(policy)
        assert error_answer(policy).status == 422
        return
    decision = decide(trigger, Current("v1", created, expires, secret.state), policy, now)
    assert isinstance(decision, Rotate | Resume | Skip)
    assert isinstance(is_to_retire(secret, now), bool)
    assert policy is not None
    assert timedelta(minutes=15) <= policy.grace < policy.every
    assert policy.validity > policy.grace
    for name in (*(policy.users or ()), policy.connection_id or "", *policy.dags):
        assert name.encode().decode().isprintable()
    if secret.state is not None:
        assert isinstance(now < secret.state.at + policy.grace, bool)


@given(tag=any_state)
@example(tag=as_json({**STATE, "id": "\u00e9" * 60}))
@examples(300)
def test_any_state_is_one_that_can_be_written_again_or_none(tag: str) -> None:
    """P2: what the program notes later about a version fits into its tag, whoever has typed in it."""
    state = read_state({STATE_TAG: tag})
    if state is None:
        return
    written = state.as_tag()
    assert len(written) <= MAXIMUM_TAG_LENGTH
    assert written.isascii()
    again = read_state({STATE_TAG: written})
    assert again is not None
    assert (again.id, again.cause, again.from_version, again.pending) == (
        state.id,
        state.cause,
        state.from_version,
        state.pending,
    )
    assert again.is_unfinished == state.is_unfinished or state.retire_at != again.retire_at


@given(tags=foreign_tags, state=any_state)
@examples(100)
def test_other_peoples_tags_go_along_or_are_too_many(tags: dict[str, str], state: str) -> None:
    """P7: what Key Vault would refuse later is refused before anything changes."""
    new = RotationState("1", "http", "key", None, NOW)
    following = attempt(PolicyError, lambda: next_tags(NAME, {**tags, STATE_TAG: state}, new, {}))
    if isinstance(following, PolicyError):
        assert len({*tags, STATE_TAG}) > MAXIMUM_TAGS or any(
            len(text) > MAXIMUM_TAG_LENGTH for tag in tags.items() for text in tag
        )
        assert len(str(following)) < 1000
        return
    assert {**following, STATE_TAG: ""} == {**tags, STATE_TAG: ""}
    assert read_state(following) == new


@given(
    secret=st.just(NAME) | st.from_regex(r"[0-9A-Za-z-]{1,12}", fullmatch=True),
    tag=near("*", NAME, f"other {NAME}", "airflow-*", "airflow-*,x"),
)
@examples(200)
def test_an_admin_secret_is_open_for_what_its_tag_names_and_nothing_else(secret: str, tag: str) -> None:
    """P6: whatever stands in `rotation-admin-for`, an entry has the whole name, or its beginning before a star."""
    assert admin_is_open_for(secret, {ADMIN_FOR_TAG: tag}) is any(
        entry == secret.lower() or (entry[-1:] == "*" and secret.lower().startswith(entry[:-1]))
        for entry in tag.lower().replace(",", " ").split()
    )
    assert not admin_is_open_for(secret, {})


def test_what_is_damaged_here_was_right() -> None:
    """Else the tests above would try refusals only."""
    tags = {"rotation-strategy": "alternating-users", "rotation-admin": "postgres-admin", STATE_TAG: as_json(STATE)}
    policy: Any = read_policy(NAME, tags, prefix="airflow-connections")
    assert policy.connection_id == "warehouse"
    state = read_state(tags)
    assert state is not None
    assert json.loads(state.as_tag()) == STATE
    with pytest.raises(PolicyError):
        read_policy(NAME, {**tags, "rotation-every": "soon"}, prefix="")
