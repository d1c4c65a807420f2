"""The Event Grid stand-in delivers by Event Grid's rules, and takes what the SDK publishes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken, AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient

from sandbox.certificates import certificates
from sandbox.event_grid import EventGrid, Schema, key_vault_event
from sandbox.functions_host import FunctionsHost
from sandbox.http_service import HttpService, Request, Response

SECRET = "https://sample-kv.vault.azure.net/secrets/airflow-connections-a/ee059b2bb5bc48398a53b168c6cdcb10"
EXPIRES = datetime(2026, 12, 24, 12, tzinfo=UTC)
NEAR_EXPIRY = "Microsoft.KeyVault.SecretNearExpiry"
AT_ONCE = (0.0,)


class Receiver:
    """A web hook that answers each notification with the next status, the last one for ever."""

    def __init__(self) -> None:
        self.statuses: list[int] = [200]
        self.requests: list[Request] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.service = HttpService(self._answer)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.service.url}/hook?code=x"

    @property
    def bodies(self) -> list[Any]:
        """What was delivered."""
        return [json.loads(request.body) for request in self.requests]

    def _answer(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(200, headers=(("WebHook-Allowed-Origin", "*"),))
        if request.headers["aeg-event-type"] == "SubscriptionValidation":
            code = json.loads(request.body)[0]["data"]["validationCode"]
            return Response.json(200, {"validationResponse": code})
        with self._lock:
            self.requests.append(request)
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        self.meanwhile()
        return Response(status)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    with made.service:
        yield made


def near_expiry(**members: Any) -> dict[str, Any]:
    return key_vault_event("SecretNearExpiry", SECRET, EXPIRES, **members)


# Events of Key Vault


def test_key_vault_event_has_the_real_shape() -> None:
    """An event has the members that Microsoft's sample has, with numbers for the times."""
    event = near_expiry(event_id="1", when=datetime(2026, 11, 24, 12, tzinfo=UTC), not_before=None)
    topic = event.pop("topic")
    assert topic.endswith("/providers/Microsoft.KeyVault/vaults/sample-kv")
    assert event == {
        "id": "1",
        "subject": "airflow-connections-a",
        "eventType": NEAR_EXPIRY,
        "eventTime": "2026-11-24T12:00:00.000Z",
        "data": {
            "Id": SECRET,
            "VaultName": "sample-kv",
            "ObjectType": "Secret",
            "ObjectName": "airflow-connections-a",
            "Version": "ee059b2bb5bc48398a53b168c6cdcb10",
            "NBF": None,
            "EXP": 1798113600,
        },
        "dataVersion": "1",
        "metadataVersion": "1",
    }


def test_key_vault_cloud_event_says_the_same() -> None:
    """In the CloudEvents schema topic, type and time have other names, and the data is the same."""
    cloud = near_expiry(schema="CloudEventSchemaV1_0")
    event = near_expiry()
    assert (cloud["specversion"], cloud["type"], cloud["subject"]) == ("1.0", NEAR_EXPIRY, "airflow-connections-a")
    assert (cloud["source"], cloud["data"]) == (event["topic"], event["data"])


def test_event_about_no_version_is_refused() -> None:
    """An event names a version: an identifier without one is a mistake of the test."""
    with pytest.raises(ValueError, match="not the identifier of a secret's version"):
        key_vault_event("SecretExpired", "https://sample-kv.vault.azure.net/secrets/a/", EXPIRES)


# Delivery


def test_event_is_delivered_alone_in_an_array(receiver: Receiver) -> None:
    """In the Event Grid schema an event comes as an array of one, with the headers of a notification."""
    event = near_expiry()
    with EventGrid() as grid:
        grid.subscribe(receiver.url, name="rotation")
        grid.publish(event)
        grid.wait_idle()
    assert receiver.bodies == [[event]]
    headers = receiver.requests[0].headers
    assert headers["aeg-event-type"] == "Notification"
    assert headers["aeg-subscription-name"] == "ROTATION"
    assert headers["aeg-delivery-count"] == "0"
    assert headers["Content-Type"].startswith("application/json")


def test_cloud_event_is_delivered_as_an_object(receiver: Receiver) -> None:
    """A subscription that asks for CloudEvents gets one object, whichever schema the event was published in."""
    with EventGrid() as grid:
        grid.subscribe(receiver.url, schema="CloudEventSchemaV1_0")
        grid.publish(near_expiry(event_id="1"))
        grid.publish(near_expiry(event_id="2", schema="CloudEventSchemaV1_0"))
        grid.wait_idle()
    assert sorted(body["id"] for body in receiver.bodies) == ["1", "2"]
    for request, body in zip(receiver.requests, receiver.bodies, strict=True):
        assert (body["type"], body["specversion"]) == (NEAR_EXPIRY, "1.0")
        assert request.content_type == "application/cloudevents+json"


