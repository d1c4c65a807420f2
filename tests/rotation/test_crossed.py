"""Two things at once: what a person, or another rotation, does just then. Real PostgreSQL, the Key Vault stand-in."""

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from rotators import access, rotation
from rotators.dispatch import deliver, sweep
from rotators.doctor import examine
from rotators.errors import LoginRefusedError, PolicyError, TransientError, VaultRefusedError
from rotators.policy import read_state
from rotators.retirement import retire
from rotators.rotation import rotate
from rotators.vault import Vault
from sandbox.postgresql import PostgreSQL
from tests.everything import Everything
from tests.rotation.test_promises import FakeAirflow
from tests.versions import VERSIONS, older_server
from tests.world import ADMIN_SECRET, World, logs_in, user_of, world

NEW = "Microsoft.KeyVault.SecretNewVersionCreated"


def without_state(here: World, name: str) -> dict[str, str]:
    return {tag: value for tag, value in here.tags(name).items() if tag != "rotation-state"}


# -- A revocation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_key", [False, True])
def test_a_revocation_that_a_person_crosses_is_done_once_more(
    here: World, monkeypatch: pytest.MonkeyPatch, *, has_key: bool
) -> None:
    """P2: `rotated` means that what leaked is dead."""
    name = here.alternating()
    leaked, tags = here.value(name), without_state(here, name)
    publish = Vault.publish

    def publish_and_cross(*args: object, **named: object) -> object:
        published = publish(*args, **named)  # type: ignore[arg-type]
        monkeypatch.setattr(Vault, "publish", publish)
        here.vault.put(name, here.value(name), tags=tags)
        return published

    monkeypatch.setattr(Vault, "publish", publish_and_cross)
    asked = here.trigger(name, revoke=True, is_repeatable=has_key)
    assert rotate(here.systems, asked).status == "rotated"
    assert not logs_in(leaked)
    assert here.logs_in(name)
    count = len(here.versions(name))
    if has_key:
        assert rotate(here.systems, asked).obstacle == "done"
        assert len(here.versions(name)) == count


@pytest.mark.parametrize("comes_a_sweep_first", [False, True])
def test_a_revocation_that_was_cut_off_goes_on_behind_a_version_by_hand(
    here: World, monkeypatch: pytest.MonkeyPatch, *, comes_a_sweep_first: bool
) -> None:
    """P2: killed before the leaked user was locked out, and then somebody writes a version."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(days=2))
    sweep(here.app(topic=None).systems)
    leaked = here.value(name)
    asked = here.trigger(name, revoke=True, id="incident-1", is_repeatable=True)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing:
        killing.setattr(rotation, "revoke", die)
        with pytest.raises(KeyboardInterrupt):
            rotate(here.systems, asked)
    here.clock.advance(timedelta(seconds=20))
    here.vault.put(name, here.value(name))
    if comes_a_sweep_first:
        assert rotate(here.systems, dataclasses.replace(asked, kind="sweep")).status == "skipped"
    deliver(here.systems, here.event(NEW, name))
    assert not logs_in(leaked)
    assert here.logs_in(name)


def test_airflow_does_not_wait_for_a_revocation_that_is_not_done(here: World) -> None:
    """P5: the leaked user is locked out already, so that its tasks fail; the old version cannot be disabled."""
    airflow = FakeAirflow()
    there = here.app(airflow=airflow)
    name = here.alternating()
    leaked = here.value(name)
    here.vault.fail(method="PATCH", path=f"/secrets/{name}/", status=403, times=None)
    with pytest.raises(VaultRefusedError):
        rotate(there.systems, there.trigger(name, revoke=True))
    assert [one.credential.user for one in airflow.refreshed] == [here.user_of(name)]
    assert not logs_in(leaked)
    assert read_state(here.tags(name)).is_unfinished  # type: ignore[union-attr]


# -- The admin's own rotation ------------------------------------------------------------------------------------


@pytest.fixture
def with_admin(here: World) -> World:
    """A world whose admin is under rotation itself."""
    admin = here.server.create_user(f"admin_{here.vault.url.rpartition(':')[2]}", by_admin=False)
    here.server.execute(f'ALTER ROLE "{user_of(admin)}" CREATEROLE')
    tags = {"rotation-admin-for": "*", "rotation-strategy": "single-user"}
    here.vault.put(ADMIN_SECRET, admin, tags=tags)
    return here


def of_its(here: World) -> str:
    value = here.user(by_admin=False)
    here.server.execute(f'GRANT "{user_of(value)}" TO "{user_of(here.value(ADMIN_SECRET))}" WITH ADMIN OPTION')
    return here.alternating(value)


def test_an_admin_that_is_rotated_just_then_is_waited_for(with_admin: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: between the reading of its secret and the login its password changed; the event comes again."""
    here = with_admin
    name = of_its(here)
    here.make_due()
    read = access._admin_secret  # noqa: SLF001

    def read_and_rotate(*args: object) -> object:
        found = read(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(access, "_admin_secret", read)
        rotate(here.systems, here.trigger(ADMIN_SECRET))
        return found

    monkeypatch.setattr(access, "_admin_secret", read_and_rotate)
    with pytest.raises(TransientError, match="was being rotated; it is tried again"):
        deliver(here.systems, here.near_expiry(name))
    assert here.topic.types == ["Completed"]
    deliver(here.systems, here.near_expiry(name))
    assert len(here.versions(name)) == 2


def test_an_admin_whose_rotation_is_long_over_is_told_to_be_wrong(with_admin: World) -> None:
    """P7: its password was changed in the database alone, and that mends itself never."""
    here = with_admin
    name = of_its(here)
    rotate(here.systems, here.trigger(ADMIN_SECRET))
    user = user_of(here.value(ADMIN_SECRET))
    here.server.execute(f"ALTER ROLE \"{user}\" PASSWORD 'another'")
    with pytest.raises(TransientError, match="was being rotated"):
        rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(minutes=2))
    with pytest.raises(LoginRefusedError, match=f"admin secret '{ADMIN_SECRET}'"):
        rotate(here.systems, here.trigger(name))


