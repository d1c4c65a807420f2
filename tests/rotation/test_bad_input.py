"""Bad input, as issue 3 lists it: the right error, a quiet end of the event, and nothing changed anywhere (P6, P7).

Real PostgreSQL and the Key Vault stand-in, through the program's own wiring.
"""

import dataclasses
import json
import logging
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rotators.access import ENTRA_DATABASE_SCOPE
from rotators.api import outcome_answer
from rotators.credential import Password
from rotators.dispatch import deliver, sweep
from rotators.errors import (
    DatabaseRefusedError,
    LoginRefusedError,
    PermanentError,
    PolicyError,
    SecretFormatError,
    SecretNotFoundError,
    TransientError,
)
from rotators.events import EventIn, EventOut
from rotators.policy import policy_tags
from rotators.rotation import rotate
from sandbox.event_schemas import key_vault_event
from sandbox.functions_host import FunctionsHost
from tests.everything import Everything
from tests.world import ADMIN_SECRET, World, dashed, logs_in, user_of
from tests.wrong_tags import WRONG_TAGS, named

NEAR_EXPIRY = "Microsoft.KeyVault.SecretNearExpiry"
STATUS = {SecretNotFoundError: 404, PolicyError: 422, SecretFormatError: 422, DatabaseRefusedError: 502}
STATUS[LoginRefusedError] = 502
MADE_UP = "made-up-c0rrect-h0rse-battery"
BASE = {"rotation-strategy": "single-user", "rotation-admin": ADMIN_SECRET}


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "rotators")
    return caplog


def errors(heard: pytest.LogCaptureFixture) -> list[dict[str, Any]]:  # Any: JSON
    """Return the ERROR lines of the program, and forget them."""
    lines = [json.loads(r.getMessage()) for r in heard.records if r.name == "rotators" and r.levelno >= logging.ERROR]
    heard.clear()
    return lines


@dataclass
class Refusal:
    """What came back, and what the database server logged meanwhile."""

    error: PermanentError
    log: str

    @property
    def logins(self) -> int:
        """How often somebody logged in or tried to."""
        return len(re.findall("connection authenticated|authentication failed", self.log))


Refused = Callable[..., Refusal]


@pytest.fixture
def refused(heard: pytest.LogCaptureFixture) -> Refused:
    """Ask over HTTP and by an event, and see that both are refused as promised."""

    def ask(here: World, name: str, kind: type[PermanentError], *said: str, attempts: bool = False) -> Refusal:
        logins = [plain(version.value) for version in here.versions(name) if can_log_in(here, plain(version.value))]
        before = Everything.of(here, name)
        heard.clear()
        with pytest.raises(PermanentError) as caught:
            rotate(here.systems, here.trigger(name))
        error = caught.value
        assert type(error) is kind, error
        assert error.status == STATUS[kind]
        for words in said:
            assert words in str(error), error
        (line,) = errors(heard)
        assert (line["event"], line["secret"], line["reason"]) == ("rotation failed", name, str(error))

        here.make_due()
        here.topic.events.clear()
        deliver(here.systems, here.near_expiry(name) if here.versions(name) else event_of(here, name))
        (line,) = errors(heard)
        assert (line["event"], line["secret"]) == ("rotation failed", name)
        for words in said:
            assert words in line["reason"]
        (event,) = here.topic.events
        assert (event.type, event.secret) == ("Failed", name)
        assert event.data == {key: value for key, value in line.items() if key != "event"}

        log = before.log
        texts = [str(error), *traceback.format_exception(error), json.dumps(line), json.dumps(dict(event.data)), log]
        for secret in (name, ADMIN_SECRET):
            for version in here.versions(secret):
                for password in (MADE_UP, *re.findall(r":([\w-]{20,})@", version.value)):
                    assert not any(password in text for text in texts)
        before.assert_unchanged(attempts=attempts)
        assert all(logs_in(value) for value in logins)
        return Refusal(error, log)

    return ask


def can_log_in(here: World, value: str) -> bool:
    # Nobody else is called: a test may have made a trap.
    is_ours = re.match(rf"postgresql://[^@/]+@127\.0\.0\.1:{here.server.port}/", value)
    return is_ours is not None and logs_in(value)


def plain(value: str) -> str:
    """Without its options."""
    return value.partition("?")[0]


def event_of(here: World, name: str) -> EventIn:
    identifier = f"{here.vault.url}/secrets/{name}/0123456789abcdef0123456789abcdef"
    return EventIn(id=f"event-of-{name}", type=NEAR_EXPIRY, data={"Id": identifier})


