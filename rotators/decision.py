"""What is to be done about a trigger: pure, and tested as a table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal

from rotators.outcome import timestamp
from rotators.policy import NEAR_EXPIRY, Cause, PendingStep, RotationPolicy, RotationState

TriggerKind = Literal["near-expiry", "expired", "new-version", "http", "sweep", "requested", "rollback"]
Obstacle = Literal[
    "not managed", "paused", "superseded", "done", "not due", "outside window", "in grace", "in use", "no way back"
]

# What of a person's words is kept, in characters.
LONGEST_REASON = 200
# A window may open at another minute each time, and the sweep run at another in each hour.
_OPENINGS_LOOKED_AT = 24
_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Trigger:
    """Why the program looks at a secret.

    Attributes:
        kind: what asks.
        secret: the secret's name.
        id: the event's id, the idempotency key, or generated: one id makes at most one version.
        by: who asks.
        version: the version that an event names; None from HTTP and the sweep.
        force: rotate although the rotation is paused or the other user is still in its grace.
        dry_run: find out what would be done, and change nothing.
        revoke: the credential leaked: lock the old one out at once.
        reason: a person's words.
        is_repeatable: the caller chose the id, so an earlier call may have had the same.
    """

    kind: TriggerKind
    secret: str
    id: str
    by: str
    version: str | None = None
    force: bool = False
    dry_run: bool = False
    revoke: bool = False
    reason: str = ""
    is_repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Current:
    """What a decision needs to know of the secret's newest version."""

    version: str
    created: datetime
    expires: datetime | None
    state: RotationState | None


