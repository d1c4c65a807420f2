"""Tags -> policy and state, and back."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rotators.errors import PolicyError
from rotators.policy import (
    MAXIMUM_TAG_LENGTH,
    POLICY_TAGS,
    STATE_TAG,
    AdminEntra,
    AdminSecret,
    AdminSelf,
    Cause,
    RotationPolicy,
    RotationState,
    Window,
    _state_once,
    admin_is_open_for,
    cause_id,
    check_tags,
    duration,
    inherited_tags,
    is_secret_name,
    is_text,
    next_tags,
    policy_tags,
    read_policy,
    read_state,
)
from tests.local_time import local_time
from tests.wrong_tags import ALTERNATING, SINGLE, WRONG_TAGS, named

NAME = "airflow-connections-warehouse"
PREFIX = "airflow-connections"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
EXAMPLES = settings(max_examples=30, deadline=None)


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Each test reads by itself; a mutant, too, whose process begins with what others have read."""
    _state_once.cache_clear()


def policy(tags: Mapping[str, str], name: str = NAME) -> RotationPolicy:
    read = read_policy(name, tags, prefix=PREFIX)
    assert read is not None
    return read


# -- Policy ------------------------------------------------------------------------------------------------------


def test_a_strategy_and_an_admin_are_enough() -> None:
    """What the tags leave open has the defaults that design and docs/reference.md name."""
    assert policy(ALTERNATING) == RotationPolicy(
        strategy="alternating-users",
        admin=AdminSecret("postgres-admin"),
        users=None,
        every=timedelta(days=60),
        validity=timedelta(days=90),
        window=None,
        grace=timedelta(hours=24),
        waits_for_sessions=False,
        enabled=True,
        connection_id="warehouse",
        dags=(),
    )


def test_single_user_changes_its_own_password_unless_an_admin_is_named() -> None:
    """With one user nobody else's rights are needed, so `self` is the default."""
    assert policy({"rotation-strategy": "single-user"}).admin == AdminSelf()
    assert policy(SINGLE).admin == AdminSecret("postgres-admin")


@pytest.mark.parametrize(
    ("tags", "attribute", "expected"),
    [
        ({**SINGLE, "rotation-admin": "self"}, "admin", AdminSelf()),
        ({"rotation-admin": "entra:rotator@example.com"}, "admin", AdminEntra("rotator@example.com")),
        ({"rotation-users": "app, app_2"}, "users", ("app", "app_2")),
        ({**SINGLE, "rotation-users": "app,app_2"}, "users", None),
        ({"rotation-every": "90m", "rotation-grace": "15m"}, "every", timedelta(minutes=90)),
        ({"rotation-every": "36h"}, "every", timedelta(hours=36)),
        ({"rotation-every": "7d"}, "validity", timedelta(days=37)),
        ({"rotation-validity": "45d"}, "validity", timedelta(days=45)),
        ({"ValidityPeriodDays": "45"}, "validity", timedelta(days=45)),
        ({"ValidityPeriodDays": "45", "rotation-validity": "46d"}, "validity", timedelta(days=46)),
        ({"ValidityPeriodDays": "some", "rotation-validity": "46d"}, "validity", timedelta(days=46)),
        ({"rotation-window": "0 2 * * 6 for 3h"}, "window", Window("0 2 * * 6", timedelta(hours=3))),
        ({"rotation-grace": "15m"}, "grace", timedelta(minutes=15)),
        ({"rotation-every": "1h"}, "grace", timedelta(minutes=30)),
        ({"rotation-in-use": "wait"}, "waits_for_sessions", True),
        ({"rotation-in-use": "proceed"}, "waits_for_sessions", False),
        ({"rotation-enabled": "false"}, "enabled", False),
        ({"rotation-enabled": "true"}, "enabled", True),
        ({"airflow-conn-id": "pg_main"}, "connection_id", "pg_main"),
        ({"airflow-dags": "daily, tag:finance,"}, "dags", ("daily", "tag:finance")),
        ({"rotation-every": " 30d "}, "every", timedelta(days=30)),
    ],
)
def test_each_tag_is_read(tags: Mapping[str, str], attribute: str, expected: object) -> None:
    """Each tag of the contract sets what it says, blanks around the value aside."""
    assert getattr(policy({**ALTERNATING, **tags}), attribute) == expected


