"""HTTP: requests -> triggers, and outcomes, secrets and errors -> answers."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rotators.api import (
    caller,
    describe,
    error_answer,
    outcome_answer,
    read_rollback_request,
    read_rotate_request,
    read_rotations_request,
    read_update_request,
    rotations_answer,
)
from rotators.batch import Answered, BatchRequest
from rotators.credential import Password
from rotators.decision import Trigger
from rotators.errors import (
    AirflowRefusedError,
    BadRequestError,
    DatabaseRefusedError,
    LockHeldError,
    LoginRefusedError,
    PolicyError,
    RotationError,
    SecretFormatError,
    SecretNotFoundError,
    SettingsError,
    TransientError,
    UnexpectedError,
    UnfinishedError,
    VaultRefusedError,
)
from rotators.outcome import AirflowReport, Outcome
from rotators.policy import RotationState
from rotators.vault import SecretVersion

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
EXAMPLES = settings(max_examples=30, deadline=None)


def read(body: bytes = b"", *, name: str = "warehouse", headers: Mapping[str, str] | None = None) -> Trigger:
    return read_rotate_request(name, body, headers or {}, trust_principal=False)


def refusal(body: bytes = b"", **how: Any) -> str:  # Any: the keywords of `read`
    with pytest.raises(BadRequestError) as caught:
        read(body, **how)
    return str(caught.value)


# -- Requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b" \n", b"{}", b'\xef\xbb\xbf{"force": false}'])
def test_the_body_is_optional(body: bytes) -> None:
    """Without one, a rotation is asked for, by whoever has the key, and nothing special."""
    trigger = read(body)
    assert trigger == Trigger(kind="http", secret="warehouse", id=trigger.id, by="key")


def test_each_field_of_the_body_is_read() -> None:
    """The four fields of the contract."""
    trigger = read(b'{"force": true, "dryRun": true, "revoke": true, "reason": "leaked in a chat"}')
    assert (trigger.force, trigger.dry_run, trigger.revoke, trigger.reason) == (True, True, True, "leaked in a chat")


def test_without_an_idempotency_key_each_request_is_a_cause_of_its_own() -> None:
    """P4: one cause, one version; two requests are two causes."""
    first, second = read(), read()
    assert first.id != second.id
    assert not first.is_repeatable


def test_the_same_idempotency_key_is_the_same_cause() -> None:
    """P4: also when the key is too long or strange for the state tag."""
    for key in ("request-1", "k" * 255, "ä ö"):
        first, second = (read(headers={"idempotency-key": key}) for _ in range(2))
        assert first.id == second.id
        assert len(first.id) <= 64
        assert first.is_repeatable
    assert not read(headers={"idempotency-key": " "}).is_repeatable


@pytest.mark.parametrize(
    "body",
    [b"x", b"{", b"[]", b"null", b"5", b'"force"', b"true", b"\xff\xfe", b'{"force": true}}', b"[" * 9000, b"NaN"],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    """P7: the fields that it may have are named."""
    assert refusal(body) == "the body is not a JSON object with any of force, dryRun, revoke, reason"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"frce": true}', "unknown fields 'frce'; expected any of force, dryRun, revoke, reason"),
        (b'{"dry_run": true, "Force": true}', "unknown fields 'Force', 'dry_run'; expected any of"),
        (b'{"": 1}', "unknown fields ''; expected any of"),
        (json.dumps({"x" * 5000: 1}).encode(), "unknown fields 'xxx"),
    ],
)
def test_an_unknown_field_is_refused(body: bytes, named: str) -> None:
    """P7: a mistyped dryRun must not become a rotation."""
    message = refusal(body)
    assert named in message
    assert len(message) < 400


@pytest.mark.parametrize("field", ["force", "dryRun", "revoke"])
@pytest.mark.parametrize("value", ["true", 1, 0, None, [], {}, ""])
def test_a_field_that_is_not_true_or_false_is_refused(field: str, value: object) -> None:
    """P7: nothing is guessed."""
    assert refusal(json.dumps({field: value}).encode()) == f"the body's {field!r} is not true or false"


@pytest.mark.parametrize("value", [True, 5, None, ["x"], {}])
def test_a_reason_that_is_no_text_is_refused(value: object) -> None:
    """P7: as above."""
    assert refusal(json.dumps({"reason": value}).encode()) == "the body's 'reason' is not a text"


@pytest.mark.parametrize("body", [b'{"dryRun": true, "dryRun": false}', b'{"force": true, "\\u0066orce": true}'])
def test_a_field_that_is_there_twice_is_refused(body: bytes) -> None:
    """P6: of two answers to "only a dry run?" none is taken."""
    assert refusal(body) == "the body has the same field twice; keep one of them"


def test_what_is_too_long_is_refused() -> None:
    """P7: with the limit; up to it all is well."""
    assert read(json.dumps({"reason": "x" * 200}).encode()).reason == "x" * 200
    assert refusal(json.dumps({"reason": "x" * 201}).encode()) == "the body's 'reason' has more than 200 characters"
    assert read(b'{"reason": "x"' + b" " * 16_369 + b"}").reason == "x"
    assert refusal(b'{"reason": "x"' + b" " * 16_370 + b"}") == "the body has more than 16384 bytes"
    too_long = refusal(headers={"idempotency-key": "k" * 256})
    assert too_long == "the header Idempotency-Key has more than 255 characters"


@pytest.mark.parametrize("name", ["", "a_b", "a b", "..", "a/b", "a%2Fb", "a?b", "a\n", "ä", "a" * 128])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """P6, P7: it never gets into a URL of the vault's."""
    assert refusal(name=name) == "a secret's name has 1 to 127 letters, digits and dashes"


