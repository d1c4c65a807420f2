"""The search through an Airflow's failed tasks for those that failed on an old credential."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from rotators.airflow_api import (
    EVERY_DAG,
    EVERY_RUN,
    NOT_THERE,
    READ_LOGS,
    READ_TASKS,
    Answer,
    Session,
    path_of,
    understood,
)
from rotators.airflow_logs import OTHER, FailedTask, RotatedConnection, Verdict, judge
from rotators.errors import AirflowRefusedError, RotationError
from rotators.outcome import TaskRef

ALL_TASKS = path_of("dags", EVERY_DAG, "dagRuns", EVERY_RUN, "taskInstances")

LOGS_AT_A_TIME = 4
LOG_PAGES = 50
# Ten searches that come to the default of AIRFLOW_MAX_EXAMINED; 3 MB.
MOST_REMEMBERED = 20_000
# A log that cannot be read is one task's misfortune, and one that is refused its DAG's. When there are that many, one
# after the other, which is more than are read at a time, Airflow is in trouble.
UNREADABLE_LOGS = 2 * LOGS_AT_A_TIME

Row = Mapping[str, Any]  # Any: JSON

_UNREADABLE = Verdict("unknown", "the log is not there, or cannot be read")


def check_readable(session: Session) -> None:
    """Raise AirflowRefusedError if we may not look at tasks."""
    session.call("GET", ALL_TASKS, rights=READ_TASKS, query={"limit": 1})


def newest_task(session: Session) -> FailedTask | None:
    """Return the task instance that ended last, to try our rights on; it may have succeeded."""
    query = {"state": ("success", "failed"), "order_by": "-end_date", "limit": 25}
    answer = session.call("GET", ALL_TASKS, rights=READ_TASKS, query=query)
    with understood():
        tasks = map(FailedTask.from_json, answer.body["task_instances"])
        return next((task for task in tasks if task.has_begun), None)


def check_log_readable(session: Session, task: FailedTask) -> None:
    """Raise AirflowRefusedError if we may not read logs."""
    _log_page(session, task, {"map_index": task.map_index})


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


class Search:
    """One search through the failed tasks of the look-back window, for any number of connections.

    Attributes:
        ours: for each secret the tasks that failed on its old credential.
        suspected, unknown: for each those of which that is not certain.
        examined: how many logs were read.
        trouble: why Airflow was left in peace before all of them were.
    """

    def __init__(self, session: Session, rotated: Sequence[RotatedConnection], told: ToldBefore) -> None:
        self._session = session
        self._rotated = rotated
        self._told = told
        self._unreadable: set[FailedTask | str] = set()
        self._has_read = False
        self._refusal: AirflowRefusedError | None = None
        self.trouble: RotationError | None = None
        self.ours: dict[str, list[FailedTask]] = defaultdict(list)
        self.suspected: dict[str, list[TaskRef]] = defaultdict(list)
        self.unknown: dict[str, list[TaskRef]] = defaultdict(list)
        self.examined = 0
        self.warnings: dict[str, list[str]] = defaultdict(list)

    def look(self) -> None:
        """Read the logs that may concern us, and sort the tasks by what they tell.

        Raise TransientError if Airflow is down, AirflowRefusedError if it lets us read no log.
        """
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
        trouble = self.trouble or self._refusal
        if trouble and not self._has_read:
            raise trouble

    def _judge(self, task: FailedTask, concerned: Sequence[RotatedConnection]) -> list[Verdict]:
        """Return what the log tells each of them; a log is large, and nobody keeps it."""
        unreadable = [_UNREADABLE] * len(concerned)
        if len(self._unreadable) >= UNREADABLE_LOGS:
            return unreadable
        try:
            log = _read_log(self._session, task)
            with understood():
                verdicts = unreadable if log is None else [judge(log, task, one) for one in concerned]
        except RotationError as error:
            if isinstance(error, AirflowRefusedError):
                # Some DAG of others; when all are refused, it is a right that is missing.
                self._refusal = error
                self._unreadable.add(task.dag_id)
            else:
                self._unreadable.add(task)
            if len(self._unreadable) >= UNREADABLE_LOGS:
                self.trouble = error
            return unreadable
        self._unreadable.clear()
        self._has_read = True
        for one, verdict in zip(concerned, verdicts, strict=True):
            if verdict == OTHER:
                self._told.add(task, one)
        return verdicts

    def _sort(self, task: FailedTask, rotated: RotatedConnection, verdict: Verdict) -> None:
        match verdict.kind:
            case "ours":
                self.ours[rotated.secret].append(task)
            case "suspected":
                self.suspected[rotated.secret].append(reference(task, verdict.why))
            case "unknown":
                self.unknown[rotated.secret].append(reference(task, verdict.why))

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
            if not concerned or not task.has_begun or task in candidates:
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


def reference(task: FailedTask, why: str) -> TaskRef:
    return TaskRef(task.dag_id, task.dag_run_id, task.task_id, task.map_index, why)
