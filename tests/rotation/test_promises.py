"""What can come between the steps of a rotation, one thing at a time."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from threading import Barrier, Event, Thread
from urllib.parse import urlsplit

import pytest

from rotators import rotation
from rotators.airflow import RotatedConnection
from rotators.databases.postgresql import _ConsumerSession
from rotators.dispatch import deliver, sweep
from rotators.errors import AirflowRefusedError, LockHeldError, PermanentError, PolicyError, TransientError
from rotators.outcome import AirflowReport, RetriedRun
from rotators.policy import STATE_TAG, read_state
from rotators.retirement import retire
from rotators.rotation import rotate
from rotators.vault import Vault
from tests.world import ADMIN_SECRET, World, logs_in, user_of


class FakeAirflow:
    """Answers as it is told; the real one has tests of its own."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.refreshed: list[RotatedConnection] = []
        self.searched: list[RotatedConnection] = []

    def refresh(self, rotated: RotatedConnection) -> AirflowReport:
        self.refreshed.append(rotated)
        if self.failure:
            raise self.failure
        return AirflowReport("healed", connection="absent")

    def retry_failed(self, rotated: Sequence[RotatedConnection]) -> dict[str, AirflowReport]:
        self.searched += rotated
        retried = (RetriedRun("dag", "run", (("task", -1),)),)
        return {connection.secret: AirflowReport("healed", retried=retried) for connection in rotated}


def pending(here: World, name: str) -> tuple[str, ...]:
    state = read_state(here.tags(name))
    assert state is not None
    return state.pending


def test_an_airflow_that_is_down_delays_the_refresh_and_nothing_else(here: World) -> None:
    """P5: the rotation stands, the event comes again, and the refresh is not forgotten."""
    airflow = FakeAirflow(TransientError("Airflow cannot be reached"))
    there = here.app(airflow=airflow)
    name = here.alternating()
    here.make_due()
    event = here.near_expiry(name)
    with pytest.raises(TransientError):
        deliver(there.systems, event)
    assert here.logs_in(name)
    assert pending(here, name) == ("refresh",)
    assert here.topic.events[0].data["warnings"] == ["Airflow cannot be reached"]
    airflow.failure = None
    deliver(there.systems, event)
    assert pending(here, name) == ()
    assert len(here.versions(name)) == 2
    assert len(airflow.refreshed) == 2
    assert here.topic.types.count("AirflowRefreshed") == 1


def test_the_sweep_finishes_a_refresh_whose_event_never_came_again(here: World) -> None:
    """P2, P5."""
    airflow = FakeAirflow(TransientError("Airflow cannot be reached"))
    there = here.app(airflow=airflow, topic=None)
    name = here.alternating()
    rotate(there.systems, here.trigger(name))
    airflow.failure = None
    sweep(there.systems)
    assert pending(here, name) == ()
    assert airflow.refreshed[-1].version == here.vault.current(name).version


@pytest.mark.parametrize("failure", [AirflowRefusedError("Airflow says 403: grant Op"), KeyError("surprise")])
def test_an_airflow_that_says_no_is_reported_and_asked_again(here: World, failure: Exception) -> None:
    """P5, P7: nobody's rotation fails because of Airflow, and nobody's refresh is given up."""
    there = here.app(airflow=FakeAirflow(failure))
    name = here.alternating()
    outcome = rotate(there.systems, here.trigger(name))
    assert outcome.status == "rotated"
    assert outcome.warnings
    assert pending(here, name) == ("refresh",)


def test_until_the_grace_is_over_failed_tasks_are_searched_again(here: World) -> None:
    """P5: a task that still runs on the old credential may fail on it later; one search serves all secrets."""
    airflow = FakeAirflow()
    there = here.app(airflow=airflow)
    names = {here.alternating(), here.single(rotation_admin="self")}
    for name in names:
        rotate(there.systems, here.trigger(name))
    here.clock.advance(timedelta(hours=23))
    sweep(there.systems)
    assert {connection.secret for connection in airflow.searched} == names
    here.clock.advance(timedelta(hours=2))
    sweep(there.systems)
    assert len(airflow.searched) == 2


def read_side_by_side(here: World, names: set[str]) -> Barrier:
    """Let each read of one of these secrets wait for that of the others; it is broken when they do not come."""
    together = Barrier(len(names))
    for name in names:
        here.vault.fail(method="GET", path=f"/secrets/{name}$", run=lambda: together.wait(10))
    return together


