"""The routes and the webhook, in the Functions host with Microsoft's worker library: bytes as anybody may send them.

P3, P6, P7: no 500, no traceback, `application/problem+json`, nothing kept by a cache, and nothing changed by what is
refused.
"""

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import example, given
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rotators.openapi import document
from rotators.policy import is_secret_name
from sandbox.functions_host import FunctionsHost
from sandbox.postgresql import PostgreSQL
from tests.everything import Everything
from tests.fuzz.inputs import (
    PASSWORD,
    any_json,
    as_json,
    assert_tells_nothing,
    damaged,
    deep_json,
    examples,
    near,
    odd_text,
)
from tests.fuzz.test_requests import bodies, headers
from tests.world import ADMIN_SECRET, World, world

ROOT = Path(__file__).parents[2]
load_all_checks()
_SCHEMA: Any = schemathesis.openapi.from_dict(document())  # Any: schemathesis has many kinds of operations
# The page speaks HTML to browsers, and tests/browser to the page.
OPERATIONS = [it for it in (found.ok() for found in _SCHEMA.get_all_operations()) if "dashboard" not in it.path]


@dataclass
class Bench:
    """The app, and secrets of every kind for it; of two of them a valid request may make a new version."""

    here: World
    host: FunctionsHost
    names: tuple[str, ...]
    rotatable: tuple[str, ...]
    users: frozenset[str]

    def everything(self) -> Everything:
        return Everything.of(self.here, *self.names)

    def assert_only_rotated(self, before: Everything, *, but_for: str = "") -> None:
        """The two that can be rotated may have changed, with their users; nothing else has."""
        after = self.everything()
        for name in (*self.names, ADMIN_SECRET):
            assert name in (*self.rotatable, but_for) or after.vault[name] == before.vault[name]
        then, now = ({row[0].split(",")[1]: row for row in state.roles} for state in (before, after))
        assert {user for user in then | now if then.get(user) != now.get(user)} <= self.users

    def send(
        self, method: str, path: str, body: bytes | None, sent: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send bytes as they are: `requests` and `urllib` would mend some of them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.host.port, timeout=60)
        try:
            connection.request(method, path, body, {**sent, "x-functions-key": self.host.function_key})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL) -> Iterator[Bench]:
    with world(tmp_path_factory.mktemp("fuzz"), postgresql) as here:
        here.admin()
        alternating, paused = here.alternating(), here.single(rotation_admin=ADMIN_SECRET, rotation_enabled="false")
        users = {here.user_of(alternating), here.user_of(alternating) + "_alt", here.user_of(paused), "rotator"}
        disabled = here.alternating()
        here.vault.update(disabled, enabled=False)
        names = (
            alternating,
            paused,
            disabled,
            here.single(
                f"postgresql://app:{PASSWORD}@127.0.0.1:{here.server.port}/postgres", rotation_admin=ADMIN_SECRET
            ),
            here.single(f"host=db.invalid user=app password={PASSWORD}", rotation_admin=ADMIN_SECRET),
            here.single(PASSWORD),
            here.alternating(rotation_every="soon"),
            here.secret(here.user(), {"owner": "finance"}),
        )
        environment = {**here.vault.environment(), "ROTATION_TRUST_PRINCIPAL": "true"}
        with FunctionsHost(ROOT, environment=environment) as host:
            yield Bench(here, host, names, (alternating, paused), frozenset(users))
            host.stop()
            # What is no event makes tracebacks of the worker library's: none may lead through code of ours.
            ours = re.compile(rf'rotation fault|File "{re.escape(str(ROOT))}/(?:rotators|function_app)')
            assert not ours.search(host.output())
            assert_tells_nothing(host.output().replace("Traceback (most recent call last)", ""))


def assert_answers_as_promised(status: int, answered: Mapping[str, str] | http.client.HTTPMessage, text: str) -> None:
    assert status != 500, text
    assert answered["Cache-Control"] == "no-store"
    assert answered["X-Content-Type-Options"] == "nosniff"
    if status >= 400 and not text.startswith('{"status": "failing"'):
        assert answered["Content-Type"].partition(";")[0] == "application/problem+json"
        assert json.loads(text)["status"] == status
    assert status != 503 or "Retry-After" in answered or "systems" in text
    assert_tells_nothing(text)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_each_route_keeps_to_its_document(bench: Bench, operation: Any) -> None:  # Any: as above
    """Requests that the document allows, and such that it does not: each answer is one that it names."""
    modes = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    known = st.none() | st.sampled_from(bench.names)

    @given(case=st.one_of(*modes) if operation.label.startswith("POST") else modes[0], name=known)
    @examples(30 if "{name}" in operation.label else 3)
    def keeps_to_it(case: Any, name: str | None) -> None:
        if name is not None and case.path_parameters:
            case.path_parameters["name"] = name
        before = bench.everything()
        answer = case.call(base_url=f"{bench.host.url}/api", headers={"x-functions-key": bench.host.function_key})
        answered = {name.title(): values[0] for name, values in answer.headers.items()}
        if answer.status_code == 404 and not answer.text:
            return  # no route of ours: the host's own answer
        assert_answers_as_promised(answer.status_code, answered, answer.text)
        checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
        case.validate_response(answer, checks=checks)
        if answer.status_code >= 400 or operation.method.upper() == "GET" or operation.path.endswith("/check"):
            before.assert_unchanged(attempts=True)
        else:
            # To pause is to change a tag of a secret, whatever else may be wrong with it.
            paused = (name or "") if operation.method.upper() == "PATCH" else ""
            bench.assert_only_rotated(before, but_for=paused)

    keeps_to_it()


