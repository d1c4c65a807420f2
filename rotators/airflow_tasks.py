"""The failed tasks of an Airflow: which of them failed on an old credential, and how those run again."""

import dataclasses
import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from rotators.airflow_api import CLEAR_TASKS, READ_LOGS, READ_TASKS, Answer, Session, path_of, understood
from rotators.airflow_logs import OTHER, FailedTask, RotatedConnection, Verdict, is_ours, judge
from rotators.beside import spread
from rotators.errors import RotationError, TransientError
from rotators.outcome import AirflowReport, RetriedRun, TaskRef

EVERY_DAG = EVERY_RUN = "~"
ALL_TASKS = path_of("dags", EVERY_DAG, "dagRuns", EVERY_RUN, "taskInstances")
NOT_THERE = HTTPStatus.NOT_FOUND
FAILED = ("failed", "upstream_failed")

LOGS_AT_A_TIME = 4
LOG_PAGES = 50
RUNS_AT_A_TIME = 4
# Ten searches that come to the default of AIRFLOW_MAX_EXAMINED; 3 MB.
MOST_REMEMBERED = 20_000
# A log that cannot be read is one task's misfortune, and so is a run; more of them, and Airflow is in trouble.
FAILURES = 3
# An outcome travels in events and log lines, which have their limits.
MOST_LISTED = 100
MOST_WARNINGS = 20

# What these versions of Airflow brought to the call that clears tasks.
PREVENTS_RUNNING = (3, 2)
TAKES_NOTE = (3, 3)

Task = tuple[str, int]
Row = Mapping[str, Any]  # Any: JSON

_UNREADABLE = Verdict("unknown", "the log is not there, or cannot be read")


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


def check_readable(session: Session) -> None:
    """Raise AirflowRefusedError if we may not look at tasks."""
    session.call("GET", ALL_TASKS, rights=READ_TASKS, query={"limit": 1})


def newest_task(session: Session) -> FailedTask | None:
    """Return the task instance that ended last, to try our rights on; it may have succeeded."""
    query = {"state": ("success", "failed"), "order_by": "-end_date", "limit": 25}
    answer = session.call("GET", ALL_TASKS, rights=READ_TASKS, query=query)
    with understood():
        tasks = map(FailedTask.from_json, answer.body["task_instances"])
        return next((task for task in tasks if task.started is not None), None)  # else it has no log


def check_log_readable(session: Session, task: FailedTask) -> None:
    """Raise AirflowRefusedError if we may not read logs."""
    _log_page(session, task, {"map_index": task.map_index})


def check_clearable(session: Session, task: FailedTask) -> None:
    """Raise AirflowRefusedError if we may not clear tasks: a dry run needs the same right, and clears nothing."""
    _Run(session, task.dag_id, task.dag_run_id).would_clear(task.key)


def missing_dags(session: Session, dags: Sequence[str]) -> tuple[str, ...]:
    """Return those entries of `airflow-dags` that name no DAG of this Airflow."""
    return tuple(entry for entry in dags if not _names_a_dag(session, entry))


def _names_a_dag(session: Session, entry: str) -> bool:
    if entry.startswith("tag:"):
        return bool(_tagged(session, entry.removeprefix("tag:").strip()))
    return session.call("GET", path_of("dags", entry), rights=READ_TASKS, expecting=(NOT_THERE,)).is_good


def _tagged(session: Session, tag: str) -> set[str]:
    """Return the ids of the DAGs with this tag."""
    query = {"tags": tag, "exclude_stale": False, "order_by": "dag_id"}
    with understood():
        return {row["dag_id"] for row in session.pages("/dags", "dags", rights=READ_TASKS, query=query)}


