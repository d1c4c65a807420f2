"""Key Vault is the truth; the database follows. And what is done about versions that people write by hand."""

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import get_args

from rotators.access import Managed
from rotators.databases import AdminSession
from rotators.decision import BY_HAND
from rotators.errors import LoginRefusedError, PolicyError
from rotators.journal import Invocation, write_log
from rotators.permissions import check_user
from rotators.policy import (
    STATE_TAG,
    AdminSelf,
    PendingStep,
    RotationPolicy,
    RotationState,
    check_tags,
    inherited_tags,
    policy_tags,
    read_policy,
)
from rotators.systems import Systems
from rotators.vault import SecretVersion

# From the time in a state to that of its version: clocks that nearly agree, and one request. A redelivery takes longer.
LONGEST_WRITE = timedelta(seconds=10)


def verify_or_reconcile(run: Invocation, managed: Managed, admin: AdminSession) -> None:
    """See that the version logs in; when it does not, give its user the password that it says.

    This one rule repairs every crash between publishing and committing, and a person who set a version by hand.
    Raise LoginRefusedError when it does not log in and the user is not known to be this secret's.
    """
    name = managed.secret.name
    try:
        run.warn(*managed.engine.verify(managed.connection, secret=name, acts_as=managed.acts_as))
    except LoginRefusedError as error:
        refusal = str(error)
    else:
        return
    if not isinstance(managed.policy.admin, AdminSelf):
        role = admin.roles((managed.user,)).get(managed.user)
        if role is not None:
            check_user(name, managed.identifier, role, admin.user)
        if role is None or role.claimed_by is None:
            raise LoginRefusedError(
                f"{refusal}; the user is not known to belong to this secret, so its password is not changed: write a "
                "version that logs in"
            )
    with run.step("reconcile"):
        admin.set_password(managed.connection.credential)
        run.warn(f"version {managed.secret.version} did not log in; {managed.user!r} was given its password")
        run.warn(*managed.engine.verify(managed.connection, secret=name, acts_as=managed.acts_as))
    run.usable_since = run.systems.now()


def inherit_policy(run: Invocation, secret: SecretVersion) -> SecretVersion:
    """Write the policy onto a version that came without one: `az keyvault secret set` drops every tag.

    Along with it goes the state of a version by hand: killed after this one write, the sweep finds what is pending.
    Who takes the tags away from a version that is there opts out, and an event that comes again does not undo that.
    """
    if "rotation-strategy" in secret.tags or secret.is_edited:
        return secret
    earlier = versions_before(run.systems, secret)
    before = managed_before(earlier)
    if before is None:
        return secret
    tags = {**inherited_tags(before.tags), **secret.tags}
    with suppress(PolicyError):  # it is told where the policy is read; now it is known to be one
        policy = read_policy(secret.name, tags, prefix=run.systems.settings.connections_prefix)
        if policy is not None:
            tags[STATE_TAG] = state_by_hand(run, policy, earlier).as_tag()
    check_tags(secret.name, tags)
    run.systems.vault.write_tags(secret.name, secret.version, tags)
    write_log(
        logging.INFO, "policy inherited", secret=secret.name, version=secret.version, previousVersion=before.version
    )
    return dataclasses.replace(secret, tags=tags)


def state_by_hand(run: Invocation, policy: RotationPolicy, earlier: Sequence[SecretVersion]) -> RotationState:
    """Return the state of a version that a person wrote: what is to be done about it can then be resumed.

    A revocation that was not done yet is to be done now: what leaked has no grace.
    """
    now, before = run.systems.now(), managed_before(earlier)
    revokes = before is not None and before.state is not None and before.state.revokes and not before.state.retired
    return RotationState(
        id=run.trigger.id,
        cause="reconcile",
        by=run.trigger.by,
        from_version=earlier[0].version if earlier else None,
        at=now,
        pending=BY_HAND,
        retire_at=None if before is None else now if revokes else now + policy.grace,
    )


def newcomer(systems: Systems, secret: SecretVersion) -> SecretVersion:
    """Return a version that has just come as what is to be believed of it; its tags in Key Vault stay as they are.

    Who copies the tags of a version along with its value copies the state too: then this version is theirs, and its
    state is left out. And a write of ours may take effect so late that another version came first, or a redelivery
    failed after it had given the user another password: then it has yet to be verified, and follows what came before
    it now, which is to be retired, whether or not the one that it was made after is.
    """
    state = secret.state
    if state is None:
        return secret
    others = versions_before(systems, secret)
    if any(v.state is not None and (v.state.id, v.state.at) == (state.id, state.at) for v in others):
        return without_state(secret)
    if state.from_version is None or not (
        _came_late(state.from_version, others) or secret.created - state.at > LONGEST_WRITE
    ):
        return secret
    before = next(iter(others), None)
    steps = tuple(step for step in get_args(PendingStep) if step == "verify" or step in state.pending)
    late = dataclasses.replace(state, from_version=before.version if before else None, pending=steps, retired=None)
    return dataclasses.replace(secret, tags={**secret.tags, STATE_TAG: late.as_tag()})


def _came_late(followed: str, others: Sequence[SecretVersion]) -> bool:
    """Whether a version that says it followed `followed` came after another that did, or after a newer one."""
    newest = max((v.created for v in others), default=None)
    return not any(v.version == followed and v.created == newest for v in others) or any(
        v.state is not None and v.state.from_version == followed for v in others
    )


def without_state(secret: SecretVersion) -> SecretVersion:
    return dataclasses.replace(secret, tags=policy_tags(secret.tags))


def versions_before(systems: Systems, secret: SecretVersion) -> list[SecretVersion]:
    """Return all versions but this one, newest first, without values.

    In a tie of seconds those that are disabled come last, for only what is old is retired; of the others those with a
    state come first, and then those that were edited: what a person did to the newest of them, such as to take its
    tags away, must not be passed over.
    """
    others = [v for v in systems.vault.versions(secret.name) if v.version != secret.version]
    return sorted(others, key=lambda v: (v.created, v.enabled, v.state is not None, v.is_edited), reverse=True)


def managed_before(versions: Sequence[SecretVersion]) -> SecretVersion | None:
    """Return the version whose policy holds on, of those before, newest first; None when there was none.

    A person may write twice in a row, to mend a mistake: a version that came without tags says nothing. One whose tags
    were taken away afterwards does.
    """
    before = next((v for v in versions if "rotation-strategy" in v.tags or v.is_edited), None)
    return before if before is not None and "rotation-strategy" in before.tags else None


def write_state(systems: Systems, secret: SecretVersion, state: RotationState) -> None:
    """Write the state onto the version, keeping what people did to its other tags meanwhile."""
    newest = systems.vault.current(secret.name)
    if newest.version == secret.version:
        tags = {**newest.tags, STATE_TAG: state.as_tag()}
        check_tags(secret.name, tags)
        systems.vault.write_tags(secret.name, secret.version, tags)
