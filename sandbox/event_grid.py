"""A stand-in for Event Grid: delivers events with its rules, and takes those that the SDK publishes to a topic.

The rules: at least once, in no order, each event in a request of its own; 200 to 204 is success; after 30 s without
an answer the event is queued again; retries after 10 s, 30 s, 1 min, ... until 30 attempts or the time to live are
over; 400, 401, 403 and 413 are final. What cannot be delivered becomes a dead letter. Left out: batches, jitter, and
the delay of a whole subscription after many failures.
"""

import hmac
import http.client
import json
import random
import secrets
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from sandbox.event_schemas import TOPIC, VAULT, Event, Schema, as_cloud_event, as_event_grid, key_vault_event
from sandbox.faults import Faults, Tap
from sandbox.http_service import HttpService, Request, Response

__all__ = ["RETRY_SCHEDULE", "Attempt", "Event", "EventGrid", "Schema", "Subscription", "key_vault_event"]

RETRY_SCHEDULE = (10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
"""Seconds before the second attempt, the third, ...; the last one goes on until the event's time is over."""

_FINAL: set[int | None] = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.CONTENT_TOO_LARGE,
}
_LEAST_DELAY: dict[int, float] = {
    HTTPStatus.NOT_FOUND: 300,
    HTTPStatus.REQUEST_TIMEOUT: 120,
    HTTPStatus.SERVICE_UNAVAILABLE: 30,
}


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which events go to which address."""

    url: str
    name: str
    source: Literal["vault", "topic"]
    event_types: Collection[str] | None
    subject_begins_with: str
    schema: Schema
    max_attempts: int
    ttl: timedelta

    def wants(self, event: Event, source: str) -> bool:
        """Tell whether an event (in the Event Grid schema) is one of these; subjects without regard to case."""
        subject = str(event.get("subject", "")).lower()
        return (
            source == self.source
            and (self.event_types is None or event["eventType"] in self.event_types)
            and subject.startswith(self.subject_begins_with.lower())
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to deliver an event, and what came of it."""

    event_id: str
    subscription: str
    number: int
    """1 for the first."""
    status: int | None
    """None when no answer came."""
    detail: str
    """The answer's body, or why there was none."""
    when: datetime
    seconds: float


@dataclass(order=True, slots=True)
class _Delivery:
    due: float
    number: int
    event: Event = field(compare=False)
    subscription: Subscription = field(compare=False)
    published: datetime = field(compare=False)
    attempts: int = field(default=0, compare=False)
    outcome: str = field(default="", compare=False)