class Trap:
    """A server of somebody else's, which must never hear from us."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    @property
    def was_called(self) -> bool:
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


# -- Events ------------------------------------------------------------------------------------------------------


def assert_event_is_refused(here: World, event: EventIn, heard: pytest.LogCaptureFixture, said: str) -> None:
    """A quiet end, one clear line, one `Failed`, and nothing asked of the vault."""
    requests = len(here.vault.requests)
    heard.clear()
    here.topic.events.clear()
    deliver(here.systems, event)
    (line,) = errors(heard)
    assert line["event"] == "rotation failed"
    assert said in line["reason"]
    assert here.topic.types == ["Failed"]
    assert here.topic.events[0].data["reason"] == line["reason"]
    assert len(here.vault.requests) == requests


def test_an_event_from_another_vault_is_refused(here: World, heard: pytest.LogCaptureFixture) -> None:
    """P6: also when its secret has the name of one of ours, and however much the address looks like ours."""
    name = here.alternating()
    here.make_due()
    before = Everything.of(here, name)
    port = here.vault.url.rpartition(":")[2]
    for vault in (
        "https://other.vault.azure.net",
        f"https://127.0.0.1.evil.net:{port}",
        f"https://127.0.0.1:{port}@evil.net",
        f"https://127.0.0.2:{port}",
        "https://127.0.0.1",
        f"https://127.0.0.1:{port}0",
        "//",
    ):
        version = here.vault.current(name).version
        event = EventIn("event-1", NEAR_EXPIRY, {"Id": f"{vault}/secrets/{name}/{version}"})
        assert_event_is_refused(here, event, heard, f"event 'event-1': its secret {name!r} is in another vault")
    before.assert_unchanged()


def test_an_event_for_a_secret_that_is_gone_ends_quietly(here: World, refused: Refused) -> None:
    """P7: deleted meanwhile, or never there: 404, and where to look."""
    here.admin()
    deleted = here.alternating()
    here.vault.delete(deleted)
    for name in (deleted, "airflow-connections-never-there"):
        refused(here, name, SecretNotFoundError, repr(name), "was not found in the key vault", "look for it among the")


def test_an_event_for_a_secret_that_is_not_managed_changes_nothing(
    here: World, heard: pytest.LogCaptureFixture
) -> None:
    """P6: Key Vault raises events for every secret of the vault, so this is no failure; over HTTP it is 422."""
    here.admin()
    name = here.secret(here.user(), {"owner": "finance", "rotation-every": "1d"})
    here.make_due()
    before = Everything.of(here, name)
    for kind in ("SecretNearExpiry", "SecretExpired", "SecretNewVersionCreated"):
        deliver(here.systems, here.event(f"Microsoft.KeyVault.{kind}", name))
    assert errors(heard) == []
    assert here.topic.types == []
    answer = outcome_answer(rotate(here.systems, here.trigger(name, force=True)))
    assert answer.status == 422
    assert f"secret {name!r} was not rotated" in str(answer.body["detail"])
    assert "give it the tag rotation-strategy" in str(answer.body["detail"])
    assert "connection authenticated" not in before.log
    before.assert_unchanged()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "its data is not an object"),
        ("Id", "its data is not an object"),
        ([{"Id": "x"}], "its data is not an object"),
        ({}, "its data has no Id"),
        ({"Id": ""}, "its data has no Id"),
        ({"Id": 5}, "its data has no Id"),
        ({"Id": {"Id": "x"}}, "its data has no Id"),
        ({"ObjectName": "warehouse", "Version": "0123"}, "its data has no Id"),
        ({"Id": "warehouse"}, "its Id is not https://<vault>/secrets/<name>/<version>"),
        ({"Id": "{vault}/secrets/warehouse"}, "its Id is not https://<vault>/secrets/<name>/<version>"),
        ({"Id": "{vault}/secrets/ware_house/0123"}, "its Id is not https://<vault>/secrets/<name>/<version>"),
        ({"Id": "{vault}/secrets/../secrets/a/0123"}, "its Id is not https://<vault>/secrets/<name>/<version>"),
        ({"Id": "{vault}/keys/warehouse/0123"}, "its Id is not https://<vault>/secrets/<name>/<version>"),
        ({"Id": "{vault}/secrets/warehouse/0123/x"}, "its Id is not https://<vault>/secrets/<name>/<version>"),
        ({"Id": "https://[::1"}, "its Id is not https://<vault>/secrets/<name>/<version>"),
    ],
)
def test_an_event_without_a_usable_id_is_refused(
    here: World, heard: pytest.LogCaptureFixture, data: object, said: str
) -> None:
    """P7: nothing is asked of anybody, and the event's id tells which one it was."""
    if isinstance(data, dict) and isinstance(data.get("Id"), str):
        data = {"Id": data["Id"].replace("{vault}", here.vault.url)}
    assert_event_is_refused(here, EventIn("event-1", NEAR_EXPIRY, data), heard, f"event 'event-1': {said}")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Id", "id", "By"]) | st.text(), inner),
    max_leaves=5,
)


@given(data=anything)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_event_holds_it_ends_quietly(here: World, heard: pytest.LogCaptureFixture, data: object) -> None:
    """P7: no event is brought thirty times because of what stands in it."""
    assert_event_is_refused(here, EventIn("event-1", NEAR_EXPIRY, data), heard, "event 'event-1': ")


@pytest.mark.parametrize("kind", ["Microsoft.KeyVault.KeyNearExpiry", "Microsoft.Storage.BlobCreated", ""])
def test_an_event_of_an_unknown_type_is_refused(here: World, heard: pytest.LogCaptureFixture, kind: str) -> None:
    """P7: a subscription without a filter is noticed."""
    event = dataclasses.replace(here.event(NEAR_EXPIRY, here.alternating()), type=kind)
    assert_event_is_refused(here, event, heard, f"type {kind!r} is not one that this function takes")


@pytest.mark.parametrize("kind", ["Completed", "Failed", "Retired", "AirflowRefreshed", "x" * 1000])
def test_an_event_of_our_own_does_not_make_another(here: World, heard: pytest.LogCaptureFixture, kind: str) -> None:
    """A subscription of our topic without a filter brings our outcomes back: were each a `Failed`, it never ended."""
    name = here.alternating()
    deliver(here.systems, EventIn("event-1", f"SecretRotation.{kind}", {"secret": name, "status": "failed"}))
    assert here.topic.types == []
    assert max(len(record.getMessage()) for record in heard.records) < 300


def test_the_case_of_an_events_type_does_not_matter(here: World) -> None:
    name = here.alternating()
    asked = here.event(NEAR_EXPIRY, name)
    deliver(here.systems, dataclasses.replace(asked, type="secretrotation.REQUESTED"))
    assert here.topic.types == ["Completed"]
    deliver(here.systems, dataclasses.replace(asked, type="secretrotation.COMPLETED"))
    assert here.topic.types == ["Completed"]


# -- HTTP --------------------------------------------------------------------------------------------------------


