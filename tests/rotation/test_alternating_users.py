"""Two users take turns: on real PostgreSQL and the Key Vault stand-in, through the program's own wiring."""

import re
import time
from datetime import timedelta

import psycopg
import pytest

from rotators.credential import Credential
from rotators.databases.postgresql import _PostgreSQLSession
from rotators.dispatch import deliver, sweep
from rotators.errors import DatabaseRefusedError, PolicyError
from rotators.policy import LOGIN_TIME, read_state
from rotators.rotation import rotate
from tests.world import World, logs_in, user_of


def test_a_near_expiry_event_makes_a_second_user_and_a_version_that_logs_in(here: World) -> None:
    """P1: the new version logs in, and the credential of before still does."""
    name = here.alternating()
    before = here.value(name)
    here.make_due()
    deliver(here.systems, here.near_expiry(name))
    assert here.user_of(name) == user_of(before) + "_alt"
    assert here.logs_in(name)
    assert logs_in(before)
    assert len(here.versions(name)) == 2


def test_the_second_rotation_returns_to_the_first_user(here: World) -> None:
    """P1: each rotation changes the user that nobody uses."""
    name = here.alternating()
    first = here.user_of(name)
    for expected in (f"{first}_alt", first, f"{first}_alt"):
        here.make_due()
        rotate(here.systems, here.trigger(name, "sweep"))
        assert here.user_of(name) == expected
        assert here.logs_in(name)


def test_the_second_user_acts_as_the_first(here: World) -> None:
    """What the second creates belongs to the first, so that both may change it."""
    name = here.alternating()
    first = here.user_of(name)
    rotate(here.systems, here.trigger(name))
    with psycopg.connect(here.value(name)) as session:
        session.execute("CREATE TABLE made_by_second (id int)")
        owner = session.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made_by_second'").fetchone()
    assert owner == (first,)


def test_one_event_makes_one_version_however_often_it_comes(here: World) -> None:
    """P4: at least once means more than once."""
    name = here.alternating()
    here.make_due()
    event = here.near_expiry(name)
    for _ in range(3):
        deliver(here.systems, event)
    assert len(here.versions(name)) == 2


def test_the_state_tells_what_was_done_and_why(here: World) -> None:
    name = here.alternating()
    old = here.vault.current(name).version
    here.make_due()
    deliver(here.systems, here.near_expiry(name, event_id="event-1"))
    state = read_state(here.tags(name))
    assert state is not None
    assert (state.id, state.cause, state.from_version, state.pending) == ("event-1", "near-expiry", old, ())
    assert state.retire_at == state.at + timedelta(hours=24)


def test_a_rotation_takes_two_logins_five_messages_and_five_requests(here: World) -> None:
    """Speed and size, as the issue says: alternating users, after the first one, nothing pending.

    Messages to the database, each a round trip: the session with its lock, what is there, the password, the new user's
    rights, and whether the lock is still held.
    """
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.make_due()
    requests, log = len(here.vault.requests), len(here.server.log())
    rotate(here.systems, here.trigger(name))
    assert len(here.vault.requests_since(requests)) == 5
    asked = here.server.log()[log:]
    assert asked.count("connection authenticated") == 2
    assert len(re.findall(r"LOG:  (?:statement|execute [^:]*): ", asked)) == 5


def test_the_new_users_connection_is_made_while_its_password_is_set(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speed: of the four round trips of a login the first waits for nothing."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.make_due()
    log = len(here.server.log())
    set_password = _PostgreSQLSession.set_password

    def connected() -> bool:
        return here.server.log()[log:].count("connection received") == 2

    def set_when_connected(admin: _PostgreSQLSession, credential: Credential) -> None:
        deadline = time.monotonic() + 20
        while not connected():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        set_password(admin, credential)

    monkeypatch.setattr(_PostgreSQLSession, "set_password", set_when_connected)
    assert rotate(here.systems, here.trigger(name)).status == "rotated"


def test_only_a_rotation_that_does_more_than_change_a_password_needs_a_transaction(here: World) -> None:
    """The first marks both users and makes one: all of it or nothing (P2); a later one is spared two round trips."""
    name = here.alternating()
    begun = []
    for _ in range(3):
        log = len(here.server.log())
        rotate(here.systems, here.trigger(name))
        begun.append(here.server.log()[log:].count("statement: BEGIN"))
        here.make_due()
    assert begun == [1, 0, 0]


def test_a_first_rotation_that_fails_half_way_leaves_no_mark(here: World) -> None:
    """The admin may change the one user and not the other, which is known when the one is marked already (P2, P6)."""
    value = here.user()
    first = user_of(value)
    here.server.create_user(first + "_alt", by_admin=False)
    here.server.execute(f'GRANT "{first}" TO "{first}_alt"')
    name = here.alternating(value)
    with pytest.raises(DatabaseRefusedError, match="ADMIN OPTION"):
        rotate(here.systems, here.trigger(name))
    marks = here.server.execute("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s", (first,))
    assert marks == [(None,)]


def test_the_old_credential_is_retired_after_its_grace(here: World) -> None:
    """P2: the sweep locks the old user out and disables its version, never the newest."""
    name = here.alternating()
    before = here.value(name)
    rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(hours=23))
    sweep(here.app(topic=None).systems)
    assert logs_in(before)
    here.clock.advance(timedelta(hours=2))
    sweep(here.app(topic=None).systems)
    assert not logs_in(before)
    assert here.logs_in(name)
    assert [version.enabled for version in here.versions(name)] == [False, True]
    state = read_state(here.tags(name))
    assert state is not None
    assert state.retired is not None