def test_what_the_sweep_hands_out_is_read_side_by_side(here: World) -> None:
    """One secret's version does not depend on another's, and a vault is far away."""
    names = {here.alternating(), here.alternating()}
    here.make_due()
    together = read_side_by_side(here, names)
    sweep(here.systems)
    assert not together.broken
    assert here.topic.types == ["Requested"] * 2


@pytest.mark.parametrize("status", ["down", "pending", "refused"])
def test_the_last_search_of_a_grace_is_not_forgotten(here: World, status: str) -> None:
    """P5: an Airflow that is down just then is asked when it is there again; the old credential stays until then."""
    airflow = Searched()

    def sweeping(schedule: str) -> World:
        settings = dataclasses.replace(here.systems.settings, sweep_schedule=schedule)
        return here.app(topic=None, airflow=airflow, settings=settings)

    often, seldom = sweeping("0 * * * * *"), sweeping("0 0 0 1 1 *")
    name = here.alternating(rotation_grace="24h")
    old = here.value(name)
    rotate(often.systems, here.trigger(name))
    here.clock.advance(timedelta(hours=23, minutes=50))
    airflow.status = status
    sweep(often.systems)
    assert pending(here, name) == ()
    sweep(seldom.systems)
    assert pending(here, name) == ("refresh",)
    airflow.failure = TransientError("Airflow is down")
    here.clock.advance(timedelta(minutes=30))
    sweep(often.systems)
    assert pending(here, name) == ("refresh",)
    assert logs_in(old)
    airflow.failure, refreshed = None, len(airflow.refreshed)
    for _ in range(2):
        sweep(often.systems)
    assert (pending(here, name), len(airflow.refreshed)) == ((), refreshed + 1)
    assert not logs_in(old)


class Searched(FakeAirflow):
    """Answers a search by its status."""

    status = "healed"

    def retry_failed(self, rotated: Sequence[RotatedConnection]) -> dict[str, AirflowReport]:
        if self.status == "down":
            raise TransientError("Airflow is down")
        return {one.secret: AirflowReport(self.status) for one in rotated}  # type: ignore[arg-type]


def test_what_airflow_is_searched_for_is_read_side_by_side(here: World) -> None:
    """As the sweep does with what it hands out."""
    airflow = FakeAirflow()
    there = here.app(airflow=airflow)
    names = {here.alternating(), here.alternating()}
    for name in names:
        rotate(there.systems, here.trigger(name))
    together = read_side_by_side(here, names)
    sweep(there.systems)
    assert not together.broken
    assert {connection.secret for connection in airflow.searched} == names


def test_a_secret_outside_airflow_is_none_of_airflows_business(here: World) -> None:
    airflow = FakeAirflow()
    there = here.app(airflow=airflow)
    here.admin()
    here.vault.put("billing", here.user(), tags={"rotation-strategy": "single-user"})
    assert rotate(there.systems, here.trigger("billing")).status == "rotated"
    assert not airflow.refreshed


