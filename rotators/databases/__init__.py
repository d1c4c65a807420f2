"""What a rotation needs of a database server. One file per engine implements it; `head_start.py` is PostgreSQL's."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from rotators.connection_secret import ConnectionSecret
from rotators.credential import Credential


@dataclass(frozen=True, slots=True)
class Role:
    """A user as the server knows it.

    Attributes:
        name: the user's name.
        can_login: whether it may log in at all.
        privileges: the rights that make it too strong to be rotated with another's rights, in the server's
            words (on PostgreSQL any of `superuser`, `replication`, `bypassrls`, `createrole`).
        claimed_by: the identifier of the secret that the role's comment says it belongs to, or None.
        member_of: the other asked-for users whose rights it has through membership, where who granted that had rights
            over this user too.
    """

    name: str
    can_login: bool
    privileges: frozenset[str]
    claimed_by: str | None
    member_of: frozenset[str]


@dataclass(frozen=True, slots=True)
class UserSession:
    """A session that is open now, as far as the admin may see: `application` and `address` may be blank."""

    application: str
    address: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Users:
    """What there is of the users that were asked for: the roles, and the sessions that are open, each by name.

    `settings` are what their sessions begin with: the name of each, and a text with its value and the database where
    it counts. The role that they begin as is not among them.
    """

    roles: Mapping[str, Role]
    sessions: Mapping[str, tuple[UserSession, ...]]
    settings: Mapping[str, frozenset[tuple[str, str]]]


class AdminSession(AbstractContextManager["AdminSession"], Protocol):
    """One session of the admin; it holds the lock, and leaving it ends both.

    Every method raises TransientError when the server cannot be reached, is starting, full or read-only, and
    DatabaseRefusedError, with what to grant, when the server says no.
    """

    user: str

    def lock(self, key: str, *, wait: timedelta) -> None:
        """Take the lock of `key`, waiting at most `wait`. Raise LockHeldError when another session has it."""

    def assert_locked(self, key: str) -> None:
        """Raise TransientError unless this session still holds the lock of `key`: one round trip."""

    def look(self, users: Collection[str], *, lock: str) -> Users:
        """Do `assert_locked` of the key `lock`, `roles` and `sessions`, and read settings: all in one round trip."""

    def roles(self, users: Collection[str]) -> dict[str, Role]:
        """Return those of `users` that exist, by name: one round trip."""

    def sessions(self, user: str) -> tuple[UserSession, ...]:
        """Return the open sessions that logged in as `user`, oldest first."""

    def set_password(self, credential: Credential) -> None:
        """Let the user log in with this password from now on; inside `transaction()`, from its end on."""

    def create_second(self, first: str, credential: Credential, *, claim: str) -> None:
        """Create a user that acts as `first` and is claimed for the secret `claim`: all of it or nothing."""

    def claim(self, user: str, secret: str) -> None:
        """Write into the user's comment that it belongs to this secret, keeping what stands there."""

    def lock_out(self, user: str) -> None:
        """Forbid the user to log in; its open sessions stay."""

    def end_sessions(self, user: str) -> int:
        """End the open sessions that logged in as `user`; return how many ended."""

    def check_may_end_sessions(self, user: str) -> None:
        """Raise DatabaseRefusedError unless `end_sessions` may end those of `user`; none is ended."""

    def hindrances(self, user: str, *, database: str | None, acts_as: str | None) -> tuple[str, ...]:
        """Return what would keep `user` out of `database`, or from the rights of `acts_as`, and how to mend it.

        It says what `Engine.verify` would find, of a user whose password nobody knows; inside `transaction()`
        after what was done there. What the server's own configuration forbids is not seen.
        """

    def transaction(self) -> AbstractContextManager[None]:
        """What is done inside takes effect when it ends, or not at all when it raises."""


class Verify(Protocol):
    """What `Engine.reach` gives."""

    def __call__(self, *, acts_as: str | None = None, meanwhile: Callable[[], None] = lambda: None) -> tuple[str, ...]:
        """Do as `Engine.verify` does, with less to wait for; once.

        `meanwhile` is called, in another thread, when the login has succeeded and the server is asked the last
        question; what it raises is raised.
        """


class Engine(Protocol):
    """A kind of database server."""

    def check(self, connection: ConnectionSecret, *, secret: str) -> None:
        """Raise PolicyError if no session may be opened with this connection; asks nobody.

        Its options could lead elsewhere than its host says, or its user's name is none that the server takes.
        """

    def admin(
        self, connection: ConnectionSecret, *, secret: str, lock: str | None = None, wait: timedelta = timedelta(0)
    ) -> AdminSession:
        """Log in with rights over users. `secret` names the secret being rotated, for error messages.

        `lock` is the key of a lock to take at once, waiting at most `wait`: it saves a round trip, and only `look` or
        `assert_locked` tell whether it is held, should there be a connection pooler.

        Raise LoginRefusedError if the server does not let this credential in, LockHeldError when another session has
        the lock, TransientError if the server can't be reached.
        """

    def verify(self, connection: ConnectionSecret, *, secret: str, acts_as: str | None = None) -> tuple[str, ...]:
        """Log in as a consumer of this connection does, look, and log out.

        `acts_as` is a user whose rights this one must have. Return warnings. Raise LoginRefusedError if the server
        does not let this credential in, DatabaseRefusedError if the rights are missing, TransientError if the server
        can't be reached.
        """

    def reach(self, connection: ConnectionSecret, *, secret: str) -> AbstractContextManager[Verify]:
        """Begin to connect, for a login that is to follow; leaving it gives that up.

        Nobody logs in yet, and nothing is raised but PolicyError, as `check` does.
        """