@pytest.mark.parametrize(
    ("name", "prefix", "expected"),
    [
        ("airflow-connections-warehouse", "airflow-connections", "warehouse"),
        ("Airflow-Connections-warehouse", "airflow-connections", "warehouse"),
        ("team-warehouse", "team", "warehouse"),
        ("warehouse", "airflow-connections", None),
        ("airflow-connections", "airflow-connections", None),
        ("airflow-connections-", "airflow-connections", None),
    ],
)
def test_the_connection_in_airflow_comes_from_the_name(name: str, prefix: str, expected: str | None) -> None:
    """A secret without the prefix of Airflow's backend has no part in Airflow."""
    read = read_policy(name, ALTERNATING, prefix=prefix)
    assert read is not None
    assert read.connection_id == expected


@pytest.mark.parametrize(
    "tags", [{}, {"owner": "finance"}, {"rotation-every": "1d"}, {"rotation-enabled": "nonsense"}, {STATE_TAG: "{}"}]
)
def test_without_a_strategy_a_secret_is_not_managed(tags: Mapping[str, str]) -> None:
    """P6: only what opted in, and opting in is naming a strategy."""
    assert read_policy(NAME, tags, prefix=PREFIX) is None


@pytest.mark.parametrize(("tags", "complaint"), WRONG_TAGS)
def test_a_wrong_tag_is_named_with_what_it_should_be(tags: Mapping[str, str], complaint: str) -> None:
    """P7: the secret, the tag, what stands there and what should."""
    with pytest.raises(PolicyError) as caught:
        read_policy(NAME, named(tags, NAME), prefix=PREFIX)
    assert str(caught.value).startswith(f"secret '{NAME}': ")
    assert complaint in str(caught.value)
    assert str(caught.value).endswith("; mend the tags and rotate again")
    assert str(caught.value).count(";") == 1


def test_all_wrong_tags_are_named_at_once() -> None:
    """P7: who mends one tag does not find the next complaint behind it."""
    wrong = {
        "rotation-strategy": "one-user",
        "rotation-admin": "a b",
        "rotation-every": "x",
        "rotation-grace": "1m",
        "rotation-validity": "y",
        "rotation-window": "z",
        "rotation-in-use": "w",
        "rotation-enabled": "v",
        "rotation-users": "u",
        "airflow-conn-id": "t t",
        "airflow-dags": "tag:",
        "rotation-other": "s",
    }
    with pytest.raises(PolicyError) as caught:
        read_policy(NAME, wrong, prefix=PREFIX)
    for tag in wrong:
        assert f"{tag} " in str(caught.value)


def test_complaints_make_one_sentence() -> None:
    """P7: each once, in the order of the table in docs/reference.md, and what to do at the end."""
    with pytest.raises(PolicyError) as caught:
        policy({**ALTERNATING, "rotation-in-use": " ", "rotation-every": "soon"})
    assert str(caught.value) == (
        f"secret '{NAME}': rotation-every is 'soon', expected a duration like '15m', '36h' or '60d'; "
        "rotation-in-use is blank: give it a value or remove the tag; mend the tags and rotate again"
    )


def test_the_tags_are_those_of_the_contract() -> None:
    """Each one that docs/reference.md names, and no other, is read, inherited and known."""
    assert POLICY_TAGS == (
        "rotation-strategy",
        "rotation-admin",
        "rotation-users",
        "rotation-every",
        "rotation-validity",
        "rotation-window",
        "rotation-grace",
        "rotation-in-use",
        "rotation-enabled",
        "airflow-conn-id",
        "airflow-dags",
    )


def test_tags_of_other_people_are_none_of_our_business() -> None:
    """A secret may have tags for other tools beside ours."""
    others = {"owner": "finance", "CredentialId": "app", "rotation-admin-for": "*", "file-encoding": "utf-8"}
    assert policy({**ALTERNATING, **others}) == policy(ALTERNATING)


@pytest.mark.parametrize("user", ["app", "app_alt"])
def test_without_rotation_users_the_pair_comes_from_the_current_user(user: str) -> None:
    """Whichever of the two is current, the pair is the same, its owner first."""
    assert policy(ALTERNATING).pair(user) == ("app", "app_alt")
    assert policy({**ALTERNATING, "rotation-users": "x,y"}).pair(user) == ("x", "y")