class ToldBefore:
    """Tasks whose logs have said already that they are not our affair; it may be shared by threads.

    The log of a try that has failed, once it is there to its end, tells the same each time, and the search goes on
    until the grace is over. What is forgotten is read again.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, None] = {}
        self._lock = threading.Lock()

    def add(self, task: FailedTask, rotated: RotatedConnection) -> None:
        """Remember it, and forget what was of no use for the longest time if that is too much."""
        with self._lock:
            self._known[_digest(task, rotated)] = None
            if len(self._known) > MOST_REMEMBERED:
                del self._known[next(iter(self._known))]

    def knows(self, task: FailedTask, rotated: RotatedConnection) -> bool:
        digest = _digest(task, rotated)
        with self._lock:
            known = digest in self._known
            if known:
                # To the end: it is of use.
                del self._known[digest]
                self._known[digest] = None
            return known


def _digest(task: FailedTask, rotated: RotatedConnection) -> bytes:
    told = (task.path, task.map_index, task.try_number, task.started, rotated.basis)
    return hashlib.blake2b(repr(told).encode(errors="surrogatepass"), digest_size=16).digest()


def retry_failed(session: Session, rotated: Sequence[RotatedConnection], told: ToldBefore) -> dict[str, AirflowReport]:
    """Retry what failed on an old credential of these connections; one search serves them all.

    Return a report for each secret. Raise TransientError or AirflowRefusedError if the failed tasks cannot be seen.
    """
    search = _Search(session, rotated, told)
    search.look()
    return {one.secret: _retry(session, one, search) for one in rotated}


def look(session: Session, rotated: RotatedConnection, told: ToldBefore) -> AirflowLook:
    """Return what a retry would find, and what earlier ones did; nothing is cleared.

    Raise TransientError or AirflowRefusedError if the tasks cannot be seen.
    """
    search = _Search(session, [rotated], told)
    search.look()
    since = max(rotated.published_at, datetime.now(UTC) - session.api.access.lookback)
    warnings = search.warnings[rotated.secret]
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
        failed=tuple(
            _reference(task, "the next sweep clears it") for task in search.ours[rotated.secret][:MOST_LISTED]
        ),
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


# -- which tasks failed on an old credential ------------------------------------------------------------------


class _Search:
    """One search through the failed tasks of the look-back window, for any number of connections.

    Attributes:
        ours: for each secret the tasks that failed on its old credential.
        suspected, unknown: for each those of which that is not certain.
        examined: how many logs were read.
    """

    def __init__(self, session: Session, rotated: Sequence[RotatedConnection], told: ToldBefore) -> None:
        self._session = session
        self._rotated = rotated
        self._told = told
        self._unreadable = 0
        self.ours: dict[str, list[FailedTask]] = defaultdict(list)
        self.suspected: dict[str, list[TaskRef]] = defaultdict(list)
        self.unknown: dict[str, list[TaskRef]] = defaultdict(list)
        self.examined = 0
        self.warnings: dict[str, list[str]] = defaultdict(list)

    def look(self) -> None:
        """Read the logs that may concern us, and sort the tasks by what they tell."""
        with ThreadPoolExecutor(LOGS_AT_A_TIME, thread_name_prefix="airflow-log") as pool:
            try:
                # Logs are read while the list is. All is listed before one is cleared, which would shift the pages.
                # A thread of ours starts without the invocation id that the worker's logging looks for.
                read = [
                    (task, concerned, pool.submit(copy_context().run, self._judge, task, concerned))
                    for task, concerned in self._candidates()
                ]
                for task, concerned, verdicts in read:
                    for one, verdict in zip(concerned, verdicts.result(), strict=True):
                        self._sort(task, one, verdict)
            finally:
                pool.shutdown(cancel_futures=True)
        self.examined = len(read)

    def _judge(self, task: FailedTask, concerned: Sequence[RotatedConnection]) -> list[Verdict]:
        """Return what the log tells each of them; a log is large, and nobody keeps it."""
        log = self._log(task)
        if log is None:
            return [_UNREADABLE] * len(concerned)
        with understood():
            verdicts = [judge(log, task, one) for one in concerned]
        for one, verdict in zip(concerned, verdicts, strict=True):
            if verdict == OTHER:
                self._told.add(task, one)
        return verdicts

    def _sort(self, task: FailedTask, rotated: RotatedConnection, verdict: Verdict) -> None:
        match verdict.kind:
            case "ours":
                self.ours[rotated.secret].append(task)
            case "suspected":
                self.suspected[rotated.secret].append(_reference(task, verdict.why))
            case "unknown":
                self.unknown[rotated.secret].append(_reference(task, verdict.why))

    def _candidates(self) -> Iterator[tuple[FailedTask, list[RotatedConnection]]]:
        """Return the failed tasks whose logs are worth reading, newest first, each with whom it may concern."""
        access = self._session.api.access
        scopes = {one.secret: self._dag_ids(one) for one in self._rotated}
        query = {
            "state": "failed",  # of the task: its run may have succeeded all the same
            "end_date_gte": (datetime.now(UTC) - access.lookback).isoformat(),
            "order_by": "-end_date",
        }
        candidates: set[FailedTask] = set()
        for row in self._session.pages(ALL_TASKS, "task_instances", rights=READ_TASKS, query=query, by_cursor=True):
            with understood():
                task = FailedTask.from_json(row)
            concerned = [
                one
                for one in self._rotated
                if ((scope := scopes[one.secret]) is None or task.dag_id in scope)
                and task.may_use(one)
                and not self._told.knows(task, one)
            ]
            if not concerned or task.started is None or task in candidates:
                continue
            if len(candidates) == access.max_examined:
                for one in self._rotated:
                    self.warnings[one.secret].append(
                        f"only the newest {access.max_examined} failed tasks were examined: the next searches go on "
                        "with older ones; to have them at once raise AIRFLOW_MAX_EXAMINED, shorten AIRFLOW_LOOKBACK, "
                        "or name the DAGs in the tag airflow-dags"
                    )
                break
            candidates.add(task)
            yield task, concerned

    def _dag_ids(self, rotated: RotatedConnection) -> set[str] | None:
        """Return the ids that a policy's `airflow-dags` means; None means all."""
        ids = {entry for entry in rotated.dags if not entry.startswith("tag:")}
        for tag in (entry.removeprefix("tag:").strip() for entry in rotated.dags if entry.startswith("tag:")):
            tagged = _tagged(self._session, tag)
            if not tagged:
                self.warnings[rotated.secret].append(f"no DAG has the tag {tag!r}, which airflow-dags names")
            ids |= tagged
        return ids if rotated.dags else None

    def _log(self, task: FailedTask) -> list[Row] | None:
        """Return the log of the last try, None if it cannot be read. Raise TransientError if Airflow is down."""
        if self._unreadable > FAILURES:
            return None  # another thread is about to say that
        try:
            return _read_log(self._session, task)
        except TransientError:
            self._unreadable += 1
            if self._unreadable > FAILURES:
                raise
            return None