def test_a_bad_request_over_http_is_answered_400(here: World) -> None:
    """P7: what is no JSON, unknown, wrongly typed or too long, and a name that is none; nothing changes."""
    name = here.single()
    before = Everything.of(here, name)
    path = f"/api/secrets/{name}/rotate"
    requests: list[tuple[str, bytes, dict[str, str], str]] = [
        (path, b"{", {}, "the body is not a JSON object"),
        (path, b'["force"]', {}, "the body is not a JSON object"),
        (path, b"\xff", {}, "the body is not a JSON object"),
        (path, b'{"dryrun": true}', {}, "unknown fields 'dryrun'"),
        (path, b'{"force": "true"}', {}, "'force' is not true or false"),
        (path, b'{"reason": 5}', {}, "'reason' is not a text"),
        (path, b'{"reason": "a\\ud800b"}', {}, "'reason' has half of a character in it"),
        (path, b'{"reason": "%s"}' % (b"x" * 201), {}, "'reason' has more than 200 characters"),
        (path, b'{"reason": "%s"}' % (b"x" * 20_000), {}, "more than 16384 bytes"),
        (path, b"", {"Idempotency-Key": "k" * 256}, "Idempotency-Key has more than 255 characters"),
        ("/api/secrets/ware_house/rotate", b"", {}, "a secret's name has 1 to 127 letters, digits and dashes"),
        ("/api/secrets/ware%20house/rotate", b"", {}, "a secret's name has 1 to 127 letters, digits and dashes"),
        (f"/api/secrets/{'a' * 128}/rotate", b"", {}, "a secret's name has 1 to 127 letters, digits and dashes"),
    ]
    with FunctionsHost(Path(__file__).parents[2], environment=here.vault.environment()) as host:
        asked = len(here.vault.requests)
        for url, body, headers, said in requests:
            status, answered, text = host.http("POST", url, body=body, headers=headers)
            assert (status, answered["Content-Type"]) == (400, "application/problem+json"), (url, body, text)
            assert answered["Cache-Control"] == "no-store"
            problem = json.loads(text)
            assert (problem["title"], problem["status"]) == ("Bad request", 400)
            assert said in problem["detail"]
        status, _, text = host.http("GET", "/api/secrets/ware_house")
        assert (status, json.loads(text)["title"]) == (400, "Bad request")
        assert len(here.vault.requests) == asked
    before.assert_unchanged()


BAD_DATA: tuple[object, ...] = (
    {},
    {"Id": 5},
    {"Id": "warehouse"},
    {"Id": "https://other.vault.azure.net/secrets/a/0"},
    "text",
    [],
)


def test_a_bad_event_is_not_brought_again(here: World) -> None:
    """P7: through Microsoft's worker library, Event Grid gets its 202, and the log one clear line."""
    name = here.single()
    good = key_vault_event(NEAR_EXPIRY, f"{here.vault.url}/secrets/{name}/{here.vault.current(name).version}", None)
    before = Everything.of(here, name)
    with FunctionsHost(Path(__file__).parents[2], environment=here.vault.environment()) as host:
        for data in BAD_DATA:
            seen = len(host.output())
            status, text = host.post_event({**good, "data": data})
            assert status == 202, (data, text)
            host.wait_for_output("rotation failed", start=seen)
    before.assert_unchanged()


# -- Policy tags -------------------------------------------------------------------------------------------------


def test_each_wrong_tag_is_refused_before_anything_is_asked(
    here: World, refused: Refused, subtests: pytest.Subtests
) -> None:
    """P7: each policy tag, wrong in each way: 422, the tag named, and the database never heard of it."""
    value = here.user()
    here.admin()
    for tags, complaint in WRONG_TAGS:
        with subtests.test(tags=dict(tags)):
            name = here.secret(value, {})
            here.vault.update(name, tags=named(tags, name))
            assert refused(here, name, PolicyError, f"secret {name!r}: ", complaint, "mend the tags").logins == 0


def test_a_mistyped_tag_is_refused(here: World, refused: Refused) -> None:
    """P7: else its default would be in force without anybody noticing."""
    name = here.alternating(rotation_windw="0 2 * * 6 for 3h")
    refused(here, name, PolicyError, "rotation-windw is no tag of this program")


def test_too_many_tags_are_refused(here: World, refused: Refused) -> None:
    """P7: Key Vault allows 15, and the state is one of them: said before anything changes."""
    name = here.alternating(**{f"note_{i}": "x" for i in range(13)})
    assert len(here.tags(name)) == 15
    refused(here, name, PolicyError, f"secret {name!r} would have 16 tags", "allows 15", "remove 1 and rotate again")
    name = here.single(rotation_admin=ADMIN_SECRET, **{f"note_{i}": "x" for i in range(13)})
    refused(here, name, PolicyError, f"secret {name!r} would have 16 tags", "allows 15", "remove 1 and rotate again")


def test_a_user_whose_name_is_too_long_is_refused(here: World, refused: Refused) -> None:
    """P7: the server would cut the name off, and another user be changed."""
    here.admin()
    tags = {"CredentialId": "a" * 64, "ProviderAddress": f"127.0.0.1:{here.server.port}/postgres"}
    name = here.secret(MADE_UP, {**BASE, "rotation-strategy": "alternating-users", **tags})
    refused(here, name, PolicyError, repr(name), "longer than PostgreSQL's 63 bytes")


def test_a_state_that_somebody_edited_does_not_stop_the_sweep(here: World) -> None:
    """P2: whoever may write one secret's tags must not be able to stop the rotation of all the others."""
    edited = here.alternating()
    state = {"id": "1", "cause": "http", "by": "x", "from": None, "at": "2026-01-01T00:00:00", "retireAt": "2026-01-02"}
    here.vault.update(edited, tags={**here.tags(edited), "rotation-state": json.dumps(state)})
    due = here.alternating()
    here.make_due()
    sweep(here.app(topic=None).systems)
    assert len(here.versions(due)) == 2


def unreadable(here: World) -> str:
    name = here.alternating()
    here.vault.update(name, enabled=False)
    return name


def without_admin(here: World) -> str:
    return here.secret(here.user(), {"rotation-strategy": "single-user", "rotation-admin": "gone"})


def wrongly_tagged(here: World) -> str:
    return here.alternating(rotation_every="soon")


def to_retire_without_admin(here: World) -> str:
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.vault.update(ADMIN_SECRET, enabled=False)
    return name