def test_a_lock_that_is_held_is_waited_for_and_then_given_back(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: one invocation at a time; Event Grid brings the other again."""
    monkeypatch.setattr("rotators.access.LOCK_WAIT", timedelta(milliseconds=200))
    name = here.alternating()
    held, leave = Event(), Event()
    publish = Vault.publish

    def publish_slowly(*args: object, **kwargs: object) -> object:
        held.set()
        leave.wait(20)
        return publish(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Vault, "publish", publish_slowly)
    first = Thread(target=rotate, args=(here.systems, here.trigger(name)))
    first.start()
    held.wait(20)
    with pytest.raises(LockHeldError):
        rotate(here.systems, here.trigger(name))
    leave.set()
    first.join()
    assert len(here.versions(name)) == 2
    assert here.logs_in(name)


@pytest.mark.parametrize("strategy", ["alternating", "single"])
def test_a_person_who_writes_in_the_same_moment_is_right(
    here: World, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """P1: Key Vault has no compare-and-set, so whichever version is the newest is made to log in."""
    arrange: Callable[..., str] = getattr(here, strategy)
    name = arrange(rotation_admin=ADMIN_SECRET)
    rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(hours=25))
    by_hand = here.value(name).replace(here.value(name).split(":")[2].split("@")[0], "by-hand")
    tags = {tag: value for tag, value in here.tags(name).items() if tag != "rotation-state"}
    publish = Vault.publish

    def publish_and_cross(*args: object, **kwargs: object) -> object:
        version = publish(*args, **kwargs)  # type: ignore[arg-type]
        here.vault.put(name, by_hand, tags=tags)
        return version

    monkeypatch.setattr(Vault, "publish", publish_and_cross)
    outcome = rotate(here.systems, here.trigger(name))
    assert here.value(name) == by_hand
    assert here.logs_in(name)
    assert "somebody else" in " ".join(outcome.warnings)


def test_an_admin_that_is_a_managed_identity_needs_no_password(here: World) -> None:
    """Zero-touch: the identity's token is the password of `entra:<login>`."""
    token = here.systems.token("https://ossrdbms-aad.database.windows.net/.default")
    login = f"identity_{here.vault.url.rpartition(':')[2]}"
    here.server.create_user(login, token.reveal())
    here.server.execute(f"ALTER ROLE {login} CREATEROLE")
    value = here.user()
    here.server.execute(f'GRANT "{user_of(value)}" TO {login} WITH ADMIN OPTION')
    name = here.alternating(value, rotation_admin=f"entra:{login}")
    settings = dataclasses.replace(here.systems.settings, allowed_hosts=("127.0.0.1",))
    outcome = rotate(here.app(settings=settings).systems, here.trigger(name))
    assert outcome.status == "rotated"
    assert here.logs_in(name)
    # Its owner has ADMIN OPTION on what it made; it could be taken back with the server's help only.
    here.server.execute(f"REASSIGN OWNED BY {login} TO postgres")


def test_a_topic_that_is_down_undoes_nothing(here: World) -> None:
    class Down:
        def publish(self, *_: object) -> None:
            raise TransientError("the topic took no event")

    name = here.alternating()
    assert rotate(here.app(topic=Down()).systems, here.trigger(name)).status == "rotated"
    here.make_due()
    sweep(here.app(topic=Down()).systems)
    assert len(here.versions(name)) == 3


def test_the_sweep_goes_on_when_one_secret_fails(here: World) -> None:
    """P2: one broken policy or database holds nobody else up."""
    good = here.alternating()
    broken = here.alternating(rotation_every="often")
    wrong = here.alternating(rotation_admin="nobody-has-it")
    here.make_due()
    sweep(here.app(topic=None).systems)
    assert [len(here.versions(name)) for name in (good, broken, wrong)] == [2, 1, 1]


def test_the_sweep_reads_only_what_has_something_to_do(here: World) -> None:
    """Speed: the list with its tags, no request for a secret that is not due."""
    for _ in range(3):
        here.alternating()
    sweep(here.systems)
    assert [request.path for request in here.vault.requests if request.status == 200] == ["/secrets"]


def test_a_lock_that_was_lost_publishes_nothing(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: without the lock another instance may be at work."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(hours=25))
    verify = _ConsumerSession.verify

    def verify_and_cut(*args: object, **kwargs: object) -> object:
        here.server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotator'")
        return verify(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(_ConsumerSession, "verify", verify_and_cut)
    with pytest.raises(TransientError):
        rotate(here.systems, here.trigger(name))
    assert len(here.versions(name)) == 2
    assert here.logs_in(name)


def test_a_lock_that_is_lost_while_a_slow_server_verifies_publishes_nothing(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: it was held when the server was asked last, but that is long ago."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(hours=25))
    verify = _ConsumerSession.verify

    def cut_after(*args: object, **kwargs: object) -> object:
        found = verify(*args, **kwargs)  # type: ignore[arg-type]
        here.server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotator'")
        return found

    monkeypatch.setattr(_ConsumerSession, "verify", cut_after)
    monkeypatch.setattr(rotation, "LOCK_IS_KNOWN_FOR", timedelta(0))
    with pytest.raises(TransientError):
        rotate(here.systems, here.trigger(name))
    assert len(here.versions(name)) == 2
    assert here.logs_in(name)


def test_other_users_that_are_named_while_the_lock_is_waited_for_are_looked_at(here: World) -> None:
    """P6: they are another secret's; what was looked up of the two that were named before does not tell that."""
    name, foreign = here.alternating(), here.alternating()
    for secret in (name, foreign):
        rotate(here.systems, here.trigger(secret))
    here.make_due()
    users = f"{here.user_of(name)},{here.user_of(foreign)}"

    def name_them() -> None:
        here.vault.update(name, tags={**here.tags(name), "rotation-users": users})

    here.vault.fail(method="GET", path=f"/secrets/{name}$", run=name_them, when="after")
    with pytest.raises(PolicyError, match="belongs to"):
        rotate(here.systems, here.trigger(name))
    assert here.logs_in(name)
    assert here.logs_in(foreign)


def test_a_vault_that_fails_after_publishing_does_not_hide_the_rotation(here: World) -> None:
    """P4: the version is there, so the outcome says that it was rotated, and nothing is made twice."""
    name = here.alternating()
    here.make_due()
    here.vault.fail(method="GET", path=f"/secrets/{name}", status=503, times=4, skip=2)
    deliver(here.systems, here.near_expiry(name))
    assert len(here.versions(name)) == 2
    assert here.topic.types == ["Completed"]
    assert here.topic.events[0].data["status"] == "rotated"


def test_a_request_that_is_repeated_late_gets_the_answer_of_then(here: World) -> None:
    """P4: also when another rotation came after it, whose grace would refuse a new one; it is not told twice."""
    name = here.alternating()
    request = here.trigger(name, id="key-1", is_repeatable=True)
    first = rotate(here.systems, request)
    here.clock.advance(timedelta(hours=25))
    rotate(here.systems, here.trigger(name))
    again = rotate(here.systems, request)
    assert (again.status, again.version, again.rotation_id) == ("rotated", first.version, "key-1")
    assert len(here.versions(name)) == 3
    assert here.topic.types == ["Completed", "Completed"]


def test_a_read_only_vault_changes_nothing_that_anybody_uses(here: World) -> None:
    """P1: a region that failed over answers reads only."""
    for name in (here.alternating(), here.single(rotation_admin="self")):
        here.vault.deny("setSecret", name)
        with pytest.raises(PermanentError):
            rotate(here.systems, here.trigger(name))
        assert here.logs_in(name)
        assert len(here.versions(name)) == 1


def test_the_old_user_is_not_retired_while_the_current_version_does_not_log_in(here: World) -> None:
    """P2: nobody is locked out."""
    name = here.alternating()
    old = here.value(name)
    rotate(here.systems, here.trigger(name))
    here.server.execute(f'DROP ROLE "{here.user_of(name)}"')
    here.clock.advance(timedelta(hours=25))
    sweep(here.app(topic=None).systems)
    assert logs_in(old)
    assert here.versions(name)[0].enabled


def test_a_rotation_that_comes_while_a_retirement_begins_keeps_its_user(here: World) -> None:
    """P1: the user that was to be retired is in use again, so the lock is taken first, and then looked once more."""
    name = here.alternating()
    there = here.app(topic=None).systems
    rotate(there, here.trigger(name))
    here.clock.advance(timedelta(hours=25))

    def cross() -> None:
        rotate(there, here.trigger(name, force=True))

    here.vault.fail(method="GET", path=f"/secrets/{name}$", run=cross, when="after")
    assert retire(there, here.trigger(name, "sweep")) is None
    assert len(here.versions(name)) == 3
    assert here.logs_in(name)


def test_the_newest_version_is_never_disabled_whatever_its_tag_says(here: World) -> None:
    """P1: a state that names its own version as the one before, as a copy or an edit may."""
    name = here.alternating()
    there = here.app(topic=None).systems
    rotate(there, here.trigger(name))
    first, current = here.versions(name)
    state = here.tags(name)[STATE_TAG].replace(first.version, current.version)
    here.vault.update(name, tags={**here.tags(name), STATE_TAG: state})
    here.clock.advance(timedelta(hours=25))
    sweep(there)
    assert here.logs_in(name)
    assert here.versions(name)[-1].enabled


def test_a_handmade_version_that_names_the_old_user_keeps_it_from_retirement(here: World) -> None:
    """P1: what retires is the user that the current version does not name, whatever the state says."""
    name = here.alternating()
    old = here.value(name)
    rotate(here.systems, here.trigger(name))
    here.vault.put(name, old, tags=dict(here.tags(name)))
    deliver(here.systems, here.event("Microsoft.KeyVault.SecretNewVersionCreated", name))
    here.clock.advance(timedelta(hours=25))
    sweep(here.app(topic=None).systems)
    assert here.logs_in(name)
    assert here.versions(name)[-1].enabled


def test_the_sweep_works_at_several_secrets_at_a_time(here: World) -> None:
    """Each write waits for the other."""
    names = [here.alternating(), here.alternating()]
    here.make_due()
    both = Barrier(2, timeout=10)
    for name in names:
        here.vault.fail(method="PUT", path=f"/secrets/{name}", run=both.wait)
    sweep(here.app(topic=None).systems)
    assert not both.broken
    assert [len(here.versions(name)) for name in names] == [2, 2]


def test_the_sweep_hands_out_several_secrets_at_a_time(here: World) -> None:
    """Each is read before it is handed out, and each of these reads waits for the other."""
    names = [here.alternating(), here.alternating()]
    here.make_due()
    both = Barrier(2, timeout=10)
    for name in names:
        here.vault.fail(method="GET", path=f"/secrets/{name}", run=both.wait)
    sweep(here.systems)
    assert not both.broken
    assert sorted(event.secret for event in here.topic.events if event.type == "Requested") == sorted(names)


def test_a_secret_that_cannot_be_read_keeps_no_other_from_being_handed_out(here: World) -> None:
    """P2: the next sweep finds it again."""
    unreadable, other = here.alternating(), here.alternating()
    here.make_due()
    fault = here.vault.fail(method="GET", path=f"/secrets/{unreadable}", status=503, times=None)
    sweep(here.systems)
    assert [event.secret for event in here.topic.events if event.type == "Requested"] == [other]
    fault.remove()
    sweep(here.systems)
    assert unreadable in {event.secret for event in here.topic.events if event.type == "Requested"}


@pytest.mark.parametrize("strategy", ["alternating-users", "single-user"])
def test_the_next_version_differs_in_user_and_password_alone(here: World, strategy: str) -> None:
    """Who reads the secret sees the same content type, tags and text, to the last blank."""
    user = urlsplit(here.user())
    here.admin()
    value = (
        f'{{"port":  {user.port}, "conn_type": "postgres", "host": "{user.hostname}",\n "schema": "postgres", '
        f'"login": "{user.username}", "password": "{user.password}", "extra": {{"team": [ "a" ]}}}}\n'
    )
    tags = {"rotation-strategy": strategy, "rotation-admin": ADMIN_SECRET, "team": "crm"}
    here.vault.put("airflow-connections-json", value, tags=tags, content_type="application/json")
    rotate(here.systems, here.trigger("airflow-connections-json"))
    before, after = here.versions("airflow-connections-json")
    login, password = json.loads(after.value)["login"], json.loads(after.value)["password"]
    assert after.value == value.replace(f'"{user.username}"', f'"{login}"').replace(str(user.password), password)
    assert after.value != value
    assert after.content_type == before.content_type == "application/json"
    assert after.tags == {**tags, STATE_TAG: after.tags[STATE_TAG]}


def test_a_strategy_that_was_switched_within_the_grace_leaves_no_user_with_its_login(here: World) -> None:
    """P2: of two users that took turns the one in use stays, also when a rotation overtook the retirement."""
    name = here.alternating()
    first = here.value(name)
    there = here.app(topic=None).systems
    rotate(there, here.trigger(name))
    here.vault.update(name, tags={**here.tags(name), "rotation-strategy": "single-user"})
    rotate(there, here.trigger(name, force=True))
    assert logs_in(first)
    here.clock.advance(timedelta(hours=25))
    sweep(there)
    assert not logs_in(first)
    assert here.logs_in(name)
    assert [v.enabled for v in here.versions(name)] == [False, False, True]


def test_with_one_user_nobody_is_locked_out_who_is_not_known_to_be_this_secrets(here: World) -> None:
    """P6: the secret named a stranger's user, and then nothing that can be read as a connection."""
    stranger = here.user()
    here.admin()
    there = here.app(topic=None).systems
    name = here.single(stranger, rotation_admin=ADMIN_SECRET)
    tags = here.tags(name)
    for value in (here.user(), "no connection", here.user()):
        here.clock.advance(timedelta(minutes=1))
        here.vault.put(name, value, tags=tags)
        deliver(there, here.event("Microsoft.KeyVault.SecretNewVersionCreated", name))
        here.clock.advance(timedelta(hours=25))
        sweep(there)
    assert logs_in(stranger)
    assert here.logs_in(name)
    assert [v.enabled for v in here.versions(name)] == [False, True, False, True]


def test_a_request_that_was_crossed_and_cut_off_makes_one_version(here: World) -> None:
    """P4: the repetition in the same call finds a person's version, not its own, and does not rotate once more."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(hours=25))
    sweep(here.app(topic=None).systems)
    by_hand = here.value(name).replace(here.value(name).split(":")[2].split("@")[0], "by-hand-and-wrong")

    def cross() -> None:
        here.vault.put(name, by_hand, tags={k: v for k, v in here.tags(name).items() if k != "rotation-state"})
        here.server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotator'")

    here.vault.fail(method="PUT", path=f"/secrets/{name}$", run=cross, when="after")
    trigger = here.trigger(name)
    assert rotate(here.systems, trigger).status == "rotated"
    states = [read_state(version.tags) for version in here.versions(name)]
    assert [state.id for state in states if state].count(trigger.id) == 1
