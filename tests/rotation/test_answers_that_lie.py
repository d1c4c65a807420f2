"""Key Vault's answer is not what Key Vault did: a gateway refused, garbled or delayed it."""

import socket
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from rotators.credential import Password
from rotators.dispatch import deliver, sweep
from rotators.errors import PermanentError, TransientError
from rotators.events import EventIn, EventOut, Topic
from rotators.policy import STATE_TAG, read_state
from rotators.rotation import rotate
from sandbox.faults import Fault
from sandbox.http_service import HttpService, Response
from tests.rotation.test_promises import FakeAirflow
from tests.world import ADMIN_SECRET, World, logs_in

NEW_VERSION = "Microsoft.KeyVault.SecretNewVersionCreated"
STRATEGIES = ("alternating", "single with an admin", "single with self")
by_each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)

LIES: list[dict[str, Any]] = [
    {"status": 400, "code": "BadParameter"},
    {"status": 403, "code": "Forbidden"},
    {"status": 404, "code": "SecretNotFound"},
    {"status": 408},
    {"status": 409, "code": "Conflict"},
    {"status": 200, "body": "<html>a gateway's page</html>"},
    {"status": 200, "body": ""},
    {"status": 200, "body": "{}"},
    {"status": 200, "body": "[]"},
    {"status": 200, "body": '{"id": "elsewhere"}'},
    {"status": 302},
]


def make(here: World, strategy: str) -> str:
    if strategy == "alternating":
        return here.alternating()
    here.admin()
    return here.single(rotation_admin=ADMIN_SECRET if strategy == "single with an admin" else "self")


@by_each_strategy
@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_version_that_was_published_counts_whatever_was_answered(
    here: World, strategy: str, lie: dict[str, Any]
) -> None:
    """P1, P4: the newest version is read back, so the database commits what is current."""
    name = make(here, strategy)
    here.vault.fail(method="PUT", path=f"/secrets/{name}", when="after", **lie)
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
    assert here.logs_in(name)
    assert len(here.versions(name)) == 2


@by_each_strategy
@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_version_that_was_not_published_changes_nothing(here: World, strategy: str, lie: dict[str, Any]) -> None:
    """P1, P2: an answer that is none brings the event again, a refusal is told, and what is current logs in."""
    name = make(here, strategy)
    is_refusal = lie["status"] in (400, 403, 404, 409)
    here.vault.fail(method="PUT", path=f"/secrets/{name}", **lie)
    with pytest.raises(PermanentError if is_refusal else TransientError):
        rotate(here.systems, here.trigger(name))
    assert here.logs_in(name)
    assert len(here.versions(name)) == 1


@by_each_strategy
def test_a_refusal_that_cannot_be_looked_into_is_tried_again(here: World, strategy: str) -> None:
    """P2: published or not, the redelivery finds out."""
    name = make(here, strategy)
    here.make_due()
    event = here.near_expiry(name)
    here.vault.fail(method="PUT", path=f"/secrets/{name}", when="after", status=403)
    here.vault.fail(method="GET", path=f"/secrets/{name}$", status=503, headers={"Retry-After": "60"}, skip=2)
    with pytest.raises(TransientError):
        deliver(here.systems, event)
    deliver(here.systems, event)
    assert here.logs_in(name)
    assert len(here.versions(name)) == 2


@pytest.mark.parametrize("body", ["<html>", "", "{}", "[]", '{"value": [{"attributes": 1}]}'])
def test_an_answer_that_is_none_is_tried_again(here: World, body: str) -> None:
    """P2: to every kind of request, also the list of the sweep."""
    name = here.alternating()
    here.vault.fail(method="GET", path=f"/secrets/{name}", status=200, body=body)
    with pytest.raises(TransientError, match="gateway"):
        rotate(here.systems, here.trigger(name))
    here.vault.fail(method="GET", path="/secrets$", status=200, body=body)
    if body != "{}":
        with pytest.raises(TransientError, match="gateway"):
            sweep(here.systems)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("status", [429, 500])
def test_an_identity_that_wants_to_be_waited_for_is_not(here: World, status: int) -> None:
    """P2: Event Grid waits for half a minute, and azure-core would sleep for as long as an answer says."""
    name = here.alternating()
    fault = here.vault.identity.fail(status=status, headers={"Retry-After": "3600"}, times=None)
    with pytest.raises(TransientError, match="identity"):
        deliver(here.systems, here.near_expiry(name))
    fault.remove()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("status", [429, 503])
def test_a_topic_that_wants_to_be_waited_for_is_not(status: int) -> None:
    """P2: nor the topic, while the function's answer is waited for."""
    with (
        HttpService(lambda _: Response.json(status, {}, {"Retry-After": "3600"})) as service,
        closing(Topic(f"{service.url}/api/events", Password("key"))) as topic,
        pytest.raises(TransientError, match="topic"),
    ):
        topic.publish(EventOut("Completed", "s", {}))