def _read_log(session: Session, task: FailedTask) -> list[Row] | None:
    entries: list[Row] = []
    query: dict[str, object] = {"map_index": task.map_index}
    for _ in range(LOG_PAGES):
        answer = _log_page(session, task, query)
        if not answer.is_good or answer.body is None:
            return None
        with understood():
            entries += [entry for entry in answer.body["content"] if isinstance(entry, dict)]
            token = answer.body.get("continuation_token")
        if not token or not answer.body["content"]:
            break
        query["token"] = token
    return entries


def _log_page(session: Session, task: FailedTask, query: Mapping[str, object]) -> Answer:
    return session.call(
        "GET",
        path_of(*task.path, "logs", task.try_number),
        rights=READ_LOGS,
        # A broken log storage shows itself as 500, for its logs alone.
        expecting=(NOT_THERE, HTTPStatus.INTERNAL_SERVER_ERROR),
        query=query,
    )


def _reference(task: FailedTask, why: str) -> TaskRef:
    return TaskRef(task.dag_id, task.dag_run_id, task.task_id, task.map_index, why)


# -- and how they run again -----------------------------------------------------------------------------------


def _retry(session: Session, rotated: RotatedConnection, search: _Search) -> AirflowReport:
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
    for (dag_id, run_id), done in zip(runs, _retried(session, runs, rotated), strict=True):
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
    return dataclasses.replace(report, warnings=_shortened(report.warnings))


type _Retried = tuple[tuple[Task, ...], list[str]]
"""What was cleared in a run, and what somebody should know."""