@pytest.mark.parametrize("bad", [unreadable, without_admin, wrongly_tagged, to_retire_without_admin])
def test_the_sweep_says_once_what_is_wrong_with_a_secret_and_goes_on(
    here: World, heard: pytest.LogCaptureFixture, bad: Callable[[World], str]
) -> None:
    """P7: one clear line and one `Failed` each time, also where both retiring and rotating would stumble over it."""
    name = bad(here)
    good = here.single(rotation_admin="self")
    here.make_due()
    before = Everything.of(here, name)
    here.topic.events.clear()
    heard.clear()
    for_itself = here.app(topic=Alone(here))
    sweep(for_itself.systems)
    assert [line["secret"] for line in errors(heard)] == [name]
    assert [event.secret for event in here.topic.events if event.type == "Failed"] == [name]
    assert before.vault == Everything.of(here, name).vault
    assert len(here.versions(good)) == 2


class Alone:
    """A topic that takes outcomes and no work, so that the sweep does it itself."""

    def __init__(self, here: World) -> None:
        self._topic = here.topic

    def publish(self, *events: EventOut) -> None:
        if any(event.type == "Requested" for event in events):
            raise TransientError("the topic is down")
        self._topic.publish(*events)


# -- The secret's value ------------------------------------------------------------------------------------------

NOT_A_CONNECTION = [
    ("", "its value is empty"),
    (" \n", "its value is empty"),
    (MADE_UP, "nothing that is understood"),
    (f"{MADE_UP}=x host=db", "nothing that is understood"),
    ('{"conn_type": "postgres", "login": "app", "password": "' + MADE_UP, "its JSON breaks off at line 1"),
    (
        '{"user": "app", "password": "' + MADE_UP + '", "host": "db"}',
        "neither the key conn_type (Airflow's) nor engine",
    ),
    ("postgresql://app@127.0.0.1:{port}/d", "its value names no password"),
    ("postgresql://app:@127.0.0.1:{port}/d", "its value names no password"),
    ("postgresql://127.0.0.1:{port}/d", "its value names no user"),
    ("host=127.0.0.1 port={port} user=app", "its value names no password"),
    ('{"conn_type": "postgres", "login": "app", "host": "127.0.0.1"}', "its value names no password"),
    (f"postgresql://app:{MADE_UP}@/d", "its value names no host"),
    (f"postgresql://app:{MADE_UP}@127.0.0.1:99999/d", "a port in its value is no number from 1 to 65535"),
    (f"mysql://app:{MADE_UP}@127.0.0.1:3306/d", "engine mysql is not supported yet; supported: postgresql"),
    (f"redis://app:{MADE_UP}@127.0.0.1:6379/0", "engine redis is not supported yet; supported: postgresql"),
    ('{"engine": "mariadb", "username": "a", "password": "' + MADE_UP + '", "host": "h"}', "engine mariadb is not"),
    (f"{MADE_UP}://app:x@127.0.0.1/d", "the engine that its value names is not supported yet"),
]


@pytest.mark.parametrize(("value", "said"), NOT_A_CONNECTION)
def test_a_value_that_is_no_connection_is_refused(here: World, refused: Refused, value: str, said: str) -> None:
    """P7: 422, where the reader stopped and not what it read; the database never heard of it."""
    name = here.single("x", rotation_admin=ADMIN_SECRET)
    here.vault.put(name, value.replace("{port}", str(here.server.port)), tags=here.tags(name))
    assert refused(here, name, SecretFormatError, f"secret {name!r}: ", said).logins == 0


def test_alternating_users_need_a_database(here: World, refused: Refused) -> None:
    """P7: without one each of the two users would get one of its own name."""
    name = here.alternating(re.sub(r"/\w+$", "", here.user()))
    refused(here, name, SecretFormatError, repr(name), "names no database", "write the database into the secret")


def test_a_newest_version_that_is_disabled_is_refused(here: World, refused: Refused) -> None:
    """P7: nobody can read it, so nobody can rotate it; the versions before it are not taken instead."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.vault.update(name, enabled=False)
    said = ("its newest version is disabled", "enable that version or write a new one")
    assert refused(here, name, PolicyError, repr(name), *said).logins == 0


@pytest.mark.parametrize("admin", [ADMIN_SECRET, "self"])
@pytest.mark.parametrize("option", ["client_encoding=none", "options=-c%20nonsense%3D1", "sslmode=require"])
def test_a_value_that_no_password_mends_is_refused_before_one_is_set(
    here: World, refused: Refused, admin: str, option: str
) -> None:
    """P7: a person gave the secret an option that the server refuses: also in a later rotation nothing is changed."""
    name = here.single(rotation_admin=admin)
    rotate(here.systems, here.trigger(name))
    here.make_due(2)
    here.vault.put(name, f"{here.value(name)}?{option}", tags=policy_tags(here.tags(name)))
    refused(here, name, DatabaseRefusedError, repr(name), "correct the connection, or the server")


SMUGGLED = [
    ("hostaddr=127.0.0.1", "hostaddr"),
    ("service=elsewhere", "service"),
    ("passfile=%2Ftmp%2Fpgpass", "passfile"),
]
ALL_STRATEGIES = pytest.mark.parametrize(
    "tags",
    [
        {"rotation-strategy": "alternating-users", "rotation-admin": ADMIN_SECRET},
        {"rotation-strategy": "single-user", "rotation-admin": ADMIN_SECRET},
        {"rotation-strategy": "single-user", "rotation-admin": "self"},
    ],
    ids=["alternating", "single by admin", "single by self"],
)


@ALL_STRATEGIES
@pytest.mark.parametrize("rotated_before", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(("option", "called"), SMUGGLED)
def test_an_option_that_leads_elsewhere_is_refused(  # noqa: PLR0913 (a table of three columns)
    here: World, refused: Refused, tags: dict[str, str], option: str, called: str, *, rotated_before: bool
) -> None:
    """P6: libpq would go to `hostaddr` or to the service's host, not to the host that was checked."""
    here.admin()
    name = here.secret(here.user(), tags)
    if rotated_before:
        rotate(here.systems, here.trigger(name))
        here.clock.advance(timedelta(days=2))
    kept = {tag: value for tag, value in here.tags(name).items() if tag != "rotation-state"}
    here.vault.put(name, f"{here.value(name)}?{option}", tags=kept)
    refused(here, name, PolicyError, repr(name), repr(called), "take it out")


