"""What docs/operating.md claims: a backup restored, a vault or a server moved, a week of silence, a farewell."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from rotators.batch import Answered, BatchRequest, request_rotations
from rotators.dispatch import deliver, sweep
from rotators.doctor import examine
from rotators.errors import LoginRefusedError, PolicyError, SecretNotFoundError
from rotators.policy import RotationState, read_state
from rotators.rotation import rotate
from sandbox.postgresql import PostgreSQL, embedded_bin_dir
from tests.world import ADMIN_SECRET, World, logs_in, user_of, world

OPERATING = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
NEW_VERSION = "Microsoft.KeyVault.SecretNewVersionCreated"
A_DAY = timedelta(days=1)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """A world whose server may be stopped and put back to yesterday."""
    with PostgreSQL() as server, world(tmp_path, server) as made:
        yield made


def back_up(server: PostgreSQL) -> None:
    server.stop()
    # Owned as they are: PostgreSQL minds.
    subprocess.run(["cp", "-a", server.folder / "data", server.folder / "backup"], check=True)  # noqa: S603, S607 (cp)
    server.start()


def restore(server: PostgreSQL) -> None:
    server.stop()
    (server.folder / "data").rename(server.folder / "lost")
    (server.folder / "backup").rename(server.folder / "data")
    server.start()


def rotate_all(here: World) -> list[Answered]:
    """`POST rotations`, as the page says it: without a topic, so it is done before the answer."""
    batch = BatchRequest(by="key", host="127.0.0.1", force=True, reason="database restored")
    return request_rotations(here.app(topic=None).systems, batch)


def state_of(here: World, name: str) -> RotationState:
    state = read_state(here.tags(name))
    assert state is not None
    return state


def write_by_hand(here: World, name: str, value: str, tags: Mapping[str, str] | None = None) -> None:
    """`az keyvault secret set`, and the event that follows."""
    here.clock.advance(timedelta(seconds=2))
    here.vault.put(name, value, tags=tags)
    deliver(here.systems, here.event(NEW_VERSION, name))


def identifier(here: World, name: str) -> str:
    return f"{here.vault.url}/secrets/{name}"


def mark(here: World, name: str) -> str:
    return f"[credential-rotation secret={identifier(here, name)}]"


def sql_of(heading: str, names: Mapping[str, str]) -> str:
    """Return the SQL below a heading of docs/operating.md, with our names in the place of the page's."""
    section = OPERATING.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    for placeholder, name in names.items():
        assert placeholder in block
        block = block.replace(placeholder, name)
    return str(block)


def run_as_admin(here: World, script: str) -> None:
    with psycopg.connect(here.server.admin_dsn, autocommit=True) as session:
        session.execute(script.encode())


# -- The database is restored from an older backup ----------------------------------------------------------------


def test_after_a_restore_one_request_gives_every_secret_a_credential_that_works(alone: World) -> None:
    """P1, P2: what the vault says and the database forgot is made anew, for each kind of secret on that server."""
    two, one = alone.alternating(), alone.single(rotation_admin=ADMIN_SECRET)
    by_itself = alone.single(rotation_grace="10d")
    names = (two, one, by_itself)
    for name in names:
        rotate(alone.systems, alone.trigger(name))
    alone.clock.advance(A_DAY + timedelta(hours=1))
    back_up(alone.server)
    for _ in range(2):
        for name in names:
            rotate(alone.systems, alone.trigger(name))
        alone.clock.advance(A_DAY + timedelta(hours=1))
    restore(alone.server)
    assert not any(alone.logs_in(name) for name in names)
    assert {(it.secret, it.status) for it in rotate_all(alone)} == {(name, "rotated") for name in names}
    assert all(alone.logs_in(name) for name in names)


def test_a_restored_user_that_changes_its_own_password_needs_a_version_that_can_be_read(alone: World) -> None:
    """P2: with `self` the only way in is a password of before, and the versions beyond the grace are disabled."""
    name = alone.single()
    rotate(alone.systems, alone.trigger(name))
    back_up(alone.server)
    good = alone.vault.current(name).version
    alone.clock.advance(timedelta(days=2))
    rotate(alone.systems, alone.trigger(name))
    alone.clock.advance(timedelta(days=2))
    sweep(alone.app(topic=None).systems)
    restore(alone.server)
    with pytest.raises(LoginRefusedError):
        rotate(alone.systems, alone.trigger(name))
    alone.vault.update(name, good, enabled=True)
    rotate(alone.systems, alone.trigger(name))
    assert alone.logs_in(name)


