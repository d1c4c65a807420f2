"""Event Grid delivers at least once, in no order, late, and again while the first delivery is still at work."""

import random
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from sandbox.event_grid import EventGrid
from sandbox.event_schemas import Event, key_vault_event
from sandbox.functions_host import FunctionsHost
from sandbox.postgresql import PostgreSQL
from tests.faults.evidence import Evidence
from tests.world import World, world

pytestmark = pytest.mark.timeout(300)

APP = str(Path(__file__).parents[2])
OLD = timedelta(days=61)
KEY_VAULT = "Microsoft.KeyVault."
MANY = 100


@dataclass
class Town:
    """Two instances of the app on one vault, both subscribed: whatever happens comes to both."""

    here: World
    hosts: tuple[FunctionsHost, FunctionsHost]
    topic: EventGrid

    def secrets(self, count: int) -> list[str]:
        """Return new secrets that are due by the app's clock, which is the real one."""
        users = [f"many_{uuid.uuid4().hex[:10]}" for _ in range(count)]
        made = [self.here.alternating(self.here.server.create_user(user)) for user in users]
        self.here.clock.advance(OLD)
        return made

    def event(self, name: str, kind: str = "SecretNearExpiry", version: str | None = None) -> Event:
        current = self.here.vault.current(name)
        identifier = f"{self.here.vault.url}/secrets/{name}/{version or current.version}"
        return key_vault_event(KEY_VAULT + kind, identifier, current.expires_on)

    def subscribe(self, grid: EventGrid) -> None:
        for host in self.hosts:
            grid.subscribe(f"{host.url}/runtime/webhooks/EventGrid?functionName=rotation_event")

    def rotated(self) -> list[str]:
        """Return the secrets that `Completed` events told of, in their order."""
        told = [event for event in self.topic.received if event["eventType"] == "SecretRotation.Completed"]
        return [str(event["data"]["secret"]) for event in told]


@pytest.fixture
def town(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[Town]:
    """P3, in each test: no password in what both instances print at DEBUG, nor in events, nor in the server's log."""
    with ExitStack() as stack:
        here = stack.enter_context(world(tmp_path, postgresql, behind=OLD))
        here.admin()
        topic = stack.enter_context(EventGrid())
        settings = {"EVENT_GRID_TOPIC_ENDPOINT": topic.topic_endpoint, "EVENT_GRID_TOPIC_KEY": topic.topic_key}
        environment = {**here.vault.environment(), **settings}
        first, second = (FunctionsHost(APP, environment=environment, debug_logging=True) for _ in range(2))
        made = Town(here, (stack.enter_context(first), stack.enter_context(second)), topic)
        evidence, log_before = Evidence(), len(postgresql.log())
        with evidence.of_activity(postgresql.superuser):
            yield made
        for secret in here.vault.client().list_properties_of_secrets():
            evidence.secrets_in(version.value for version in here.versions(secret.name or ""))
            evidence.keep(*(dict(version.tags) for version in here.versions(secret.name or "")))
        evidence.secret(topic.topic_key, *here.vault.identity.issued)
        evidence.keep(first.output(), second.output(), topic.received, postgresql.log()[log_before:])
        assert evidence.found() == []


def test_a_hundred_events_for_a_hundred_secrets(town: Town) -> None:
    """P1, P4: at once, each to two instances, a third of them twice; each secret is rotated once."""
    names = town.secrets(MANY)
    with EventGrid(speed=20, duplicate=0.3) as grid:
        town.subscribe(grid)
        for name in names:
            grid.publish(town.event(name))
        grid.wait_idle(timeout=240)
        assert grid.dead_letters == []
    assert [len(town.here.versions(name)) for name in names] == [2] * MANY
    assert all(town.here.logs_in(name) for name in names)
    assert sorted(town.rotated()) == sorted(names)


def test_a_hundred_events_for_one_secret(town: Town) -> None:
    """P4: each with an id of its own, at once, to two instances: one version."""
    (name,) = town.secrets(1)
    with EventGrid(speed=20) as grid:
        town.subscribe(grid)
        for _ in range(MANY):
            grid.publish(town.event(name))
        grid.wait_idle(timeout=240)
        assert grid.dead_letters == []
    assert len(town.here.versions(name)) == 2
    assert town.here.logs_in(name)
    assert town.rotated() == [name]


@pytest.mark.parametrize("seconds", [2, 10])
def test_a_redelivery_while_the_first_still_works(town: Town, seconds: float) -> None:
    """P4: Event Grid has no answer in time and delivers again; the lock is waited for, or the event comes later."""
    (name,) = town.secrets(1)
    town.here.vault.fail(method="PUT", path=f"/secrets/{name}", delay=seconds)
    with EventGrid(speed=20, answer_timeout=1) as grid:
        town.subscribe(grid)
        grid.publish(town.event(name))
        grid.wait_idle(timeout=120)
        assert grid.dead_letters == []
        assert any(attempt.status is None for attempt in grid.deliveries)
    assert len(town.here.versions(name)) == 2
    assert town.here.logs_in(name)


def test_out_of_order_late_and_twice(town: Town) -> None:
    """P4: all that was ever raised about a secret comes again, in any order, and changes nothing."""
    (name,) = town.secrets(1)
    host, other = town.hosts
    for _ in range(3):
        assert host.http("POST", f"/api/secrets/{name}/rotate", json={"force": True})[0] == 200
    versions = town.here.versions(name)
    kinds = ("SecretNewVersionCreated", "SecretNearExpiry", "SecretExpired")
    events = [town.event(name, kind, version.version) for version in versions for kind in kinds] * 2
    random.Random(4).shuffle(events)  # noqa: S311 (an order)
    for event in events:
        assert {host.post_event(event)[0], other.post_event(event)[0]} == {202}
    # The newest one is not due, and an event that says that it has expired says so 60 days too early.
    assert town.here.versions(name) == versions
    assert town.here.logs_in(name)