def test_subscription_takes_what_it_asks_for(receiver: Receiver) -> None:
    """Event types and the beginning of the subject, without regard to case, choose the events."""
    with EventGrid() as grid:
        grid.subscribe(receiver.url, event_types=[NEAR_EXPIRY], subject_begins_with="AIRFLOW-connections-")
        grid.publish(near_expiry(event_id="wanted"))
        grid.publish(key_vault_event("SecretExpired", SECRET, EXPIRES))
        grid.publish(key_vault_event("SecretNearExpiry", SECRET.replace("airflow", "other"), EXPIRES))
        grid.wait_idle()
    assert [body[0]["id"] for body in receiver.bodies] == ["wanted"]


def test_failed_event_is_tried_again(receiver: Receiver) -> None:
    """After an error the event comes again, with the number of attempts before, until it is taken."""
    receiver.statuses = [500, 302, 429, 202]
    with EventGrid(schedule=AT_ONCE) as grid:
        grid.subscribe(receiver.url)
        grid.publish(near_expiry(event_id="1"))
        grid.wait_idle()
        assert [(it.event_id, it.number, it.status) for it in grid.deliveries] == [
            ("1", 1, 500),
            ("1", 2, 302),
            ("1", 3, 429),
            ("1", 4, 202),
        ]
        assert not grid.dead_letters
    assert [request.headers["aeg-delivery-count"] for request in receiver.requests] == ["0", "1", "2", "3"]


def test_retries_keep_to_the_schedule(receiver: Receiver) -> None:
    """Between attempts lie 10 s, then 30 s, here a thousand times faster; after a 404 at least five minutes."""
    receiver.statuses = [500, 500, 404, 200]
    times: list[float] = []
    receiver.meanwhile = lambda: times.append(time.monotonic())
    with EventGrid(speed=1000) as grid:
        grid.subscribe(receiver.url)
        grid.publish(near_expiry())
        grid.wait_idle()
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert [wait >= least for wait, least in zip(waits, (0.01, 0.03, 0.3), strict=True)] == [True] * 3


@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_final_answer_makes_a_dead_letter(receiver: Receiver, status: int) -> None:
    """Some answers are not worth another attempt."""
    receiver.statuses = [status]
    with EventGrid(schedule=AT_ONCE) as grid:
        grid.subscribe(receiver.url)
        grid.publish(near_expiry(event_id="1"))
        grid.wait_idle()
        assert [(letter["id"], letter["deliveryAttempts"]) for letter in grid.dead_letters] == [("1", 1)]


def test_attempts_and_time_are_limited(receiver: Receiver) -> None:
    """An event is given up after its attempts, or at the first attempt after its time to live."""
    receiver.statuses = [500]
    with EventGrid(schedule=AT_ONCE) as grid:
        grid.subscribe(receiver.url, name="three", max_attempts=3)
        grid.subscribe(receiver.url, name="short", ttl=timedelta(0))
        grid.publish(near_expiry())
        grid.wait_idle()
        letters = [
            (it["deadLetterReason"], it["deliveryAttempts"], it["lastDeliveryOutcome"]) for it in grid.dead_letters
        ]
    assert sorted(letters) == [
        ("MaxDeliveryAttemptsExceeded", 3, "InternalServerError"),
        ("TimeToLiveExceeded", 1, "InternalServerError"),
    ]


def test_event_without_an_answer_comes_again_while_the_first_still_runs(receiver: Receiver) -> None:
    """Who answers late is called a second time meanwhile: the two overlap."""
    both = threading.Barrier(2)
    receiver.meanwhile = lambda: both.wait(10)
    with EventGrid(schedule=AT_ONCE, answer_timeout=0.5) as grid:
        grid.subscribe(receiver.url)
        grid.publish(near_expiry())
        grid.wait_idle()
        assert [(it.status, it.detail) for it in grid.deliveries] == [(None, "no answer within 0.5 s"), (200, "")]


def test_event_waits_for_a_receiver_that_is_down(receiver: Receiver) -> None:
    """A refused connection is one more reason to try again; `retry_now` need not wait for the schedule."""
    with EventGrid() as grid:
        grid.subscribe(receiver.url)
        receiver.service.close()
        grid.publish(near_expiry())
        grid.wait_for(lambda grid: grid.deliveries)
        assert "ConnectionRefusedError" in grid.deliveries[0].detail
        with pytest.raises(TimeoutError, match=r"1 attempts, SocketError"):
            grid.wait_idle(0)
        with HttpService(lambda _: Response(200), port=receiver.service.port):
            grid.retry_now()
            grid.wait_idle()
    assert [it.status for it in grid.deliveries] == [None, 200]


def test_duplicates_come_at_the_same_time(receiver: Receiver) -> None:
    """With `duplicate` an event that was taken is delivered twice, and the two overlap."""
    both = threading.Barrier(2)
    receiver.meanwhile = lambda: both.wait(10)
    with EventGrid(duplicate=True) as grid:
        grid.subscribe(receiver.url)
        grid.publish(near_expiry(event_id="1"))
        grid.wait_idle()
    assert [body[0]["id"] for body in receiver.bodies] == ["1", "1"]