class EventGrid:
    """Event Grid from `with` to its end: `subscribe`, `publish`, and a topic at `topic_endpoint`.

    `speed` makes it wait that much shorter between attempts (and for the time to live), not for an answer.
    `duplicate` is the probability that an event is delivered twice, at the same time; True means always.
    `certificate` is a PEM file with certificate and key: then the topic speaks TLS, which the SDK wants for tokens.
    """

    def __init__(  # noqa: PLR0913 (each is a rule that a test may bend)
        self,
        *,
        speed: float = 1,
        schedule: Sequence[float] = RETRY_SCHEDULE,
        answer_timeout: float = 30,
        duplicate: float = 0,
        seed: int = 0,
        parallel: int = 32,
        certificate: Path | str | None = None,
        topic_schema: Schema | None = None,
    ) -> None:
        self.topic_key = secrets.token_urlsafe(32)
        self.topic_schema = topic_schema
        """What the topic takes: one schema, as on Azure, or with None both."""
        self._schedule = [seconds / speed for seconds in schedule]
        self._speed = speed
        self._answer_timeout = answer_timeout
        self._duplicate = duplicate
        self._random = random.Random(seed)  # noqa: S311 (duplicates, not secrets)
        self._subscriptions: list[Subscription] = []
        self._waiting: list[_Delivery] = []
        self._under_way: dict[int, http.client.HTTPConnection] = {}
        self._unfinished = 0
        self._made = 0
        self._deliveries: list[Attempt] = []
        self._dead_letters: list[Event] = []
        self._received: list[Event] = []
        self._changed = threading.Condition()
        self._closed = False
        self._pool = ThreadPoolExecutor(parallel, "event-grid")
        self._scheduler = threading.Thread(target=self._schedule_deliveries, daemon=True)
        self._faults = Faults(lambda status, code, _: _refuse(status, code, "made to fail"))
        self._topic = HttpService(
            lambda request: self._faults.around(request, self._take),
            tls=_server_context(certificate) if certificate else None,
        )

    def __enter__(self) -> Self:
        self._topic.start()
        self._scheduler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            for connection in self._under_way.values():
                with suppress(OSError, AttributeError):
                    connection.sock.shutdown(2)
            self._changed.notify_all()
        self._scheduler.join()
        self._pool.shutdown(cancel_futures=True)
        self._topic.close()

    @property
    def topic_endpoint(self) -> str:
        """What `EventGridPublisherClient` gets; its key is `topic_key`."""
        return f"{self._topic.url}/api/events"

    @property
    def deliveries(self) -> list[Attempt]:
        """All attempts so far, in the order in which they ended."""
        with self._changed:
            return list(self._deliveries)

    @property
    def dead_letters(self) -> list[Event]:
        """The events that were given up, with the members that Event Grid adds to them."""
        with self._changed:
            return list(self._dead_letters)

    @property
    def received(self) -> list[Event]:
        """The events that were sent to the topic, as they came."""
        with self._changed:
            return list(self._received)

    def subscribe(  # noqa: PLR0913 (the properties of a subscription)
        self,
        url: str,
        *,
        name: str = "",
        source: Literal["vault", "topic"] = "vault",
        event_types: Collection[str] | None = None,
        subject_begins_with: str = "",
        schema: Schema = "EventGridSchema",
        max_attempts: int = 30,
        ttl: timedelta = timedelta(hours=24),
    ) -> Subscription:
        """Deliver events to `url` from now on: those given to `publish`, or with `source="topic"` those of the topic.

        Raise ValueError if the address does not answer the validation handshake.
        """
        self._validate(url, schema)
        with self._changed:
            subscription = Subscription(
                url,
                name or f"subscription-{len(self._subscriptions) + 1}",
                source,
                event_types,
                subject_begins_with,
                schema,
                max_attempts,
                ttl,
            )
            self._subscriptions.append(subscription)
        return subscription

    def publish(self, event: Event, source: Literal["vault", "topic"] = "vault") -> None:
        """Deliver an event, given in one of the two schemas, to the subscriptions that want it."""
        event = as_event_grid(event)
        with self._changed:
            for subscription in self._subscriptions:
                if not subscription.wants(event, source):
                    continue
                for _ in range(2 if self._random.random() < self._duplicate else 1):
                    self._made += 1
                    self._unfinished += 1
                    delivery = _Delivery(time.monotonic(), self._made, event, subscription, datetime.now(UTC))
                    heappush(self._waiting, delivery)
            self._changed.notify_all()

    def retry_now(self) -> None:
        """Let all events that wait for another attempt be due."""
        with self._changed:
            for delivery in self._waiting:
                delivery.due = 0
            heapify(self._waiting)
            self._changed.notify_all()

    def wait_idle(self, timeout: float = 30) -> None:
        """Wait until every event is delivered or a dead letter. Raise TimeoutError if that takes too long."""
        self._wait(lambda: not self._unfinished, timeout, "every event is delivered")

    def wait_for(self, arrived: Callable[["EventGrid"], object], timeout: float = 30) -> None:
        """Wait until `arrived(self)` is true, asked after each attempt and each event that the topic receives.

        Raise TimeoutError if that takes too long.
        """
        self._wait(lambda: arrived(self), timeout, "what was waited for came about")

    def _wait(self, arrived: Callable[[], object], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(arrived, timeout):
                waiting = [f"{it.event['id']} ({it.attempts} attempts, {it.outcome})" for it in self._waiting]
                raise TimeoutError(
                    f"{timeout:g} s passed before {what}; waiting to be tried again: {', '.join(waiting) or 'none'}; "
                    f"last attempts: {self._deliveries[-3:]}"
                )

    def _validate(self, url: str, schema: Schema) -> None:
        if schema == "CloudEventSchemaV1_0":
            origin = "eventgrid.azure.net"
            status, headers, body = self._send("OPTIONS", url, {"WebHook-Request-Origin": origin})
            valid = headers.get("WebHook-Allowed-Origin") in (origin, "*")
        else:
            code = str(uuid.uuid4()).upper()
            event = {
                "id": str(uuid.uuid4()),
                "topic": VAULT.format("sandbox"),
                "subject": "",
                "data": {"validationCode": code},
                "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
                "eventTime": datetime.now(UTC).isoformat(),
                "metadataVersion": "1",
                "dataVersion": "2",
            }
            sent = {"aeg-event-type": "SubscriptionValidation", "Content-Type": "application/json; charset=utf-8"}
            status, _, body = self._send("POST", url, sent, json.dumps([event]))
            valid = _json_or_none(body) == {"validationResponse": code}
        if status != HTTPStatus.OK or not valid:
            raise ValueError(f"{url.partition('?')[0]} did not pass the validation handshake: {status} {body}")

    def _schedule_deliveries(self) -> None:
        with self._changed:
            while not self._closed:
                wait = self._waiting[0].due - time.monotonic() if self._waiting else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                else:
                    self._pool.submit(self._attempt, heappop(self._waiting))

    def _attempt(self, delivery: _Delivery) -> None:
        event, subscription = delivery.event, delivery.subscription
        now = datetime.now(UTC)
        if delivery.attempts and now - delivery.published > subscription.ttl / self._speed:
            self._give_up(delivery, "TimeToLiveExceeded", now)
            return
        headers = {
            "aeg-event-type": "Notification",
            "aeg-subscription-name": subscription.name.upper(),
            "aeg-delivery-count": str(delivery.attempts),
        }
        if subscription.schema == "CloudEventSchemaV1_0":
            headers["Content-Type"] = "application/cloudevents+json; charset=utf-8"
            body = json.dumps(as_cloud_event(event))
        else:
            headers["Content-Type"] = "application/json; charset=utf-8"
            headers |= {"aeg-data-version": event.get("dataVersion", ""), "aeg-metadata-version": "1"}
            body = json.dumps([event])
        started = time.monotonic()
        status: int | None = None
        try:
            status, _, detail = self._send("POST", subscription.url, headers, body, delivery.number)
            delivery.outcome = http.client.responses.get(status, str(status)).replace(" ", "")
        except TimeoutError:
            detail = f"no answer within {self._answer_timeout:g} s"
            delivery.outcome = "TimedOut"
        except (OSError, http.client.HTTPException) as error:
            detail = repr(error)
            delivery.outcome = "SocketError"
        delivery.attempts += 1
        seconds = time.monotonic() - started
        with self._changed:
            if self._closed:
                return
            self._deliveries.append(
                Attempt(event["id"], subscription.name, delivery.attempts, status, detail, now, seconds)
            )
            if status is not None and HTTPStatus.OK <= status <= HTTPStatus.NO_CONTENT:
                self._unfinished -= 1
            elif status in _FINAL:
                self._give_up(delivery, "UndeliverableDueToClientError", now)
            elif delivery.attempts >= subscription.max_attempts:
                self._give_up(delivery, "MaxDeliveryAttemptsExceeded", now)
            else:
                step = min(delivery.attempts, len(self._schedule)) - 1
                least = _LEAST_DELAY.get(status or 0, 0) / self._speed
                delivery.due = time.monotonic() + max(self._schedule[step], least)
                heappush(self._waiting, delivery)
            self._changed.notify_all()

    def _give_up(self, delivery: _Delivery, reason: str, now: datetime) -> None:
        letter = {
            **delivery.event,
            "deadLetterReason": reason,
            "deliveryAttempts": delivery.attempts,
            "lastDeliveryOutcome": delivery.outcome,
            "publishTime": delivery.published.isoformat(),
            "lastDeliveryAttemptTime": now.isoformat(),
        }
        with self._changed:
            self._dead_letters.append(letter)
            self._unfinished -= 1
            self._changed.notify_all()

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: str | None = None, number: int = 0
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """Send one request. The time-out is the socket's; who answers, a function that has ended, answers at once."""
        parts = urlsplit(url)
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = make(parts.hostname or "", parts.port, timeout=self._answer_timeout)
        with self._changed:
            if self._closed:
                raise ConnectionAbortedError
            self._under_way[number] = connection
        try:
            connection.request(method, f"{parts.path or '/'}?{parts.query}", body, dict(headers))
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode(errors="replace")
        finally:
            with self._changed:
                self._under_way.pop(number, None)
            connection.close()

    def watch(self, tap: Tap | None) -> None:
        """Let `tap` see each request to the topic, and interfere; None ends it."""
        self._faults.tap = tap

    def _take(self, request: Request) -> Response:
        """Answer what is sent to the topic as the service does; the SDK takes 200 only for success."""
        given = request.headers.get("aeg-sas-key", "")
        by_token = self._topic.url.startswith("https") and request.headers.get("Authorization", "").startswith(
            "Bearer "
        )
        if request.path != "/api/events" or request.method != "POST":
            return _refuse(404, "NotFound", "The topic is at /api/events.")
        if not by_token and not hmac.compare_digest(given.encode(), self.topic_key.encode()):
            return _refuse(401, "Unauthorized", "The request authorization key is not authorized.")
        try:
            events = json.loads(request.body)
            in_event_grid = [as_event_grid(event) for event in events if isinstance(events, list)]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return _refuse(400, "BadRequest", f"This resource is configured for events in a list: {error!r}")
        cloud_events = request.content_type == "application/cloudevents-batch+json"
        wanted = {None: cloud_events, "CloudEventSchemaV1_0": True, "EventGridSchema": False}[self.topic_schema]
        if not in_event_grid or any(("specversion" in event) != wanted for event in events) or cloud_events != wanted:
            return _refuse(400, "BadRequest", "The events are not in the schema of the topic or of the content type.")
        with self._changed:
            self._received += events
            self._changed.notify_all()
        for event in in_event_grid:
            self.publish({"topic": TOPIC, **event}, "topic")
        return Response(200)


def _json_or_none(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _refuse(status: int, code: str, message: str) -> Response:
    return Response.json(status, {"error": {"code": code, "message": message}})


def _server_context(certificate: Path | str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
