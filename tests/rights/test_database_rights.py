"""docs/database-admin.md, run as it stands: the admin that it makes can do what rotations ask, with no right to spare.

On each major version of PostgreSQL that can be had here; what the versions differ in is in `ADMIN_OPTION`.
"""

import dataclasses
import os
import re
import secrets
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from rotators.access import ENTRA_DATABASE_SCOPE
from rotators.dispatch import deliver, sweep
from rotators.doctor import examine
from rotators.errors import DatabaseRefusedError
from rotators.rotation import rotate
from sandbox.postgresql import PostgreSQL, PostgreSQLError, embedded_bin_dir
from tests.everything import Everything
from tests.world import ADMIN_SECRET, World, logs_in, user_of, world

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "database-admin.md"
NEW_VERSION = "Microsoft.KeyVault.SecretNewVersionCreated"
ADMIN_OPTION = 16  # the first version in which CREATEROLE alone is not a right over every user


def commands(heading: str) -> list[str]:
    """Return the commands that this section of the page tells its reader to copy."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line.strip() for line in section.splitlines() if line.startswith('    psql "$SERVER" ')]


@dataclass(frozen=True)
class Reader:
    """Somebody who follows the page, and takes names of their own for `rotator` and `app`."""

    server: PostgreSQL
    admin: str
    password: str

    def follow(self, heading: str, *, user: str = "", file: str = "", **environment: str) -> list[str]:
        """Run a section's commands, or the one that runs `file`; return what each printed."""
        found = [command for command in commands(heading) if file in command]
        assert found, f"no command under {heading!r}"
        return [self._run(command, user, environment) for command in found]

    def _run(self, command: str, user: str, environment: Mapping[str, str]) -> str:
        command = re.sub(r"\b(?:rotator|id-rotation)\b", self.admin, command)
        command = re.sub(r"\buser=app\b", f"user={user}", command)
        done = subprocess.run(  # noqa: S603 (commands of our own page)
            ["/bin/sh", "-c", command],
            cwd=ROOT, capture_output=True, text=True, check=False,
            # \password asks a terminal, or who has none.
            input=f"{self.password}\n{self.password}\n", start_new_session=True,
            env={
                "PATH": f"{embedded_bin_dir()}:{os.environ['PATH']}", "SERVER": self.server.superuser, **environment,
            },
        )  # fmt: skip
        if done.returncode:
            raise PostgreSQLError(done.stderr)
        return done.stdout


@pytest.fixture
def reader(server: PostgreSQL) -> Iterator[Reader]:
    """Who has made an admin as the page says, with a name that has to be quoted."""
    reader = Reader(server, f"Rotator-{uuid.uuid4().hex[:8]}", f"secret-{secrets.token_hex(12)}")
    reader.follow("With a password, on any PostgreSQL")
    yield reader
    # So that no later test's look at all roles meets what this one left.
    with suppress(PostgreSQLError):
        reader.follow("What this admin can do")


@pytest.fixture
def here(tmp_path: Path, reader: Reader) -> Iterator[World]:
    """A vault, and the program, which has that admin's secret."""
    with world(tmp_path, reader.server) as made:
        made.admin(reader.server.dsn(reader.admin, reader.password))
        yield made


def app(here: World, reader: Reader) -> str:
    """Return the URI of a user that the admin was given as the page says."""
    uri = here.user(by_admin=False)
    reader.follow("For each user", user=user_of(uri))
    return uri


def complaints(here: World, name: str) -> dict[str, str]:
    return {one.check: one.detail for one in examine(here.systems, name).checks if one.result == "mend"}


def after_the_grace(here: World) -> None:
    here.clock.advance(timedelta(days=2))
    sweep(here.app(topic=None).systems)


def by_hand(here: World, name: str) -> None:
    """Write a version whose password nobody has, and let its event come."""
    here.vault.put(name, re.sub(r":[^:@/]+@", ":set-by-hand@", here.value(name)), tags=here.tags(name))
    assert not here.logs_in(name)
    deliver(here.systems, here.event(NEW_VERSION, name))