# -- `self` ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", ["oops, the wrong file", "{value}?hostaddr=10.0.0.1", "{value}?sslmode=disable"])
def test_what_a_person_wrote_before_does_not_hide_the_version_that_logs_in(here: World, between: str) -> None:
    """P2: with `self` the database follows the newest version, by the last password that it knows."""
    name = here.single()
    value, tags = here.value(name), without_state(here, name)
    here.clock.advance(timedelta(seconds=5))
    here.vault.put(name, between.format(value=value), tags=tags)
    here.clock.advance(timedelta(seconds=5))
    here.vault.put(name, value.replace(value.split(":")[2].split("@")[0], "typed-by-hand"), tags=tags)
    deliver(here.systems, here.event(NEW, name))
    assert here.logs_in(name)


def test_another_user_in_the_secret_meanwhile_is_tried_again(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P7: the session is that of the user before, who is not to be given rights over the other."""
    value = here.user()
    other = here.server.create_user(f"{user_of(value)}_c", database=user_of(value))
    name = here.single(value)
    tags, look_again = without_state(here, name), access.look_again

    def write_and_look_again(*args: object) -> object:
        monkeypatch.setattr(rotation, "look_again", look_again)
        here.vault.put(name, other, tags=tags)
        return look_again(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(rotation, "look_again", write_and_look_again)
    with pytest.raises(TransientError, match="was changed while its rotation waited"):
        rotate(here.systems, here.trigger(name))
    assert here.logs_in(name)
    rotate(here.systems, here.trigger(name))
    assert here.logs_in(name)
    assert len(here.versions(name)) == 3


# -- After a person's version ------------------------------------------------------------------------------------


def test_both_users_of_before_are_retired_when_a_person_wrote_a_third(here: World) -> None:
    """P6: `Retired` means that what was there before no longer logs in."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.clock.advance(timedelta(days=2))
    sweep(here.app(topic=None).systems)
    before = here.value(name)
    here.vault.put(name, here.user(), tags=without_state(here, name))
    deliver(here.systems, here.event(NEW, name))
    here.topic.events.clear()
    here.clock.advance(timedelta(days=2))
    outcome = retire(here.systems, here.trigger(name, "sweep"))
    assert outcome is not None
    assert here.topic.types == ["Retired"]
    assert not logs_in(before)
    assert here.logs_in(name)


def test_tasks_that_began_before_the_database_followed_are_healed(here: World) -> None:
    """P5: they were refused with the current credential, and through no fault of theirs."""
    airflow = FakeAirflow()
    there = here.app(airflow=airflow)
    name = here.alternating()
    rotate(there.systems, there.trigger(name))
    here.clock.advance(timedelta(days=2))
    value = here.value(name)
    here.vault.put(name, value.replace(value.split(":")[2].split("@")[0], "by-hand"), tags=without_state(here, name))
    here.clock.advance(timedelta(minutes=5))
    began = here.clock.now()
    deliver(there.systems, here.event(NEW, name))
    assert here.logs_in(name)
    assert began <= airflow.refreshed[-1].published_at
    assert airflow.refreshed[0].published_at < began - timedelta(days=1)


def test_a_name_that_the_server_would_cut_off_is_nobodys(here: World) -> None:
    """P7: 63 bytes and `_alt` are one user to the server, and that is the current one."""
    value = here.server.create_user((user_of(here.user()) + "u" * 63)[:63])
    name = here.single(value, rotation_admin=ADMIN_SECRET)
    rotate(here.systems, here.trigger(name))
    tags = {**here.tags(name), "rotation-strategy": "alternating-users"}
    here.systems.vault.write_tags(name, here.vault.current(name).version, tags)
    here.make_due()
    (outcome,) = [one for one in sweep(here.app(topic=None).systems) if one.secret == name]
    assert "is longer than PostgreSQL's 63 bytes" in outcome.reason
    assert here.logs_in(name)


def test_settings_that_differ_between_the_two_users_are_told(here: World) -> None:
    """They are copied when the second is made; from one rotation to the next tasks would find another `search_path`."""
    name = here.alternating()
    first = here.user_of(name)
    here.server.execute(f'ALTER ROLE "{first}" SET statement_timeout = 5000')
    assert rotate(here.systems, here.trigger(name)).warnings == ()
    assert rotate(here.systems, here.trigger(name, force=True)).warnings == ()
    here.server.execute(f'ALTER ROLE "{first}" SET search_path = reporting, public')
    here.server.execute(f'ALTER ROLE "{first}" IN DATABASE postgres SET statement_timeout = 7000')
    for trigger in (here.trigger(name, force=True, dry_run=True), here.trigger(name, force=True)):
        (warning,) = rotate(here.systems, trigger).warnings
        assert f"'{first}' and '{first}_alt' have different settings (search_path, statement_timeout)" in warning
    here.server.execute(f'ALTER ROLE "{first}_alt" SET search_path = reporting, public')
    here.server.execute(f'ALTER ROLE "{first}_alt" IN DATABASE postgres SET statement_timeout = 7000')
    assert rotate(here.systems, here.trigger(name, force=True)).warnings == ()
    here.server.execute(f'ALTER ROLE "{first}" SET lock_timeout = 1000')
    here.server.execute(f'ALTER ROLE "{first}_alt" IN DATABASE postgres SET lock_timeout = 1000')
    assert "(lock_timeout)" in rotate(here.systems, here.trigger(name, force=True)).warnings[0]


# -- Whose user it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_elses_user_is_taken_over_by_making_it_a_member(tmp_path: Path, version: int) -> None:
    """P6: rights over the first user, as before PostgreSQL 16 each has over itself, are none over the second."""
    is_confined = version >= 16
    with older_server(version) if version != VERSIONS[-1] else PostgreSQL() as server, world(tmp_path, server) as here:
        victim = server.create_user("billing", by_admin=is_confined)
        owner = server.create_user("team", by_admin=False)
        if is_confined:
            server.execute("ALTER ROLE team CREATEROLE")
        with psycopg.connect(owner, autocommit=True) as session:
            if is_confined:
                # Rights over what it makes, and over nothing else.
                session.execute("CREATE ROLE app LOGIN PASSWORD 'made-up'")
                session.execute(f'GRANT app TO "{user_of(server.admin_dsn)}" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE')
                session.execute("GRANT app TO billing")
                value = server.dsn("app", "made-up")
            else:
                session.execute("GRANT team TO billing")
                value = owner
        name = here.alternating(value, rotation_users=f"{user_of(value)},billing")
        with pytest.raises(PolicyError, match="say so as an admin of both with GRANT"):
            rotate(here.systems, here.trigger(name))
        assert logs_in(victim)
        assert len(here.versions(name)) == 1


@pytest.fixture
def elsewhere() -> Iterator[PostgreSQL]:
    with PostgreSQL() as server:
        yield server


@pytest.mark.parametrize("strategy", ["alternating-users", "single-user"])
def test_a_user_of_the_same_name_on_another_server_proves_nothing(
    here: World, elsewhere: PostgreSQL, strategy: str
) -> None:
    """P6: whoever owns a user on an allowed host does not own its namesake where the admin changes users."""
    victim = here.user()
    mine = elsewhere.create_user(user_of(victim))
    there = here.app(settings=dataclasses.replace(here.systems.settings, allowed_hosts=("127.0.0.1",)))
    here.admin()
    name = here.secret(mine, {"rotation-strategy": strategy, "rotation-admin": ADMIN_SECRET})
    before = Everything.of(here, name)
    with pytest.raises(PolicyError, match="logs in at its own server and not at the admin's"):
        rotate(there.systems, there.trigger(name))
    assert examine(there.systems, name).to_mend == ("current-login",)
    before.assert_unchanged()
    assert logs_in(victim)


def test_a_database_that_was_moved_is_not_left_behind(here: World, elsewhere: PostgreSQL) -> None:
    """P1: the admin's secret still names the old server; the version stays that logs in."""
    there = here.app(settings=dataclasses.replace(here.systems.settings, allowed_hosts=("127.0.0.1",)))
    name = here.single(rotation_admin=ADMIN_SECRET)
    rotate(there.systems, there.trigger(name))
    here.vault.put(name, elsewhere.create_user(user_of(here.value(name))))
    deliver(there.systems, here.event(NEW, name))
    here.make_due()
    deliver(there.systems, here.near_expiry(name))
    assert here.topic.types[-1] == "Failed"
    assert examine(there.systems, name).to_mend == ("current-login",)
    assert here.logs_in(name)
    assert len(here.versions(name)) == 3
