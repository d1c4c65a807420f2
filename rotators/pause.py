"""Pausing a secret's rotation, and going on: one tag of the current version, and nothing else."""

import logging

from rotators.errors import PolicyError, TransientError
from rotators.journal import write_log
from rotators.policy import check_tags
from rotators.systems import Systems
from rotators.vault import SecretVersion

ENABLED_TAG = "rotation-enabled"
_ATTEMPTS = 3


def set_enabled(systems: Systems, secret: str, *, enabled: bool, by: str) -> SecretVersion:
    """Write the tag `rotation-enabled` where it says otherwise, and return the current version with it.

    It asks no database, so it works when that is what is broken; and the policy may be wrong, which is a reason to
    pause. Raise PolicyError if the secret is not under rotation or has no room for the tag, TransientError if
    somebody else writes versions or tags all the time.
    """
    current = systems.vault.current(secret)
    if "rotation-strategy" not in current.tags:
        raise PolicyError(
            f"secret {secret!r} is not under rotation, so there is nothing to pause; give it the tag "
            "rotation-strategy to put it under rotation"
        )
    wanted = "true" if enabled else "false"
    for _ in range(_ATTEMPTS):
        if current.tags.get(ENABLED_TAG, "true").strip() == wanted:
            return current
        tags = {**current.tags, ENABLED_TAG: wanted}
        check_tags(secret, tags)
        systems.vault.write_tags(secret, current.version, tags)
        write_log(logging.INFO, "resumed" if enabled else "paused", secret=secret, version=current.version, by=by)
        # Key Vault has no compare-and-set: a rotation that was under way has published a version without it.
        current = systems.vault.current(secret)
    if current.tags.get(ENABLED_TAG) == wanted:
        return current
    raise TransientError(f"secret {secret!r}: its versions or tags are being changed by somebody else; try again")