def test_a_backup_from_before_the_first_rotation_has_no_mark_and_the_page_says_how_to_write_it(alone: World) -> None:
    """P6 stands in the way, rightly: nothing in that database says whose the user is, until the admin does."""
    name = alone.alternating()
    first = alone.user_of(name)
    back_up(alone.server)
    rotate(alone.systems, alone.trigger(name))
    restore(alone.server)
    with pytest.raises(PolicyError, match="not known to belong to it"):
        rotate(alone.systems, alone.trigger(name, force=True))
    whose = {"app": first, "https://v.vault.azure.net/secrets/airflow-connections-warehouse": identifier(alone, name)}
    run_as_admin(alone, sql_of("The database was restored from a backup", whose))
    write_by_hand(alone, name, alone.server.dsn(first, "made-up-in-a-hurry", first))
    assert alone.logs_in(name)
    rotate(alone.systems, alone.trigger(name, force=True))
    assert alone.user_of(name) == f"{first}_alt"
    assert alone.logs_in(name)


def test_the_doctor_tells_which_secrets_a_restore_broke(alone: World) -> None:
    """P7: without waiting until one of them is due."""
    name = alone.alternating()
    back_up(alone.server)
    rotate(alone.systems, alone.trigger(name))
    restore(alone.server)
    mend = {finding.check for finding in examine(alone.systems, name).checks if finding.result == "mend"}
    assert "current-login" in mend


# -- Secrets are deleted, restored, lost ----------------------------------------------------------------------------


def test_a_secret_that_was_deleted_and_recovered_goes_on_where_it_was(here: World) -> None:
    """P2: recovering brings all versions with their tags, and the users are still marked as its own."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.vault.delete(name)
    with pytest.raises(SecretNotFoundError):
        rotate(here.systems, here.trigger(name))
    assert sweep(here.app(topic=None).systems) == []
    with here.vault.client() as client:
        client.begin_recover_deleted_secret(name).wait()
    here.make_due()
    (outcome,) = sweep(here.app(topic=None).systems)
    assert (outcome.secret, outcome.status) == (name, "rotated")
    assert here.logs_in(name)


def test_a_secret_restored_from_an_older_backup_is_mended_by_rotating_it(here: World) -> None:
    """P1: it says a credential that was retired since; the next version has one that works."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    with here.vault.client() as client:
        blob = client.backup_secret(name)
        here.clock.advance(timedelta(days=2))
        rotate(here.systems, here.trigger(name))
        here.clock.advance(timedelta(days=2))
        sweep(here.app(topic=None).systems)
        client.begin_delete_secret(name).wait()
        client.purge_deleted_secret(name)
        client.restore_secret_backup(blob)
    assert not here.logs_in(name)
    rotate(here.systems, here.trigger(name, force=True))
    assert here.logs_in(name)


def test_a_secret_that_was_purged_is_written_anew_with_any_password(here: World) -> None:
    """P1, P6: the mark in the database still says whose the user is, so the database follows; no DBA is needed."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    first, tags = user_of(here.versions(name)[0].value), {"rotation-strategy": "alternating-users"}
    with here.vault.client() as client:
        client.begin_delete_secret(name).wait()
        client.purge_deleted_secret(name)
    anew = here.server.dsn(first, "made-up-in-a-hurry", first)
    write_by_hand(here, name, anew, {**tags, "rotation-admin": ADMIN_SECRET})
    assert here.value(name) == anew
    assert here.logs_in(name)


# -- The vault, or the server, has another name ---------------------------------------------------------------------


def test_after_the_vault_moved_the_marks_are_rewritten_by_the_sql_of_the_page(here: World, tmp_path: Path) -> None:
    """P6: users that carry the old vault's name are refused until somebody who may says that the vault is another."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    user = here.user_of(name)
    here.server.execute(f"COMMENT ON ROLE \"{user}\" IS 'ours {mark(here, name)} ask ann'")
    with world(tmp_path / "new", here.server, clock=here.clock) as there:
        there.admin()
        there.vault.put(name, here.value(name), tags=here.tags(name))
        with pytest.raises(PolicyError, match="belongs to"):
            rotate(there.systems, there.trigger(name, force=True))
        names = {"https://old.vault.azure.net": here.vault.url, "https://new.vault.azure.net": there.vault.url}
        run_as_admin(here, sql_of("The vault has another name", names))
        rotate(there.systems, there.trigger(name, force=True))
        assert there.logs_in(name)
        ((comment,),) = here.server.execute(
            "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s", (user,)
        )
        assert comment == f"ours {mark(there, name)} ask ann"