def test_two_users_take_turns_by_this_admin(here: World, reader: Reader) -> None:
    """P1: ready, first and later rotations, retired after the grace, a version by hand, rolled back."""
    name = here.alternating(app(here, reader))
    for _ in range(3):
        assert not complaints(here, name)
        before = here.value(name)
        assert rotate(here.systems, here.trigger(name)).status == "rotated"
        assert here.logs_in(name)
        assert logs_in(before)
        after_the_grace(here)
        assert not logs_in(before)
    by_hand(here, name)
    assert here.logs_in(name)
    after_the_grace(here)
    before = here.user_of(name)
    rotate(here.systems, here.trigger(name))
    assert rotate(here.systems, here.trigger(name, kind="rollback")).status == "rotated"
    assert here.user_of(name) == before
    assert here.logs_in(name)


def test_a_managed_identity_needs_no_more(here: World, server: PostgreSQL) -> None:
    """P1: made as the page says for Azure; its token stands for the password that a plain server knows."""
    token = here.systems.token(ENTRA_DATABASE_SCOPE).reveal()
    reader = Reader(server, f"Id-{uuid.uuid4().hex[:8]}", token)
    reader.follow("Without a password, on Azure Database for PostgreSQL", file="admin.sql")
    reader.follow("With a password, on any PostgreSQL", file=r"\password")
    settings = dataclasses.replace(here.systems.settings, allowed_hosts=("127.0.0.1",))
    there = here.app(settings=settings)
    name = there.alternating(app(there, reader), rotation_admin=f"entra:{reader.admin}")
    for _ in range(2):
        assert not complaints(there, name)
        assert rotate(there.systems, there.trigger(name)).status == "rotated"
        assert there.logs_in(name)
        after_the_grace(there)
    reader.follow("What this admin can do")


def test_one_user_changes_by_this_admin(here: World, reader: Reader) -> None:
    """P1: ready, first and later rotations, a version by hand."""
    name = here.single(app(here, reader), rotation_admin=ADMIN_SECRET)
    for _ in range(2):
        assert not complaints(here, name)
        assert rotate(here.systems, here.trigger(name)).status == "rotated"
        assert here.logs_in(name)
    by_hand(here, name)
    assert here.logs_in(name)


def test_one_user_changes_itself_without_any_admin(here: World) -> None:
    """P1: with `self` nothing is granted to anybody."""
    name = here.single(here.user(by_admin=False))
    for _ in range(2):
        assert not complaints(here, name)
        assert rotate(here.systems, here.trigger(name)).status == "rotated"
        assert here.logs_in(name)


def test_a_pair_that_was_made_by_hand_takes_turns(here: World, reader: Reader) -> None:
    """P6: with the rights over both, and the second a member of the first."""
    first = app(here, reader)
    second = f"{user_of(first)}_alt"
    here.server.create_user(second, by_admin=False)
    here.server.execute(f'GRANT "{user_of(first)}" TO "{second}"')
    reader.follow("For each user", user=second)
    name = here.alternating(first)
    for user in (second, user_of(first)):
        assert not complaints(here, name)
        assert rotate(here.systems, here.trigger(name)).user == user
        assert here.logs_in(name)
        after_the_grace(here)


def test_revoking_ends_sessions_if_that_is_wanted(here: World, reader: Reader) -> None:
    """Without the right the old user is locked out all the same, and the outcome says what was left undone (P7)."""
    name = here.alternating(app(here, reader))
    remarks = {one.check: one.detail for one in examine(here.systems, name).checks if one.result == "remark"}
    grant = f'run GRANT pg_signal_backend TO "{reader.admin}"'
    assert grant in remarks["revoke"]
    leaked = here.value(name)
    with psycopg.connect(leaked) as session:
        outcome = rotate(here.systems, here.trigger(name, revoke=True))
        assert any(grant in warning for warning in outcome.warnings)
        assert session.execute("SELECT 1").fetchone() == (1,)
    assert not logs_in(leaked)

    reader.follow("Only if you want it", file="end-sessions")
    after_the_grace(here)
    leaked = here.value(name)
    with psycopg.connect(leaked) as session:
        outcome = rotate(here.systems, here.trigger(name, revoke=True))
        assert any("1 open sessions" in warning for warning in outcome.warnings)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert not logs_in(leaked)


