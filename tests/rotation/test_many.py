"""Rotating many at once: named or matching, over the topic or here; each is told what becomes of it."""

from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from rotators import batch
from rotators.api import rotations_answer
from rotators.batch import Answered, BatchRequest, request_rotations
from rotators.dispatch import deliver
from rotators.errors import BadRequestError, TransientError
from rotators.events import EventIn, EventOut
from rotators.policy import read_state
from rotators.rotation import rotate
from tests.world import World, logs_in


def asked(here: World, **what: object) -> dict[str, Answered]:
    """Ask, and return what became of each secret."""
    request = BatchRequest(**{"by": "ann", **what})  # type: ignore[arg-type]
    return {answered.secret: answered for answered in request_rotations(here.systems, request)}


def delivered(here: World) -> None:
    """Bring each `Requested` event to the function, as the topic does."""
    for event in [event for event in here.topic.events if event.type == "Requested"]:
        here.topic.events.remove(event)
        deliver(here.systems, EventIn(id=event.id, type=f"SecretRotation.{event.type}", data=event.data))


def test_over_the_topic_each_becomes_an_event_whose_id_is_its_rotation(here: World) -> None:
    """P4: the id that the answer has is that of the outcome and the state; by whom and why go along."""
    names = [here.alternating(), here.single(rotation_admin="self")]
    answers = asked(here, secrets=tuple(names), reason="server leaked")
    assert [answers[name].status for name in names] == ["requested", "requested"]
    assert [len(here.versions(name)) for name in names] == [1, 1]
    delivered(here)
    for name in names:
        state = read_state(here.tags(name))
        assert state is not None
        assert (state.id, state.cause, state.by, state.reason) == (
            answers[name].id,
            "requested",
            "ann",
            "server leaked",
        )
        assert here.logs_in(name)
    told = {event.data["rotationId"]: event.data for event in here.topic.events if event.type == "Completed"}
    assert set(told) == {answer.id for answer in answers.values()}
    assert {data["by"] for data in told.values()} == {"ann"}


def test_without_a_topic_they_are_rotated_before_the_answer(here: World) -> None:
    """P2: a thread that goes on after the answer would be lost with its instance."""
    there = here.app(topic=None)
    names = [here.alternating() for _ in range(3)]
    answers = asked(there, secrets=tuple(names))
    assert {answer.status for answer in answers.values()} == {"rotated"}
    assert [len(here.versions(name)) for name in names] == [2, 2, 2]
    state = read_state(here.tags(names[0]))
    assert state is not None
    assert state.id == answers[names[0]].id