@given(
    body=st.binary(max_size=200)
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["force", "reason", "x"]), inner),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode())
)
@example(body=b'{"reason": "\\ud800"}')
@example(body=b'{"\\ud800": 1}')
@example(body=b"1" * 5000)
@EXAMPLES
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """P7: a client's mistake is never a fault of the program, and what is said about it can be sent."""
    try:
        read(body)
    except BadRequestError as error:
        assert error_answer(error).text.isascii()  # noqa: PT017 (most bodies are refused, and some are not)


def rotations(body: object, **headers: str) -> BatchRequest:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_rotations_request(sent, named, trust_principal=True)


def test_many_secrets_are_named_or_described() -> None:
    """The contract of `POST rotations`: names, each once, or what has to be met."""
    assert rotations({"secrets": ["b", "a", "B"]}).secrets == ("b", "a")
    options = {"force": True, "revoke": True, "dryRun": True, "reason": "leaked"}
    matching = {"strategy": "single-user", "olderThan": "30d", "host": "DB.example:5432"}
    assert rotations({**matching, **options}, idempotency_key="k", x_ms_client_principal_name="ann") == BatchRequest(
        by="ann",
        strategy="single-user",
        older_than=timedelta(days=30),
        host="db.example:5432",
        key="k",
        force=True,
        revoke=True,
        reason="leaked",
        dry_run=True,
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "must say which secrets"),
        ({}, "must say which secrets"),
        ({"force": True}, "must say which secrets"),
        ({"secrets": ["a"], "host": "h"}, "must say which secrets"),
        ({"secrets": "a"}, "'secrets' is not a list of names"),
        ({"secrets": [1]}, "'secrets' is not a list of names"),
        ({"secrets": []}, "'secrets' is empty"),
        ({"secrets": ["a/b"]}, "a secret's name has"),
        ({"strategy": "both"}, "'strategy' is not one of alternating-users, single-user"),
        ({"olderThan": "old"}, "'olderThan' is not a duration"),
        ({"host": ""}, "'host' is none of name"),
        ({"host": "h/x"}, "'host' is none of name"),
        ({"host": "h", "reason": "x" * 201}, "'reason' has more than 200 characters"),
        ({"hosts": "h"}, "unknown fields 'hosts'"),
        ({"secrets": ["a"], "force": "yes"}, "'force' is not true or false"),
    ],
)
def test_a_request_for_many_that_is_not_clear_is_refused(body: object, said: str) -> None:
    """P7: a mistyped one must not rotate everything."""
    with pytest.raises(BadRequestError) as caught:
        rotations(body)
    assert said in str(caught.value)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_secret_is_paused_and_resumed_by_one_field(*, enabled: bool) -> None:
    assert read_update_request(json.dumps({"enabled": enabled}).encode()) is enabled