@given(number=st.integers(0, 99_999), unit=st.sampled_from("mhd"))
@EXAMPLES
def test_a_duration_is_a_number_and_a_unit(number: int, unit: str) -> None:
    """Minutes, hours and days, as in Azure's tools and in docs/reference.md."""
    seconds = {"m": 60, "h": 3600, "d": 86_400}[unit]
    assert duration(f"{number}{unit}") == timedelta(seconds=number * seconds)


# -- Window ------------------------------------------------------------------------------------------------------

TWO_O_CLOCK = datetime(2026, 11, 24, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("after_two", "is_open"),
    [
        (timedelta(seconds=-1), False),
        (timedelta(seconds=-59), False),
        (timedelta(0), True),
        (timedelta(seconds=1), True),
        (timedelta(hours=3, seconds=-1), True),
        (timedelta(hours=3), False),
        (timedelta(hours=24, seconds=-1), False),
        (timedelta(hours=24), True),
    ],
)
def test_a_window_opens_at_its_time_for_its_length(after_two: timedelta, is_open: bool) -> None:
    """From the minute that the cron expression names, and not a second beyond the duration."""
    assert Window("0 2 * * *", timedelta(hours=3)).is_open(TWO_O_CLOCK + after_two) is is_open


def test_a_window_is_in_utc() -> None:
    """The same moment is inside or outside, whatever zone it is written in, or the machine is in."""
    window = Window("0 2 * * *", timedelta(hours=1))
    elsewhere = datetime.fromisoformat("2026-11-24T08:30:00+06:00")
    for zone in ("UTC", "Asia/Kolkata"):
        with local_time(zone):
            assert window.is_open(elsewhere)
            assert window.opens_next(elsewhere) == TWO_O_CLOCK + timedelta(days=1)


@given(seconds=st.integers(0, 2 * 86_400))
@example(seconds=86_400 - 30)
@EXAMPLES
def test_a_window_as_long_as_its_period_is_always_open(seconds: int) -> None:
    """A window that opens daily for a day has no gap, in the minute before it opens anew neither."""
    assert Window("0 2 * * *", timedelta(hours=24)).is_open(TWO_O_CLOCK + timedelta(seconds=seconds))


# -- State -------------------------------------------------------------------------------------------------------

moments = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 (st wants them so)
    lambda moment: moment.replace(microsecond=0)
)
states = st.builds(
    RotationState,
    id=st.text().map(cause_id),
    cause=st.sampled_from(get_args(Cause)),
    by=st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=128),
    from_version=st.none() | st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    at=moments,
    pending=st.sampled_from(((), ("verify",), ("refresh",), ("verify", "refresh"))),
    retire_at=st.none() | moments,
    retired=st.none() | moments,
)


@given(state=states)
@EXAMPLES
def test_a_state_is_read_as_it_was_written_and_fits_into_a_tag(state: RotationState) -> None:
    """Key Vault takes 512 characters; the longest state has room in them."""
    tag = state.as_tag()
    assert read_state({STATE_TAG: tag}) == state
    assert len(tag) <= MAXIMUM_TAG_LENGTH
    # No blank of JSON's is in it: 512 characters are few.
    assert tag == json.dumps(json.loads(tag), separators=(",", ":"))


@given(by=st.text(), cause=st.text())
@example(by='"\\\n\x7fä\U0001f600' * 200, cause="é" * 1000)
@EXAMPLES
def test_a_state_fits_whoever_asked_and_whatever_the_event_is_called(by: str, cause: str) -> None:
    """A caller's name and an event's id come from outside: long or strange, the tag stays short plain ASCII."""
    state = RotationState(
        id=cause_id(cause),
        cause="near-expiry",
        by=by,
        from_version="0" * 32,
        at=NOW,
        pending=("verify", "refresh"),
        retire_at=NOW,
        retired=NOW,
    )
    tag = state.as_tag()
    assert len(tag) <= MAXIMUM_TAG_LENGTH
    assert tag.isascii()
    assert tag.isprintable()
    read = read_state({STATE_TAG: tag})
    assert read is not None
    assert read.id == cause_id(cause)
    assert re.fullmatch(r"[ -~]{0,128}", read.by)


@pytest.mark.parametrize(
    ("by", "written"),
    [("ops@example.com", "ops@example.com"), ('Jörg "J" \\n', "J?rg ?J? ?n"), ("x" * 129, "x" * 128)],
)
def test_who_asked_is_recognised_although_cut_short(by: str, written: str) -> None:
    """The audit trail: one `?` for each character that the tag has no room for, and all the rest."""
    read = read_state({STATE_TAG: RotationState(id="1", cause="http", by=by, from_version="v0", at=NOW).as_tag()})
    assert read is not None
    assert read.by == written


