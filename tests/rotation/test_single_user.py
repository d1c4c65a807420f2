"""One user changes its password in a transaction that commits when the new version is published."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest

from rotators.dispatch import deliver, sweep
from rotators.errors import LoginRefusedError, PolicyError, TransientError
from rotators.policy import read_state
from rotators.rotation import rotate
from tests.world import ADMIN_SECRET, World, logs_in, user_of

ADMINS: list[dict[str, str]] = [{"rotation_admin": ADMIN_SECRET}, {"rotation_admin": "self"}]
by_each_admin = pytest.mark.parametrize("tags", ADMINS, ids=["admin secret", "self"])

NEW_VERSION = "Microsoft.KeyVault.SecretNewVersionCreated"


def with_password(uri: str, password: str) -> str:
    return re.sub(r":([^:@/]*)@", f":{password}@", uri)


@by_each_admin
def test_the_new_version_logs_in_and_the_old_one_no_longer(here: World, tags: dict[str, str]) -> None:
    """P1: same user, new password, proven."""
    name = here.single(**tags)
    before = here.value(name)
    here.make_due()
    deliver(here.systems, here.near_expiry(name))
    assert here.user_of(name) == user_of(before)
    assert here.logs_in(name)
    assert not logs_in(before)
    state = read_state(here.tags(name))
    assert state is not None
    assert state.pending == ()


@by_each_admin
def test_it_rotates_again_and_again(here: World, tags: dict[str, str]) -> None:
    name = here.single(**tags)
    for _ in range(3):
        rotate(here.systems, here.trigger(name))
        assert here.logs_in(name)
    assert len(here.versions(name)) == 4


@by_each_admin
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_to_publishing_leaves_a_credential_that_works(
    here: World, tags: dict[str, str], when: str
) -> None:
    """P1, P4: whether or not Key Vault took the version before its answer was lost, one version and it logs in."""
    name = here.single(**tags)
    here.vault.fail(method="PUT", path=f"/secrets/{name}", drop=True, when=when)
    if when == "after":
        rotate(here.systems, here.trigger(name))
    else:
        with pytest.raises(TransientError):
            rotate(here.systems, here.trigger(name))
    assert here.logs_in(name)
    assert len(here.versions(name)) == (2 if when == "after" else 1)


@by_each_admin
def test_killed_between_publishing_and_commit_the_redelivery_mends_it(
    here: World, tags: dict[str, str], killed_before_commit: Callable[[], None]
) -> None:
    """P2: the current version says a password that the database never got; the next delivery gives it to it."""
    name = here.single(**tags)
    rotate(here.systems, here.trigger(name))
    here.make_due()
    event = here.near_expiry(name)
    killed_before_commit()
    with pytest.raises(KeyboardInterrupt):
        deliver(here.systems, event)
    assert not here.logs_in(name)
    versions = here.versions(name)
    deliver(here.systems, event)
    assert here.logs_in(name)
    assert here.versions(name)[-1].version == versions[-1].version
    state = read_state(here.tags(name))
    assert state is not None
    assert state.pending == ()


@by_each_admin
def test_killed_between_publishing_and_commit_the_sweep_mends_it(
    here: World, tags: dict[str, str], killed_before_commit: Callable[[], None]
) -> None:
    """P2: also when the event never comes again."""
    name = here.single(**tags)
    rotate(here.systems, here.trigger(name))
    killed_before_commit()
    with pytest.raises(KeyboardInterrupt):
        rotate(here.systems, here.trigger(name))
    assert not here.logs_in(name)
    sweep(here.app(topic=None).systems)
    assert here.logs_in(name)


@by_each_admin
def test_killed_twice_in_a_row_a_rotation_by_hand_still_finds_a_way_in(
    here: World, tags: dict[str, str], killed_before_commit: Callable[[], None]
) -> None:
    """P2: nobody is locked out, with `self` neither, whose only way in is the version before."""
    name = here.single(**tags)
    rotate(here.systems, here.trigger(name))
    for _ in range(2):
        killed_before_commit()
        with pytest.raises(KeyboardInterrupt):
            rotate(here.systems, here.trigger(name))
    rotate(here.systems, here.trigger(name))
    assert here.logs_in(name)


@by_each_admin
def test_a_password_set_by_hand_is_given_to_the_database(here: World, tags: dict[str, str]) -> None:
    """P1: Key Vault is the truth."""
    name = here.single(**tags)
    rotate(here.systems, here.trigger(name))
    here.vault.put(name, with_password(here.value(name), "set-by-hand"))
    deliver(here.systems, here.event(NEW_VERSION, name))
    assert here.logs_in(name)


def test_before_the_first_rotation_the_credential_has_to_log_in(here: World) -> None:
    """P6: whoever writes a secret that names another's user, without its password, gets nothing."""
    victim = here.user()
    name = here.single(with_password(victim, "guessed"), rotation_admin=ADMIN_SECRET)
    with pytest.raises(LoginRefusedError, match="before the first rotation"):
        rotate(here.systems, here.trigger(name))
    assert logs_in(victim)
    assert len(here.versions(name)) == 1


