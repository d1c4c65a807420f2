"""Who may make the program do what: whoever may write one secret must not be able to borrow its rights. Pure."""

import ipaddress
from collections.abc import Mapping

from rotators.connection_secret import Address, ConnectionSecret
from rotators.databases import Role
from rotators.errors import PolicyError
from rotators.policy import ADMIN_FOR_TAG, SSLMODES, admin_is_open_for


def check_admin_secret(secret: str, admin_secret: str, admin_tags: Mapping[str, str]) -> None:
    """Raise PolicyError unless the admin's secret says itself that it may be used for `secret`."""
    if not admin_is_open_for(secret, admin_tags):
        raise PolicyError(
            f"secret {secret!r}: the admin secret {admin_secret!r} is not open for it; add {secret!r} (or a prefix "
            f"with '*') to the tag {ADMIN_FOR_TAG!r} of {admin_secret!r}"
        )


def check_address(
    secret: str,
    connection: ConnectionSecret,
    *,
    trusted: tuple[Address, ...],
    allowed_hosts: tuple[str, ...],
    min_sslmode: str,
) -> None:
    """Raise PolicyError unless credentials may be sent where `connection` points, encrypted well enough.

    `trusted` are the addresses of the admin's own secret; `allowed_hosts` are `name`, `name:port`, `*.suffix`.
    """
    check_hosts(secret, connection, trusted=trusted, allowed_hosts=allowed_hosts)
    check_encryption(secret, connection, min_sslmode=min_sslmode)


def check_hosts(
    secret: str, connection: ConnectionSecret, *, trusted: tuple[Address, ...], allowed_hosts: tuple[str, ...]
) -> None:
    """Raise PolicyError unless each server is the admin's or an allowed one; see `check_address`."""
    for address in connection.addresses:
        if not any(_same(address, other) for other in trusted) and not is_listed(address, allowed_hosts):
            raise PolicyError(
                f"secret {secret!r}: no credential is sent to {address.host}:{address.port}, which is not the "
                "admin's server; when that is right, add it to the app setting ROTATION_ALLOWED_HOSTS"
            )


def check_encryption(secret: str, connection: ConnectionSecret, *, min_sslmode: str) -> None:
    """Raise PolicyError if what is sent could be read on the way; loopback has none."""
    # libpq's default is prefer, which falls back to an unencrypted session without a word.
    sslmode = connection.options.get("sslmode", "prefer")
    if sslmode not in SSLMODES:
        raise PolicyError(f"secret {secret!r}: its connection has an unknown sslmode; use one of {', '.join(SSLMODES)}")
    if SSLMODES.index(sslmode) < SSLMODES.index(min_sslmode) and not all(
        _is_loopback(address.host) for address in connection.addresses
    ):
        raise PolicyError(
            f"secret {secret!r}: its connection has sslmode {sslmode!r}, and at least {min_sslmode!r} is wanted "
            f"(ROTATION_MIN_SSLMODE); write 'sslmode={min_sslmode}' into the secret"
        )


def check_user(secret: str, identifier: str, role: Role, admin_user: str) -> None:
    """Raise PolicyError unless an admin's rights may be used on this user for this secret.

    `identifier` is the secret's, as written into the comments of its users.
    """
    if role.name == admin_user:
        raise PolicyError(
            f"secret {secret!r}: its user {role.name!r} is the admin itself; an admin's own secret is rotated "
            "with rotation-strategy 'single-user' and rotation-admin 'self'"
        )
    if role.privileges:
        raise PolicyError(
            f"secret {secret!r}: user {role.name!r} has {', '.join(sorted(role.privileges))} and is not changed with "
            "an admin's rights; take that away, or rotate it with rotation-admin 'self'"
        )
    if role.claimed_by is not None and role.claimed_by != identifier:
        raise PolicyError(
            f"secret {secret!r}: user {role.name!r} belongs to {role.claimed_by}, as its comment says; give this "
            "secret a user of its own, or remove the comment when the other secret is gone"
        )


def check_may_take_over(secret: str, pair: tuple[str, str], user: str, roles: Mapping[str, Role]) -> None:
    """Raise PolicyError unless the user of the pair whose turn it is belongs to the secret, or may be created for it.

    `roles` are those of the pair that exist.
    """
    first, second = pair
    if first not in roles:
        raise PolicyError(
            f"secret {secret!r}: user {first!r}, the first of rotation-users, does not exist; name the user that owns "
            "the tables first, then the one that takes turns with it"
        )
    if user not in roles or roles[user].claimed_by is not None:
        return
    if user == first:
        # That the second is a member of it proves nothing: any user may be a member of another application's.
        raise PolicyError(
            f"secret {secret!r}: user {first!r} is not known to belong to it; write a version with the credential of "
            f"{first!r}, which proves it"
        )
    if first not in roles[user].member_of:
        raise PolicyError(
            f"secret {secret!r}: user {second!r} exists already and is not known to belong to it; when the two are a "
            f'pair, say so as an admin of both with GRANT "{first}" TO "{second}", else name another in rotation-users'
        )


def _same(address: Address, other: Address) -> bool:
    return (address.host.lower(), address.port) == (other.host.lower(), other.port)


def is_listed(address: Address, hosts: tuple[str, ...]) -> bool:
    """Whether one of `hosts`, each `name`, `name:port` or `*.suffix` in lower case, is the address's."""
    host = address.host.lower()
    for entry in hosts:
        name, port = _split_port(entry)
        if port is not None and port != address.port:
            continue
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def _split_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, int(port[1:]) if port else None
    name, _, port = entry.partition(":")
    return name, int(port) if port else None


def _is_loopback(host: str) -> bool:
    """A Unix socket's directory is as near as a loopback address."""
    if host.startswith("/") or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