@ALL_STRATEGIES
def test_a_version_by_hand_that_leads_elsewhere_is_refused(
    here: World, heard: pytest.LogCaptureFixture, tags: dict[str, str]
) -> None:
    """P6: as above, when Key Vault tells that a person wrote it: nothing is written onto it."""
    here.admin()
    name = here.secret(here.user(), tags)
    rotate(here.systems, here.trigger(name))
    kept = {tag: value for tag, value in here.tags(name).items() if tag != "rotation-state"}
    here.vault.put(name, f"{here.value(name)}?hostaddr=127.0.0.1", tags=kept)
    before = Everything.of(here, name)
    here.topic.events.clear()
    heard.clear()
    deliver(here.systems, here.event("Microsoft.KeyVault.SecretNewVersionCreated", name))
    (line,) = errors(heard)
    assert "'hostaddr'" in line["reason"]
    assert here.topic.types == ["Failed"]
    before.assert_unchanged()


# -- The admin's secret ------------------------------------------------------------------------------------------

BY_ADMIN = pytest.mark.parametrize("strategy", ["alternating-users", "single-user"])


def managed(here: World, strategy: str, value: str | None = None, **tags: str) -> str:
    return here.secret(
        value or here.user(), {"rotation-strategy": strategy, "rotation-admin": ADMIN_SECRET, **dashed(tags)}
    )


@BY_ADMIN
def test_an_admin_secret_that_is_missing_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P7: never there, or deleted meanwhile: both names, and the tag."""
    name = managed(here, strategy)
    said = (repr(name), f"the admin secret {ADMIN_SECRET!r}", "rotation-admin", "does not exist", "create it or mend")
    assert refused(here, name, PolicyError, *said).logins == 0
    here.admin()
    here.vault.delete(ADMIN_SECRET)
    assert refused(here, name, PolicyError, *said).logins == 0


@BY_ADMIN
@pytest.mark.parametrize("open_for", ["", "airflow-connections-other", "another-*", "airflow-connections"])
def test_an_admin_secret_that_is_not_open_for_the_secret_is_refused(
    here: World, refused: Refused, strategy: str, open_for: str
) -> None:
    """P6: who may write one secret may not borrow any admin's rights; the admin's secret says whose it is."""
    name = managed(here, strategy)
    if open_for:
        here.admin(open_for=open_for)
    else:
        here.vault.put(ADMIN_SECRET, here.server.admin_dsn)
    said = (repr(name), repr(ADMIN_SECRET), "is not open for it", "rotation-admin-for")
    assert refused(here, name, PolicyError, *said).logins == 0


@BY_ADMIN
def test_an_admin_secret_with_a_wrong_password_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P7: the admin's secret is the one to be mended, so it is named; one attempt for each request locks nobody out."""
    name = managed(here, strategy)
    here.admin(here.server.dsn("rotator", MADE_UP))
    refusal = refused(here, name, LoginRefusedError, repr(name), "'rotator'", ADMIN_SECRET)
    assert refusal.log.count("password authentication failed") == 2


@BY_ADMIN
@pytest.mark.parametrize(("value", "said"), NOT_A_CONNECTION[:10])
def test_an_admin_secret_that_is_no_connection_is_refused(
    here: World, refused: Refused, strategy: str, value: str, said: str
) -> None:
    """P7: the admin's secret is named, since it is the one to be mended."""
    name = managed(here, strategy)
    here.vault.put(ADMIN_SECRET, value.replace("{port}", str(here.server.port)), tags={"rotation-admin-for": "*"})
    assert refused(here, name, SecretFormatError, f"secret {ADMIN_SECRET!r}: ", said).logins == 0


@BY_ADMIN
def test_an_admin_secret_whose_newest_version_is_disabled_is_refused(
    here: World, refused: Refused, strategy: str
) -> None:
    """P7: the admin's secret is named."""
    name = managed(here, strategy)
    here.admin()
    here.vault.update(ADMIN_SECRET, enabled=False)
    said = (repr(ADMIN_SECRET), "its newest version is disabled")
    assert refused(here, name, PolicyError, *said).logins == 0


@BY_ADMIN
def test_an_admin_without_rights_over_the_user_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P7: what to grant, and to whom; nothing is half done."""
    here.admin()
    value = here.user(by_admin=False)
    name = managed(here, strategy, value)
    grant = f'GRANT "{user_of(value)}" TO "rotator" WITH ADMIN OPTION'
    refused(here, name, DatabaseRefusedError, repr(name), f"run {grant}", attempts=True)
    here.server.execute(grant)
    assert rotate(here.systems, here.trigger(name)).status == "rotated"


@BY_ADMIN
def test_an_admin_that_lost_its_rights_over_the_user_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P7: as above, after it went well many times."""
    here.admin()
    name = managed(here, strategy)
    rotate(here.systems, here.trigger(name))
    rotate(here.systems, here.trigger(name, force=True))
    users = [here.user_of(name), f"{here.user_of(name)}_alt"][: 2 if strategy == "alternating-users" else 1]
    for user in users:
        here.server.execute(f'REVOKE "{user}" FROM rotator CASCADE')
    here.clock.advance(timedelta(days=2))
    said = f'run GRANT "{users[-1]}" TO "rotator" WITH ADMIN OPTION'
    refused(here, name, DatabaseRefusedError, repr(name), said, attempts=True)