def test_after_the_server_moved_new_versions_by_hand_take_the_users_along(alone: World) -> None:
    """P1, P6: first the admin's secret, then the others; users that came without passwords get what the vault says."""
    two, one = alone.alternating(), alone.single(rotation_admin=ADMIN_SECRET)
    for name in (two, one):
        rotate(alone.systems, alone.trigger(name))
    with PostgreSQL() as moved:
        move_roles(alone.server, moved)
        for name in (two, one):
            database = user_of(alone.versions(name)[0].value)
            moved.create_database(database, owner=database)
            there = alone.value(name).replace(f":{alone.server.port}/", f":{moved.port}/")
            write_by_hand(alone, name, there)
            assert alone.topic.types[-1] == "Failed"
            assert "not the admin's server" in str(alone.topic.events[-1].data["reason"])
            before = alone.vault.current(ADMIN_SECRET).value
            alone.admin(moved.admin_dsn)
            write_by_hand(alone, name, there)
            assert alone.value(name) == there
            assert alone.logs_in(name)
            rotate(alone.systems, alone.trigger(name, force=True))
            assert alone.logs_in(name)
            alone.admin(before)


def move_roles(old: PostgreSQL, new: PostgreSQL) -> None:
    """Bring the roles along as the page says; those that are there already are no reason to stop."""
    options = "--roles-only --no-role-passwords"
    assert f"`pg_dumpall {options}`" in OPERATING
    programs = embedded_bin_dir()
    dump = [str(programs / "pg_dumpall"), *options.split(), "--dbname", old.superuser]
    roles = subprocess.run(dump, check=True, capture_output=True).stdout  # noqa: S603 (PostgreSQL's own)
    load = [str(programs / "psql"), "--no-psqlrc", "--quiet", "--dbname", new.superuser]
    subprocess.run(load, input=roles, check=True, capture_output=True)  # noqa: S603 (PostgreSQL's own)


# -- Nobody was there for a week --------------------------------------------------------------------------------------


def test_after_a_week_of_silence_one_sweep_does_all_that_was_missed(here: World) -> None:
    """P2: no event is left after a day; what is due or expired is rotated, what is out of its grace retired."""
    due, retiring = here.alternating(), here.alternating()
    expired = here.alternating(rotation_window="0 2 1 1 * for 1m")
    here.make_due(days=56)
    rotate(here.systems, here.trigger(retiring))
    old = here.versions(retiring)[0].value
    here.vault.update(expired, expires_on=here.clock.now() + A_DAY)
    here.clock.advance(timedelta(days=7))
    outcomes = sweep(here.app(topic=None).systems)
    assert {(it.secret, it.status) for it in outcomes} >= {(due, "rotated"), (expired, "rotated")}
    assert not logs_in(old)
    assert all(here.logs_in(name) for name in (due, retiring, expired))


# -- Farewell ---------------------------------------------------------------------------------------------------------


def test_a_secret_that_left_is_not_touched_again_and_its_second_user_can_go(here: World) -> None:
    """P6: the page's order leaves one user, which owns everything, and nothing of this program in the database."""
    name = here.alternating()
    first = here.user_of(name)
    for _ in range(2):
        rotate(here.systems, here.trigger(name))
        here.clock.advance(timedelta(days=2))
        sweep(here.app(topic=None).systems)
    assert here.user_of(name) == first
    here.vault.update(name, tags={})
    run_as_admin(here, sql_of("Leaving", {"app": first}))
    here.make_due(days=400)
    deliver(here.systems, here.event("Microsoft.KeyVault.SecretExpired", name))
    assert sweep(here.app(topic=None).systems) == []
    assert len(here.versions(name)) == 3
    assert here.logs_in(name)
    assert here.server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (f"{first}_alt",)) == []
    ((comment,),) = here.server.execute(
        "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s", (first,)
    )
    assert comment is None