@pytest.mark.parametrize("body", [b"", b"{}", b'{"enabled": "false"}', b'{"enabled": null}', b'{"enabld": true}'])
def test_an_update_that_does_not_say_which_is_refused(body: bytes) -> None:
    """P7: nothing is guessed."""
    with pytest.raises(BadRequestError, match="enabled"):
        read_update_request(body)


def test_a_rollback_has_no_force() -> None:
    """There is nothing to force: what is gone does not come back."""
    trigger = read_rollback_request("warehouse", b'{"reason": "x", "dryRun": true}', {}, trust_principal=False)
    assert (trigger.kind, trigger.reason, trigger.dry_run) == ("rollback", "x", True)
    with pytest.raises(BadRequestError, match="unknown fields 'force'"):
        read_rollback_request("warehouse", b'{"force": true}', {}, trust_principal=False)


# -- Who called --------------------------------------------------------------------------------------------------


def principal(*claims: tuple[str, str]) -> dict[str, str]:
    document = {"claims": [{"typ": typ, "val": val} for typ, val in claims]}
    return {"x-ms-client-principal": base64.b64encode(json.dumps(document).encode()).decode()}


OID = "http://schemas.microsoft.com/identity/claims/objectidentifier"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "key"),
        ({"x-ms-client-principal-name": "ann@example.com"}, "ann@example.com"),
        ({"x-ms-client-principal-name": "ann@example.com", "x-ms-client-principal-id": "o-1"}, "ann@example.com o-1"),
        (principal(("appid", "app-1"), (OID, "o-1")), "app-1 o-1"),
        (principal(("oid", "o-1")), "o-1"),
        ({**principal(("appid", "app-1"), ("oid", "o-1")), "x-ms-client-principal-name": "ann"}, "ann o-1"),
        ({"x-ms-client-principal": "not base64"}, "key"),
        ({"x-ms-client-principal": base64.b64encode(b"[]").decode()}, "key"),
        ({"x-ms-client-principal": base64.b64encode(b'{"claims": [{"typ": "oid"}]}').decode()}, "key"),
        ({"x-ms-client-principal": base64.b64encode(b'{"claims": null}').decode()}, "key"),
        ({"x-ms-client-principal": base64.b64encode(b'{"claims": ["x"]}').decode()}, "key"),
        ({"x-ms-client-principal": base64.b64encode(b"[" * 50_000).decode()}, "key"),
        ({"x-ms-client-principal": base64.b64encode(b"\xff\xfe").decode()}, "key"),
    ],
)
def test_app_service_says_who_called(headers: Mapping[str, str], expected: str) -> None:
    """A person's name or an application's id, and the object's id; what cannot be read says nothing."""
    assert caller(headers, trust_principal=True) == expected


def test_who_called_is_not_believed_without_app_service() -> None:
    """P6: anybody can send these headers."""
    headers = {**principal(("appid", "app-1")), "x-ms-client-principal-name": "ann", "x-ms-client-principal-id": "o-1"}
    assert caller(headers, trust_principal=False) == "key"
    assert read(headers=headers).by == "key"


# -- Answers -----------------------------------------------------------------------------------------------------

OUTCOME = Outcome(secret="warehouse", status="rotated", reason="due", cause="http")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (OUTCOME, 200),
        (replace(OUTCOME, status="resumed"), 200),
        (replace(OUTCOME, status="planned"), 200),
        (replace(OUTCOME, airflow=AirflowReport("healed")), 200),
        (replace(OUTCOME, airflow=AirflowReport("none")), 200),
        (replace(OUTCOME, airflow=AirflowReport("pending")), 202),
        (replace(OUTCOME, airflow=AirflowReport("refused")), 202),
    ],
)
def test_what_was_done_is_answered_with_the_outcome(outcome: Outcome, status: int) -> None:
    """200 done, 202 published with the refresh pending."""
    answer = outcome_answer(outcome)
    assert (answer.status, answer.body, answer.content_type) == (status, outcome.as_json(), "application/json")


