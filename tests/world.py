"""A small world for the tests of the flow: real PostgreSQL, the Key Vault stand-in, the program's own wiring."""

import dataclasses
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import psycopg
from azure.keyvault.secrets._shared import HttpChallengeCache

from rotators.decision import Trigger, TriggerKind
from rotators.events import EventIn, EventOut
from rotators.systems import Systems, connect
from sandbox.clock import Clock
from sandbox.key_vault import KeyVault, SecretVersion
from sandbox.postgresql import PostgreSQL

ADMIN_SECRET = "postgres-admin"


class Received:
    """A topic that keeps what it is sent."""

    def __init__(self) -> None:
        self.events: list[EventOut] = []

    def publish(self, *events: EventOut) -> None:
        self.events += events

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]


@dataclass
class World:
    """One vault, one database server, and the program between them."""

    vault: KeyVault
    server: PostgreSQL
    systems: Systems
    topic: Received = field(default_factory=Received)

    @property
    def clock(self) -> Clock:
        return self.vault.clock

    def app(self, **changes: Any) -> Self:  # whatever Systems has
        """Return the same world with other systems: another instance of the app, another setting."""
        return dataclasses.replace(self, systems=dataclasses.replace(self.systems, **changes))

    # -- arranging

    def user(self, *, by_admin: bool = True) -> str:
        """Make a user with a database of its own; return its URI."""
        name = f"app_{uuid.uuid4().hex[:8]}"
        uri = self.server.create_user(name, database=name, by_admin=by_admin)
        self.server.create_database(name, owner=name)
        return uri

    def admin(self, value: str | None = None, open_for: str = "*") -> str:
        self.vault.put(ADMIN_SECRET, value or self.server.admin_dsn, tags={"rotation-admin-for": open_for})
        return ADMIN_SECRET

    def alternating(self, value: str | None = None, **tags: str) -> str:
        """Put a new secret under rotation with two users; return its name."""
        if not self.vault.versions(ADMIN_SECRET):
            self.admin()
        base = {"rotation-strategy": "alternating-users", "rotation-admin": ADMIN_SECRET}
        return self.secret(value or self.user(), {**base, **dashed(tags)})

    def single(self, value: str | None = None, **tags: str) -> str:
        """Put a new secret under rotation with one user; return its name."""
        if not self.vault.versions(ADMIN_SECRET):
            self.admin()
        return self.secret(value or self.user(), {"rotation-strategy": "single-user", **dashed(tags)})

    def secret(self, value: str, tags: Mapping[str, str]) -> str:
        name = f"airflow-connections-{uuid.uuid4().hex[:10]}"
        self.vault.put(name, value, tags=dict(tags), expires_on=self.clock.now() + timedelta(days=90))
        return name

    def make_due(self, days: int = 61) -> None:
        self.clock.advance(timedelta(days=days))

    # -- acting

    def near_expiry(self, name: str, *, version: str | None = None, event_id: str | None = None) -> EventIn:
        return self.event("Microsoft.KeyVault.SecretNearExpiry", name, version=version, event_id=event_id)

    def event(self, kind: str, name: str, *, version: str | None = None, event_id: str | None = None) -> EventIn:
        named = version or self.vault.current(name).version
        data = {"Id": f"{self.vault.url}/secrets/{name}/{named}", "ObjectName": name, "Version": named}
        return EventIn(id=event_id or str(uuid.uuid4()), type=kind, data=data)

    def trigger(self, name: str, kind: TriggerKind = "http", **changes: Any) -> Trigger:  # whatever Trigger has
        return dataclasses.replace(Trigger(kind=kind, secret=name, id=str(uuid.uuid4()), by="key"), **changes)

    # -- looking

    def versions(self, name: str) -> tuple[SecretVersion, ...]:
        return self.vault.versions(name)

    def value(self, name: str) -> str:
        return self.vault.current(name).value

    def tags(self, name: str) -> Mapping[str, str]:
        return self.vault.current(name).tags

    def user_of(self, name: str) -> str:
        return user_of(self.value(name))

    def logs_in(self, name_or_uri: str) -> bool:
        """Whether what the current version says, or this URI, logs in."""
        uri = name_or_uri if "://" in name_or_uri else self.value(name_or_uri)
        return logs_in(uri)


def dashed(tags: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in tags.items()}


def user_of(uri: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(uri)["user"])


def logs_in(uri: str) -> bool:
    try:
        with psycopg.connect(uri, connect_timeout=5) as session:
            return session.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


@contextmanager
def world(
    folder: Path,
    server: PostgreSQL,
    *,
    behind: timedelta = timedelta(0),
    clock: Clock | None = None,
    **settings: str,
) -> Iterator[World]:
    """Start a vault and wire the program to it and to `server`, by the app settings alone."""
    HttpChallengeCache.clear()
    with (
        KeyVault(folder, clock=clock or Clock(behind=behind)) as vault,
        environment({**vault.environment(), **settings}) as environ,
    ):
        topic = Received()
        systems = dataclasses.replace(connect(environ), now=vault.clock.now, topic=topic)  # type: ignore[arg-type]
        yield World(vault, server, systems, topic)
        systems.vault.close()


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield dict(settings)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