@BY_ADMIN
def test_an_admin_that_may_not_change_users_at_all_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P7: CREATEROLE is what it needs besides."""
    weak = user_of(here.user(by_admin=False)).replace("app", "weak")
    here.admin(here.server.create_user(weak, by_admin=False))
    value = here.user(by_admin=False)
    here.server.execute(f'GRANT "{user_of(value)}" TO "{weak}" WITH ADMIN OPTION')
    name = managed(here, strategy, value)
    refused(here, name, DatabaseRefusedError, repr(name), f'run ALTER ROLE "{weak}" CREATEROLE', attempts=True)


def test_an_admin_that_may_not_copy_the_settings_of_the_first_user_is_refused(here: World, refused: Refused) -> None:
    """P7: the second user needs them too; nothing is half done, the first user's comment neither."""
    here.admin()
    name = managed(here, "alternating-users")
    here.server.execute(f'ALTER ROLE "{here.user_of(name)}" SET log_error_verbosity = terse')
    said = 'GRANT SET ON PARAMETER log_error_verbosity TO "rotator"'
    refused(here, name, DatabaseRefusedError, repr(name), said, attempts=True)


# -- Hosts and encryption ----------------------------------------------------------------------------------------


@BY_ADMIN
def test_another_port_of_the_same_host_is_another_server(
    here: World, refused: Refused, trap: Trap, strategy: str
) -> None:
    """P6: what listens there may be anybody's."""
    here.admin()
    name = managed(here, strategy, f"postgresql://app:{MADE_UP}@127.0.0.1:{trap.port}/d")
    said = (repr(name), f"no credential is sent to 127.0.0.1:{trap.port}", "ROTATION_ALLOWED_HOSTS")
    assert refused(here, name, PolicyError, *said).logins == 0
    assert not trap.was_called


@BY_ADMIN
@pytest.mark.parametrize("host", ["localhost", "db.invalid", "127.0.0.1,localhost", "127.0.0.1,db.invalid"])
def test_another_host_is_another_server(here: World, refused: Refused, strategy: str, host: str) -> None:
    """P6: a name is compared, not what it resolves to; and each of several has to be allowed."""
    here.admin()
    name = managed(here, strategy, here.user().replace("127.0.0.1", host))
    port = "5432" if "," in host else str(here.server.port)
    other = host.partition(",")[2] or host
    if "," in host:
        # Each host of a list has a port of its own in libpq's URI.
        value = (
            here.value(name)
            .replace("127.0.0.1,", f"127.0.0.1:{here.server.port},")
            .replace(f"{other}:{here.server.port}", other)
        )
        here.vault.put(name, value, tags=here.tags(name))
    said = (repr(name), f"no credential is sent to {other}:{port}", "ROTATION_ALLOWED_HOSTS")
    assert refused(here, name, PolicyError, *said).logins == 0


def with_settings(here: World, **changes: Any) -> World:  # Any: whatever Settings has
    return here.app(settings=dataclasses.replace(here.systems.settings, **changes))


@BY_ADMIN
@pytest.mark.parametrize("allowed", ["127.0.0.1", "127.0.0.1:{port}", "*.0.0.1", "*.0.1:{port}"])
def test_an_allowed_host_is_rotated(here: World, strategy: str, allowed: str) -> None:
    """The three forms of ROTATION_ALLOWED_HOSTS, for a host that the admin's secret calls by another name."""
    here.admin(here.server.admin_dsn.replace("127.0.0.1", "localhost"))
    name = managed(here, strategy)
    allowing = with_settings(here, allowed_hosts=(allowed.replace("{port}", str(here.server.port)),))
    assert rotate(allowing.systems, allowing.trigger(name)).status == "rotated"
    assert here.logs_in(name)


@BY_ADMIN
@pytest.mark.parametrize("allowed", ["127.0.0.2", "127.0.0.1:1", "*.0.0.2", "*.0.0.1:1", "*.127.0.0.1"])
def test_a_host_that_is_not_quite_the_allowed_one_is_refused(
    here: World, refused: Refused, strategy: str, allowed: str
) -> None:
    """P6: another name, another port, another suffix."""
    here.admin(here.server.admin_dsn.replace("127.0.0.1", "localhost"))
    name = managed(here, strategy)
    said = (repr(name), f"no credential is sent to 127.0.0.1:{here.server.port}")
    assert refused(with_settings(here, allowed_hosts=(allowed,)), name, PolicyError, *said).logins == 0


@ALL_STRATEGIES
@pytest.mark.parametrize(
    ("query", "least"),
    [
        ("", "require"),
        ("?sslmode=disable", "require"),
        ("?sslmode=allow", "prefer"),
        ("?sslmode=require", "verify-full"),
    ],
)
def test_a_connection_below_the_least_sslmode_is_refused(
    here: World, refused: Refused, tags: dict[str, str], query: str, least: str
) -> None:
    """P6: nothing is sent that could be read on the way: not even the name is looked up."""
    here.admin()
    name = here.secret(f"postgresql://app:{MADE_UP}@db.invalid:5432/d{query}", tags)
    strict = with_settings(here, min_sslmode=least, allowed_hosts=("db.invalid",))
    said = (repr(name), "sslmode", f"at least {least!r} is wanted", f"write 'sslmode={least}' into the secret")
    assert refused(strict, name, PolicyError, *said).logins == 0


@BY_ADMIN
def test_an_admin_connection_below_the_least_sslmode_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P6: the admin's credential is the strongest of all; its secret is named."""
    here.admin(f"postgresql://rotator:{MADE_UP}@db.invalid:5432/postgres")
    name = managed(here, strategy)
    assert refused(here, name, PolicyError, repr(ADMIN_SECRET), "at least 'require' is wanted").logins == 0


# -- Users -------------------------------------------------------------------------------------------------------

PRIVILEGES = ["SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS"]


