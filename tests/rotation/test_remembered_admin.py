"""The admin's login is made with what its secret said last, while that is read: what it says now decides."""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import pytest

from rotators.errors import LockHeldError, LoginRefusedError, PolicyError, TransientError
from rotators.rotation import rotate
from rotators.vault import SecretVersion, Vault
from tests.world import ADMIN_SECRET, World, user_of


@dataclass
class Due:
    """A secret that is due for its second rotation, and its admin."""

    here: World
    name: str
    admin: str
    password: str = "clear-first"

    @property
    def uri(self) -> str:
        return self.here.server.dsn(self.admin, self.password)

    def change_password(self, password: str) -> None:
        self.password = password
        self.here.server.execute(f"ALTER ROLE {self.admin} PASSWORD '{password}'")

    def rotate(self) -> str:
        return rotate(self.here.systems, self.here.trigger(self.name)).status

    def log(self, since: int = 0) -> str:
        return self.here.server.log()[since:]

    def logins(self, since: int) -> tuple[int, int]:
        """Return how often the admin logged in, and how often it was refused."""
        log = self.log(since)
        succeeded = log.count(f'connection authenticated: identity="{self.admin}"')
        return succeeded, log.count(f'authentication failed for user "{self.admin}"')

    def locks(self) -> int:
        ((count,),) = self.here.server.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        return int(count)


@pytest.fixture
def due(here: World) -> Iterator[Due]:
    """Rotate once, so that the admin is remembered; in the end its sessions are gone, and their locks with them."""
    admin, uri = f"admin_{uuid.uuid4().hex[:8]}", here.user(by_admin=False)
    first, password = user_of(uri), Due.password
    here.server.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD '{password}'")
    here.server.execute(f"GRANT {first} TO {admin} WITH ADMIN OPTION")
    here.admin(here.server.dsn(admin, password))
    due = Due(here, here.alternating(uri), admin)
    assert due.rotate() == "rotated"
    here.make_due()
    yield due
    ended = "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename IN (%s, 'rotator')"
    assert becomes(lambda: here.server.execute(ended, (admin,)) == [(True,)])
    assert due.locks() == 0


def becomes(is_so: Callable[[], bool]) -> bool:
    """Wait until it is so, for some seconds."""
    end = time.monotonic() + 10
    while not is_so():
        if time.monotonic() > end:
            return False
    return True


def test_the_login_does_not_wait_for_the_secret(due: Due, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed: the admin is logged in, and holds the lock, before its secret has been read again."""
    current = Vault.current

    def when_locked(vault: Vault, name: str) -> SecretVersion:
        assert name != ADMIN_SECRET or becomes(lambda: due.locks() > 0)
        return current(vault, name)

    monkeypatch.setattr(Vault, "current", when_locked)
    assert due.rotate() == "rotated"


def test_a_new_password_of_the_admin_counts_at_once(due: Due) -> None:
    """It was changed since the last rotation: that the old one is refused is nobody's trouble."""
    due.change_password("clear-second")
    due.here.admin(due.uri)
    log = len(due.log())
    assert due.rotate() == "rotated"
    assert due.logins(log) == (1, 1)


def test_another_admin_counts_at_once(due: Due) -> None:
    """P6: the one of before still logs in, but nothing is changed with its rights."""
    first = user_of(due.here.value(due.name)).removesuffix("_alt")
    due.here.server.execute(f"GRANT {first}, {first}_alt TO rotator WITH ADMIN OPTION")
    due.here.admin()
    log = len(due.log())
    assert due.rotate() == "rotated"
    assert re.findall(r"(\w+)@\w+ LOG:  statement: ALTER ROLE", due.log(log)) == ["rotator"]


def test_an_admin_that_is_closed_for_the_secret_now_changes_nothing(due: Due) -> None:
    """P6: the right was withdrawn since; and once that is known nobody logs in."""
    due.here.admin(due.uri, open_for="nobody")
    for logins in (1, 0):
        log = len(due.log())
        with pytest.raises(PolicyError, match="is not open for it"):
            due.rotate()
        assert due.logins(log) == (logins, 0)
        assert "ALTER ROLE" not in due.log(log)


def test_a_wrong_password_is_tried_once(due: Due) -> None:
    """Accounts are locked after so many failures: the secret says what it said, so a second try would fail too."""
    due.change_password("clear-second")
    log = len(due.log())
    with pytest.raises(LoginRefusedError, match=f"admin secret '{ADMIN_SECRET}'"):
        due.rotate()
    assert due.logins(log) == (0, 1)


def test_a_vault_that_fails_meanwhile_leaves_no_session(due: Due) -> None:
    """P4: nor a lock that the redelivery would run into."""
    due.here.vault.fail(method="GET", path=f"/secrets/{ADMIN_SECRET}$", status=503, times=4)
    with pytest.raises(TransientError, match="503"):
        due.rotate()
    assert due.rotate() == "rotated"


def test_a_secret_that_may_not_go_there_sends_nobody(due: Due) -> None:
    """P6: where nothing may be rotated the admin does not log in early either."""
    value = due.here.value(due.name).replace("127.0.0.1", "localhost")
    due.here.vault.put(due.name, value, tags=due.here.tags(due.name))
    due.here.make_due()
    log = len(due.log())
    with pytest.raises(PolicyError, match="no credential is sent to localhost"):
        due.rotate()
    assert due.logins(log) == (0, 0)


def test_a_lock_that_another_holds_is_waited_for_as_ever(due: Due, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: and then Event Grid brings it again."""
    monkeypatch.setattr("rotators.access.LOCK_WAIT", timedelta(0))
    with psycopg.connect(due.here.server.superuser) as other:
        locks = re.findall(r"pg_advisory_lock\( *(-?\d+)\)", due.log())
        other.execute(f"SELECT pg_advisory_lock({locks[-1]})")
        with pytest.raises(LockHeldError, match="another session holds it"):
            due.rotate()
    assert due.rotate() == "rotated"
