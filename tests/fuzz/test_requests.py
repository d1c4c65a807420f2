"""HTTP requests as the program reads them: bodies, headers, names; the routes themselves are tried in test_http.py."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from hypothesis import example, given
from hypothesis import strategies as st

from rotators import api
from rotators.decision import LONGEST_REASON, Trigger
from rotators.errors import BadRequestError
from rotators.policy import RotationState, is_secret_name, read_state
from tests.fuzz.inputs import (
    PASSWORD,
    any_json,
    as_json,
    assert_tells_nothing,
    attempt,
    damaged,
    deep_json,
    examples,
    near,
    odd_text,
)

BODY = as_json({"force": False, "dryRun": True, "revoke": False, "reason": "leaked"})
PRINCIPAL = as_json({"auth_typ": "aad", "claims": [{"typ": "appid", "val": "app-1"}, {"typ": "oid", "val": "o-1"}]})

fields = st.fixed_dictionaries(
    {},
    optional={
        "force": st.booleans() | any_json,
        "dryRun": st.booleans() | any_json,
        "revoke": st.booleans() | any_json,
        "reason": odd_text | any_json,
    },
)
texts = st.one_of(
    fields.map(as_json),
    st.builds(lambda given, odd: as_json({**given, **odd}), fields, st.dictionaries(odd_text, any_json, max_size=2)),
    # The same field more than once.
    st.lists(st.tuples(st.sampled_from(["force", "dryRun"]), st.booleans()), min_size=1, max_size=4).map(
        lambda pairs: "{" + ",".join(f"{as_json(name)}:{as_json(value)}" for name, value in pairs) + "}"
    ),
    damaged(st.just(BODY)),
    any_json.map(as_json),
    deep_json,
    odd_text,
)
bodies = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda text, encoding: text.encode(encoding, errors="surrogatepass"),
        texts,
        st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "utf-16-be"]),
    ),
    st.builds(lambda text, times: text.encode(errors="surrogatepass") * times, odd_text, st.integers(1, 2000)),
)
principals = st.one_of(
    st.builds(
        lambda text: base64.b64encode(text.encode(errors="surrogatepass")).decode(),
        st.one_of(
            damaged(st.just(PRINCIPAL)),
            deep_json,
            any_json.map(as_json),
            any_json.map(lambda odd: as_json({"claims": odd})),
            st.builds(
                lambda typ, val: as_json({"claims": [{"typ": typ, "val": val}]}), near("oid") | any_json, any_json
            ),
        ),
    ),
    damaged(st.just(base64.b64encode(PRINCIPAL.encode()).decode())),
    odd_text,
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "idempotency-key": near("0f8fad5b-d9cb-469f-a165-70867728950e") | st.text(min_size=200, max_size=300),
        "x-ms-client-principal": principals,
        "x-ms-client-principal-name": near("ann@example.com"),
        "x-ms-client-principal-id": near("o-1"),
        "content-type": odd_text,
    },
)


@given(name=near("warehouse"), body=bodies, headers=headers, trust=st.booleans())
@example(name="warehouse", body=b'{"dryRun": true, "dryRun": false}', headers={}, trust=False)
@example(name="a", body=b"", headers={"x-ms-client-principal": base64.b64encode(b"[" * 50_000).decode()}, trust=True)
@example(name="a", body=b'{"reason": "%s"}' % (b"x" * 201), headers={}, trust=False)
@examples(300)
def test_any_request_is_a_trigger_or_a_400(name: str, body: bytes, headers: Mapping[str, str], *, trust: bool) -> None:
    """P7: what asks for a rotation says so in full; anything else is refused with a sentence of some length."""
    trigger = attempt(BadRequestError, lambda: api.read_rotate_request(name, body, headers, trust_principal=trust))
    if isinstance(trigger, BadRequestError):
        answer = api.error_answer(trigger)
        assert (answer.status, answer.content_type) == (400, "application/problem+json")
        assert len(str(trigger)) < 500
        json.loads(answer.text)
        return
    assert is_secret_name(name)
    said = json.loads(body, object_pairs_hook=list) if body.strip() else []
    assert len(dict(said)) == len(said)
    given = dict(said)
    assert (trigger.force, trigger.dry_run, trigger.revoke) == (
        given.get("force", False),
        given.get("dryRun", False),
        given.get("revoke", False),
    )
    assert trigger.reason == given.get("reason", "")
    assert len(trigger.reason) <= LONGEST_REASON
    assert trust or trigger.by == "key"
    assert_fits_into_the_state(trigger)


def assert_fits_into_the_state(trigger: Trigger) -> None:
    state = RotationState(trigger.id, "http", trigger.by, "v0", datetime(2026, 11, 25, tzinfo=UTC))
    read = read_state({"rotation-state": state.as_tag()})
    assert read is not None
    assert read.id == trigger.id


@given(body=bodies)
@examples(100)
def test_a_refusal_does_not_repeat_a_password_that_stands_where_it_does_not_belong(body: bytes) -> None:
    """P3: the values of a body are not told; whoever sent a field's name sees it again, and nobody else does."""
    for sent in (
        as_json({"reason": [PASSWORD]}).encode(),
        as_json({"force": PASSWORD}).encode(),
        PASSWORD.encode() + body,
        as_json({"dryRun": True}).encode() + PASSWORD.encode(),
    ):
        refusal = attempt(BadRequestError, partial(api.read_rotate_request, "a", sent, {}, trust_principal=False))
        assert isinstance(refusal, BadRequestError)
        assert_tells_nothing(api.error_answer(refusal).text)