def test_what_there_is_no_time_for_is_told_and_done_when_asked_again(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2, P4: nothing is dropped in silence; what is done already is not done twice."""
    there = here.app(topic=None)
    name, other = here.alternating(), here.alternating()
    assert asked(there, secrets=(name,), key="k")[name].status == "rotated"
    monkeypatch.setattr(batch, "BEGIN_WITHIN", timedelta(0))
    answers = asked(there, secrets=(name, other), key="k")
    assert [answers[name].status, answers[other].status] == ["rotated", "not begun"]
    assert "ask again, with the same Idempotency-Key" in answers[other].reason
    assert asked(there, secrets=(other,))[other].id is None  # without a key, the next request is another cause
    monkeypatch.undo()
    assert asked(there, secrets=(name, other), key="k")[other].status == "rotated"
    assert [len(here.versions(name)), len(here.versions(other))] == [2, 2]


@pytest.mark.parametrize("has_topic", [True, False])
def test_the_same_idempotency_key_makes_one_version_of_each(here: World, *, has_topic: bool) -> None:
    """P4: also when another rotation came between."""
    there = here if has_topic else here.app(topic=None)
    name = here.alternating()
    ids = set()
    for _ in range(3):
        ids.add(asked(there, secrets=(name,), key="k")[name].id)
        delivered(here)
        here.clock.advance(timedelta(hours=25))
        rotate(here.systems, here.trigger(name))
        here.clock.advance(timedelta(hours=25))
    assert len(ids) == 1
    assert len(here.versions(name)) == 1 + 1 + 3


def test_each_that_is_not_rotated_is_told_why(here: World) -> None:
    """P7: unknown, not managed, paused, in its grace, unusable: each with its reason, and the others go on."""
    there = here.app(topic=None)
    good, paused = here.alternating(), here.alternating(rotation_enabled="false")
    broken, unmanaged = here.alternating(rotation_every="often"), here.secret(here.user(), {})
    in_grace = here.alternating()
    rotate(here.systems, here.trigger(in_grace))
    answers = asked(there, secrets=(good, "nobody-knows-it", paused, broken, unmanaged, in_grace))
    assert answers[good].status == "rotated"
    for name, said in (
        ("nobody-knows-it", "was not found"),
        (paused, "paused: rotation-enabled is false; with force it is done all the same"),
        (broken, "rotation-every is 'often'"),
        (unmanaged, "not managed"),
        (in_grace, "in grace"),
    ):
        assert (answers[name].status, answers[name].id) == ("refused", None)
        assert said in answers[name].reason
    forced = asked(there, secrets=(paused, in_grace), force=True)
    assert {answer.status for answer in forced.values()} == {"rotated"}


def test_one_that_fails_holds_no_other_up(here: World) -> None:
    there = here.app(topic=None)
    good, bad = here.alternating(), here.alternating(rotation_admin="nobody-has-it")
    answers = asked(there, secrets=(bad, good))
    assert [answers[bad].status, answers[good].status] == ["failed", "rotated"]
    assert "nobody-has-it" in answers[bad].reason


def test_a_servers_credentials_leaked(here: World) -> None:
    """All of its secrets and no other's, revoked: what leaked does not log in any more."""
    there = here.app(topic=None)
    here.server.execute("GRANT pg_signal_backend TO rotator")
    name = here.alternating()
    leaked = here.value(name)
    elsewhere = here.alternating("postgresql://app:x@elsewhere.example/app", rotation_every="often")
    unreadable = here.alternating("not a connection")
    here.secret(leaked, {})
    port = urlsplit(leaked).port
    answers = asked(there, host=f"127.0.0.1:{port}", revoke=True)
    assert set(answers) == {name, unreadable}
    assert answers[name].status == "rotated"
    assert answers[unreadable].status == "refused"  # nobody can say that it is not on that server
    assert not logs_in(leaked)
    assert here.logs_in(name)
    assert len(here.versions(elsewhere)) == 1
    assert not asked(there, host="127.0.0.1:1", strategy="single-user")


def test_strategy_and_age_have_both_to_be_met(here: World) -> None:
    there = here.app(topic=None)
    old, single = here.alternating(), here.single(rotation_admin="self")
    here.clock.advance(timedelta(days=30))
    young = here.alternating()
    assert set(asked(there, strategy="alternating-users", dry_run=True)) == {old, young}
    assert set(asked(there, older_than=timedelta(days=30), dry_run=True)) == {old, single}
    assert set(asked(there, older_than=timedelta(days=30), strategy="alternating-users", dry_run=True)) == {old}


def test_a_dry_run_for_many_says_which_and_changes_nothing(here: World) -> None:
    good, paused = here.alternating(), here.alternating(rotation_enabled="false")
    answers = asked(here, strategy="alternating-users", dry_run=True)
    assert [answers[good].status, answers[paused].status] == ["planned", "refused"]
    assert not here.topic.events
    assert [len(here.versions(name)) for name in (good, paused)] == [1, 1]
    assert rotations_answer(list(answers.values()), dry_run=True).status == 200


def test_a_request_that_is_skipped_when_its_turn_comes_is_told(here: World) -> None:
    """Who was given an id hears of it: `Failed`, with the reason; but a duplicate is no failure."""
    name = here.alternating()
    answer = asked(here, secrets=(name,))[name]
    rotate(here.systems, here.trigger(name))
    (event,) = [event for event in here.topic.events if event.type == "Requested"]
    here.topic.events.clear()
    arrived = EventIn(id=event.id, type="SecretRotation.Requested", data=event.data)
    deliver(here.systems, arrived)
    (failed,) = here.topic.events
    assert (failed.type, failed.data["rotationId"]) == ("Failed", answer.id)
    assert "is no longer current" in str(failed.data["reason"])
    other = here.alternating()
    asked(here, secrets=(other,))
    (event,) = [event for event in here.topic.events if event.type == "Requested"]
    here.topic.events.clear()
    arrived = EventIn(id=event.id, type="SecretRotation.Requested", data=event.data)
    for _ in range(2):
        deliver(here.systems, arrived)
    assert here.topic.types == ["Completed"]


class AirflowIsDown:
    def refresh(self, _: object) -> None:
        raise TransientError("Airflow is down")


def test_a_revocation_is_not_taken_for_what_is_finished_instead(here: World) -> None:
    """P7: an earlier refresh is pending, and the grace not over: nothing is revoked, and that is what is said."""
    name = here.alternating()
    there = here.app(airflow=AirflowIsDown())
    assert rotate(there.systems, there.trigger(name)).status == "rotated"
    leaked = here.value(name)
    assert asked(there, secrets=(name,), revoke=True)[name].status == "refused"
    for has_airflow in (False, True):
        outcome = rotate((there if has_airflow else here).systems, there.trigger(name, revoke=True))
        assert (outcome.status, outcome.obstacle) == ("skipped", "in grace")
    assert logs_in(leaked)
    assert rotate(here.systems, here.trigger(name, revoke=True, force=True)).status == "rotated"
    assert not logs_in(leaked)


def test_a_request_that_came_to_something_unfinished_is_told(here: World) -> None:
    """Its id is in no version and no other outcome; what is finished instead is told as what it is."""
    name = here.alternating()
    there = here.app(airflow=AirflowIsDown())
    first = rotate(there.systems, there.trigger(name))
    here.topic.events.clear()
    answer = asked(there, secrets=(name,))[name]
    delivered(there)
    told = {event.data["rotationId"]: event for event in here.topic.events}
    assert told.keys() == {first.rotation_id, answer.id}
    assert told[first.rotation_id].type == "Completed"
    assert told[answer.id].type == "Failed"
    assert "was left unfinished, which was gone on with instead" in str(told[answer.id].data["reason"])
    assert len(here.versions(name)) == 2


@pytest.mark.parametrize("has_another_come", [False, True])
def test_a_key_that_was_used_for_a_rotation_does_not_revoke(here: World, *, has_another_come: bool) -> None:
    """P4, P7: one key makes one version, and `rotated` would be taken for revoked."""
    name = here.alternating()
    before = here.value(name)
    asked_for = here.trigger(name, id="INC-1", is_repeatable=True)
    rotate(here.systems, asked_for)
    if has_another_come:
        rotate(here.systems, here.trigger(name, force=True))
    count = len(here.versions(name))
    with pytest.raises(BadRequestError, match="nothing was revoked; revoke with another key"):
        rotate(here.systems, replace(asked_for, revoke=True, force=True))
    assert len(here.versions(name)) == count
    assert logs_in(before) is not has_another_come
    assert rotate(here.systems, asked_for).status == "rotated"
    revoking = here.trigger(name, revoke=True, force=True, id="INC-2", is_repeatable=True)
    assert rotate(here.systems, revoking).status == "rotated"
    assert rotate(here.systems, revoking).obstacle == "done"
    assert len(here.versions(name)) == count + 1


def test_a_vault_or_topic_that_is_down_is_asked_again(here: World) -> None:
    """P2: nothing was begun."""

    class Down:
        def publish(self, *_: EventOut) -> None:
            raise TransientError("the topic took no event")

    name = here.alternating()
    with pytest.raises(TransientError, match="topic"):
        asked(here.app(topic=Down()), secrets=(name,))
    here.vault.fail(path=f"/secrets/{name}", status=503, times=None)
    with pytest.raises(TransientError, match="busy or failing"):
        asked(here, secrets=(name,))
    assert len(here.versions(name)) == 1
