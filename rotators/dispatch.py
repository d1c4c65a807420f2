"""From what comes in, an event or the timer, to the secrets that are to be looked at."""

import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from rotators.access import Managed, look_up
from rotators.airflow import RotatedConnection
from rotators.decision import Skip, Trigger, decide
from rotators.errors import PermanentError, PolicyError, RotationError, TransientError
from rotators.events import REQUESTED, EventIn, read_event, requested
from rotators.journal import Invocation, report, write_log
from rotators.outcome import Outcome
from rotators.policy import RotationState, read_policy
from rotators.retirement import is_to_retire, retire
from rotators.rotation import current_of, rotate, rotated_connection
from rotators.systems import Systems
from rotators.vault import SecretVersion


def deliver(systems: Systems, event: EventIn) -> None:
    """Do what an event asks for. Raise TransientError or UnexpectedError when Event Grid is to bring it again.

    What would fail again is logged and published as `Failed`, and the event ends: thirty redeliveries would lock
    accounts and bury the message.
    """
    if event.type.startswith("SecretRotation.") and event.type != REQUESTED:
        # A subscription of our topic without a filter: were this an error, its `Failed` event came back, for ever.
        write_log(logging.WARNING, "own event", type=event.type, reason="subscribe only SecretRotation.Requested")
        return
    secret = ""
    try:
        identifier, trigger = read_event(event)
        secret = trigger.secret
        if not systems.vault.owns(identifier):
            raise PolicyError(f"event {event.id!r}: its secret {secret!r} is in another vault; nothing was done")
    except PermanentError as error:
        report(systems, Outcome(secret=secret, status="failed", reason=str(error), cause="event"))
        return
    try:
        outcome = attend(systems, trigger)
    except PermanentError:
        return
    if trigger.kind == "requested" and outcome.status == "skipped" and not _is_done(trigger, outcome):
        # Somebody was given this id and waits to hear of it.
        report(systems, Invocation(systems, trigger).failed(PolicyError(f"secret {secret!r}: {outcome.reason}")))
    if outcome.airflow is not None and outcome.airflow.status == "pending":
        raise TransientError(f"secret {secret!r}: rotated, but Airflow could not be refreshed yet")


def sweep(systems: Systems) -> list[Outcome]:
    """Look at every secret: rotate what is due, finish what is pending, retire what is out of its grace.

    With a topic the work is handed out as `Requested` events; else it is done here, a few secrets at a time.
    Values are read only of secrets that have something to do. Raise TransientError when the list cannot be read.
    """
    work: list[Trigger] = []
    in_grace: list[SecretVersion] = []
    outcomes: list[Outcome] = []
    for listed in systems.vault.secrets():
        trigger = Trigger(kind="sweep", secret=listed.name, id=str(uuid.uuid4()), by="timer")
        try:
            policy = read_policy(listed.name, listed.tags, prefix=systems.settings.connections_prefix)
        except PolicyError as error:
            outcomes.append(report(systems, Invocation(systems, trigger).failed(error)))
            continue
        if policy is None or not policy.enabled:
            continue
        now = systems.now()
        if is_to_retire(listed.state, now) or not isinstance(decide(trigger, current_of(listed), policy, now), Skip):
            work.append(trigger)
        elif listed.state is not None and now < listed.state.at + policy.grace:
            in_grace.append(listed)
    if not _hand_out(systems, work):
        outcomes += _work_off(systems, work)
    _retry_failed_again(systems, in_grace)
    write_log(logging.INFO, "sweep", secrets=len(work), searchedAgain=len(in_grace))
    return outcomes


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
    requests = []
    for trigger in work:
        try:
            version = systems.vault.current(trigger.secret).version
        except RotationError as error:
            write_log(logging.WARNING, "sweep passed over", secret=trigger.secret, reason=str(error))
            continue
        requests.append(requested(trigger, systems.vault.identifier_of_version(trigger.secret, version)))
    if not requests:
        return True
    try:
        systems.topic.publish(*requests)
    except TransientError as error:
        write_log(logging.WARNING, "sweep works alone", reason=str(error))
        return False
    return True


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
        # A thread of ours starts without the invocation id that the worker's logging looks for.
        return list(pool.map(lambda context, item: context.run(do, item), [copy_context() for _ in items], items))


def _retry_failed_again(systems: Systems, in_grace: list[SecretVersion]) -> None:
    """Until the grace is over, a task that still runs on the old credential may fail on it: search again."""
    if systems.airflow is None:
        return
    searched: dict[str, tuple[Managed, RotationState]] = {}
    connections: list[RotatedConnection] = []
    for listed in in_grace:
        try:
            secret = systems.vault.current(listed.name)
            policy = read_policy(secret.name, secret.tags, prefix=systems.settings.connections_prefix)
            if policy is None or secret.state is None:
                continue
            managed = look_up(systems, secret, policy)
            if (connection := rotated_connection(managed, secret.state)) is not None:
                connections.append(connection)
                searched[secret.name] = managed, secret.state
        except RotationError as error:
            write_log(logging.WARNING, "search passed over", secret=listed.name, reason=str(error))
    if not connections:
        return
    try:
        reports = systems.airflow.retry_failed(connections)
    except RotationError as error:
        write_log(logging.WARNING, "search failed", reason=str(error))
        return
    for name, (managed, state) in searched.items():
        found = reports[name]
        if found.retried or found.warnings:
            run = Invocation(systems, Trigger(kind="sweep", secret=name, id=state.id, by="timer"))
            run.warn(*found.warnings)
            outcome = run.outcome(managed, "resumed", "searched again", state=state, airflow=found)
            report(systems, outcome, "AirflowRefreshed")
