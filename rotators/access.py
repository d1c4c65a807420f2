"""How a secret's database is reached: its connection, its admin's, and the lock; refusing what section 7 forbids."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from rotators.connection_secret import Address, ConnectionSecret, parse
from rotators.credential import Credential
from rotators.databases import AdminSession, Engine
from rotators.errors import LoginRefusedError, PolicyError, SecretFormatError, SecretNotFoundError, TransientError
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
    def acts_as(self) -> str | None:
        """The user whose rights this one must have: with two users, the second acts as the first."""
        if self.policy.strategy == "single-user" or self.user == self.pair[0]:
            return None
        return self.pair[0]


def look_up(systems: Systems, secret: SecretVersion, policy: RotationPolicy) -> Managed:
    """Read the connection, find the admin's, and refuse what the writer of this one secret may not ask for."""
    managed = read_connection(systems, secret, policy)
    if isinstance(policy.admin, AdminSecret):
        admin_secret = open_admin_secret(systems, secret.name, policy.admin.name)
        managed = dataclasses.replace(managed, admin=read_admin_secret(admin_secret))
        _check_address(systems, policy.admin.name, managed.admin, managed.trusted)
    _check_address(systems, secret.name, managed.connection, managed.trusted)
    managed.engine.check(managed.connection, secret=secret.name)
    return with_token(systems, managed)


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
        options={name: value for name, value in managed.connection.options.items() if name in _TLS_OPTIONS},
    )
    return dataclasses.replace(managed, admin=admin)


def look_up_again(systems: Systems, secret: SecretVersion, policy: RotationPolicy, managed: Managed) -> Managed:
    """Read a version that came meanwhile, for the admin's session that is open already."""
    connection = parse(secret.value, secret=secret.name, tags=secret.tags)
    before = managed.connection
    if (policy.admin, connection.engine, connection.addresses, connection.database) != (
        managed.policy.admin,
        before.engine,
        before.addresses,
        before.database,
    ):
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
def locked(systems: Systems, managed: Managed) -> Iterator[tuple[AdminSession, ConnectionSecret]]:
    """Log in as the admin and take the secret's lock; both end with the process, however it ends.

    Yield the session, and the connection that opened it: with `self` maybe that of an earlier version.
    """
    session, connection = log_in(systems, managed)
    with session as admin:
        admin.lock(managed.identifier, wait=LOCK_WAIT)
        yield admin, connection


@contextmanager
def logged_in(systems: Systems, managed: Managed) -> Iterator[AdminSession]:
    """Log in as the admin to look, not to change: without the lock, so that no rotation has to wait for it."""
    session, _ = log_in(systems, managed)
    with session as admin:
        yield admin


def log_in(systems: Systems, managed: Managed) -> tuple[AdminSession, ConnectionSecret]:
    """Return the admin's session, and the connection that opened it; the caller closes it."""
    name = managed.secret.name
    try:
        return managed.engine.admin(managed.admin, secret=name), managed.admin
    except LoginRefusedError as error:
        refusal = error
    if isinstance(managed.policy.admin, AdminSecret):
        # It is the one to be mended.
        refusal = LoginRefusedError(f"admin secret {managed.policy.admin.name!r}, used for {refusal}")
    if isinstance(managed.policy.admin, AdminSelf):
        for before in _earlier_connections(systems, managed):
            try:
                return managed.engine.admin(before, secret=name), before
            except LoginRefusedError:
                continue
    raise refusal


def _earlier_connections(systems: Systems, managed: Managed) -> Iterator[ConnectionSecret]:
    """Yield the same user's connection as earlier versions say it, newest first, for the same server only.

    A person who may write this secret but not read it must not get an old password sent to a server of theirs.
    """
    secret = managed.secret
    listed = [v for v in systems.vault.versions(secret.name) if v.enabled and v.version != secret.version]
    listed.sort(key=lambda v: v.version != (secret.state.from_version if secret.state else None))
    for version in listed[:_VERSIONS_TRIED]:
        before = systems.vault.version(secret.name, version.version)
        connection = parse(before.value, secret=secret.name, tags=before.tags)
        if connection.addresses == managed.connection.addresses and connection.credential.user == managed.user:
            _check_address(systems, secret.name, connection, connection.addresses)
            yield connection
