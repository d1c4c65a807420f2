"""Many secrets at once, as a person asks for them: a list of names, or whatever matches."""

import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from rotators.connection_secret import parse
from rotators.decision import Rotate, Skip, Trigger, decide
from rotators.dispatch import in_parallel
from rotators.errors import PermanentError, RotationError
from rotators.events import Topic, requested
from rotators.permissions import is_listed
from rotators.policy import Strategy, cause_id, read_policy
from rotators.rotation import current_of, rotate
from rotators.systems import Systems
from rotators.vault import SecretVersion

Status = Literal["requested", "refused", "planned", "not begun", "rotated", "resumed", "skipped", "failed"]

# Azure's load balancer ends a request after 230 s. What was begun by then is finished, with some room for it.
BEGIN_WITHIN = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What `POST rotations` asks for.

    Attributes:
        secrets: the secrets by name; empty where the following say which.
        strategy: those with this strategy.
        older_than: those whose current version is at least so old.
        host: those on this server: `name`, `name:port` or `*.suffix`.
        by: who asks.
        key: the idempotency key, or blank.
        force: as for one secret; so are `revoke` and `reason`.
        dry_run: find out which are meant and what each would be told; log in nowhere, change nothing.
    """

    by: str
    secrets: tuple[str, ...] = ()
    strategy: Strategy | None = None
    older_than: timedelta | None = None
    host: str | None = None
    key: str = ""
    force: bool = False
    revoke: bool = False
    reason: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """What becomes of one secret of a batch.

    Attributes:
        secret: its name.
        id: the id of its rotation in outcomes, events and the state; None where there is none.
        status: `requested` (handed out over the topic), `refused` (nothing was done), `planned` (a dry run),
            `not begun` (the time was up: ask again), or the status of the outcome.
        reason: why.
    """

    secret: str
    id: str | None
    status: Status
    reason: str

    def as_json(self) -> dict[str, object]:
        return {"secret": self.secret, "id": self.id, "status": self.status, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class _Chosen:
    trigger: Trigger
    version: str
    reason: str


def request_rotations(systems: Systems, batch: BatchRequest) -> list[Answered]:
    """Ask for the rotation of each secret that is meant, and return what becomes of each.

    With a topic every one becomes a `Requested` event, and other instances take it. Without one they are rotated
    here, as many as can be begun while somebody waits for the answer: a thread that went on after it would be lost.

    Raise TransientError when Key Vault or the topic is out of reach: then nothing was begun, or some was and the
    same idempotency key finds it done.
    """
    ends = time.monotonic() + BEGIN_WITHIN.total_seconds()
    meant = _meant(systems, batch)
    chosen = [it for it in meant if isinstance(it, _Chosen)]
    if batch.dry_run:
        done = [Answered(it.trigger.secret, None, "planned", it.reason) for it in chosen]
    elif systems.topic is not None:
        done = _hand_out(systems, systems.topic, chosen)
    else:
        done = _work_off(systems, chosen, ends)
    in_their_turn = iter(done)
    return [next(in_their_turn) if isinstance(it, _Chosen) else it for it in meant]


def _meant(systems: Systems, batch: BatchRequest) -> list[_Chosen | Answered]:
    """Return for each secret that is meant what it is to be asked, or why not: none is passed over in silence."""

    def look(name: str) -> _Chosen | Answered | None:
        try:
            return _look(systems, batch, name)
        except PermanentError as error:
            return Answered(name, None, "refused", str(error))

    found = in_parallel(systems, look, batch.secrets or _listed(systems, batch))
    return [it for it in found if it is not None]


def _listed(systems: Systems, batch: BatchRequest) -> list[str]:
    now = systems.now()
    return [
        secret.name
        for secret in systems.vault.secrets()
        if "rotation-strategy" in secret.tags
        and batch.strategy in (None, secret.tags["rotation-strategy"].strip())
        and (batch.older_than is None or secret.created <= now - batch.older_than)
    ]


def _look(systems: Systems, batch: BatchRequest, name: str) -> _Chosen | Answered | None:
    """Read one secret: whether it is on the server that is meant, and what would be decided about it."""
    secret = systems.vault.current(name)
    if batch.host is not None and not _is_on(secret, batch.host):
        return None
    policy = read_policy(secret.name, secret.tags, prefix=systems.settings.connections_prefix)
    trigger = Trigger(
        kind="requested",
        secret=name,
        id=cause_id(f"{batch.key}/{name.lower()}") if batch.key else str(uuid.uuid4()),
        by=batch.by,
        force=batch.force,
        revoke=batch.revoke,
        reason=batch.reason,
        is_repeatable=bool(batch.key),
    )
    decision = decide(trigger, current_of(secret), policy, systems.now())
    match decision:
        case Skip("done"):
            return Answered(name, trigger.id, "rotated", "an earlier request with the same idempotency key did it")
        case Skip(obstacle, reason):
            return Answered(name, None, "refused", f"{obstacle}: {reason}{_how_to_go_on(obstacle)}")
        case Rotate(reason):
            return _Chosen(trigger, secret.version, reason)
        case _:
            return _Chosen(trigger, secret.version, f"{decision.reason}, and is finished first; then ask again")


def _is_on(secret: SecretVersion, host: str) -> bool:
    addresses = parse(secret.value, secret=secret.name, tags=secret.tags).addresses
    return any(is_listed(address, (host.lower(),)) for address in addresses)


def _how_to_go_on(obstacle: str) -> str:
    return "; with force it is done all the same" if obstacle in ("paused", "in grace") else ""


def _hand_out(systems: Systems, topic: Topic, chosen: list[_Chosen]) -> list[Answered]:
    topic.publish(
        *(requested(it.trigger, systems.vault.identifier_of_version(it.trigger.secret, it.version)) for it in chosen)
    )
    return [Answered(it.trigger.secret, it.trigger.id, "requested", it.reason) for it in chosen]


def _work_off(systems: Systems, chosen: list[_Chosen], ends: float) -> list[Answered]:
    def work(it: _Chosen) -> Answered:
        name, rotation_id = it.trigger.secret, it.trigger.id
        if time.monotonic() >= ends:
            again = "the time of this request was up; ask again, with the same Idempotency-Key if it had one"
            return Answered(name, rotation_id if it.trigger.is_repeatable else None, "not begun", again)
        try:
            outcome = rotate(systems, it.trigger)
        except RotationError as error:
            return Answered(name, rotation_id, "failed", str(error))
        is_done = outcome.obstacle == "done"
        return Answered(name, rotation_id, "rotated" if is_done else outcome.status, outcome.reason)

    return in_parallel(systems, work, chosen)
