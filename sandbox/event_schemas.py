"""Events as JSON: those of Key Vault, and the two schemas in which Event Grid delivers."""

import uuid
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

Schema = Literal["EventGridSchema", "CloudEventSchemaV1_0"]
Event = dict[str, Any]

_RESOURCE = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/sandbox/providers/Microsoft."
VAULT = _RESOURCE + "KeyVault/vaults/{}"
"""The resource that a vault's events name as their topic."""
TOPIC = _RESOURCE + "EventGrid/topics/rotation"
"""The resource that events sent to the custom topic name."""


def key_vault_event(  # noqa: PLR0913 (the members of the event)
    event_type: str,
    secret_id: str,
    expires: datetime | int | None,
    not_before: datetime | int | None = None,
    *,
    schema: Schema = "EventGridSchema",
    vault_name: str = "",
    event_id: str = "",
    when: datetime | None = None,
) -> Event:
    """Make an event of Key Vault about a version of a secret, in the JSON that Event Grid delivers.

    Args:
        event_type: `SecretNearExpiry`, `SecretExpired`, `SecretNewVersionCreated`, or the full name.
        secret_id: The version's identifier, `https://<vault>/secrets/<name>/<version>`.
        expires: When it expires.
        not_before: From when on it is meant to be used.
        schema: Which of the two forms.
        vault_name: The vault's, when it is not the first label of its host.
        event_id: The event's, when it is to be delivered twice.
        when: The event's time.
    """
    # The SDK's classes take 0.2 s to import, which a host or a test without events need not pay.
    from azure.core.messaging import CloudEvent  # noqa: PLC0415
    from azure.eventgrid import EventGridEvent  # noqa: PLC0415

    parts = urlsplit(secret_id)
    _, collection, name, version = parts.path.split("/")
    if collection != "secrets" or not version:
        raise ValueError(f"{secret_id!r} is not the identifier of a secret's version")
    vault_name = vault_name or _vault_name(parts.hostname or "")
    event_type = event_type if "." in event_type else f"Microsoft.KeyVault.{event_type}"
    details = {
        "Id": secret_id,
        "VaultName": vault_name,
        "ObjectType": "Secret",
        "ObjectName": name,
        "Version": version,
        "NBF": _epoch(not_before),
        "EXP": _epoch(expires),
    }
    event_id, when, topic = event_id or str(uuid.uuid4()), when or datetime.now(UTC), VAULT.format(vault_name)
    if schema == "CloudEventSchemaV1_0":
        cloud = CloudEvent(topic, event_type, data=details, id=event_id, time=when, subject=name)
        return {
            "id": cloud.id,
            "source": cloud.source,
            "subject": cloud.subject,
            "type": cloud.type,
            "time": when.isoformat(),
            "data": cloud.data,
            "specversion": cloud.specversion,
        }
    event = EventGridEvent(name, event_type, details, "1", id=event_id, topic=topic, event_time=when)
    # The publisher may not set the metadata's version; Event Grid adds it.
    return {**event.serialize(), "metadataVersion": "1"}


def as_event_grid(event: Event) -> Event:
    """Put an event into the Event Grid schema. Raise KeyError if it lacks what its schema requires."""
    if "specversion" in event:
        return {
            "id": event["id"],
            "topic": event["source"],
            "subject": event.get("subject", ""),
            "eventType": event["type"],
            "eventTime": event.get("time") or datetime.now(UTC).isoformat(),
            "data": event.get("data"),
            "dataVersion": "",
            "metadataVersion": "1",
        }
    required = ("id", "subject", "eventType", "eventTime", "dataVersion")
    return {**{member: event[member] for member in required}, **event, "metadataVersion": "1"}


def as_cloud_event(event: Event) -> Event:
    """Put an event of the Event Grid schema into that of CloudEvents."""
    return {
        "id": event["id"],
        "source": event.get("topic", ""),
        "subject": event["subject"],
        "type": event["eventType"],
        "time": event["eventTime"],
        "data": event.get("data"),
        "specversion": "1.0",
    }


def _vault_name(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        return host.partition(".")[0]
    return "sandbox"


def _epoch(moment: datetime | int | None) -> int | None:
    return int(moment.timestamp()) if isinstance(moment, datetime) else moment