@given(reason=st.text(st.characters()), by=st.text(max_size=200))
@example(reason="\U0001f600" * 200, by="x" * 200)
@example(reason='"' * 200, by="")
@EXAMPLES
def test_a_reason_is_cut_to_what_fits_and_stays_the_same(reason: str, by: str) -> None:
    """An auditor finds a person's words with the version, also after more was noted in its state."""
    begun = RotationState("0" * 64, "near-expiry", by, "0" * 32, NOW, ("refresh",), reason=reason)
    done = replace(begun, pending=(), retire_at=NOW, retired=NOW)
    tags = [state.as_tag() for state in (begun, done, replace(begun, pending=("verify", "refresh"), retire_at=NOW))]
    assert all(len(tag) <= MAXIMUM_TAG_LENGTH and tag.isascii() and tag.isprintable() for tag in tags)
    read = [read_state({STATE_TAG: tag}) for tag in tags]
    kept = {state.reason if state else None for state in read}
    assert len(kept) == 1
    assert reason.startswith(str(*kept))


@pytest.mark.parametrize("length", [400, 401])
@pytest.mark.parametrize(("letter", "in_json"), [("x", 1), ("ä", len("\\u00e4"))])
def test_of_a_reason_that_is_cut_nothing_is_lost_that_has_room(length: int, letter: str, in_json: int) -> None:
    """With all noted that ever will be the tag is as full as it can be: one letter more would be too long."""
    state = RotationState(
        "1", "http", "key", "v0", NOW, ("verify", "refresh"), retire_at=NOW, retired=NOW, reason=letter * length
    )
    assert MAXIMUM_TAG_LENGTH - in_json < len(state.as_tag()) <= MAXIMUM_TAG_LENGTH


def test_a_reason_of_200_characters_is_kept_where_the_caller_is_a_key() -> None:
    state = RotationState("0" * 36, "http", "key", "0" * 32, NOW, reason="x" * 200)
    assert read_state({STATE_TAG: state.as_tag()}) == state


def test_a_state_without_a_reason_has_no_word_of_it() -> None:
    assert "reason" not in RotationState("1", "http", "key", None, NOW).as_tag()


GOOD_STATE = {"id": "1", "cause": "http", "by": "key", "from": "v0", "at": "2026-11-24T12:00:00Z", "pending": []}


def as_state(**changes: object) -> RotationState | None:
    return read_state({STATE_TAG: json.dumps({**GOOD_STATE, **changes})})


@pytest.mark.parametrize(
    "tag",
    ["", "null", "{}", "[]", "5", '"x"', "not JSON", '{"id": 1}', '{"id": "1", "cause": "http", "at": "yesterday"}'],
)
def test_a_state_that_is_none_is_no_state(tag: str) -> None:
    """P6: what stands in the tag may have been written by anybody who may write the secret."""
    assert read_state({STATE_TAG: tag}) is None
    assert read_state({}) is None


def test_a_state_with_the_least_in_it_is_read() -> None:
    """P2: what an older program, or a person, left out has its default; a cause that is unknown was a person's."""
    least = {"id": "1", "cause": "magic", "at": "2026-11-24T12:00:00Z"}
    assert read_state({STATE_TAG: json.dumps(least)}) == RotationState(
        id="1", cause="http", by="", from_version=None, at=NOW, pending=(), retire_at=None, retired=None
    )


