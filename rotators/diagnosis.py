"""What the doctor says about a secret: findings, and those that its tags and dates alone give rise to. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from rotators.airflow_logs import folded
from rotators.decision import Current, Resume, Rotate, Skip, Trigger, decide, due_at
from rotators.outcome import timestamp
from rotators.policy import NEAR_EXPIRY, STATE_TAG, RotationPolicy, RotationState

type Result = Literal["fine", "mend", "remark", "not tried"]

# What cannot be tried without doing it, or not always.
_ONLY_BY_DOING = ("vault-write", "topic", "airflow-logs", "airflow-clearing")


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one check.

    `result` is "fine", "mend" (until that is done a rotation fails, or Airflow's refresh after it, or consumers fail
    already), "remark" (it goes well, and somebody should know) or "not tried". `detail` says what is so, or to do.
    """

    check: str
    result: Result
    detail: str

    def as_json(self) -> dict[str, object]:
        return {"check": self.check, "result": self.result, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks of one secret."""

    secret: str
    checks: tuple[Finding, ...]

    @property
    def to_mend(self) -> tuple[str, ...]:
        """The names of the checks with something to mend."""
        return tuple(dict.fromkeys(one.check for one in self.checks if one.result == "mend"))

    @property
    def ready(self) -> bool:
        """There is nothing to mend, and all was tried that can be."""
        waiting = any(one.result == "not tried" and one.check not in _ONLY_BY_DOING for one in self.checks)
        return not waiting and not self.to_mend

    def as_json(self) -> dict[str, object]:
        return {"secret": self.secret, "ready": self.ready, "checks": [one.as_json() for one in self.checks]}


def tags(policy: RotationPolicy, complaints: tuple[str, ...]) -> Iterator[Finding]:
    """Yield each complaint, or what the policy is."""
    for complaint in complaints:
        yield Finding("tags", "mend", f"{complaint}; mend the tag")
    if not complaints:
        every, grace = _span(policy.every), _span(policy.grace)
        yield Finding("tags", "fine", f"{policy.strategy}, every {every}, with a grace of {grace}")


def state(tags: Mapping[str, str], read: RotationState | None) -> Finding:
    """Say what the state tag tells; `read` is what this program makes of it."""
    if read is not None:
        return Finding("state", "fine", f"rotated at {timestamp(read.at)} ({read.cause})")
    if STATE_TAG in tags:
        detail = f"its tag {STATE_TAG} was not written by this program, and the next rotation replaces it"
        return Finding("state", "remark", detail)
    return Finding("state", "fine", "this program has not rotated it yet, or a person wrote its newest version")


def dates(secret: str, current: Current, policy: RotationPolicy, now: datetime) -> Iterator[Finding]:
    """Yield when the next rotation is, and what brings it about."""
    match decide(Trigger(kind="sweep", secret=secret, id="", by=""), current, policy, now):
        case Skip("paused", reason):
            yield Finding("next-rotation", "remark", f"paused, since {reason}: only a request with force rotates it")
        case Skip("not due", reason):
            yield Finding("next-rotation", "fine", reason)
        case Skip(obstacle, reason):
            yield Finding("next-rotation", "remark", f"{obstacle}: {reason}")
        case Resume(steps, reason):
            left = ", ".join(steps) or "revoke"
            yield Finding("next-rotation", "remark", f"{reason}: the next sweep finishes it ({left})")
        case Rotate(reason):
            yield Finding("next-rotation", "fine", f"{reason}: the next event or sweep rotates it")
    match decide(Trigger(kind="http", secret=secret, id="", by=""), current, policy, now):
        case Rotate():
            yield Finding("by-hand", "fine", "a request rotates it at any time")
        case Skip(obstacle, reason):
            yield Finding("by-hand", "remark", f"{obstacle}: {reason}; until then a request needs force")
        case Resume(_, reason):
            yield Finding("by-hand", "remark", f"a request finishes it first: {reason}")
    period, by_age = (due_at(Current("", now, end, None), policy) - now for end in (now + policy.validity, None))
    if period < by_age:
        yield Finding(
            "validity",
            "remark",
            f"a version that lives {_span(policy.validity)} is due after {_span(period)}, before rotation-every "
            f"({_span(policy.every)}) is over; leave rotation-validity out, or make it longer",
        )
    else:
        yield Finding("validity", "fine", f"a version lives {_span(policy.validity)} and is due after {_span(period)}")
    yield from _event(current, due_at(current, policy), now)


def _event(current: Current, due: datetime, now: datetime) -> Iterator[Finding]:
    """Whether Key Vault's near-expiry event comes, and when it does something."""
    check = "near-expiry-event"
    sweep = f"the sweep rotates it when it is due, at {timestamp(due)}"
    if current.expires is None:
        yield Finding(check, "remark", f"without an expiry date Key Vault announces nothing, so {sweep}")
        return
    comes = max(current.created, current.expires - NEAR_EXPIRY)
    said = f"Key Vault announces the expiry ({timestamp(current.expires)}) at {timestamp(comes)}"
    if comes < due:
        yield Finding(check, "remark", f"{said}, which is passed over, since it is not due then: {sweep}")
    elif now < comes:
        yield Finding(check, "fine", f"{said}; without an event, as for a version before the subscription, {sweep}")
    else:
        yield Finding(check, "fine", f"{said}, which is over; if no event came, {sweep}")


def connection_id_of(secret: str, connection_id: str, prefix: str) -> Finding:
    """Say which connection of Airflow the secret is, as Airflow's backend finds it."""
    if folded(f"{prefix}-{connection_id}") != folded(secret):
        return Finding(
            "connection-id",
            "remark",
            f"Airflow reads connection {connection_id!r} from secret '{prefix}-{connection_id}', not from this one: "
            "mend airflow-conn-id or AIRFLOW_CONNECTIONS_PREFIX, unless another backend serves it",
        )
    if "-" in connection_id or "_" in connection_id:
        other = connection_id.replace("_", "-") if "_" in connection_id else connection_id.replace("-", "_")
        return Finding(
            "connection-id",
            "fine",
            f"Airflow reads this secret for connection {connection_id!r} and for {other!r}: both count as this one",
        )
    return Finding("connection-id", "fine", f"it is Airflow's connection {connection_id!r}")


def _span(span: timedelta) -> str:
    """Return a duration as people write it into tags: `59d 23h`; whole minutes."""
    hours, minutes = divmod(span // timedelta(minutes=1), 60)
    days, hours = divmod(hours, 24)
    return " ".join(f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m")) if n)
