"""How a secret's database is reached: its connection, its admin's, and the lock; refusing what section 7 forbids."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from rotators.beside import beside
from rotators.connection_secret import Address, ConnectionSecret, parse
from rotators.credential import Credential
from rotators.databases import AdminSession, Engine, Users
from rotators.errors import (
    LoginRefusedError,
    PermanentError,
    PolicyError,
    SecretFormatError,
    SecretNotFoundError,
    TransientError,
)
from rotators.permissions import check_address, check_admin_secret
from rotators.policy import AdminEntra, AdminSecret, AdminSelf, RotationPolicy
from rotators.systems import Systems
from rotators.vault import SecretVersion

# Duplicates overlap: the second waits this long for the first, then Event Grid brings it again.
LOCK_WAIT = timedelta(seconds=8)
# Microsoft Entra's name for Azure Database for PostgreSQL, MySQL and MariaDB.
ENTRA_DATABASE_SCOPE = "https://ossrdbms-aad.database.windows.net/.default"
# What of the writer's options goes along when an admin's token is sent: TLS only. `options` could set a
# search_path, and so make the admin call the writer's functions.
_TLS_OPTIONS = ("sslmode", "sslrootcert", "sslnegotiation", "channel_binding")
# Where `self` looks for a password that still logs in, when versions were written by hand.
_VERSIONS_TRIED = 3
# Between a version of the admin's and the database that follows it there may be this much.
_ROTATION_LASTS = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Managed:
    """A secret under rotation, read and checked: what it says, and how its database is reached."""

    secret: SecretVersion
    policy: RotationPolicy
    connection: ConnectionSecret
    engine: Engine
    admin: ConnectionSecret
    identifier: str

    @property
    def user(self) -> str:
        return self.connection.credential.user

    @property
    def pair(self) -> tuple[str, str]:
        """The two users that take turns, the owner first."""
        pair = self.policy.pair(self.user)
        if self.user not in pair:
            raise PolicyError(
                f"secret {self.secret.name!r}: its user {self.user!r} is none of rotation-users {','.join(pair)}; "
                "mend the tag or the secret"
            )
        return pair

    @property
    def trusted(self) -> tuple[Address, ...]:
        """The servers that a credential may go to without being allowed: the admin's; a token vouches for none."""
        return () if isinstance(self.policy.admin, AdminEntra) else self.admin.addresses

    @property
    def other_user(self) -> str:
        """Of the two users that take turns, the one that the current version does not name."""
        first, second = self.pair
        return second if self.user == first else first

    @property
    def users(self) -> tuple[str, ...]:
        """Every user that a rotation of it gives a password."""
        return (self.user,) if self.policy.strategy == "single-user" else self.pair

    @property
    def acts_as(self) -> str | None:
        """The user whose rights this one must have: with two users, the second acts as the first."""
        if self.policy.strategy == "single-user" or self.user == self.pair[0]:
            return None
        return self.pair[0]


def look_up(systems: Systems, secret: SecretVersion, policy: RotationPolicy) -> Managed:
    """Read the connection, find the admin's, and refuse what the writer of this one secret may not ask for."""
    managed = read_connection(systems, secret, policy)
    admin_secret = None
    if isinstance(policy.admin, AdminSecret):
        admin_secret = _admin_secret(systems, secret.name, policy.admin.name)
        systems.admin_secrets[policy.admin.name] = admin_secret
    return with_token(systems, _permitted(systems, managed, admin_secret))


def _permitted(systems: Systems, managed: Managed, admin_secret: SecretVersion | None) -> Managed:
    """Return it with the connection of this admin. Raise PolicyError where that, or its own, may not be used."""
    if admin_secret is not None:
        check_admin_secret(managed.secret.name, admin_secret.name, admin_secret.tags)
        managed = dataclasses.replace(managed, admin=read_admin_secret(admin_secret))
        _check_address(systems, admin_secret.name, managed.admin, managed.trusted)
    _check_address(systems, managed.secret.name, managed.connection, managed.trusted)
    managed.engine.check(managed.connection, secret=managed.secret.name)
    return managed


def read_connection(systems: Systems, secret: SecretVersion, policy: RotationPolicy) -> Managed:
    """Return what the secret says; until an admin is found for its user, that is its own."""
    connection = parse(secret.value, secret=secret.name, tags=secret.tags)
    engine = systems.engines.get(connection.engine)
    if engine is None:
        raise SecretFormatError(
            f"secret {secret.name!r}: no rotation for {connection.engine!r} yet; there is one for "
            f"{', '.join(systems.engines)}"
        )
    return Managed(secret, policy, connection, engine, connection, systems.vault.identifier(secret.name))