def test_sessions_are_seen_better_if_that_is_wanted(here: World, reader: Reader) -> None:
    """How many there are is told in any case, from where and since when only to who may see it."""
    name = here.alternating(app(here, reader))
    before = here.value(name)
    rotate(here.systems, here.trigger(name))
    with psycopg.connect(before):
        told = warning_of_use(here, name)
        assert "1 open sessions" in told
        assert "127.0.0.1" not in told
        reader.follow("Only if you want it", file="see-sessions")
        assert "127.0.0.1" in warning_of_use(here, name)


def warning_of_use(here: World, name: str) -> str:
    outcome = rotate(here.systems, here.trigger(name, force=True, dry_run=True))
    return next(warning for warning in outcome.warnings if "open sessions" in warning)


# -- Each right taken away ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Right:
    """A right of the admin, when `current` is the second user and `following`, whose turn it is, the first.

    Attributes:
        taken_by: what takes it away.
        line: that of the doctor which then complains; with `more`, others do as well.
        said: what it says, and the rotation too.
        needed_from: before this version it is not asked for.
        is_needed_now: else the rotation goes well, and the one after it would not.
    """

    taken_by: tuple[str, ...]
    line: str
    said: str
    more: tuple[str, ...] = ()
    needed_from: int = 13
    is_needed_now: bool = True


RIGHTS: Mapping[str, Right] = {
    "LOGIN": Right(('ALTER ROLE "{admin}" NOLOGIN',), "admin-login", 'role "{admin}" is not permitted to log in'),
    "CONNECT": Right(
        ("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC",),
        "admin-login",
        'run GRANT CONNECT ON DATABASE "postgres" TO "{admin}"',
    ),
    "CREATEROLE": Right(
        ('ALTER ROLE "{admin}" NOCREATEROLE',),
        "other-user-rights",
        'run ALTER ROLE "{admin}" CREATEROLE',
        more=("current-user-rights",),
    ),
    "ADMIN OPTION on the user whose turn it is": Right(
        # What the admin had granted goes along with its right to grant it.
        ('REVOKE ADMIN OPTION FOR "{following}" FROM "{admin}" CASCADE', 'GRANT "{following}" TO "{current}"'),
        "other-user-rights",
        'run GRANT "{following}" TO "{admin}" WITH ADMIN OPTION',
        needed_from=ADMIN_OPTION,
    ),
    "ADMIN OPTION on the user in use": Right(
        ('REVOKE ADMIN OPTION FOR "{current}" FROM "{admin}" CASCADE',),
        "current-user-rights",
        'run GRANT "{current}" TO "{admin}" WITH ADMIN OPTION',
        needed_from=ADMIN_OPTION,
        is_needed_now=False,
    ),
}


@pytest.mark.parametrize("right", RIGHTS.values(), ids=RIGHTS)
def test_a_right_that_is_taken_away_is_named_and_nothing_changes(here: World, reader: Reader, right: Right) -> None:
    """P7: by the doctor and by the rotation; given back as they say, both go well."""
    name = here.alternating(app(here, reader))
    rotate(here.systems, here.trigger(name))
    after_the_grace(here)
    names = {"admin": reader.admin, "current": here.user_of(name), "following": here.user_of(name)[: -len("_alt")]}
    with given_back(here):
        for statement in right.taken_by:
            here.server.execute(statement.format(**names))
        if here.server.version < right.needed_from:
            assert not complaints(here, name)
            return
        said = right.said.format(**names)
        found = complaints(here, name)
        assert set(found) == {right.line, *right.more}
        assert all(said in detail for detail in found.values()), found
        if right.is_needed_now:
            refuse(here, name, said)
        obey(here, reader, said)
        assert not complaints(here, name)
        assert rotate(here.systems, here.trigger(name)).status == "rotated"
        assert here.logs_in(name)