@pytest.mark.parametrize("machine", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize("at", ["2026-11-24T12:00:00Z", "2026-11-24T12:00:00", "2026-11-24T17:30:00+05:30"])
def test_a_moment_in_a_state_may_be_in_any_zone(at: str, machine: str) -> None:
    """A person who mends the tag writes local time with its zone, or UTC; the zone of the machine is not asked."""
    with local_time(machine):
        state = as_state(at=at)
    assert state is not None
    assert state.at == NOW
    assert state.at.tzinfo is UTC


@pytest.mark.parametrize(
    "changes",
    [
        {"at": "2026-11-24T12:00:00"},
        {"at": "2026-11-24T12:00:00", "retireAt": "2026-11-25T12:00:00Z"},
        {"retireAt": "2026-11-25T12:00:00"},
        {"retireAt": "2026-11-25"},
        {"retired": "2026-11-25T12:00:00"},
        {"pending": "verify"},
        {"pending": [["verify"]]},
        {"pending": {"refresh": 1}},
        {"from": 5},
        {"from": ["v0"]},
        {"from": {"version": "v0"}},
        {"by": None},
        {"cause": ["http"]},
        {"cause": "magic"},
        {"id": 1},
        {"id": ["1"]},
        {"id": "\u00e9" * 60},
        {"from": "\u00e9" * 80},
        # Moments that a calculation would lead out of the calendar.
        {"at": "9999-12-31T23:59:59-23:59"},
        {"at": "9999-12-31T23:59:59Z"},
        {"retireAt": "0001-01-01T00:00:00+23:59"},
        {"retired": "9999-12-31T23:59:59-23:59"},
    ],
)
def test_a_state_that_somebody_mended_by_hand_breaks_nothing(changes: dict[str, object]) -> None:
    """P2: one secret's strange tag must not stop the sweep of all the others: it is read, or it is no state."""
    state = as_state(**changes)
    if state is None:
        return
    assert isinstance(state.in_grace(NOW, NOW), bool)
    assert isinstance(state.revokes, bool)
    assert isinstance(state.is_unfinished, bool)
    assert state.from_version is None or isinstance(state.from_version, str)
    assert len(state.as_tag()) <= MAXIMUM_TAG_LENGTH
    assert read_state({STATE_TAG: state.as_tag()}) == state
    for moment in (state.at, state.retire_at, state.retired):
        assert moment is None or moment - timedelta(days=99_999) < moment + timedelta(days=99_999)


def test_a_state_says_whether_it_is_finished() -> None:
    """P2: what is pending, and a leaked credential that is not locked out yet, is still to do."""
    done = as_state(retireAt="2026-11-25T12:00:00Z")
    pending = as_state(pending=["refresh"])
    revoking = as_state(retireAt=GOOD_STATE["at"])
    revoked = as_state(retireAt=GOOD_STATE["at"], retired=GOOD_STATE["at"])
    assert done is not None
    assert pending is not None
    assert revoking is not None
    assert revoked is not None
    assert [s.is_unfinished for s in (done, pending, revoking, revoked)] == [False, True, True, False]
    assert [s.revokes for s in (done, pending, revoking, revoked)] == [False, False, True, True]
    assert [s.in_grace(NOW, NOW) for s in (done, pending, revoking, revoked)] == [True, False, False, False]


@pytest.mark.parametrize("fits", ["a", "0f8fad5b-d9cb-469f-a165-70867728950e", "x" * 64, "a.b_c:d/e+f=@-"])
def test_an_id_that_fits_into_the_tag_is_kept(fits: str) -> None:
    """An event is found again by its own id."""
    assert cause_id(fits) == fits


@given(text=st.text(st.characters()))
@example(text="")
@example(text="x" * 65)
@example(text="\ud800")
@EXAMPLES
def test_any_other_id_becomes_a_digest(text: str) -> None:
    """P4: whatever an event's id is, it has one id in the state, always the same, that fits."""
    assert cause_id(text) == cause_id(text)
    assert cause_id(text) == text or re.fullmatch(r"sha256:[0-9a-f]{48}", cause_id(text))
    assert 0 < len(cause_id(text)) <= 64
    assert cause_id(text).isascii()


# -- Tags of the next version ------------------------------------------------------------------------------------

STATE = RotationState(id="1", cause="http", by="key", from_version="v0", at=NOW)


def many(count: int) -> dict[str, str]:
    return {**ALTERNATING, **{f"t{i}": "x" for i in range(count - len(ALTERNATING))}}


def test_the_next_version_has_the_same_tags_and_a_new_state() -> None:
    """Nothing that people wrote is lost, and an old state does not come along."""
    before = {**many(5), STATE_TAG: "old", "CredentialId": "app"}
    after = next_tags(NAME, before, STATE, {"CredentialId": "app_alt"})
    assert after == {**many(5), STATE_TAG: STATE.as_tag(), "CredentialId": "app_alt"}


@pytest.mark.parametrize("tags", [many(14), {**many(14), STATE_TAG: "old"}])
def test_fifteen_tags_with_the_state_among_them_are_allowed(tags: Mapping[str, str]) -> None:
    """The state of before makes room for the new one."""
    assert len(next_tags(NAME, tags, STATE, {})) == 15


@pytest.mark.parametrize(("count", "remove"), [(15, 1), (17, 3)])
def test_too_many_tags_are_a_clear_error(count: int, remove: int) -> None:
    """P7: the secret, how many there would be, how many Key Vault takes, how many to remove."""
    with pytest.raises(PolicyError) as caught:
        next_tags(NAME, many(count), STATE, {})
    assert str(caught.value) == (
        f"secret '{NAME}' would have {count + 1} tags, 'rotation-state' among them, and Key Vault allows 15: "
        f"remove {remove} and rotate again"
    )


@pytest.mark.parametrize("tags", [{"note": "x" * 513}, {"x" * 513: "note"}])
def test_a_tag_that_is_too_long_is_a_clear_error(tags: Mapping[str, str]) -> None:
    """P7: the tag is named, cut short if it is the name that is too long."""
    with pytest.raises(PolicyError) as caught:
        check_tags(NAME, tags)
    assert str(caught.value) == (
        f"secret '{NAME}': tag '{next(iter(tags))[:40]}' is longer than the 512 characters that Key Vault allows; "
        "shorten it and rotate again"
    )
    check_tags(NAME, {"x" * 512: "x" * 512})


def test_a_version_written_without_tags_inherits_only_what_this_program_reads() -> None:
    """Somebody else's tags, and the state, stay where they are."""
    ours = (*POLICY_TAGS, "rotation-admin-for", "CredentialId", "ProviderAddress", "ValidityPeriodDays")
    tags = {**dict.fromkeys((*ours, "owner"), "x"), STATE_TAG: STATE.as_tag()}
    assert inherited_tags(tags) == dict.fromkeys(ours, "x")
    assert policy_tags(tags) == {name: value for name, value in tags.items() if name != STATE_TAG}


# -- Names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "is_open"),
    [
        ("airflow-connections-warehouse", True),
        ("AIRFLOW-connections-Warehouse", True),
        ("a, airflow-connections-warehouse", True),
        ("a airflow-connections-warehouse\nb", True),
        ("airflow-connections-*", True),
        ("airflow-connections-warehouse*", True),
        ("*", True),
        ("", False),
        (",", False),
        ("airflow-connections", False),
        ("airflow-connections-warehouse2", False),
        ("airflow-connections-warehouse2*", False),
        ("*-warehouse", False),
        ("airflow-*-warehouse", False),
        ("airflow.*", False),
    ],
)
def test_the_admin_secret_says_who_may_use_it(value: str, is_open: bool) -> None:
    """P6: names in full or prefixes with `*`, and nothing by default."""
    assert admin_is_open_for(NAME, {"rotation-admin-for": value}) is is_open
    assert not admin_is_open_for(NAME, {})


