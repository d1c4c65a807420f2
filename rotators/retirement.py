"""What becomes of the credential of before: retired after its grace, or revoked at once."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime

from rotators.access import Managed, locked, look_again, read_connection
from rotators.connection_secret import parse
from rotators.databases import AdminSession, Role
from rotators.decision import Trigger
from rotators.errors import DatabaseRefusedError, SecretFormatError
from rotators.journal import Invocation, report, told_as, write_log
from rotators.outcome import Outcome, timestamp
from rotators.policy import AdminSelf, RotationState, read_policy
from rotators.reconciliation import verify_or_reconcile, write_state
from rotators.systems import Systems
from rotators.vault import SecretVersion


def is_to_retire(secret: SecretVersion, now: datetime) -> bool:
    """Whether the grace is over and nothing else is to be finished first."""
    state = secret.state
    if state is None or state.retired is not None or state.is_unfinished:
        return False
    until = state.usable_until(secret.created)
    return until is not None and until <= now


@told_as("retirement")
def retire(systems: Systems, trigger: Trigger) -> Outcome | None:
    """Retire the credential of before, when its grace is over; return None when there is nothing to retire.

    Raise TransientError when it has to be tried again, PermanentError when somebody has to mend something, and
    UnexpectedError for a fault of this program.
    """
    run = Invocation(systems, trigger)
    outcome = run.guarded(_retire, run)
    return report(systems, outcome, "Retired") if outcome is not None else None


def revoke(run: Invocation, managed: Managed, admin: AdminSession, state: RotationState) -> None:
    """Lock out at once what leaked: the user, its sessions, its version."""
    is_single = managed.policy.strategy == "single-user"
    for old in (managed.user,) if is_single else _claimed(admin.roles((managed.other_user,)), managed):
        if old != managed.user:
            admin.lock_out(old)
        try:
            run.warn(f"{admin.end_sessions(old)} open sessions of {old!r} were ended")
        except DatabaseRefusedError as error:
            run.warn(str(error))
    _disable_old_versions(run.systems, managed.secret, state)


def _retire(run: Invocation) -> Outcome | None:
    secret = run.systems.vault.current(run.trigger.secret)
    policy = read_policy(secret.name, secret.tags, prefix=run.systems.settings.connections_prefix)
    if policy is None or not policy.enabled or not is_to_retire(secret, run.systems.now()):
        return None
    managed = read_connection(run.systems, secret, policy)
    others = _users_of_before(run.systems, managed)
    if not others:
        # Its password went when the new one came: what is left is the version.
        return _retire_version(run, managed)
    with locked(run.systems, secret, policy) as (managed, admin, _):
        again, users = look_again(run.systems, managed, admin, others)
        if again.version != secret.version:
            return None
        with run.step("verify"):
            # Nobody is locked out while the current credential does not log in.
            verify_or_reconcile(run, managed, admin)
        for old in _claimed(users.roles, managed):
            sessions = users.sessions[old]
            if sessions and policy.waits_for_sessions:
                write_log(
                    logging.INFO,
                    "retirement waits",
                    secret=secret.name,
                    user=old,
                    sessions=len(sessions),
                    retireAt=timestamp(managed.secret.state.retire_at) if managed.secret.state else None,
                )
                return None
            if sessions:
                run.warn(f"{len(sessions)} sessions of {old!r} were open when it was retired")
            with run.step("retire"):
                admin.lock_out(old)
        return _retire_version(run, managed)


def _retire_version(run: Invocation, managed: Managed) -> Outcome | None:
    state = managed.secret.state
    if state is None:
        return None
    with run.step("disable"):
        _disable_old_versions(run.systems, managed.secret, state)
        retired = dataclasses.replace(state, retired=run.systems.now())
        write_state(run.systems, managed.secret, retired)
    return run.outcome(managed, "resumed", "the old credential is retired", state=retired)


def _users_of_before(systems: Systems, managed: Managed) -> tuple[str, ...]:
    """Return the users that the current version does not name.

    Beyond the other of two users there is one only where somebody had the strategy switched, or wrote another user into
    the secret.
    """
    secret = managed.secret
    users = {managed.other_user} if managed.policy.strategy == "alternating-users" else set()
    state = secret.state
    if state is None or isinstance(managed.policy.admin, AdminSelf) or (users and state.cause != "reconcile"):
        return tuple(users)
    for version in _versions_of_before(systems, secret, state):
        # Written by hand it may be no connection; its user is not known to be ours then.
        with suppress(SecretFormatError):
            old = systems.vault.version(secret.name, version.version)
            users.add(parse(old.value, secret=secret.name, tags=old.tags).credential.user)
    return tuple(sorted(users - {managed.user}))


def _claimed(roles: Mapping[str, Role], managed: Managed) -> list[str]:
    """Return which of the users that are there are this secret's."""
    return [name for name, role in roles.items() if role.claimed_by == managed.identifier]


def _disable_old_versions(systems: Systems, secret: SecretVersion, state: RotationState) -> None:
    for version in _versions_of_before(systems, secret, state):
        systems.vault.disable(secret.name, version.version)


def _versions_of_before(systems: Systems, secret: SecretVersion, state: RotationState) -> Iterator[SecretVersion]:
    """Yield, if enabled, the version of before, and those before it whose retirement a rotation overtook."""
    by_version = {v.version: v for v in systems.vault.versions(secret.name)}
    # Never the newest, whatever a tag says: were it disabled, a GET of the secret would answer 403.
    by_version.pop(secret.version, None)
    old = state.from_version
    while old is not None and (version := by_version.pop(old, None)) is not None:
        if version.enabled:
            yield version
        if version.state is None or version.state.retired is not None:
            return
        old = version.state.from_version
