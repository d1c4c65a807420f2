"""From what comes in, an event or the timer, to the secrets that are to be looked at."""

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from rotators import telemetry
from rotators.access import Managed, look_up
from rotators.airflow import RotatedConnection
from rotators.beside import spread
from rotators.decision import STATES, Schedule, Skip, Trigger, decide, is_late, overdue_since, state_of
from rotators.errors import PermanentError, PolicyError, RotationError, TransientError
from rotators.events import LONGEST_QUOTED, EventIn, EventOut, read_event, requested
from rotators.journal import Invocation, guarded, report, write_log
from rotators.outcome import AirflowReport, Outcome, timestamp
from rotators.policy import RotationPolicy, RotationState, read_policy
from rotators.reconciliation import write_state
from rotators.retirement import is_to_retire, retire
from rotators.rotation import current_of, rotate, rotated_connection
from rotators.systems import Systems
from rotators.vault import SecretVersion


def deliver(systems: Systems, event: EventIn) -> None:
    """Do what an event asks for. Raise TransientError or UnexpectedError when Event Grid is to bring it again.

    What would fail again is logged and published as `Failed`, and the event ends: thirty redeliveries would lock
    accounts and bury the message.
    """
    guarded("an event", _deliver, systems, event)


def _deliver(systems: Systems, event: EventIn) -> None:
    if event.is_of_an_outcome:
        # A subscription of our topic without a filter: were this an error, its `Failed` event came back, for ever.
        kind = event.type[:LONGEST_QUOTED]
        write_log(logging.WARNING, "own event", type=kind, reason="subscribe only SecretRotation.Requested")
        return
    secret = ""
    try:
        identifier, trigger = read_event(event)
        secret = trigger.secret
        if not systems.vault.owns(identifier):
            raise PolicyError(f"{event.named}: its secret {secret!r} is in another vault; nothing was done")
    except PermanentError as error:
        report(systems, Outcome(secret=secret, status="failed", reason=str(error), cause="event", by="event-grid"))
        return
    try:
        outcome = attend(systems, trigger)
    except PermanentError:
        return
    if trigger.kind == "requested" and outcome.status in ("skipped", "resumed") and not _is_done(trigger, outcome):
        # Somebody was given this id and waits to hear of it; what was finished instead, the sweep goes on with.
        instead = ", which was gone on with instead; ask again" if outcome.status == "resumed" else ""
        failure = PolicyError(f"secret {secret!r}: {outcome.reason}{instead}")
        report(systems, Invocation(systems, trigger).failed(failure))
        return
    if outcome.airflow is not None and outcome.airflow.status == "pending":
        raise TransientError(f"secret {secret!r}: rotated, but Airflow could not be refreshed yet")


def sweep(systems: Systems) -> list[Outcome]:
    """Look at every secret: rotate what is due, finish what is pending, retire what is out of its grace.

    With a topic the work is handed out as `Requested` events; else it is done here, a few secrets at a time.
    Values are read only of secrets that have something to do, and one that is strange does not stop the others.
    Raise TransientError when the list cannot be read, UnexpectedError for a fault of this program.
    """
    return guarded("the sweep", _sweep, systems)


def _sweep(systems: Systems) -> list[Outcome]:
    work: list[Trigger] = []
    in_grace: list[SecretVersion] = []
    outcomes: list[Outcome] = []
    states = Counter(dict.fromkeys(STATES, 0))
    overdue = 0
    for listed in systems.vault.secrets():
        trigger = Trigger(kind="sweep", secret=listed.name, id=str(uuid.uuid4()), by="timer")
        run = Invocation(systems, trigger)
        try:
            found = run.guarded(_look_at, systems, listed, trigger)
        except RotationError as error:
            states["unusable policy"] += isinstance(error, PolicyError)
            outcomes.append(report(systems, run.failed(error)))
            continue
        if found is None:
            continue
        states[found.state] += 1
        overdue += found.is_overdue
        match found.to_do:
            case "work":
                work.append(trigger)
            case "search":
                in_grace.append(listed)
    if not _hand_out(systems, work):
        outcomes += _work_off(systems, work)
    _retry_failed_again(systems, in_grace)
    telemetry.measure_secrets(states, overdue=overdue)
    write_log(
        logging.INFO, "sweep", secrets=len(work), searchedAgain=len(in_grace), overdue=overdue, byState=dict(states)
    )
    return outcomes


@dataclass(frozen=True, slots=True)
class _Found:
    """What the list with its tags tells of a secret."""

    state: str
    is_overdue: bool
    to_do: Literal["work", "search"] | None


def _look_at(systems: Systems, listed: SecretVersion, trigger: Trigger) -> _Found | None:
    """Tell how a secret stands; None when it is not managed. Raise PolicyError when its tags are wrong."""
    policy = read_policy(listed.name, listed.tags, prefix=systems.settings.connections_prefix)
    if policy is None:
        return None
    now = systems.now()
    decision = decide(trigger, current_of(listed), policy, now)
    to_do: Literal["work", "search"] | None = None
    if policy.enabled and (is_to_retire(listed, now) or not isinstance(decision, Skip)):
        to_do = "work"
    elif policy.enabled and listed.state is not None and now < listed.state.at + policy.grace:
        to_do = "search"
    return _Found(state_of(decision), _tell_what_is_late(listed, policy, now, systems.settings.sweeps), to_do)