def open_admin_secret(systems: Systems, secret: str, name: str) -> SecretVersion:
    """Return the admin's secret. Raise PolicyError if there is none, or it is not open for `secret`."""
    admin_secret = _admin_secret(systems, secret, name)
    check_admin_secret(secret, name, admin_secret.tags)
    return admin_secret


def read_admin_secret(admin_secret: SecretVersion) -> ConnectionSecret:
    return parse(admin_secret.value, secret=admin_secret.name, tags=admin_secret.tags)


def with_token(systems: Systems, managed: Managed) -> Managed:
    """Give an admin that is the managed identity its token; every other has its password."""
    if not isinstance(managed.policy.admin, AdminEntra):
        return managed
    login = Credential(managed.policy.admin.login, systems.token(ENTRA_DATABASE_SCOPE))
    admin = dataclasses.replace(
        managed.connection.with_credential(login),
        # Without one libpq takes that of the user's name, which is another for the admin.
        database=managed.connection.database or managed.user,
        options=_for_tls(managed.connection),
    )
    return dataclasses.replace(managed, admin=admin)


def look_up_again(systems: Systems, secret: SecretVersion, policy: RotationPolicy, managed: Managed) -> Managed:
    """Read a version that came meanwhile, for the admin's session that is open already."""
    connection = parse(secret.value, secret=secret.name, tags=secret.tags)
    before = managed.connection
    is_other = (policy.admin, connection.engine, connection.addresses, connection.database) != (
        managed.policy.admin,
        before.engine,
        before.addresses,
        before.database,
    )
    if is_other or (isinstance(policy.admin, AdminSelf) and connection.credential.user != managed.user):
        raise TransientError(f"secret {secret.name!r} was changed while its rotation waited; it is tried again")
    _check_address(systems, secret.name, connection, connection.addresses)
    managed.engine.check(connection, secret=secret.name)
    return dataclasses.replace(managed, secret=secret, policy=policy, connection=connection)


def _admin_secret(systems: Systems, secret: str, name: str) -> SecretVersion:
    try:
        return systems.vault.current(name)
    except SecretNotFoundError:
        failure = PolicyError(
            f"secret {secret!r}: the admin secret {name!r} that rotation-admin names does not exist; create it or "
            "mend the tag"
        )
    raise failure


def _check_address(systems: Systems, secret: str, connection: ConnectionSecret, trusted: tuple[Address, ...]) -> None:
    check_address(
        secret,
        connection,
        trusted=trusted,
        allowed_hosts=systems.settings.allowed_hosts,
        min_sslmode=systems.settings.min_sslmode,
    )


@contextmanager
def locked(
    systems: Systems, secret: SecretVersion, policy: RotationPolicy
) -> Iterator[tuple[Managed, AdminSession, ConnectionSecret]]:
    """Look the secret up, log in as its admin and take its lock; both end with the process, however it ends.

    Yield what was looked up, the session, and the connection that opened it: with `self` maybe that of an earlier
    version. `look_again` is to follow. The login, which takes several round trips, is made with what the admin's secret
    said last, while that is read; when it says otherwise now, or is closed for this secret, that session has done
    nothing but take the lock, and ends.
    """
    with ExitStack() as opened:

        def open_with(managed: Managed) -> tuple[AdminSession, ConnectionSecret]:
            session, connection = log_in(systems, managed, lock=managed.identifier)
            return opened.enter_context(session), connection

        remembered = _remembered(systems, secret, policy)
        if remembered is None:
            managed = look_up(systems, secret, policy)
            session, connection = open_with(managed)
        else:
            with beside(lambda: open_with(remembered)) as attempt:
                managed = look_up(systems, secret, policy)
            if managed.admin == remembered.admin:
                session, connection = attempt.result()
            else:
                opened.close()
                session, connection = open_with(managed)
        yield managed, session, connection


def _remembered(systems: Systems, secret: SecretVersion, policy: RotationPolicy) -> Managed | None:
    """Return what `look_up` would, were the admin's secret what it was last; None when there is no saying."""
    admin_secret = systems.admin_secrets.get(policy.admin.name) if isinstance(policy.admin, AdminSecret) else None
    if admin_secret is None:
        return None
    with suppress(PermanentError):  # what is wrong, and still is, `look_up` tells
        return _permitted(systems, read_connection(systems, secret, policy), admin_secret)
    return None