@BY_ADMIN
@pytest.mark.parametrize("privilege", PRIVILEGES)
@pytest.mark.parametrize("rotated_before", [False, True], ids=["first", "later"])
def test_a_strong_user_is_refused(
    here: World, refused: Refused, strategy: str, privilege: str, *, rotated_before: bool
) -> None:
    """P6: a writer of the secret, who learns the password, must not become an admin by it."""
    here.admin()
    name = managed(here, strategy)
    user = here.user_of(name)
    if rotated_before:
        rotate(here.systems, here.trigger(name))
        here.clock.advance(timedelta(days=2))
    here.server.execute(f'ALTER ROLE "{user}" {privilege}')
    refused(here, name, PolicyError, repr(name), user, privilege.lower(), "rotation-admin 'self'")


@BY_ADMIN
def test_a_user_that_is_strong_through_a_group_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P6: SET ROLE makes it the group."""
    here.admin()
    name = managed(here, strategy)
    user = here.user_of(name)
    group = user.replace("app", "group")
    here.server.execute(f'CREATE ROLE "{group}" CREATEROLE')
    here.server.execute(f'GRANT "{group}" TO "{user}"')
    refused(here, name, PolicyError, repr(name), repr(user), f"createrole through {group}")


@pytest.mark.parametrize("privilege", PRIVILEGES)
def test_a_strong_second_user_is_refused(here: World, refused: Refused, privilege: str) -> None:
    """P6: the user whose turn it is gets a password that the secret's readers know."""
    here.admin()
    value = here.user()
    first, second = user_of(value), user_of(value) + "_2"
    here.server.create_user(second)
    here.server.execute(f'GRANT "{first}" TO "{second}"')
    here.server.execute(f'ALTER ROLE "{second}" {privilege}')
    name = managed(here, "alternating-users", value, rotation_users=f"{first},{second}")
    refused(here, name, PolicyError, repr(name), repr(second), privilege.lower())


@BY_ADMIN
def test_the_admin_itself_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P6: an admin's own secret is rotated with `self`."""
    here.admin()
    name = managed(here, strategy, here.server.admin_dsn)
    refused(here, name, PolicyError, repr(name), "'rotator' is the admin itself", "rotation-admin 'self'")


@BY_ADMIN
@pytest.mark.parametrize("strategy_of_first", ["alternating-users", "single-user"])
def test_a_user_of_another_secret_is_refused(
    here: World, refused: Refused, strategy: str, strategy_of_first: str
) -> None:
    """P6: also to a writer who knows its password: two secrets with one user would lock each other out."""
    here.admin()
    first = managed(here, strategy_of_first)
    rotate(here.systems, here.trigger(first))
    second = managed(here, strategy, here.value(first))
    owner = f"{here.vault.url}/secrets/{first}"
    refused(here, second, PolicyError, repr(second), f"belongs to {owner}", "a user of its own")
    assert here.logs_in(first)


def test_a_second_user_of_another_secret_is_refused(here: World, refused: Refused) -> None:
    """P6: naming another application's user in rotation-users does not get it."""
    here.admin()
    theirs = managed(here, "single-user")
    rotate(here.systems, here.trigger(theirs))
    value = here.user()
    users = f"{user_of(value)},{here.user_of(theirs)}"
    name = managed(here, "alternating-users", value, rotation_users=users)
    refused(here, name, PolicyError, repr(name), repr(here.user_of(theirs)), f"belongs to {here.vault.url}")
    assert here.logs_in(theirs)


@BY_ADMIN
def test_a_user_whose_password_the_secret_does_not_know_is_refused(
    here: World, refused: Refused, strategy: str
) -> None:
    """P6: who names another application's user in a secret has to prove that it is theirs."""
    here.admin()
    victim = here.user()
    guessed = here.server.dsn(user_of(victim), MADE_UP, user_of(victim))
    name = managed(here, strategy, guessed)
    refused(here, name, LoginRefusedError, repr(name), repr(user_of(victim)), "a credential that logs in")
    assert logs_in(victim)


@BY_ADMIN
def test_a_user_that_does_not_exist_is_refused(here: World, refused: Refused, strategy: str) -> None:
    """P7: none is created in its place."""
    here.admin()
    name = managed(here, strategy, here.server.dsn("nobody_at_all", MADE_UP, "postgres"))
    kind = PolicyError if strategy == "alternating-users" else LoginRefusedError
    refused(here, name, kind, repr(name), "user 'nobody_at_all'", "does not exist")


def test_rotation_users_without_the_current_user_are_refused(here: World, refused: Refused) -> None:
    """P6, P7: neither of two strangers is touched."""
    here.admin()
    strangers = [user_of(here.user()), user_of(here.user())]
    name = managed(here, "alternating-users", rotation_users=",".join(strangers))
    said = (repr(here.user_of(name)), f"is none of rotation-users {','.join(strangers)}", "mend the tag or the secret")
    refused(here, name, PolicyError, repr(name), *said)


@pytest.mark.parametrize("rotation_users", ["", "{first},{second}"], ids=["by default", "by its tag"])
def test_a_second_user_whose_name_is_too_long_is_refused(here: World, refused: Refused, rotation_users: str) -> None:
    """P7: PostgreSQL would cut the name off at 63 bytes, and take another user; nothing is half done."""
    here.admin()
    first = user_of(here.user()).ljust(60, "x")
    value = here.server.create_user(first)
    tags = {"rotation_users": rotation_users.format(first=first, second="ü" * 32)} if rotation_users else {}
    name = managed(here, "alternating-users", value, **tags)
    refused(here, name, PolicyError, repr(name), "longer than PostgreSQL's 63 bytes")


# -- Tokens of the managed identity, and what a secret's writer may plant ----------------------------------------

TOKEN = "eyJ0eXAi-made-up-token-of-the-identity"


@dataclass
class Entra:
    """An admin that logs in with a token, and who asked for one."""

    login: str
    here: World
    scopes: list[str]

    def allowing(self, *hosts: str) -> World:
        return with_settings(self.here, allowed_hosts=hosts)