@pytest.mark.parametrize("strategy", ["alternating-users", "single-user"])
def test_a_user_that_the_admin_was_not_given_is_not_changed(here: World, reader: Reader, strategy: str) -> None:
    """P6, P7: from version 16 on; before, CREATEROLE is a right over every user, as the page says."""
    value = here.user(by_admin=False)
    name = here.secret(value, {"rotation-strategy": strategy, "rotation-admin": ADMIN_SECRET})
    if here.server.version < ADMIN_OPTION:
        assert not complaints(here, name)
        assert "Nothing to grant" in reader.follow("For each user", user=user_of(value))[0]
    else:
        said = f'run GRANT "{user_of(value)}" TO "{reader.admin}" WITH ADMIN OPTION'
        assert said in complaints(here, name)["current-user-rights"]
        refuse(here, name, said)
        reader.follow("For each user", user=user_of(value))
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
    assert here.logs_in(name)


def test_the_admin_may_not_be_the_user_that_it_was_given(here: World, reader: Reader) -> None:
    """From version 16 on it has the right to hand the user on, not the user's own."""
    value = app(here, reader)
    with psycopg.connect(value) as session:
        session.execute("CREATE TABLE ledger AS SELECT 1 AS amount")
    admin = here.server.dsn(reader.admin, reader.password, user_of(value))
    for statement in ("SELECT amount FROM ledger", f'SET ROLE "{user_of(value)}"'):
        with psycopg.connect(admin) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(sql.SQL(statement))


def test_everything_can_be_stopped_at_once(here: World, reader: Reader) -> None:
    """A rotation then fails and says why, consumers go on, and one statement takes it back."""
    name = here.alternating(app(here, reader))
    rotate(here.systems, here.trigger(name))
    reader.follow("What this admin can do")
    refuse(here, name, "is not permitted to log in")
    assert here.logs_in(name)
    here.server.execute(f'ALTER ROLE "{reader.admin}" LOGIN CREATEROLE')
    assert rotate(here.systems, here.trigger(name, force=True)).status == "rotated"


def test_the_admin_can_be_changed(here: World, reader: Reader) -> None:
    """The new one is given both users of the pair; the old one is stopped, and its role kept."""
    value = app(here, reader)
    name = here.alternating(value)
    rotate(here.systems, here.trigger(name))
    following = dataclasses.replace(reader, admin=f"{reader.admin}-2")
    following.follow("With a password, on any PostgreSQL")
    for user in (user_of(value), here.user_of(name)):
        following.follow("For each user", user=user)
    reader.follow("What this admin can do")
    here.admin(here.server.dsn(following.admin, following.password))
    for _ in range(2):
        after_the_grace(here)
        assert not complaints(here, name)
        assert rotate(here.systems, here.trigger(name)).status == "rotated"
        assert here.logs_in(name)


def test_the_label_of_entra_is_understood(reader: Reader) -> None:
    """As far as a server goes that is not Azure's: it knows the statement, and no such label."""
    with pytest.raises(PostgreSQLError, match='security label provider "pgaadauth" is not loaded'):
        reader.follow("Without a password, on Azure Database for PostgreSQL", file="entra.sql", OBJECT_ID="0")


def refuse(here: World, name: str, said: str) -> None:
    """See that a rotation is refused with these words, and that nothing is changed."""
    before = Everything.of(here, name)
    with pytest.raises(DatabaseRefusedError) as refused:
        rotate(here.systems, here.trigger(name, force=True))
    assert said in str(refused.value)
    assert name in str(refused.value)
    before.assert_unchanged(attempts=True)


def obey(here: World, reader: Reader, said: str) -> None:
    """Run what the message says, or where it says what is wrong and no more, what is wrong."""
    command = said.removeprefix("run ") if said.startswith("run ") else f'ALTER ROLE "{reader.admin}" LOGIN'
    here.server.execute(command)


@contextmanager
def given_back(here: World) -> Iterator[None]:
    """What is taken from everybody is given back to everybody: other tests have the same server."""
    try:
        yield
    finally:
        here.server.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
