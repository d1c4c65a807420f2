"""Where a secret stands between two rotations, as far as its tags tell: pure.

Tags say what was done and what is still to do. Why something was not done they do not say: that is asked live.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from rotators.decision import Current, Schedule, due_at, is_late, possible_at
from rotators.errors import PolicyError
from rotators.policy import RotationPolicy, RotationState, check_tags, read_policy
from rotators.vault import SecretVersion

State = Literal["unusable policy", "failed", "overdue", "pending", "due", "paused", "fresh"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A managed secret, seen from its newest version.

    Attributes:
        secret: the secret's name.
        state: the one word for it, the gravest first; what is paused is that before all that waits for it.
        next_step: what happens next, or what is wrong and how to mend it.
        needs: what somebody has to see to, one sentence each.
        created, expires: of the newest version.
        due: when it is to be replaced.
        planned: when the sweep may do that: `due`, or later, when the window opens or the grace is over.
        policy: None when it is unusable.
        rotation: what the program noted on this version; None when it has not made it.
    """

    secret: str
    state: State
    next_step: str
    needs: tuple[str, ...]
    created: datetime
    expires: datetime | None
    due: datetime | None = None
    planned: datetime | None = None
    policy: RotationPolicy | None = None
    rotation: RotationState | None = None


def stand(secret: SecretVersion, *, prefix: str, now: datetime, sweeps: Schedule) -> Standing | None:
    """Return where a secret stands, from a list with tags or from its newest version; None if it is not managed."""
    try:
        policy = read_policy(secret.name, secret.tags, prefix=prefix)
        if policy is None:
            return None
        check_tags(secret.name, secret.tags)
    except PolicyError as error:
        why = str(error)
        return Standing(secret.name, "unusable policy", why, (why,), secret.created, secret.expires)
    current = Current(secret.version, secret.created, secret.expires, secret.state)
    due = due_at(current, policy)
    look = _Look(secret, policy, due, possible_at(current, policy, sweeps), now, sweeps)
    state, next_step = look.state()
    return Standing(
        secret=secret.name,
        state=state,
        next_step=next_step,
        needs=look.needs(state, next_step),
        created=secret.created,
        expires=secret.expires,
        due=due,
        planned=look.planned,
        policy=policy,
        rotation=secret.state,
    )


def clock(moment: datetime) -> str:
    """Return a moment as people read it, in UTC, as in `5 Nov 2026, 08:50`."""
    utc = moment.astimezone(UTC)
    return f"{utc.day} {utc:%b %Y, %H:%M}"


@dataclass(frozen=True, slots=True)
class _Look:
    """A secret with a usable policy, at a moment."""

    secret: SecretVersion
    policy: RotationPolicy
    due: datetime
    planned: datetime
    now: datetime
    sweeps: Schedule

    def state(self) -> tuple[State, str]:
        """Return the word for it, and what happens next."""
        if not self.secret.enabled:
            return "failed", (
                "its newest version is disabled, so nobody can read it, Airflow neither: enable that version, or write "
                "a new one"
            )
        if not self.policy.enabled:
            return "paused", (
                f"rotation-enabled is false: nothing is rotated, retired or refreshed; due {clock(self.due)}"
            )
        if self.unfinished:
            if self._is_late(self.unfinished_since):
                return "failed", f"{self.unfinished}: each sweep tries, and did not manage yet; the check tells why"
            return "pending", f"{self.unfinished}: the next delivery or sweep does it"
        return self._by_date()

    def _by_date(self) -> tuple[State, str]:
        due, planned = clock(self.due), clock(self.planned)
        if self.now < self.due:
            return "fresh", f"due {due}" + ("" if planned == due else f", planned {planned}")
        if self._is_late(self.planned):
            waits = (
                " (rotation-in-use=wait: maybe for the other user's sessions)" if self.policy.waits_for_sessions else ""
            )
            return "overdue", f"due since {due}, and not rotated{waits}; the check tells why"
        if self.now < self.planned:
            until = "the grace of the other user is over" if self.policy.window is None else "its window is open"
            return "due", f"due since {due}: rotated {planned}, when {until}"
        return "due", f"due since {due}: the next event or sweep rotates it"

    def needs(self, state: State, next_step: str) -> tuple[str, ...]:
        """Return what somebody has to see to."""
        needs = [next_step] if state in ("failed", "overdue") else []
        if state == "paused" and self.now >= self.due:
            needs.append(f"paused, and due since {clock(self.due)}: resume it, or rotate it by hand")
        if state == "paused" and self.unfinished:
            needs.append(f"paused with {self.unfinished}: resume it")
        if self.secret.expires is not None and self.secret.expires <= self.now:
            needs.append(f"expired {clock(self.secret.expires)}; Key Vault hands it out all the same")
        rotation = self.secret.state
        if (
            rotation is not None
            and rotation.retire_at is not None
            and rotation.retired is None
            and self.policy.enabled
            and not self.unfinished
            and self._is_late(rotation.retire_at)
        ):
            why = "it waits until nobody uses it" if self.policy.waits_for_sessions else "each sweep tries"
            needs.append(
                f"the old credential was to be retired {clock(rotation.retire_at)}: {why}; the check tells who does"
            )
        return tuple(needs)

    @property
    def unfinished(self) -> str:
        """What a rotation left to do, and since when; "" for nothing."""
        rotation = self.secret.state
        if rotation is None or not rotation.is_unfinished:
            return ""
        return f"{' and '.join(rotation.pending) or 'revoke'} still to do since {clock(rotation.at)}"

    @property
    def unfinished_since(self) -> datetime:
        return self.secret.state.at if self.secret.state is not None else self.now

    def _is_late(self, since: datetime) -> bool:
        return is_late(since, self.now, self.sweeps)