def look_again(
    systems: Systems, managed: Managed, admin: AdminSession, users: tuple[str, ...]
) -> tuple[SecretVersion, Users]:
    """Read the secret again and look at these users: while this one waited for the lock, another may have rotated.

    Raise TransientError if the lock is not held.
    """
    with beside(lambda: admin.look(users, lock=managed.identifier)) as looking:
        secret = systems.vault.current(managed.secret.name)
    return secret, looking.result()


@contextmanager
def logged_in(systems: Systems, managed: Managed) -> Iterator[AdminSession]:
    """Log in as the admin to look, not to change: without the lock, so that no rotation has to wait for it."""
    session, _ = log_in(systems, managed)
    with session as admin:
        yield admin


def log_in(systems: Systems, managed: Managed, *, lock: str | None = None) -> tuple[AdminSession, ConnectionSecret]:
    """Return the admin's session, and the connection that opened it; the caller closes it.

    `lock` is the key of a lock to take, as `Engine.admin` does.
    """
    name = managed.secret.name
    try:
        return managed.engine.admin(managed.admin, secret=name, lock=lock, wait=LOCK_WAIT), managed.admin
    except LoginRefusedError as error:
        refusal = error
    if isinstance(managed.policy.admin, AdminSecret):
        _refuse_if_changed(systems, managed, managed.policy.admin.name)
        # It is the one to be mended.
        refusal = LoginRefusedError(f"admin secret {managed.policy.admin.name!r}, used for {refusal}")
    if isinstance(managed.policy.admin, AdminSelf):
        for before in _earlier_connections(systems, managed):
            try:
                return managed.engine.admin(before, secret=name, lock=lock, wait=LOCK_WAIT), before
            except LoginRefusedError:
                continue
    raise refusal


def refuse_another_server(managed: Managed) -> None:
    """Raise PolicyError where a credential that logs in is none on the server on which the admin changes users.

    Their addresses may differ, as with a pooler in front, or when the database was moved; or it is somebody else's.
    """
    if managed.connection.addresses == managed.admin.addresses:
        return
    name = managed.secret.name
    there = dataclasses.replace(
        managed.admin,
        credential=managed.connection.credential,
        database=managed.connection.database or managed.user,
        options=_for_tls(managed.admin),
    )
    with suppress(LoginRefusedError):
        managed.engine.verify(there, secret=name)
        return
    raise PolicyError(
        f"secret {name!r}: its credential logs in at its own server and not at the admin's, so that these are two; "
        "correct the host in the secret, or in the admin's"
    )


def _for_tls(connection: ConnectionSecret) -> dict[str, str]:
    return {name: value for name, value in connection.options.items() if name in _TLS_OPTIONS}


def _refuse_if_changed(systems: Systems, managed: Managed, admin_secret: str) -> None:
    """Raise TransientError if the admin's own secret is not what it was: a rotation of it came in between."""
    newest = _admin_secret(systems, managed.secret.name, admin_secret)
    state = newest.state
    is_new = state is not None and ("verify" in state.pending or systems.now() - state.at < _ROTATION_LASTS)
    if is_new or read_admin_secret(newest).credential != managed.admin.credential:
        raise TransientError(
            f"secret {managed.secret.name!r}: its admin secret {admin_secret!r} was being rotated; it is tried again"
        )


def _earlier_connections(systems: Systems, managed: Managed) -> Iterator[ConnectionSecret]:
    """Yield the same user's connection as earlier versions say it, newest first, for the same server only.

    A person who may write this secret but not read it must not get an old password sent to a server of theirs.
    """
    secret = managed.secret
    listed = [v for v in systems.vault.versions(secret.name) if v.enabled and v.version != secret.version]
    listed.sort(key=lambda v: v.version != (secret.state.from_version if secret.state else None))
    for version in listed[:_VERSIONS_TRIED]:
        with suppress(PermanentError):  # what a person wrote before, or disabled just now, may be anything
            before = systems.vault.version(secret.name, version.version)
            connection = parse(before.value, secret=secret.name, tags=before.tags)
            _check_address(systems, secret.name, connection, connection.addresses)
            managed.engine.check(connection, secret=secret.name)
            if connection.addresses == managed.connection.addresses and connection.credential.user == managed.user:
                yield connection