@pytest.mark.parametrize(
    ("obstacle", "status", "how"),
    [
        ("not managed", 422, "rotation-strategy"),
        ("paused", 409, "set rotation-enabled to true, or rotate with force"),
        ("in grace", 409, "wait until then, or rotate with force"),
        ("in use", 409, "try again later"),
        ("no way back", 409, "nothing was changed"),
    ],
)
def test_what_was_skipped_is_a_problem_that_says_how_to_go_on(obstacle: str, status: int, how: str) -> None:
    """P7: RFC 9457, with the outcome as a member."""
    outcome = replace(OUTCOME, status="skipped", obstacle=obstacle, reason=f"{obstacle}: because")
    answer = outcome_answer(outcome)
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
    assert answer.body["type"] == "about:blank"
    assert answer.body["status"] == status
    assert answer.body["title"] == f"Not rotated: {obstacle}"
    assert answer.body["outcome"] == outcome.as_json()
    for said in ("'warehouse'", "because", how):
        assert said in str(answer.body["detail"])


REQUESTED = Answered("a", "id-1", "requested", "asked for")
REFUSED = Answered("b", None, "refused", "paused")


@pytest.mark.parametrize(
    ("answered", "dry_run", "status"),
    [
        ([REQUESTED, REFUSED], False, 202),
        ([replace(REQUESTED, status="not begun")], False, 202),
        ([replace(REQUESTED, id=None, status="planned"), REFUSED], True, 200),
        ([REFUSED], False, 409),
        ([REFUSED], True, 409),
        ([], False, 404),
        ([], True, 404),
    ],
)
def test_many_are_answered_one_by_one(answered: list[Answered], status: int, *, dry_run: bool) -> None:
    """Nothing is dropped in silence, and a request that rotates nothing is no success."""
    answer = rotations_answer(answered, dry_run=dry_run)
    assert answer.status == status
    assert answer.body.get("value", []) == [it.as_json() for it in answered]
    assert ("detail" in answer.body) is (status >= 400)


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (BadRequestError("m"), 400, "Bad request"),
        (SecretNotFoundError("m"), 404, "No such secret"),
        (LockHeldError("m"), 409, "Rotation in progress"),
        (PolicyError("m"), 422, "Policy unusable"),
        (SecretFormatError("m"), 422, "Secret unusable"),
        (VaultRefusedError("m"), 502, "Key Vault refused"),
        (DatabaseRefusedError("m"), 502, "Database refused"),
        (LoginRefusedError("m"), 502, "Database refused"),
        (AirflowRefusedError("m"), 502, "Airflow refused"),
        (TransientError("m"), 503, "Temporarily unavailable"),
        (UnfinishedError("m"), 503, "Temporarily unavailable"),
        (UnexpectedError("m"), 500, "Unexpected fault"),
    ],
)
def test_each_error_has_its_status(error: RotationError, status: int, title: str) -> None:
    """P7: the status of the contract, and the sentence as the detail."""
    answer = error_answer(error)
    assert answer.body == {"type": "about:blank", "title": title, "status": status, "detail": "m"}
    assert answer.status == status
    assert answer.content_type == "application/problem+json"
    assert json.loads(answer.text) == answer.body


@pytest.mark.parametrize(("seconds", "header"), [(30, "30"), (0.2, "1"), (90.5, "91")])
def test_what_may_succeed_later_says_when(seconds: float, header: str) -> None:
    """`Retry-After` in whole seconds, for what is transient and for nothing else."""
    after = timedelta(seconds=seconds)
    assert error_answer(TransientError("m", retry_after=after)).headers == {"Retry-After": header}
    assert error_answer(LockHeldError("m", retry_after=after)).headers == {"Retry-After": header}
    assert error_answer(PolicyError("m")).headers == {}


def test_wrong_settings_are_answered_as_a_list() -> None:
    """P7: all complaints at once, for a person and for a program."""
    answer = error_answer(SettingsError(("A is missing", "B is wrong")))
    assert answer.status == 503
    assert answer.body["detail"] == "app settings: A is missing; B is wrong"
    assert answer.body["complaints"] == ["A is missing", "B is wrong"]


# -- A secret, described -----------------------------------------------------------------------------------------

NAME = "airflow-connections-warehouse"
VALUE = "postgresql://app:c0rrect-h0rse@db/d"
TAGS = {"rotation-strategy": "alternating-users", "rotation-admin": "postgres-admin"}
STATE = RotationState("event-1", "near-expiry", "event-grid", "v0", NOW, retire_at=NOW + timedelta(hours=24))


