"""A secret's versions as rotations: when, why, by whom, which user, retired or not. Pure, and never a value."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from rotators.errors import PolicyError
from rotators.outcome import timestamp
from rotators.policy import RotationPolicy, RotationState, read_policy
from rotators.vault import SecretVersion

BY_HAND = "by hand"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version, and what became of its credential.

    Attributes:
        version: the version, without its value.
        state: what the program wrote about it; None when a person wrote it and the program had nothing to do.
        is_by_hand: a person wrote it.
        is_current: it is the newest.
        user: whom it names; None where that cannot be known without reading the value of an old version.
        retire_at: when its credential is, or was, to be retired; None before something came after it.
        retired: when it was.
    """

    version: SecretVersion
    state: RotationState | None
    is_by_hand: bool
    is_current: bool
    user: str | None
    retire_at: datetime | None
    retired: datetime | None

    def as_json(self) -> dict[str, object]:
        # Of what a person wrote, the state tells how the program took it over; who wrote it, Key Vault's log knows.
        state = None if self.is_by_hand else self.state
        return {
            "version": self.version.version,
            "current": self.is_current,
            "createdOn": timestamp(self.version.created),
            "expiresOn": timestamp(self.version.expires),
            "enabled": self.version.enabled,
            "cause": state.cause if state else BY_HAND,
            "reason": (state.reason or None) if state else None,
            "by": state.by if state else None,
            "rotationId": self.state.id if self.state else None,
            "previousVersion": self.state.from_version if self.state else None,
            "pending": list(self.state.pending) if self.state else [],
            "user": self.user,
            "retireAt": timestamp(self.retire_at),
            "retiredOn": timestamp(self.retired),
            # Its turn may have come only when a later rotation's did: then being disabled is what tells.
            "retired": not self.is_current and (self.retired is not None or not self.version.enabled),
        }


def history(versions: Iterable[SecretVersion], current: str, user: str | None, *, prefix: str) -> list[Entry]:
    """Return the versions as entries, newest first.

    `current` is the newest version, and `user` the one that it names, where that is known. The users of the versions
    before follow from it: a rotation with two users takes the other one, with one it keeps it. What a person wrote
    ends that chain, since anything may stand there.
    """
    ordered = in_order(versions, current)
    states = _own_states(ordered)
    successors = {
        state.from_version: state for state in reversed(states.values()) if state is not None and state.from_version
    }
    users = _users(ordered, states, current, user, prefix)
    entries = []
    for version in ordered:
        state, after = states[version.version], successors.get(version.version)
        entries.append(
            Entry(
                version=version,
                state=state,
                is_by_hand=state is None or state.cause == "reconcile",
                is_current=version.version == current,
                user=users.get(version.version),
                retire_at=after.retire_at if after else None,
                retired=after.retired if after else None,
            )
        )
    return entries


def in_order(versions: Iterable[SecretVersion], current: str = "") -> list[SecretVersion]:
    """Return the versions newest first; `current` is the newest, where that is known.

    Key Vault lists them by their random ids, and `created` is cut to seconds: within one second the version that was
    made from another comes after it.
    """
    by_time = sorted(versions, key=lambda v: v.created, reverse=True)
    return [version for _, second in groupby(by_time, lambda v: v.created) for version in _of_a_second(second, current)]


def _of_a_second(versions: Iterable[SecretVersion], current: str) -> Iterator[SecretVersion]:
    # What nothing is known about is older than what a rotation made, and the current version is newer than all.
    waiting = sorted(versions, key=lambda v: (v.version == current, v.state is not None), reverse=True)
    while waiting:
        sources = {version.state.from_version for version in waiting if version.state is not None}
        newest = next((v for v in waiting if v.version == current or v.version not in sources), waiting[0])
        waiting.remove(newest)
        yield newest


def _own_states(ordered: Sequence[SecretVersion]) -> dict[str, RotationState | None]:
    """Return the state of each version; None also where a person copied that of an earlier version along."""
    states: dict[str, RotationState | None] = {}
    known: set[tuple[str, datetime]] = set()
    for version in reversed(ordered):
        state = version.state
        if state is not None and (state.id, state.at) in known:
            state = None
        if state is not None:
            known.add((state.id, state.at))
        states[version.version] = state
    return states


def _users(
    ordered: Sequence[SecretVersion],
    states: Mapping[str, RotationState | None],
    current: str,
    user: str | None,
    prefix: str,
) -> dict[str, str]:
    by_version = {version.version: version for version in ordered}
    users: dict[str, str] = {}
    version = current
    while user is not None and version in by_version and version not in users:
        users[version] = user
        state = states[version]
        if state is None or state.cause == "reconcile" or state.from_version not in by_version:
            break
        version = state.from_version
        user = _user_before(user, _policy(by_version[version], prefix))
    return users


def _user_before(user: str, policy: RotationPolicy | None) -> str | None:
    """Return the user of the version from which a rotation by this policy came to `user`."""
    if policy is None or policy.strategy == "single-user":
        return user if policy is not None else None
    first, second = policy.pair(user)
    return {first: second, second: first}.get(user)


def _policy(version: SecretVersion, prefix: str) -> RotationPolicy | None:
    try:
        return read_policy(version.name, version.tags, prefix=prefix)
    except PolicyError:
        return None
