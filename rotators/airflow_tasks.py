"""The failed tasks of an Airflow: those that failed on an old credential are found, and run again."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rotators.airflow_api import READ_TASKS, Session, understood
from rotators.airflow_logs import FailedTask, RotatedConnection
from rotators.airflow_runs import retry_runs
from rotators.airflow_search import ALL_TASKS, Search, ToldBefore, reference
from rotators.errors import RotationError, TransientError
from rotators.outcome import AirflowReport, RetriedRun, TaskRef

# An outcome travels in events and log lines, which have their limits.
MOST_LISTED = 100
MOST_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class AirflowLook:
    """What Airflow can tell of a rotation; each list has at most `MOST_LISTED` tasks.

    Attributes:
        since: what ended or was changed before was not looked at.
        retried: what carries this rotation's note: it was cleared, and has run again or will.
        failed: what failed on the old credential and was not cleared yet.
        suspected, unknown: where that is not certain.
        warnings: what could not be looked at.
    """

    since: datetime
    retried: tuple[TaskRef, ...]
    failed: tuple[TaskRef, ...]
    suspected: tuple[TaskRef, ...]
    unknown: tuple[TaskRef, ...]
    warnings: tuple[str, ...]


def retry_failed(session: Session, rotated: Sequence[RotatedConnection], told: ToldBefore) -> dict[str, AirflowReport]:
    """Retry what failed on an old credential of these connections; one search serves them all.

    Return a report for each secret. Raise TransientError or AirflowRefusedError if the failed tasks cannot be seen.
    """
    search = Search(session, rotated, told)
    search.look()
    return {one.secret: _retry(session, one, search) for one in rotated}


def look(session: Session, rotated: RotatedConnection, told: ToldBefore) -> AirflowLook:
    """Return what a retry would find, and what earlier ones did; nothing is cleared.

    Raise TransientError or AirflowRefusedError if the tasks cannot be seen.
    """
    search = Search(session, [rotated], told)
    search.look()
    since = max(rotated.published_at, datetime.now(UTC) - session.api.access.lookback)
    warnings = [*search.warnings[rotated.secret], *([str(search.trouble)] if search.trouble else [])]
    retried: list[TaskRef] = []
    # A note is all that is left of a retry: Airflow has no list of what was cleared, and by whom.
    query = {"updated_at_gte": since.isoformat(), "order_by": "-start_date"}
    changed = session.pages(ALL_TASKS, "task_instances", rights=READ_TASKS, query=query)
    for number, row in enumerate(changed):
        if number == session.api.access.max_examined:
            warnings.append(f"of the tasks that ran meanwhile, {number} were looked at: AIRFLOW_MAX_EXAMINED")
            break
        with understood():
            # The whole of it: one idempotency key may have rotated several secrets, whose notes begin alike.
            if row.get("note") == rotated.note:
                state = row["state"] or "waiting"
                retried.append(TaskRef(row["dag_id"], row["dag_run_id"], row["task_id"], row["map_index"], state))
    return AirflowLook(
        since=since,
        retried=tuple(retried[:MOST_LISTED]),
        failed=tuple(reference(task, "the next sweep clears it") for task in search.ours[rotated.secret][:MOST_LISTED]),
        suspected=tuple(search.suspected[rotated.secret][:MOST_LISTED]),
        unknown=tuple(search.unknown[rotated.secret][:MOST_LISTED]),
        warnings=tuple(warnings),
    )


def combined(report: AirflowReport, error: RotationError) -> AirflowReport:
    """Return the report with what went wrong besides; what may go right the next time has precedence."""
    pending = isinstance(error, TransientError) or report.status == "pending"
    return dataclasses.replace(
        report, status="pending" if pending else "refused", warnings=(str(error), *report.warnings)
    )


def _retry(session: Session, rotated: RotatedConnection, search: Search) -> AirflowReport:
    """Clear what failed on the old credential of this connection, run by run; one that refuses stops no other."""
    report = AirflowReport(
        "healed",
        suspected=tuple(search.suspected[rotated.secret][:MOST_LISTED]),
        unknown=tuple(search.unknown[rotated.secret][:MOST_LISTED]),
        examined=search.examined,
        warnings=tuple(search.warnings[rotated.secret]),
    )
    runs: dict[tuple[str, str], list[FailedTask]] = defaultdict(list)
    for task in search.ours[rotated.secret]:
        runs[task.run].append(task)
    for (dag_id, run_id), done in zip(runs, retry_runs(session, runs, rotated), strict=True):
        if done is None:
            continue
        if isinstance(done, RotationError):
            report = combined(report, done)
            continue
        cleared, warnings = done
        report = dataclasses.replace(
            report,
            retried=(*report.retried, RetriedRun(dag_id, run_id, cleared)) if cleared else report.retried,
            warnings=(*report.warnings, *warnings),
        )
    left_out = max(len(search.suspected[rotated.secret]), len(search.unknown[rotated.secret])) - MOST_LISTED
    if left_out > 0:
        report = dataclasses.replace(report, warnings=(*report.warnings, f"{left_out} unclear tasks are not listed"))
    if search.trouble:
        report = combined(report, search.trouble)
    return dataclasses.replace(report, warnings=_shortened(report.warnings))


def _shortened(warnings: tuple[str, ...]) -> tuple[str, ...]:
    left_out = len(warnings) - MOST_WARNINGS
    return (*warnings[:MOST_WARNINGS], f"and {left_out} more") if left_out > 0 else warnings
