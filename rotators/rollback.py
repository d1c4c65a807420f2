"""The way back: which credential a rollback makes the current one again, and until when it is good for that."""

from dataclasses import dataclass
from datetime import datetime

from rotators.access import Managed
from rotators.connection_secret import parse
from rotators.credential import Credential
from rotators.decision import Skip
from rotators.errors import LoginRefusedError
from rotators.systems import Systems


@dataclass(frozen=True, slots=True)
class FormerCredential:
    """What the version before says, and when the new version that says it again expires."""

    credential: Credential
    expires: datetime


def former_credential(systems: Systems, managed: Managed, version: str) -> FormerCredential | Skip:
    """Return the credential of an earlier version of a secret; Skip, saying why, when it is no way back.

    Whether it logs in is for the caller to see. It lives on as long as it would have, so that a rollback does not
    make a password older than the policy allows, but not shorter than the grace of the one that it replaces.
    """
    name, policy = managed.secret.name, managed.policy
    listed = next((v for v in systems.vault.versions(name) if v.version == version), None)
    if listed is None or not listed.enabled:
        return _no_way_back(f"version {version} is {'disabled' if listed else 'gone'}, so it cannot be read")
    before = systems.vault.version(name, version)
    connection = parse(before.value, secret=name, tags=before.tags)
    if connection.credential.user != managed.other_user:
        return _no_way_back(
            f"version {version} names user {connection.credential.user!r}, not {managed.other_user!r}, the other of "
            "the two"
        )
    if connection.addresses != managed.connection.addresses:
        # Who may write this secret but not read it must not get an old password sent to a server of theirs.
        return _no_way_back(f"version {version} is for another server than the current one")
    grace_ends = systems.now() + policy.grace
    return FormerCredential(connection.credential, max(before.expires or before.created + policy.validity, grace_ends))


def prove(managed: Managed) -> tuple[str, ...]:
    """See that what is to come back logs in; return warnings. Raise LoginRefusedError, saying that nothing changed."""
    try:
        return managed.engine.verify(managed.connection, secret=managed.secret.name, acts_as=managed.acts_as)
    except LoginRefusedError as error:
        failure = LoginRefusedError(
            f"{error}; that is the credential of before, so it is no way back, and nothing was changed: rotate instead"
        )
    raise failure


def _no_way_back(reason: str) -> Skip:
    return Skip("no way back", reason)