@pytest.mark.timeout(60)
def test_a_topic_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: azure-core's own patience is five minutes, three times."""
    monkeypatch.setattr("rotators.events._READ_TIMEOUT_SECONDS", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        closing(Topic(f"http://127.0.0.1:{silent.getsockname()[1]}/api/events", Password("key"))) as topic,
        pytest.raises(TransientError, match="topic"),
    ):
        topic.publish(EventOut("Completed", "s", {}))


def begun(here: World, there: World, strategy: str) -> tuple[str, EventIn, Fault]:
    """Rotate, and again for an event, whose write is on its way when the delivery gives up."""
    name = make(here, strategy)
    rotate(there.systems, here.trigger(name))
    here.make_due()
    event = here.near_expiry(name)
    late = here.vault.fail(method="PUT", path=f"/secrets/{name}", when="later", drop=True)
    with pytest.raises(TransientError):
        deliver(there.systems, event)
    return name, event, late


def published_late(here: World, there: World, strategy: str) -> tuple[str, Fault]:
    """Rotate twice for one event: the first write is on its way when the second is there."""
    name, event, late = begun(here, there, strategy)
    deliver(there.systems, event)
    assert here.logs_in(name)
    return name, late


@by_each_strategy
def test_a_write_that_lands_after_another_is_made_to_log_in(here: World, strategy: str) -> None:
    """P1: its user has got another password meanwhile; the event of the version that landed mends it."""
    name, late = published_late(here, here, strategy)
    late.land()
    assert not here.logs_in(name)
    deliver(here.systems, here.event(NEW_VERSION, name))
    assert here.logs_in(name)


@by_each_strategy
def test_a_write_that_lands_late_is_found_by_the_sweep_while_airflow_is_to_be_refreshed(
    here: World, strategy: str
) -> None:
    """P2: what is resumed is verified first, so the sweep mends what no event came for."""
    there = here.app(airflow=FakeAirflow(), topic=None)
    name, late = published_late(here, there, strategy)
    late.land()
    assert not here.logs_in(name)
    sweep(there.systems)
    assert here.logs_in(name)


def test_a_version_that_lands_late_leaves_the_one_before_its_grace(here: World) -> None:
    """P1: the grace that it was made with is over when it lands, but who reads the secret used another till now."""
    there = here.app(topic=None)
    name, late = published_late(here, there, "alternating")
    here.make_due()
    rotate(there.systems, here.trigger(name))
    before = here.value(name)
    late.land()
    deliver(there.systems, here.event(NEW_VERSION, name))
    sweep(there.systems)
    assert here.logs_in(name)
    assert logs_in(before)
    state = read_state(here.tags(name))
    assert state is not None
    assert state.from_version == here.versions(name)[-2].version


@by_each_strategy
def test_a_write_that_lands_while_a_redelivery_fails_is_not_taken_for_its_own(here: World, strategy: str) -> None:
    """P1: of one cause, in one second, with one state; the user has the password of the second by then."""
    there = here.app(topic=None)
    name, event, late = begun(here, there, strategy)
    here.vault.fail(method="PUT", path=f"/secrets/{name}", status=503, run=late.land)
    with pytest.raises(TransientError):
        deliver(there.systems, event)


def test_a_write_that_lands_after_a_redelivery_failed_is_made_to_log_in(here: World) -> None:
    """P1: nothing is pending on it, and no other version tells that it was late; its own times do."""
    there = here.app(topic=None)
    name, event, late = begun(here, there, "alternating")
    here.clock.advance(timedelta(seconds=15))
    here.vault.fail(method="PUT", path=f"/secrets/{name}", status=503)
    with pytest.raises(TransientError):
        deliver(there.systems, event)
    late.land()
    assert not here.logs_in(name)
    deliver(there.systems, here.event(NEW_VERSION, name))
    assert here.logs_in(name)


@by_each_strategy
def test_what_came_before_a_late_version_is_retired_though_the_sweep_was_there_first(
    here: World, strategy: str
) -> None:
    """P2: the sweep disables the version that the tag names; the event then tells which it followed indeed."""
    there = here.app(topic=None)
    name, _, late = begun(here, there, strategy)
    here.vault.put(name, here.value(name), tags={t: v for t, v in here.tags(name).items() if t != STATE_TAG})
    late.land()
    for _ in range(2):
        here.clock.advance(timedelta(hours=25))
        sweep(there.systems)
    deliver(there.systems, here.event(NEW_VERSION, name))
    sweep(there.systems)
    assert here.logs_in(name)
    assert [v.enabled for v in here.versions(name)] == [False, False, False, True]


def test_a_version_that_follows_the_one_before_is_not_looked_at_again(here: World) -> None:
    """Speed: the event of each rotation's own version costs no login."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    log = len(here.server.log())
    deliver(here.systems, here.event(NEW_VERSION, name))
    assert "connection authenticated" not in here.server.log()[log:]