@pytest.fixture
def entra(here: World) -> Entra:
    login, scopes = user_of(here.user()).replace("app", "entra"), list[str]()
    here.server.create_user(login, TOKEN, by_admin=False)
    here.server.execute(f'ALTER ROLE "{login}" CREATEROLE')

    def token(scope: str) -> Password:
        scopes.append(scope)
        return Password(TOKEN)

    return Entra(login, here.app(token=token), scopes)


def entra_secret(entra: Entra, value: str, strategy: str = "alternating-users") -> str:
    tags = {"rotation-strategy": strategy, "rotation-admin": f"entra:{entra.login}"}
    return entra.here.secret(value, tags)


def user_for(entra: Entra) -> str:
    value = entra.here.user(by_admin=False)
    entra.here.server.execute(f'GRANT "{user_of(value)}" TO "{entra.login}" WITH ADMIN OPTION')
    return value


@BY_ADMIN
def test_a_token_goes_to_an_allowed_host(entra: Entra, strategy: str) -> None:
    """A managed identity rotates without any admin's password: its token is the one for databases."""
    name = entra_secret(entra, user_for(entra), strategy)
    here = entra.allowing(f"127.0.0.1:{entra.here.server.port}")
    log = len(here.server.log())
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
    assert here.logs_in(name)
    assert entra.scopes == [ENTRA_DATABASE_SCOPE]
    assert f'identity="{entra.login}"' in here.server.log()[log:]
    assert TOKEN not in here.server.log()


@BY_ADMIN
@pytest.mark.parametrize("allowed", [(), ("db.example.com",), ("127.0.0.1:1",)])
def test_a_token_goes_nowhere_else(entra: Entra, refused: Refused, strategy: str, allowed: tuple[str, ...]) -> None:
    """P6: there is no admin's secret that would vouch for a host, so only ROTATION_ALLOWED_HOSTS does."""
    name = entra_secret(entra, user_for(entra), strategy)
    said = (repr(name), f"no credential is sent to 127.0.0.1:{entra.here.server.port}", "ROTATION_ALLOWED_HOSTS")
    assert refused(entra.allowing(*allowed), name, PolicyError, *said).logins == 0
    assert entra.scopes == []


def test_a_token_opens_the_database_that_the_secret_means(entra: Entra) -> None:
    """A connection that names none means that of the user's name; the admin's name is another."""
    here = entra.allowing("127.0.0.1")
    value = user_for(entra).rpartition("/")[0]
    assert logs_in(value)
    name = entra_secret(entra, value, "single-user")
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
    assert here.logs_in(name)


def test_a_token_does_not_go_to_a_server_of_the_writers(entra: Entra, refused: Refused, trap: Trap) -> None:
    """P6: not alone, and not as one host of several, whose first is down."""
    allowed = entra.allowing(f"127.0.0.1:{entra.here.server.port}", "127.0.0.1:1")
    for hosts in (f"127.0.0.1:{trap.port}", f"127.0.0.1:1,127.0.0.1:{trap.port}"):
        name = entra_secret(entra, f"postgresql://app:{MADE_UP}@{hosts}/d")
        refused(allowed, name, PolicyError, repr(name), f"127.0.0.1:{trap.port}")
    assert entra.scopes == []
    assert not trap.was_called


def test_a_token_is_not_sent_unencrypted(entra: Entra, refused: Refused) -> None:
    """P6: below ROTATION_MIN_SSLMODE nothing is sent, a token least of all."""
    name = entra_secret(entra, f"postgresql://app:{MADE_UP}@db.invalid:5432/d?sslmode=prefer")
    refused(entra.allowing("db.invalid"), name, PolicyError, repr(name), "at least 'require' is wanted")
    assert entra.scopes == []


def plant(value: str) -> None:
    """Make a schema with functions that have the names of the server's own, and note who calls them."""
    with psycopg.connect(value, autocommit=True) as session:
        session.execute("CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC")
        session.execute("CREATE TABLE evil.called (who text); GRANT INSERT ON evil.called TO PUBLIC")
        for function in (
            "pg_has_role(oid, oid, text) RETURNS bool",
            "shobj_description(oid, name) RETURNS text",
            "pg_backend_pid() RETURNS int",
            "pg_is_in_recovery() RETURNS bool",
            "quote_ident(name) RETURNS text",
        ):
            result = function.rpartition(" ")[2]
            body = f"INSERT INTO evil.called VALUES (session_user); SELECT NULL::{result}"  # noqa: S608 (no input)
            session.execute(f"CREATE FUNCTION evil.{function} LANGUAGE sql AS '{body}'")


def callers(value: str) -> set[str]:
    with psycopg.connect(value.partition("?")[0]) as session:
        return {who for (who,) in session.execute("SELECT who FROM evil.called").fetchall()}


def test_what_a_secrets_writer_plants_is_not_called_by_the_admin(entra: Entra) -> None:
    """P6: neither the secret's `options` nor the database's settings make the admin run the writer's functions.

    The admin's session is in the writer's own database, where it may create what it likes.
    """
    value = user_for(entra)
    user = user_of(value)
    plant(value)
    with psycopg.connect(value, autocommit=True) as session:
        session.execute(f'ALTER DATABASE "{user}" SET search_path = evil, pg_catalog')
        # The functions work: the writer's own session calls them.
        session.execute("SET search_path = evil, pg_catalog")
        session.execute("SELECT pg_backend_pid()")
    assert callers(value) == {user}
    options = quote("-c search_path=evil,pg_catalog", safe="")
    name = entra_secret(entra, f"{value}?options={options}")
    here = entra.allowing("127.0.0.1")
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
    here.clock.advance(timedelta(days=2))
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
    assert callers(here.value(name)) == {user}


def test_a_secrets_options_do_not_reach_the_admins_session(entra: Entra) -> None:
    """P6: with `role` among them the admin would act as the writer's user, and with other settings worse."""
    value = user_for(entra)
    options = quote(f"-c role={user_of(value)}", safe="")
    name = entra_secret(entra, f"{value}?options={options}")
    here = entra.allowing("127.0.0.1")
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
    assert here.logs_in(name)
    assert here.value(name).endswith(f"?options={options}")
