"""What one invocation does: its steps timed and logged, its outcome made, logged and published.

Functions drops `extra=`, so a log line's message is one JSON object.
"""

import dataclasses
import json
import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rotators.access import Managed
from rotators.decision import Skip, Trigger
from rotators.errors import RotationError, TransientError, UnexpectedError
from rotators.events import EventOut
from rotators.outcome import AirflowReport, Outcome, Status, Step
from rotators.policy import Cause, RotationPolicy, RotationState
from rotators.systems import Systems
from rotators.vault import SecretVersion

_log = logging.getLogger("rotators")


@dataclass(slots=True)
class Invocation:
    """One trigger on its way through the flow, with the steps and warnings so far."""

    systems: Systems
    trigger: Trigger
    steps: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside; one that raises is logged as failed."""
        started = time.monotonic()
        succeeded = False
        try:
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
        self._log(logging.WARNING, "rotation delayed", reason=str(error))

    def fault(self, error: Exception) -> UnexpectedError:
        """Say where an error that nobody foresaw happened, and nothing that was at hand there: see P3."""
        frames = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames[-4:]))
        fault = UnexpectedError(
            f"secret {self.trigger.secret!r}: {type(error).__name__} at {where}; please report this fault"
        )
        self._log(logging.ERROR, "rotation fault", reason=str(fault))
        return fault

    def _log(self, level: int, event: str, **fields: object) -> None:
        write_log(level, event, secret=self.trigger.secret, rotationId=self.trigger.id, **fields)


def report(systems: Systems, outcome: Outcome, event: str | None = None) -> Outcome:
    """Log the outcome and publish it; a topic that is down must neither undo nor repeat a rotation.

    `event` is the type without its prefix, where the outcome's status does not say it.
    """
    level = logging.ERROR if outcome.status == "failed" else logging.WARNING if outcome.warnings else logging.INFO
    write_log(level, f"rotation {outcome.status}", **outcome.as_json())
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
            systems.topic.publish(*(EventOut(name, outcome.secret, outcome.as_json()) for name in events))
        except TransientError as error:
            write_log(logging.WARNING, "event lost", secret=outcome.secret, events=events, reason=str(error))
    return outcome


def write_log(level: int, event: str, **fields: object) -> None:
    _log.log(level, "%s", json.dumps({"event": event, **fields}, separators=(",", ":")))