def _tell_what_is_late(listed: SecretVersion, policy: RotationPolicy, now: datetime, sweeps: Schedule) -> bool:
    """Log what an alert is to say again until it is mended; return whether the secret is overdue."""
    since, state = overdue_since(current_of(listed), policy, now, sweeps), listed.state
    if since is not None:
        write_log(logging.WARNING, "rotation overdue", secret=listed.name, since=timestamp(since))
    if policy.enabled and state is not None and state.is_unfinished and is_late(state.at, now, sweeps):
        write_log(
            logging.WARNING,
            "rotation pending",
            secret=listed.name,
            rotationId=state.id,
            since=timestamp(state.at),
            pending=list(state.pending) or ["revoke"],
        )
    return since is not None


def attend(systems: Systems, trigger: Trigger) -> Outcome:
    """Rotate, as the trigger asks; when it is the sweep's, first retire what is out of its grace.

    What stands in the way of both is reported once.
    """
    if trigger.kind != "sweep":
        return rotate(systems, trigger)
    try:
        retire(systems, trigger)
    except PermanentError as error:
        failure = error
    else:
        return rotate(systems, trigger)
    outcome = rotate(systems, trigger)
    return report(systems, Invocation(systems, trigger).failed(failure)) if outcome.status == "skipped" else outcome


def _is_done(trigger: Trigger, outcome: Outcome) -> bool:
    """Whether an earlier delivery of the same event did it."""
    return outcome.obstacle == "done" or outcome.rotation_id == trigger.id


def _hand_out(systems: Systems, work: list[Trigger]) -> bool:
    """Publish an event for each secret, for other instances to take; False when it is to be done here."""
    if systems.topic is None or not work:
        return False
    found = in_parallel(systems, lambda trigger: _request(systems, trigger), work)
    requests = [event for event in found if event is not None]
    if not requests:
        return True
    try:
        guarded("the Event Grid topic", systems.topic.publish, *requests)
    except RotationError as error:
        write_log(logging.WARNING, "sweep works alone", reason=str(error))
        return False
    return True


def _request(systems: Systems, trigger: Trigger) -> EventOut | None:
    """Return the event that asks for a rotation; None when the secret can't be read."""
    try:
        # The version makes the event harmless when it comes late or twice.
        version = guarded(f"secret {trigger.secret!r}", systems.vault.current, trigger.secret).version
    except RotationError as error:
        write_log(logging.WARNING, "sweep passed over", secret=trigger.secret, reason=str(error))
        return None
    return requested(trigger, systems.vault.identifier_of_version(trigger.secret, version))


def _work_off(systems: Systems, work: list[Trigger]) -> list[Outcome]:
    def attend_one(trigger: Trigger) -> Outcome:
        try:
            return attend(systems, trigger)
        except RotationError as error:  # reported where it was raised; the other secrets go on
            return Invocation(systems, trigger).failed(error)

    return in_parallel(systems, attend_one, work)


def in_parallel[T, R](systems: Systems, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Do it to each item, some at a time, and return what comes of it in their order."""
    with ThreadPoolExecutor(systems.settings.concurrency, thread_name_prefix="secret") as pool:
        return list(spread(pool, do, items))


def _retry_failed_again(systems: Systems, in_grace: list[SecretVersion]) -> None:
    """Until the grace is over, a task that still runs on the old credential may fail on it: search again."""
    if systems.airflow is None:
        return

    def find(listed: SecretVersion) -> tuple[RotatedConnection, Managed, RotationState] | None:
        try:
            return guarded(f"secret {listed.name!r}", _rotated_before, systems, listed.name)
        except RotationError as error:
            write_log(logging.WARNING, "search passed over", secret=listed.name, reason=str(error))
            return None

    searched: dict[str, tuple[Managed, RotationState]] = {}
    connections: list[RotatedConnection] = []
    for listed, found in zip(in_grace, in_parallel(systems, find, in_grace), strict=True):
        if found is not None:
            connection, managed, state = found
            searched[listed.name] = managed, state
            connections.append(connection)
    if not connections:
        return
    try:
        reports = guarded("the search for failed tasks", systems.airflow.retry_failed, connections)
    except RotationError as error:
        write_log(logging.WARNING, "search failed", reason=str(error))
        reports = {}
    for name, (managed, state) in searched.items():
        _tell_of_search(systems, managed, state, reports.get(name))


def _tell_of_search(systems: Systems, managed: Managed, state: RotationState, again: AirflowReport | None) -> None:
    """Report what was found; `again` is None where nothing could be searched."""
    if again is None or again.status in ("pending", "refused"):
        _note_the_last_search(systems, managed, state)
    if again is not None and (again.retried or again.warnings):
        run = Invocation(systems, Trigger(kind="sweep", secret=managed.secret.name, id=state.id, by="timer"))
        run.warn(*again.warnings)
        outcome = run.outcome(managed, "resumed", "searched again", state=state, airflow=again)
        report(systems, outcome, "AirflowRefreshed")


def _note_the_last_search(systems: Systems, managed: Managed, state: RotationState) -> None:
    """Let a refresh be pending where the grace is over before the next sweep: who is down just then, is asked later."""
    if state.is_unfinished or state.at + managed.policy.grace > next(systems.settings.sweeps(systems.now())):
        return
    try:
        write_state(systems, managed.secret, replace(state, pending=("refresh",)))
    except RotationError as error:
        write_log(logging.WARNING, "search passed over", secret=managed.secret.name, reason=str(error))


def _rotated_before(systems: Systems, name: str) -> tuple[RotatedConnection, Managed, RotationState] | None:
    """Return what of a secret Airflow is searched for; None when it is not managed, or Airflow has no part in it."""
    secret = systems.vault.current(name)
    policy = read_policy(secret.name, secret.tags, prefix=systems.settings.connections_prefix)
    if policy is None or secret.state is None:
        return None
    managed = look_up(systems, secret, policy)
    connection = rotated_connection(managed, secret.state)
    return None if connection is None else (connection, managed, secret.state)