@dataclass(frozen=True, slots=True)
class Rotate:
    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Make the credential of `version`, the one before, the current one again."""

    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Finish what an earlier invocation, or a person who wrote a version, left to do."""

    steps: tuple[PendingStep, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Skip:
    obstacle: Obstacle
    reason: str


# The states in which the sweep finds a secret that is under rotation.
STATES = ("fresh", "due", "pending", "paused", "outside window", "in grace", "unusable policy")
# What stays undone for longer than this is told: four sweeps at the default schedule.
LATE = timedelta(hours=1)

# Yields the times at which the sweep runs, after a given one.
type Schedule = Callable[[datetime], Iterator[datetime]]

# What is to be done about a version that a person wrote.
BY_HAND: tuple[PendingStep, ...] = ("verify", "refresh")
NOT_MANAGED = Skip("not managed", "the secret has no tag rotation-strategy")

type Decision = Rotate | RollBack | Resume | Skip


def decide(  # noqa: PLR0911 (one return a row of the table)
    trigger: Trigger, current: Current, policy: RotationPolicy | None, now: datetime
) -> Decision:
    """Return what to do; `policy` is None when the secret has no rotation tags."""
    state = current.state
    if policy is None:
        return NOT_MANAGED
    if not policy.enabled and not _is_forced(trigger):
        return Skip("paused", "rotation-enabled is false")
    if trigger.version is not None and trigger.version != current.version:
        return _resume_or_skip(state, Skip("superseded", f"version {trigger.version} is no longer current"))
    if state is not None and state.id == trigger.id and _is_same_cause(state.cause, trigger.kind):
        return _resume_or_skip(state, Skip("done", "this trigger made the current version"))
    match trigger.kind:
        case "new-version":
            if state is not None:
                return _resume_or_skip(state, Skip("done", "this program made the current version"))
            return Resume(BY_HAND, "a person wrote the current version")
        case "http" | "requested":
            return _unless_in_grace(Rotate(trigger.reason or "asked for"), trigger, current, policy, now)
        case "rollback":
            return _way_back(trigger, current, policy, now)
        case "near-expiry" | "expired" | "sweep":
            return _when_due(trigger, current, policy, now)


def _is_forced(trigger: Trigger) -> bool:
    return trigger.force and trigger.kind in ("http", "requested")


def _is_same_cause(cause: Cause, kind: TriggerKind) -> bool:
    """Whether equal ids mean the same: an idempotency key is the caller's own, and counts for one route."""
    by_hand = ("http", "rollback")
    return cause == kind if cause in by_hand or kind in by_hand else True


def due_at(current: Current, policy: RotationPolicy) -> datetime:
    """Return when the current version is to be replaced.

    It is old enough (less some slack, so that an event that comes a little early counts), or its expiry is
    nearer than Key Vault's 30 days or a third of its validity, whichever is shorter.
    """
    slack = min(timedelta(hours=1), policy.every / 10)
    by_age = current.created + policy.every - slack
    if current.expires is None:
        return by_age
    return min(by_age, current.expires - min(NEAR_EXPIRY, (current.expires - current.created) / 3))


def possible_at(current: Current, policy: RotationPolicy, sweeps: Schedule) -> datetime:
    """Return when the sweep may replace the current version: when it is due, or later.

    It waits for the other user's grace and for the window, but for an expired version. A window that closes before the
    sweep comes is of no use: then the next one counts.
    """
    possible, state, window = due_at(current, policy), current.state, policy.window
    if policy.strategy == "alternating-users" and state is not None and state.in_grace(current.created, possible):
        possible = state.usable_until(current.created) or possible
    if window is not None and not (window.is_open(possible) and window.is_open(_turn(possible, sweeps))):
        opens = window.opens_next(possible)
        possible = opens if current.expires is None else max(possible, min(opens, current.expires))
    return possible


def is_late(since: datetime, now: datetime, sweeps: Schedule) -> bool:
    """Whether what could be done since then is not done, though a sweep had its turn longer ago than `LATE`."""
    return now >= since + LATE and now >= _turn(since, sweeps) + LATE


def overdue_since(current: Current, policy: RotationPolicy, now: datetime, sweeps: Schedule) -> datetime | None:
    """Return since when the version could have been replaced; None unless that is late, or while it is paused."""
    possible = possible_at(current, policy, sweeps)
    return possible if policy.enabled and is_late(possible, now, sweeps) else None


def _turn(since: datetime, sweeps: Schedule) -> datetime:
    """Return when the sweep runs next, which is at once when it runs at that very time."""
    return next(sweeps(since - timedelta(seconds=1)))


def state_of(decision: Decision) -> str:
    """Return the word for a secret about which the sweep decides so: one of `STATES`, but for `unusable policy`."""
    match decision:
        case Skip(obstacle, _):
            return "fresh" if obstacle == "not due" else obstacle
        case Resume():
            return "pending"
        case Rotate() | RollBack():
            return "due"


def missed_windows(current: Current, policy: RotationPolicy, now: datetime, sweeps: Schedule) -> tuple[str, ...]:
    """Return what is wrong with the maintenance window of a secret, in words: nothing, as a rule.

    It is the sweep that takes what is due when a window opens.
    """
    window, start = policy.window, max(now, due_at(current, policy))
    if window is None:
        return ()
    warnings = []
    opens = start if window.is_open(start) else window.opens_next(start)
    if current.expires is not None and start < current.expires <= opens:
        warnings.append(
            f"rotation-window {str(window)!r} does not open between the time when the version is due and its expiry at "
            f"{timestamp(current.expires)}: then it is rotated outside the window; let the window open more often, or "
            "the version live longer (rotation-validity)"
        )
    for opens in islice(window.openings(start), _OPENINGS_LOOKED_AT):
        if _turn(opens, sweeps) >= opens + window.length:
            warnings.append(
                f"rotation-window {str(window)!r} is too short for the sweep, which does not run while it is open at "
                f"{timestamp(opens)}; lengthen it, or let the sweep run more often (ROTATION_SWEEP_SCHEDULE)"
            )
            break
    return tuple(warnings)


def _way_back(trigger: Trigger, current: Current, policy: RotationPolicy, now: datetime) -> RollBack | Skip:
    """The credential of before can come back as long as it is kept usable: two users, and within the grace."""
    state = current.state
    if policy.strategy != "alternating-users":
        return _no_way_back("with single-user the password of before went when the current one came; rotate instead")
    if state is None or state.from_version is None or state.retire_at is None:
        return _no_way_back("the current version was not made by a rotation, so none before it is known")
    if state.cause == "rollback":
        # Who asks again because an answer was lost must not be given back what was rolled away from.
        return _no_way_back("the current version is a rollback already; rotate when its grace is over")
    if state.revokes:
        return _no_way_back("the credential of before leaked and was revoked; rotate instead")
    if not state.in_grace(current.created, now):
        return _no_way_back(
            f"the grace of the credential of before ended at {timestamp(state.usable_until(current.created))}"
        )
    return RollBack(state.from_version, trigger.reason or "asked for")


def _no_way_back(reason: str) -> Skip:
    return Skip("no way back", reason)


def _when_due(trigger: Trigger, current: Current, policy: RotationPolicy, now: datetime) -> Decision:
    due = due_at(current, policy)
    if now < due:
        return _resume_or_skip(current.state, Skip("not due", f"due at {timestamp(due)}"))
    # Key Vault's clock may be ahead of ours; but an event may also come late, when a person has put the expiry off.
    by_its_clock = now + _CLOCKS_DIFFER if trigger.kind == "expired" else now
    has_expired = current.expires is not None and current.expires <= by_its_clock
    if policy.window is not None and not policy.window.is_open(now) and not has_expired:
        opens = timestamp(policy.window.opens_next(now))
        skip = Skip("outside window", f"due since {timestamp(due)}; rotation-window opens at {opens}")
        return _resume_or_skip(current.state, skip)
    return _unless_in_grace(Rotate(f"due since {timestamp(due)}"), trigger, current, policy, now)


def _unless_in_grace(
    rotate: Rotate, trigger: Trigger, current: Current, policy: RotationPolicy, now: datetime
) -> Decision:
    state = current.state
    if _is_forced(trigger) or policy.strategy != "alternating-users":
        return rotate
    if state is None or not state.in_grace(current.created, now):
        return rotate
    skip = Skip("in grace", f"the other user stays usable until {timestamp(state.usable_until(current.created))}")
    # Whose credential leaked must not take what is finished instead for its end.
    return skip if trigger.revoke else _resume_or_skip(state, skip)


def _resume_or_skip(state: RotationState | None, skip: Skip) -> Decision:
    if state is not None and state.is_unfinished:
        by_hand = state.cause == "reconcile"
        reason = "a person wrote the current version" if by_hand else f"rotation {state.id} was left unfinished"
        return Resume(state.pending, reason)
    return skip