def test_some_duplicates_are_the_same_ones_for_the_same_seed(receiver: Receiver) -> None:
    """With a probability, the seed decides which events come twice."""

    def delivered() -> list[str]:
        receiver.requests.clear()
        with EventGrid(duplicate=0.5, seed=7) as grid:
            grid.subscribe(receiver.url)
            for number in range(20):
                grid.publish(near_expiry(event_id=f"{number:02}"))
            grid.wait_idle()
        return sorted(body[0]["id"] for body in receiver.bodies)

    first = delivered()
    assert 20 < len(first) < 40
    assert delivered() == first


def test_end_does_not_wait_for_a_receiver_that_hangs(receiver: Receiver) -> None:
    """Leaving breaks off what is under way."""
    release = threading.Event()
    receiver.meanwhile = release.wait
    with EventGrid() as grid:
        grid.subscribe(receiver.url)
        grid.publish(near_expiry())
        while not receiver.requests:
            time.sleep(0.001)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    release.set()


@pytest.mark.parametrize("schema", ["EventGridSchema", "CloudEventSchemaV1_0"])
def test_subscription_needs_the_handshake(schema: Schema) -> None:
    """An address that does not take part in the validation gets no subscription, and its key is not told."""
    with (
        HttpService(lambda _: Response(200)) as service,
        EventGrid() as grid,
        pytest.raises(ValueError, match="did not pass the validation handshake: 200") as refused,
    ):
        grid.subscribe(f"{service.url}/hook?code=key", schema=schema)
    assert "code=key" not in str(refused.value)


@pytest.mark.parametrize("schema", ["EventGridSchema", "CloudEventSchemaV1_0"])
def test_functions_host_is_a_receiver(schema: Schema) -> None:
    """The Functions host stand-in passes the handshake, and its failures are tried again."""
    host = FunctionsHost(Path(__file__).parent / "app", environment={"SWEEP": "0 0 0 1 1 *"}, event_grid_key="system")
    with host, EventGrid(schedule=AT_ONCE) as grid:
        url = f"{host.url}/runtime/webhooks/EventGrid?functionName=on_event&code=system"
        grid.subscribe(url, schema=schema, max_attempts=2)
        grid.publish(near_expiry())
        grid.publish({**near_expiry(event_id="bad"), "subject": "bad"})
        grid.wait_idle()
        host.wait_for_output(rf"on_event\.User: event {NEAR_EXPIRY} airflow-connections-a")
        assert [letter["id"] for letter in grid.dead_letters] == ["bad"]
        assert sorted(str(it.status) for it in grid.deliveries) == ["202", "500", "500"]


# The topic


def outcome() -> EventGridEvent:
    return EventGridEvent("secrets/a", "SecretRotation.Completed", {"status": "rotated"}, "1")


def test_topic_takes_events_of_the_sdk(receiver: Receiver) -> None:
    """The unmodified client publishes in both schemas; the events are kept, and go to the topic's subscriptions."""
    with EventGrid() as grid:
        grid.subscribe(receiver.url, source="topic", event_types=["SecretRotation.Completed"])
        with EventGridPublisherClient(grid.topic_endpoint, AzureKeyCredential(grid.topic_key)) as client:
            client.send(outcome())
            client.send(
                [CloudEvent("/rotation", f"SecretRotation.{kind}", data={}) for kind in ("Completed", "Retired")]
            )
        grid.wait_idle()
        kinds = [event.get("type") or event["eventType"] for event in grid.received]
        assert kinds == ["SecretRotation.Completed", "SecretRotation.Completed", "SecretRotation.Retired"]
    assert [body[0]["eventType"] for body in receiver.bodies] == ["SecretRotation.Completed"] * 2


def test_topic_asks_for_its_key() -> None:
    """A wrong key is a 401, which the SDK raises as such."""
    with EventGrid() as grid, EventGridPublisherClient(grid.topic_endpoint, AzureKeyCredential("wrong")) as client:
        with pytest.raises(ClientAuthenticationError):
            client.send(outcome())
        assert not grid.received


def test_topic_of_one_schema_refuses_the_other() -> None:
    """A topic made for one schema takes no other, and nothing of a batch in which an event lacks a member."""
    with EventGrid(topic_schema="EventGridSchema") as grid:
        with EventGridPublisherClient(grid.topic_endpoint, AzureKeyCredential(grid.topic_key)) as client:
            with pytest.raises(HttpResponseError, match="not in the schema"):
                client.send(CloudEvent("/rotation", "SecretRotation.Completed", data={}))
            with pytest.raises(HttpResponseError, match="'subject'"):
                client.send([{"id": "1", "eventType": "x", "eventTime": "", "data": {}, "dataVersion": "1"}])
        assert not grid.received


def test_topic_takes_a_token_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a certificate the client may use a token instead of the key, which the SDK sends over TLS only."""

    class Credential:
        def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
            return AccessToken("token", int(time.time()) + 3600)

    made = certificates(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made.ca))
    with (
        EventGrid(certificate=made.server) as grid,
        EventGridPublisherClient(grid.topic_endpoint, Credential()) as client,
    ):
        client.send(outcome())
        assert [event["eventType"] for event in grid.received] == ["SecretRotation.Completed"]