def _retried(
    session: Session, runs: Mapping[tuple[str, str], Sequence[FailedTask]], rotated: RotatedConnection
) -> list[_Retried | RotationError | None]:
    """Clear them in each of these runs, a few runs at a time; return what came of each.

    Rights are given for each DAG, and one that is broken gives 500: such an error is that run's alone. After a few of
    the latter Airflow is left in peace: None is what comes of the runs that are left.
    """
    failures: list[TransientError] = []

    def attempt[R](do: Callable[[], R]) -> R | RotationError | None:
        if len(failures) > FAILURES:
            return None
        try:
            return do()
        except TransientError as error:
            failures.append(error)
            return error
        except RotationError as error:
            return error

    def retry(run: tuple[str, str]) -> _Retried | RotationError | None:
        dag = dags[run[0]]
        return attempt(lambda: _Run(session, *run).retry(runs[run], rotated, dag)) if isinstance(dag, _Dag) else dag

    by_dag: dict[str, list[FailedTask]] = defaultdict(list)
    for (dag_id, _), failed in runs.items():
        by_dag[dag_id] += failed
    with ThreadPoolExecutor(RUNS_AT_A_TIME, thread_name_prefix="airflow-run") as pool:
        read = spread(pool, lambda dag_id: attempt(lambda: _read_dag(session, dag_id, by_dag[dag_id])), by_dag)
        dags = dict(zip(by_dag, read, strict=True))
        return list(spread(pool, retry, runs))


@dataclass(frozen=True, slots=True)
class _Dag:
    """What of a DAG concerns all of its runs.

    Attributes:
        is_gone: its file, or all of it; a run of it would never go on.
        has_skipped: whether any task of any run was skipped after the first of ours failed.
    """

    is_gone: bool
    is_paused: bool = False
    has_skipped: bool = False


def _read_dag(session: Session, dag_id: str, failed: Sequence[FailedTask]) -> _Dag:
    details = session.call("GET", path_of("dags", dag_id, "details"), rights=READ_TASKS, expecting=(NOT_THERE,))
    with understood():
        if not details.is_good or details.body["is_stale"]:
            return _Dag(is_gone=True)
        is_paused = bool(details.body["is_paused"])
    return _Dag(is_gone=False, is_paused=is_paused, has_skipped=_has_skipped(session, dag_id, EVERY_RUN, failed))


def _has_skipped(session: Session, dag_id: str, run_id: str, failed: Sequence[FailedTask]) -> bool:
    """Whether a task was skipped after the first of these failed, as a `fail_fast` DAG does it.

    The API does not say which DAG is `fail_fast`.
    """
    since = min((task.ended for task in failed if task.ended), default=datetime.now(UTC))
    query = {"state": "skipped", "end_date_gte": since.isoformat(), "limit": 1}
    path = path_of("dags", dag_id, "dagRuns", run_id, "taskInstances")
    skipped = session.call("GET", path, rights=READ_TASKS, query=query)
    with understood():
        return bool(skipped.body["total_entries"])


@dataclass(frozen=True, slots=True)
class _Selected:
    """A task instance that a call selects for clearing, as it was before."""

    task: Task
    state: str | None
    note: str | None