def version(tags: Mapping[str, str] = TAGS, *, age: timedelta = timedelta(days=1)) -> SecretVersion:
    return SecretVersion(
        name=NAME,
        version="v1",
        value=Password(VALUE),
        tags=tags,
        content_type=None,
        enabled=True,
        created=NOW - age,
        expires=NOW - age + timedelta(days=90),
    )


def described(tags: Mapping[str, str] = TAGS, **how: Any) -> dict[str, object]:  # Any: the keywords of `version`
    return describe(version(tags, **how), prefix="airflow-connections", now=NOW)


@pytest.mark.parametrize(
    ("tags", "age", "status", "next_step"),
    [
        (TAGS, 1, "fresh", "due at 2027-01-22T11:00:00Z"),
        (TAGS, 61, "due", "due since 2026-11-23T11:00:00Z: the next event or sweep rotates it"),
        ({**TAGS, "rotation-enabled": "false"}, 61, "paused", "rotation-enabled is false"),
        (
            {**TAGS, "rotation-window": "0 2 * * * for 1h"},
            61,
            "outside window",
            "due since 2026-11-23T11:00:00Z; rotation-window opens at 2026-11-25T02:00:00Z",
        ),
        (
            {**TAGS, "rotation-state": replace(STATE, pending=("refresh",)).as_tag()},
            1,
            "pending",
            "rotation event-1 was left unfinished: refresh",
        ),
        ({}, 61, "not managed", "the secret has no tag rotation-strategy"),
    ],
)
def test_a_secret_says_where_it_stands_and_what_comes_next(
    tags: Mapping[str, str], age: int, status: str, next_step: str
) -> None:
    """What the next sweep would decide, in words."""
    description = described(tags, age=timedelta(days=age))
    assert (description["status"], description["nextStep"]) == (status, next_step)
    assert description["managed"] is bool(tags)


def test_a_description_has_policy_state_and_dates() -> None:
    """For a person who looks: what is wanted, what was done, when it is due."""
    description = described({**TAGS, "rotation-state": STATE.as_tag(), "owner": "finance"})
    assert description["secret"] == NAME
    assert description["version"] == "v1"
    assert description["createdOn"] == "2026-11-23T12:00:00Z"
    assert description["expiresOn"] == "2027-02-21T12:00:00Z"
    assert description["dueOn"] == "2027-01-22T11:00:00Z"
    assert description["tags"] == TAGS
    policy, state = description["policy"], description["state"]
    assert isinstance(policy, dict)
    assert (policy["strategy"], policy["enabled"], policy["everySeconds"]) == ("alternating-users", True, 5_184_000)
    assert state == {
        "id": "event-1",
        "cause": "near-expiry",
        "by": "event-grid",
        "from": "v0",
        "at": "2026-11-24T12:00:00Z",
        "pending": [],
        "retireAt": "2026-11-25T12:00:00Z",
        "retired": None,
        "reason": None,
    }


def test_a_wrong_policy_is_described_with_what_is_wrong() -> None:
    """P7: one bad secret does not spoil the list of all."""
    description = described({**TAGS, "rotation-every": "soon"})
    assert (description["managed"], description["status"]) == (True, "unusable policy")
    assert "rotation-every is 'soon'" in str(description["nextStep"])


def test_what_no_rotation_would_take_is_not_called_fresh() -> None:
    """P7: as the rotation itself would say it."""
    disabled = replace(version(TAGS), enabled=False)
    full = version({**TAGS, **{f"team-{n}": "x" for n in range(15)}})
    for secret, why in ((disabled, "its newest version is disabled"), (full, "tags, 'rotation-state' among them")):
        description = describe(secret, prefix="airflow-connections", now=NOW)
        assert description["status"] == "unusable policy"
        assert why in str(description["nextStep"])
    unmanaged = replace(version({}), enabled=False)
    assert describe(unmanaged, prefix="airflow-connections", now=NOW)["managed"] is False


@pytest.mark.parametrize("tags", [TAGS, {}, {**TAGS, "rotation-every": "soon"}])
def test_a_description_never_has_the_value(tags: Mapping[str, str]) -> None:
    """P3: neither the password nor anything else of the connection."""
    shown = json.dumps(described(tags))
    for part in ("c0rrect", "app:", "@db"):
        assert part not in shown
