"""Event Grid: what comes in from Key Vault and our own topic, and what goes out to the topic."""

import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import batched
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from azure.core.credentials import AzureKeyCredential, TokenCredential
from azure.core.exceptions import AzureError

from rotators.credential import Password
from rotators.decision import LONGEST_REASON, Trigger, TriggerKind
from rotators.errors import BadRequestError, TransientError
from rotators.policy import cause_id, is_secret_name
from rotators.retries import forget_retry_after

if TYPE_CHECKING:
    from azure.eventgrid import EventGridPublisherClient

REQUESTED = "SecretRotation.Requested"
_KINDS: Mapping[str, TriggerKind] = {
    "microsoft.keyvault.secretnearexpiry": "near-expiry",
    "microsoft.keyvault.secretexpired": "expired",
    "microsoft.keyvault.secretnewversioncreated": "new-version",
    REQUESTED.lower(): "requested",
}
_VERSION = re.compile(r"[0-9A-Za-z]{1,64}")
# An event may have a megabyte, of which a log line, an outcome and a state tag need this much.
LONGEST_QUOTED = 80
_LONGEST_TEXT = 200
_CONNECTION_TIMEOUT_SECONDS = 5
_READ_TIMEOUT_SECONDS = 5
# Event Grid takes 1 MB in a request; a `Requested` of ours is less than 1 kB.
_EVENTS_IN_A_REQUEST = 500


@dataclass(frozen=True, slots=True)
class EventIn:
    """An event of either schema: `type` is Event Grid's eventType, `data` whatever came."""

    id: str
    type: str
    data: object

    @classmethod
    def of(cls, event_id: object, kind: object, data: object) -> "EventIn":
        """Return an event as it came: an id may be a number, and what is missing or no text is blank."""
        return cls(
            id=str(event_id) if isinstance(event_id, str | int) else "",
            type=kind if isinstance(kind, str) else "",
            data=data,
        )

    @property
    def named(self) -> str:
        """What a complaint about it begins with."""
        return f"event {self.id[:LONGEST_QUOTED]!r}"

    @property
    def is_of_an_outcome(self) -> bool:
        """Whether this program has sent it, to tell what it did."""
        kind = self.type.lower()
        return kind.startswith("secretrotation.") and kind not in _KINDS


@dataclass(frozen=True, slots=True)
class EventOut:
    """An event of ours; `type` without the prefix `SecretRotation.`, and an `id` of its own unless one is given."""

    type: str
    secret: str
    data: Mapping[str, object]
    id: str = ""


def read_event(event: EventIn) -> tuple[str, Trigger]:
    """Return the identifier of the secret that an event is about, and the trigger that it is.

    Reads tolerantly, since Microsoft's published samples have stray blanks in names and values, and names have
    been written in two ways. Raise BadRequestError if it is not about a secret, naming what is missing.
    """
    kind = _KINDS.get(event.type.strip().lower())
    if kind is None:
        raise BadRequestError(
            f"{event.named}: type {event.type[:LONGEST_QUOTED]!r} is not one that this function takes"
        )
    if not isinstance(event.data, Mapping):
        raise BadRequestError(f"{event.named}: its data is not an object")
    data = {str(name).strip().lower(): value for name, value in event.data.items()}
    identifier = data.get("id")
    if not isinstance(identifier, str) or not identifier.strip():
        raise BadRequestError(f"{event.named}: its data has no Id")
    name, version = _name_and_version(event.named, identifier)
    cause, by, reason = data.get("cause"), data.get("by"), data.get("reason")
    if kind == "requested" and cause == "sweep":
        kind = "sweep"
    is_asked_for = kind == "requested"
    if not isinstance(reason, str) and cause != "requested":
        # Who writes such an event by hand may say in the cause why.
        reason = cause
    return identifier.strip(), Trigger(
        kind=kind,
        secret=name,
        id=cause_id(event.id or identifier),
        by=_cut(by, _LONGEST_TEXT) if isinstance(by, str) and by else "event-grid",
        version=version,
        force=data.get("force") is True,
        revoke=is_asked_for and data.get("revoke") is True,
        reason=_cut(reason, LONGEST_REASON) if is_asked_for and isinstance(reason, str) else "",
        is_repeatable=is_asked_for,
    )


def requested(trigger: Trigger, version_id: str) -> EventOut:
    """Return the event that asks for a rotation, for `read_event` to read: its id is the trigger's.

    The version, the last part of its identifier, makes it harmless when it comes late or twice.
    """
    options = {"Force": trigger.force, "Revoke": trigger.revoke, "Reason": trigger.reason}
    return EventOut(
        "Requested",
        trigger.secret,
        {
            "Id": version_id,
            "ObjectName": trigger.secret,
            "Version": version_id.rpartition("/")[2],
            "Cause": trigger.kind,
            "By": trigger.by,
            **{name: value for name, value in options.items() if value},
        },
        id=trigger.id,
    )


class Topic:
    """Our own topic. Without a key the managed identity is used.

    Its client is made when it is needed first, and kept: a connection for each event costs more than the event.
    """

    def __init__(self, endpoint: str, credential: TokenCredential | Password) -> None:
        self._endpoint = endpoint
        self._credential = credential
        self._client: EventGridPublisherClient | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def publish(self, *events: EventOut) -> None:
        """Send events, some hundreds in a request. Raise TransientError, saying why, if not all of them were taken."""
        # With its bytecode a thirtieth of a cold start, else far more; and most apps have no topic.
        from azure.eventgrid import EventGridEvent  # noqa: PLC0415

        try:
            for some in batched(events, _EVENTS_IN_A_REQUEST, strict=False):
                self._connected().send(
                    [
                        EventGridEvent(
                            id=event.id or str(uuid.uuid4()),
                            subject=f"secrets/{event.secret}",
                            event_type=f"SecretRotation.{event.type}",
                            data=cast("object", dict(event.data)),
                            data_version="1",
                        )
                        for event in some
                    ],
                    # Given to the client itself, all of these are dropped without a word.
                    connection_timeout=_CONNECTION_TIMEOUT_SECONDS,
                    read_timeout=_READ_TIMEOUT_SECONDS,
                    retry_total=2,
                    # A kept connection may have died unnoticed; an event that comes twice has the same id.
                    retry_read=1,
                    retry_on_methods=frozenset({"POST"}),
                    raw_response_hook=forget_retry_after,
                )
        except AzureError as error:
            failure = TransientError(f"the Event Grid topic took no event ({type(error).__name__})")
        else:
            return
        raise failure

    def _connected(self) -> "EventGridPublisherClient":
        from azure.eventgrid import EventGridPublisherClient  # noqa: PLC0415 (as above)

        with self._lock:
            if self._client is None:
                key = self._credential
                credential = AzureKeyCredential(key.reveal()) if isinstance(key, Password) else key
                self._client = EventGridPublisherClient(self._endpoint, credential)
            return self._client


def _cut(text: str, longest: int) -> str:
    """Return so much of it, without halves of characters, which JSON can say and no tag can hold."""
    return text[:longest].encode(errors="replace").decode()


def _name_and_version(named: str, identifier: str) -> tuple[str, str]:
    try:
        parts = [part.strip() for part in urlsplit(identifier.strip()).path.strip("/").split("/")]
    except ValueError:
        parts = []
    if (
        len(parts) != 3  # noqa: PLR2004
        or parts[0].lower() != "secrets"
        or not is_secret_name(parts[1])
        or not _VERSION.fullmatch(parts[2])
    ):
        raise BadRequestError(f"{named}: its Id is not https://<vault>/secrets/<name>/<version>; nothing was done")
    return parts[1], parts[2]