class _Run:
    """A DAG run in which tasks are cleared.

    A field that is missing widens what is cleared, to every run without a run, to every failed task without a
    list; so one function makes the calls, and always with both.
    """

    def __init__(self, session: Session, dag_id: str, run_id: str) -> None:
        self._session = session
        self._dag_id = dag_id
        self._run_id = run_id
        self._path = path_of("dags", dag_id, "dagRuns", run_id)
        self._title = f"run {run_id!r} of DAG {dag_id!r}"

    def retry(self, failed: Sequence[FailedTask], rotated: RotatedConnection, dag: _Dag) -> _Retried:
        """Clear these tasks, what failed only because they did, and the setups and teardowns of all of them.

        Return what was cleared, and what somebody should know.
        """
        ours = {task.key for task in failed}
        if dag.is_gone:
            return (), [f"{self._title}: the DAG is gone, so its failed tasks stay as they are"]
        # With `include_downstream` the selection has tasks that failed for another reason too.
        behind = self._clear(ours, include_downstream=True) or []
        wanted = {one.task for one in behind if one.task in ours or one.state == "upstream_failed"}
        # Whatever its state, what is selected besides is what belongs to them: setups and teardowns.
        around = (self._clear(wanted, only_failed=False) or []) if wanted else []
        helpers = {one.task for one in around} - wanted
        wanted = {one.task for one in around if one.task in wanted and one.state in FAILED}
        if not wanted & ours:
            return (), []  # somebody else was faster
        if helpers and not self._is_over():
            return (), [
                f"{self._title}: it has setups or teardowns and still runs; looked at again until the grace is over"
            ]
        remarks = self._remarks(dag, failed)
        of_persons = {one.task for one in around if one.note and not is_ours(one.note)}
        notes_at_once = self._session.supports >= TAKES_NOTE and not of_persons
        cleared = self._clear(
            wanted | helpers,
            dry_run=False,
            only_failed=not helpers,
            **{"prevent_running_task": True} if self._session.supports >= PREVENTS_RUNNING else {},
            **{"note": rotated.note} if notes_at_once else {},
        )
        if cleared is None:
            return (), [f"{self._title}: a task of it runs, or it is gone; looked at again until the grace is over"]
        tasks = {one.task for one in cleared}
        if not notes_at_once:
            remarks += self._write_notes((tasks & ours) - of_persons, rotated.note)
        return tuple(sorted(tasks)), remarks

    def would_clear(self, task: Task) -> bool:
        """Whether this task could be cleared; nothing is."""
        return self._clear([task]) is not None

    def _clear(self, tasks: Iterable[Task], **how: object) -> list[_Selected] | None:
        """Clear these tasks, or with `dry_run` (the default) say which that would be; None if Airflow cannot."""
        body = {
            "dry_run": True,
            "dag_run_id": self._run_id,
            "task_ids": [list(task) for task in sorted(tasks)],
            "only_failed": True,
            "include_downstream": False,
            "reset_dag_runs": True,
            **how,
        }
        answer = self._session.call(
            "POST",
            path_of("dags", self._dag_id, "clearTaskInstances"),
            rights=CLEAR_TASKS,
            expecting=(NOT_THERE, HTTPStatus.CONFLICT),
            body=body,
        )
        if not answer.is_good:
            return None
        with understood():
            return [
                _Selected((row["task_id"], row["map_index"]), row["state"], row["note"])
                for row in answer.body["task_instances"]
            ]

    def _is_over(self) -> bool:
        """Whether none of its tasks runs: a setup must not run again below one that uses what it set up."""
        with understood():
            state = self._session.call("GET", self._path, rights=READ_TASKS).body["state"]
        return state in ("success", "failed")

    def _write_notes(self, tasks: Iterable[Task], note: str) -> list[str]:
        try:
            for task_id, map_index in tasks:
                self._session.call(
                    "PATCH",
                    self._path + path_of("taskInstances", task_id, map_index),
                    rights=CLEAR_TASKS,
                    expecting=(NOT_THERE,),
                    body={"note": note},
                    query={"update_mask": "note"},
                )
        except RotationError as error:  # they run again, and that is what counts
            return [f"{self._title}: its tasks were cleared, and the note could not be written: {error}"]
        return []

    def _remarks(self, dag: _Dag, failed: Sequence[FailedTask]) -> list[str]:
        remarks = []
        if dag.is_paused:
            remarks.append(f"{self._title}: the DAG is paused; the run goes on when it is unpaused")
        if dag.has_skipped and _has_skipped(self._session, self._dag_id, self._run_id, failed):
            remarks.append(
                f"{self._title}: tasks of it were skipped after the failure, as in a fail_fast DAG; they stay "
                "skipped: clear those by hand that are needed"
            )
        return remarks


def _shortened(warnings: tuple[str, ...]) -> tuple[str, ...]:
    left_out = len(warnings) - MOST_WARNINGS
    return (*warnings[:MOST_WARNINGS], f"and {left_out} more") if left_out > 0 else warnings