@pytest.mark.parametrize(("name", "is_one"), [("a", True), ("A-9", True), ("a" * 127, True), ("a" * 128, False)])
def test_a_secrets_name_has_up_to_127_letters_digits_and_dashes(name: str, is_one: bool) -> None:
    """As Key Vault has it."""
    assert is_secret_name(name) is is_one


@pytest.mark.parametrize("name", ["", "a b", "a_b", "a/b", "..", "a\n", "ä", "a?b", "a%2Fb"])
def test_what_key_vault_would_not_take_is_no_name(name: str) -> None:
    """P6: no name can lead to another path of the vault's API."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(("text", "is_whole"), [("", True), ("a? é 😀", True), ("a\ud83db", False), ("\udc00", False)])
def test_half_of_a_character_is_no_text(text: str, is_whole: bool) -> None:
    assert is_text(text) is is_whole


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 */30 * 1#2"])
def test_a_window_that_never_opens_is_refused(cron: str) -> None:
    """P7: else what is due would wait for ever, and whoever asks when it opens be told of a fault."""
    with pytest.raises(PolicyError, match=r"rotation-window is .*, expected a cron expression"):
        policy({**ALTERNATING, "rotation-window": f"{cron} for 1h"})


@pytest.mark.parametrize("window", ["0 2 * * 6 for 3h", "*/5 * * * * for 90m", "0 0 1 * * for 2d"])
def test_a_window_is_shown_as_its_tag_writes_it(window: str) -> None:
    assert str(policy({**ALTERNATING, "rotation-window": window}).window) == window


def test_a_state_that_is_no_text_is_none() -> None:
    """Key Vault's tags are texts; what stands between it and us need not give any."""
    assert read_state({STATE_TAG: ["not", "ours"]}) is None  # type: ignore[dict-item]  # that is the point