sendable = st.dictionaries(
    st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")).map(str.strip),
    max_size=3,
)


def as_header(text: str) -> str:
    return re.sub(r"[^\t\x20-\x7e\xa0-\xff]", "?", text)[:4000]


@given(
    name=near("airflow-connections-warehouse") | st.integers(0, 7),
    body=bodies,
    sent=st.builds(lambda ours, others: {**others, **ours}, headers, sendable),
    method=st.sampled_from(["POST", "POST", "GET"]),
)
@example(name=0, body=b'{"dryRun": true, "dryRun": false}', sent={}, method="POST")
@example(name=0, body=b"[" * 9000, sent={"x-ms-client-principal": "W1tb" * 900}, method="POST")
@example(name="..", body=b"", sent={}, method="GET")
@examples(40)
def test_a_request_of_any_bytes_is_answered(
    bench: Bench, name: str | int, body: bytes, sent: dict[str, str], method: str
) -> None:
    """Names, bodies and headers of any bytes that HTTP carries, for secrets that there are and for others."""
    secret = bench.names[name] if isinstance(name, int) else name
    path = f"/api/secrets/{quote(secret, safe='', errors='surrogatepass')}" + ("/rotate" if method == "POST" else "")
    before = bench.everything()
    framing = {"content-length", "transfer-encoding", "connection", "expect", "host", "x-functions-key"}
    status, answered, answer = bench.send(
        method, path[:4000], body, {key: as_header(text) for key, text in sent.items() if key.lower() not in framing}
    )
    text = answer.decode()
    if not text and status in (400, 404):
        assert not is_secret_name(secret)  # the host's own answer
        before.assert_unchanged()
        return
    assert_answers_as_promised(status, answered, text)
    if status >= 400 or method == "GET":
        before.assert_unchanged(attempts=True)
    else:
        bench.assert_only_rotated(before)


def test_what_is_right_is_done(bench: Bench) -> None:
    """Else the tests above would try refusals only."""
    for name in bench.rotatable:
        versions = len(bench.here.versions(name))
        path = f"/api/secrets/{name}/rotate"
        status, answered, answer = bench.send("POST", path, b'{"force": true}', {"Idempotency-Key": f"right-{name}"})
        assert_answers_as_promised(status, answered, answer.decode())
        assert (status, len(bench.here.versions(name))) == (200, versions + 1), answer
        assert bench.here.logs_in(name)


KINDS = ("SecretNearExpiry", "SecretExpired", "SecretNewVersionCreated")
kinds = near(*(f"Microsoft.KeyVault.{kind}" for kind in KINDS), "SecretRotation.Requested", "SecretRotation.Failed")
ID = "{vault}/secrets/{name}/{version}"
event_data = st.one_of(
    st.fixed_dictionaries(
        {"Id": near(ID, "https://other.vault.azure.net/secrets/a/0") | any_json},
        optional={"Cause": odd_text | any_json, "By": odd_text | any_json, "Force": st.booleans() | any_json},
    ),
    any_json,
)
event_ids = near("0f8fad5b-d9cb-469f-a165-70867728950e") | any_json
any_event = st.one_of(
    st.fixed_dictionaries(
        {"id": event_ids, "eventType": kinds | any_json, "data": event_data, "subject": odd_text},
        optional={"topic": any_json, "dataVersion": any_json, "eventTime": st.just("2026-11-25T10:00:00.1234567Z")},
    ),
    st.fixed_dictionaries(
        {"specversion": st.just("1.0"), "id": event_ids, "type": kinds | any_json, "data": event_data},
        optional={"source": any_json, "subject": any_json, "time": st.just("2026-11-25T10:00:00Z"), "odd": any_json},
    ),
)
NOTIFICATION = "/runtime/webhooks/EventGrid?functionName=rotation_event"


@given(events=st.lists(any_event, min_size=1, max_size=3), known=st.integers(0, 7))
@example(events=[{"id": None, "eventType": None, "data": None}], known=0)
@example(events=[{"specversion": "1.0", "id": 5, "type": ["x"], "data": {"Id": ID}}], known=0)
@examples(40)
def test_events_of_both_schemas_end_quietly(bench: Bench, events: list[Any], known: int) -> None:
    """P2, P7: 202, whatever an event says of itself: thirty redeliveries would not mend it."""
    name = bench.names[known]
    identifier = ID.format(vault=bench.here.vault.url, name=name, version=bench.here.vault.current(name).version)
    before = bench.everything()
    status, _, answer = bench.send(
        "POST",
        NOTIFICATION,
        as_json(events).replace(ID, identifier).encode(),
        {"aeg-event-type": "Notification", "Content-Type": "application/json"},
    )
    assert (status, answer) == (202, b"")
    bench.assert_only_rotated(before)


@given(body=st.one_of(damaged(any_event.map(as_json)), deep_json, any_json.map(as_json), odd_text), known=st.booleans())
@examples(40)
def test_what_is_no_event_at_all_changes_nothing(bench: Bench, body: str, *, known: bool) -> None:
    """P3: what already the worker library refuses is a 500 that says nothing; Event Grid sends no such thing."""
    before = bench.everything()
    status, _, answer = bench.send(
        "POST",
        NOTIFICATION if known else NOTIFICATION.replace("rotation_event", quote(body[:20], errors="surrogatepass")),
        body.encode(errors="surrogatepass"),
        {"aeg-event-type": "Notification", "Content-Type": "application/json"},
    )
    assert status in (202, 404, 500)
    assert answer.decode() in ("", "Exception while executing function: Functions.rotation_event") or status == 404
    assert_tells_nothing(answer.decode())
    before.assert_unchanged()