def test_a_version_by_hand_does_not_take_another_users_password_away(here: World) -> None:
    """P6: reconciling changes only a user that is known to be this secret's."""
    victim = here.user()
    name = here.single(rotation_admin=ADMIN_SECRET)
    rotate(here.systems, here.trigger(name))
    here.vault.put(name, with_password(victim, "mine-now"), tags=dict(here.tags(name)))
    deliver(here.systems, here.event(NEW_VERSION, name))
    assert logs_in(victim)
    assert here.topic.types[-1] == "Failed"


def test_a_user_that_belongs_to_another_secret_is_refused(here: World) -> None:
    """P6: also when the writer knows its password."""
    value = here.user()
    first = here.single(value, rotation_admin=ADMIN_SECRET)
    rotate(here.systems, here.trigger(first))
    second = here.single(here.value(first), rotation_admin=ADMIN_SECRET)
    with pytest.raises(PolicyError, match="belongs to"):
        rotate(here.systems, here.trigger(second))
    assert here.logs_in(first)


def test_a_superuser_is_refused_but_for_self(here: World) -> None:
    """P6: an admin's own secret is rotated with its own rights only."""
    value = here.user(by_admin=False)
    here.server.execute(f'ALTER ROLE "{user_of(value)}" SUPERUSER')
    name = here.single(value, rotation_admin=ADMIN_SECRET)
    with pytest.raises(PolicyError, match="superuser"):
        rotate(here.systems, here.trigger(name))
    own = here.single(value, rotation_admin="self")
    assert rotate(here.systems, here.trigger(own)).status == "rotated"
    assert here.logs_in(own)


def test_revoke_ends_the_sessions_of_the_old_password(here: World) -> None:
    name = here.single(rotation_admin="self")
    leaked = here.value(name)
    with psycopg.connect(leaked) as session:
        rotate(here.systems, here.trigger(name, revoke=True))
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert not logs_in(leaked)
    assert here.logs_in(name)
    assert not here.versions(name)[0].enabled


def test_a_commit_whose_answer_is_lost_is_finished_in_the_same_call(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1: published, and then the database's connection breaks: it is mended now, not in ten seconds."""
    name = here.single(rotation_admin=ADMIN_SECRET)
    publish = type(here.systems.vault).publish

    def publish_and_cut(*args: object, **kwargs: object) -> object:
        version = publish(*args, **kwargs)  # type: ignore[arg-type]
        here.server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotator'")
        monkeypatch.undo()
        return version

    monkeypatch.setattr(type(here.systems.vault), "publish", publish_and_cut)
    outcome = rotate(here.systems, here.trigger(name))
    assert outcome.status == "resumed"
    assert here.logs_in(name)
    assert len(here.versions(name)) == 2


def test_a_version_by_hand_for_another_server_is_not_mended_with_the_old_one(here: World) -> None:
    """P6: an earlier password of the user is good for the server that it was written for, and says nothing here."""
    name = here.single(rotation_admin="self")
    before = here.value(name)
    moved = before.replace("127.0.0.1", "localhost").replace(before.split(":")[2].split("@")[0], "of-another-server")
    here.clock.advance(timedelta(minutes=1))
    here.vault.put(name, moved, tags=here.tags(name))
    with suppress(LoginRefusedError):
        deliver(here.systems, here.event("Microsoft.KeyVault.SecretNewVersionCreated", name))
    assert here.logs_in(before)
    assert not here.logs_in(moved)
