"""What a rotation did, and its JSON: the same in HTTP answers, events and logs."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

Status = Literal["rotated", "resumed", "skipped", "failed", "planned"]
RefreshStatus = Literal["healed", "pending", "refused", "none"]
ConnectionCopy = Literal["cleared", "updated", "absent", "kept", "different"]


@dataclass(frozen=True, slots=True)
class RetriedRun:
    """The task instances of one DAG run that were cleared; a map index is -1 for an unmapped task."""

    dag_id: str
    dag_run_id: str
    tasks: tuple[tuple[str, int], ...]

    def as_json(self) -> dict[str, object]:
        return {"dagId": self.dag_id, "dagRunId": self.dag_run_id, "tasks": [list(t) for t in self.tasks]}


@dataclass(frozen=True, slots=True)
class TaskRef:
    """One try of one task instance that was looked at and left alone."""

    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int
    why: str

    def as_json(self) -> dict[str, object]:
        return {
            "dagId": self.dag_id,
            "dagRunId": self.dag_run_id,
            "taskId": self.task_id,
            "mapIndex": self.map_index,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class AirflowReport:
    """What was done in Airflow for one secret.

    `status` is "healed" (everything that could be done was), "pending" (Airflow was not reachable: tried
    again by the next delivery or sweep), "refused" (Airflow said no: see warnings) or "none" (the secret has
    no connection in Airflow, or no Airflow is configured).
    """

    status: RefreshStatus
    connection: ConnectionCopy | None = None
    retried: tuple[RetriedRun, ...] = ()
    suspected: tuple[TaskRef, ...] = ()
    unknown: tuple[TaskRef, ...] = ()
    examined: int = 0
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {
            "status": self.status,
            "connection": self.connection,
            "retried": [run.as_json() for run in self.retried],
            "suspected": [task.as_json() for task in self.suspected],
            "unknown": [task.as_json() for task in self.unknown],
            "examined": self.examined,
        }


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one trigger did to one secret. `obstacle` says which row of the decision kept it from more.

    `by` is who asked: of a caller over HTTP what App Service authentication says, else `key`, `event-grid`, `timer`.
    """

    secret: str
    status: Status
    reason: str
    cause: str
    by: str | None = None
    obstacle: str | None = None
    rotation_id: str | None = None
    version: str | None = None
    previous_version: str | None = None
    strategy: str | None = None
    user: str | None = None
    expires_on: datetime | None = None
    retire_at: datetime | None = None
    steps: tuple[Step, ...] = ()
    airflow: AirflowReport | None = None
    warnings: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, object]:
        return {
            "secret": self.secret,
            "status": self.status,
            "reason": self.reason,
            "cause": self.cause,
            "by": self.by,
            "rotationId": self.rotation_id,
            "version": self.version,
            "previousVersion": self.previous_version,
            "strategy": self.strategy,
            "user": self.user,
            "expiresOn": timestamp(self.expires_on),
            "retireAt": timestamp(self.retire_at),
            "steps": [{"step": s.name, "milliseconds": round(s.milliseconds, 1)} for s in self.steps],
            "airflow": self.airflow.as_json() if self.airflow else None,
            "warnings": list(self.warnings),
        }


def timestamp(moment: datetime | None) -> str | None:
    """Return RFC 3339 in UTC, whole seconds, as in `2026-11-24T12:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
