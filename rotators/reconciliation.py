"""Key Vault is the truth; the database follows. And what is done about versions that people write by hand."""

import dataclasses
import logging

from rotators.access import Managed
from rotators.databases import AdminSession
from rotators.errors import LoginRefusedError
from rotators.journal import Invocation, write_log
from rotators.permissions import check_user
from rotators.policy import (
    STATE_TAG,
    AdminSelf,
    RotationState,
    check_tags,
    inherited_tags,
    policy_tags,
)
from rotators.systems import Systems
from rotators.vault import SecretVersion


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


def inherit_policy(systems: Systems, secret: SecretVersion) -> SecretVersion:
    """Write the policy onto a version that came without one: `az keyvault secret set` drops every tag."""
    if "rotation-strategy" in secret.tags:
        return secret
    before = version_before(systems, secret)
    if before is None or "rotation-strategy" not in before.tags:
        return secret
    tags = {**inherited_tags(before.tags), **secret.tags}
    check_tags(secret.name, tags)
    systems.vault.write_tags(secret.name, secret.version, tags)
    write_log(
        logging.INFO, "policy inherited", secret=secret.name, version=secret.version, previousVersion=before.version
    )
    return dataclasses.replace(secret, tags=tags)


def has_copied_state(systems: Systems, secret: SecretVersion) -> bool:
    """Whether a person copied the state along with the tags of an earlier version: then this version is theirs."""
    state = secret.state
    return state is not None and any(
        v.version != secret.version and v.state is not None and (v.state.id, v.state.at) == (state.id, state.at)
        for v in systems.vault.versions(secret.name)
    )


def without_state(secret: SecretVersion) -> SecretVersion:
    return dataclasses.replace(secret, tags=policy_tags(secret.tags))


def version_before(systems: Systems, secret: SecretVersion) -> SecretVersion | None:
    """Return the newest version but this one, without its value; in a tie of seconds the one with a state."""
    others = [v for v in systems.vault.versions(secret.name) if v.version != secret.version]
    return max(others, key=lambda v: (v.created, v.state is not None), default=None)


def write_state(systems: Systems, secret: SecretVersion, state: RotationState) -> None:
    """Write the state onto the version, keeping what people did to its other tags meanwhile."""
    newest = systems.vault.current(secret.name)
    if newest.version == secret.version:
        tags = {**newest.tags, STATE_TAG: state.as_tag()}
        check_tags(secret.name, tags)
        systems.vault.write_tags(secret.name, secret.version, tags)
