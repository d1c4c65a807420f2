"""What one invocation does: its steps timed and logged, its outcome made, logged and published.

Functions drops `extra=`, so a log line's message is one JSON object. docs/alerts.md queries what stands there.
"""

import dataclasses
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from pathlib import Path

from rotators import telemetry
from rotators.access import Managed
from rotators.decision import Skip, Trigger
from rotators.errors import RotationError, UnexpectedError
from rotators.events import EventOut
from rotators.outcome import AirflowReport, Outcome, Status, Step
from rotators.policy import Cause, RotationPolicy, RotationState
from rotators.systems import Systems
from rotators.vault import SecretVersion

_log = logging.getLogger("rotators")


@dataclass(slots=True)
class Invocation:
    """One trigger on its way through the flow, with the steps and warnings so far.

    `usable_since` is set where the version did not log in until now.
    """

    systems: Systems
    trigger: Trigger
    steps: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    usable_since: datetime | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside; one that raises is logged as failed."""
        started = time.monotonic()
        succeeded = False
        try:
            with telemetry.step(name):
                yield
            succeeded = True
        finally:
            step = Step(name, (time.monotonic() - started) * 1000)
            self.steps.append(step)
            event = "step" if succeeded else "step failed"
            self._log(logging.INFO, event, step=name, milliseconds=round(step.milliseconds, 1))

    @property
    def cause(self) -> Cause:
        return "reconcile" if self.trigger.kind == "new-version" else self.trigger.kind

    def warn(self, *warnings: str) -> None:
        self.warnings += warnings

    def outcome(
        self,
        managed: Managed,
        status: Status,
        reason: str,
        *,
        state: RotationState | None,
        airflow: AirflowReport | None = None,
    ) -> Outcome:
        return Outcome(
            secret=managed.secret.name,
            status=status,
            reason=reason,
            cause=self.cause,
            by=self.trigger.by,
            rotation_id=state.id if state else self.trigger.id,
            version=managed.secret.version,
            previous_version=state.from_version if state else None,
            strategy=managed.policy.strategy,
            user=managed.user,
            expires_on=managed.secret.expires,
            retire_at=state.retire_at if state else None,
            steps=tuple(self.steps),
            airflow=airflow,
            warnings=tuple(self.warnings),
        )

    def skipped(self, secret: SecretVersion, policy: RotationPolicy | None, skip: Skip) -> Outcome:
        state = secret.state
        outcome = Outcome(
            secret=secret.name,
            status="skipped",
            reason=f"{skip.obstacle}: {skip.reason}",
            cause=self.cause,
            by=self.trigger.by,
            obstacle=skip.obstacle,
            rotation_id=state.id if state else None,
            version=secret.version,
            previous_version=state.from_version if state else None,
            strategy=policy.strategy if policy else None,
            expires_on=secret.expires,
            retire_at=state.retire_at if state else None,
            steps=tuple(self.steps),
            warnings=tuple(self.warnings),
        )
        if skip.obstacle == "done" and self.trigger.kind in ("http", "rollback"):
            # What the first request with this idempotency key did.
            return dataclasses.replace(outcome, status="rotated")
        return outcome

    def failed(self, error: RotationError) -> Outcome:
        return Outcome(
            secret=self.trigger.secret,
            status="failed",
            reason=str(error),
            cause=self.cause,
            by=self.trigger.by,
            rotation_id=self.trigger.id,
            steps=tuple(self.steps),
            warnings=tuple(self.warnings),
        )

    def delayed(self, error: RotationError) -> None:
        self._log(logging.WARNING, "rotation delayed", problem=error.title, reason=str(error))

    def guarded[**P, T](self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Return what `call` returns. Raise RotationErrors only: another is logged, and becomes an UnexpectedError."""
        return _guarded(self.fault, call, *arguments, **named)

    def fault(self, error: Exception) -> UnexpectedError:
        return _fault(f"secret {self.trigger.secret!r}", error, rotationId=self.trigger.id, secret=self.trigger.secret)

    def _log(self, level: int, event: str, **fields: object) -> None:
        write_log(level, event, secret=self.trigger.secret, rotationId=self.trigger.id, **fields)


def told_as[O: Outcome | None](
    name: str,
) -> Callable[[Callable[[Systems, Trigger], O]], Callable[[Systems, Trigger], O]]:
    """Decorate what does a trigger's work: where telemetry is on, it becomes a span around its steps."""

    def decorate(work: Callable[[Systems, Trigger], O]) -> Callable[[Systems, Trigger], O]:
        @wraps(work)
        def told(systems: Systems, trigger: Trigger) -> O:
            if not telemetry.is_on():
                return work(systems, trigger)
            with telemetry.flow(name, trigger) as tell:
                outcome = work(systems, trigger)
                if outcome is not None:
                    tell(outcome)
                return outcome

        return told

    return decorate


def report(systems: Systems, outcome: Outcome, event: str | None = None) -> Outcome:
    """Log the outcome and publish it; a topic that is down must neither undo nor repeat a rotation.

    `event` is the type without its prefix, where the outcome's status does not say it.
    """
    level = logging.ERROR if outcome.status == "failed" else logging.WARNING if outcome.warnings else logging.INFO
    write_log(level, f"rotation {outcome.status}", **outcome.as_json())
    telemetry.count(outcome)
    if event is not None:
        events = [event]
    elif outcome.obstacle is not None:
        events = []  # nothing was done, or it was told when it was done
    else:
        events = {"rotated": ["Completed"], "resumed": ["Completed"], "failed": ["Failed"]}.get(outcome.status, [])
        if outcome.airflow is not None and outcome.airflow.status == "healed":
            events.append("AirflowRefreshed")
    if systems.topic is not None and events:
        try:
            guarded(
                "the Event Grid topic",
                systems.topic.publish,
                *(EventOut(name, outcome.secret, outcome.as_json()) for name in events),
            )
        except RotationError as error:
            write_log(logging.WARNING, "event lost", secret=outcome.secret, events=events, reason=str(error))
    return outcome


def guarded[**P, T](subject: str, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return what `call` returns, as `Invocation.guarded` does, where there is no invocation (yet).

    `subject` is what the fault's text begins with.
    """
    return _guarded(lambda error: _fault(subject, error), call, *arguments, **named)


def _guarded[**P, T](
    fault: Callable[[Exception], UnexpectedError], call: Callable[P, T], *arguments: P.args, **named: P.kwargs
) -> T:
    try:
        return call(*arguments, **named)
    except RotationError:
        raise
    except Exception as error:  # noqa: BLE001 (its text and locals are not known to be free of secrets)
        unexpected = fault(error)
    raise unexpected


def _fault(subject: str, error: Exception, **fields: object) -> UnexpectedError:
    """Say where an error that nobody foresaw happened, and nothing that was at hand there: see P3."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames[-4:]))
    unexpected = UnexpectedError(f"{subject}: {type(error).__name__} at {where}; please report this fault")
    write_log(logging.ERROR, "rotation fault", **fields, reason=str(unexpected))
    return unexpected


def write_log(level: int, event: str, **fields: object) -> None:
    line = {"event": event, **fields}
    _log.log(level, "%s", json.dumps(line, separators=(",", ":")), extra=telemetry.log_attributes(line))