def test_a_grace_of_fifteen_minutes_outlives_a_cache_of_fifteen_minutes(here: World) -> None:
    """P1: also where the cache was filled when the rotation had begun long ago and its version was not yet there."""
    name = here.alternating(rotation_grace="15m", rotation_every="1h")
    before = here.value(name)
    cached_until = []

    def pass_time() -> None:
        here.clock.advance(timedelta(minutes=2))
        cached_until.append(here.clock.now() + timedelta(minutes=15))

    here.vault.fail(method="PUT", path=f"/secrets/{name}$", run=pass_time)
    rotate(here.systems, here.trigger(name))
    here.clock.advance(cached_until[0] - here.clock.now())
    sweep(here.app(topic=None).systems)
    assert logs_in(before)
    assert rotate(here.systems, here.trigger(name)).obstacle == "in grace"
    here.clock.advance(LOGIN_TIME + timedelta(seconds=2))
    sweep(here.app(topic=None).systems)
    assert not logs_in(before)


def test_in_its_grace_the_other_user_is_left_alone(here: World) -> None:
    """P1: asking twice does not take the credential away from who still uses it."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    outcome = rotate(here.systems, here.trigger(name))
    assert (outcome.status, outcome.obstacle) == ("skipped", "in grace")
    assert rotate(here.systems, here.trigger(name, force=True)).status == "rotated"


def test_revoke_locks_the_leaked_credential_out_at_once(here: World) -> None:
    name = here.alternating()
    leaked = here.value(name)
    here.server.execute("GRANT pg_signal_backend TO rotator")
    with psycopg.connect(leaked) as session:
        assert rotate(here.systems, here.trigger(name, revoke=True)).status == "rotated"
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert not logs_in(leaked)
    assert here.logs_in(name)
    assert not here.versions(name)[0].enabled


def test_a_dry_run_changes_nothing(here: World) -> None:
    """P7: it says what would be done."""
    name = here.alternating()
    log = len(here.server.log())
    outcome = rotate(here.systems, here.trigger(name, dry_run=True))
    assert (outcome.status, outcome.user) == ("planned", here.user_of(name) + "_alt")
    assert len(here.versions(name)) == 1
    assert "ALTER" not in here.server.log()[log:]
    assert "COMMENT" not in here.server.log()[log:]


def test_a_version_by_hand_that_does_not_log_in_is_made_to(here: World) -> None:
    """P1: Key Vault is the truth, the database follows."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    tags = {tag: value for tag, value in here.tags(name).items() if tag != "rotation-state"}
    wrong = here.value(name).replace(here.value(name).split(":")[2].split("@")[0], "set-by-hand")
    here.vault.put(name, wrong, tags=tags)
    assert not here.logs_in(name)
    deliver(here.systems, here.event("Microsoft.KeyVault.SecretNewVersionCreated", name))
    assert here.logs_in(name)
    assert here.value(name) == wrong


def test_a_version_by_hand_without_tags_inherits_the_policy(here: World) -> None:
    """`az keyvault secret set` drops every tag; opting out is done on purpose, not by that."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.vault.put(name, here.value(name))
    deliver(here.systems, here.event("Microsoft.KeyVault.SecretNewVersionCreated", name))
    assert here.tags(name)["rotation-strategy"] == "alternating-users"
    state = read_state(here.tags(name))
    assert state is not None
    assert (state.cause, state.pending) == ("reconcile", ())


def test_a_mistake_mended_by_hand_at_once_inherits_the_policy_too(here: World) -> None:
    """P2: two versions without tags before the first one's event came; it is not opted out by that."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    good = here.value(name)
    events = []
    for value in (good.replace("://", "://mistaken-"), good):
        here.clock.advance(timedelta(seconds=2))
        here.vault.put(name, value)
        events.append(here.event("Microsoft.KeyVault.SecretNewVersionCreated", name))
    for event in events:
        deliver(here.systems, event)
    assert here.tags(name)["rotation-strategy"] == "alternating-users"
    state = read_state(here.tags(name))
    assert state is not None
    assert state.retire_at is not None


def test_taking_the_tags_away_opts_out_and_an_event_that_comes_again_does_not_opt_in(here: World) -> None:
    """P6: unlike a version that is written without tags."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    event = here.event("Microsoft.KeyVault.SecretNewVersionCreated", name)
    here.clock.advance(timedelta(minutes=1))
    here.vault.update(name, tags={})
    deliver(here.systems, event)
    assert here.tags(name) == {}
    assert rotate(here.systems, here.trigger(name, force=True)).obstacle == "not managed"


def test_an_existing_stranger_is_not_taken_over(here: World) -> None:
    """P6: a second user that is no pair with the first belongs to somebody else."""
    value = here.user()
    here.server.create_user(user_of(value) + "_alt")
    name = here.alternating(value)
    with pytest.raises(PolicyError, match="exists already"):
        rotate(here.systems, here.trigger(name))
    assert len(here.versions(name)) == 1


def test_a_pair_that_the_dba_made_is_used(here: World) -> None:
    value = here.user()
    here.server.create_user(user_of(value) + "_alt")
    here.server.execute(f'GRANT "{user_of(value)}" TO "{user_of(value)}_alt"')
    name = here.alternating(value)
    outcome = rotate(here.systems, here.trigger(name))
    assert outcome.status == "rotated"
    assert "SET role" in " ".join(outcome.warnings)


def test_sessions_of_the_user_whose_turn_it_is_can_hold_a_rotation_back(here: World) -> None:
    name = here.alternating(rotation_in_use="wait")
    rotate(here.systems, here.trigger(name))
    old = here.versions(name)[0].value
    here.clock.advance(timedelta(hours=25))
    with psycopg.connect(old):
        outcome = rotate(here.systems, here.trigger(name))
    assert (outcome.status, outcome.obstacle) == ("skipped", "in use")
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
