"""How tasks that failed run again: they are cleared in their runs, and nothing else is."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from rotators.airflow_api import CLEAR_TASKS, EVERY_RUN, NOT_THERE, READ_TASKS, Session, path_of, understood
from rotators.airflow_logs import FailedTask, RotatedConnection, is_ours
from rotators.beside import spread
from rotators.errors import RotationError, TransientError

FAILED = ("failed", "upstream_failed")

RUNS_AT_A_TIME = 4
# A run that cannot be cleared is its own misfortune; more of them, and its DAG is in trouble. When that many DAGs fail
# and nothing succeeds, which is more than are tried at a time, Airflow is.
FAILED_RUNS = 3
FAILED_DAGS = 2 * RUNS_AT_A_TIME

# What these versions of Airflow brought to the call that clears tasks.
PREVENTS_RUNNING = (3, 2)
TAKES_NOTE = (3, 3)

Task = tuple[str, int]


def check_clearable(session: Session, task: FailedTask) -> None:
    """Raise AirflowRefusedError if we may not clear tasks: a dry run needs the same right, and clears nothing."""
    _Run(session, task.dag_id, task.dag_run_id).would_clear(task.key)


type Retried = tuple[tuple[Task, ...], list[str]]
"""What was cleared in a run, and what somebody should know."""


def retry_runs(
    session: Session, runs: Mapping[tuple[str, str], Sequence[FailedTask]], rotated: RotatedConnection
) -> list[Retried | RotationError | None]:
    """Clear them in each of these runs, a few runs at a time; return what came of each.

    Rights are given for each DAG, and one that is broken gives 500: such an error is that run's alone. After a few of
    the latter the DAG is left in peace, and Airflow when several DAGs fail and nothing succeeds in between: None is
    what comes of the runs that are left.
    """
    failures: list[str] = []
    failing: set[str] = set()

    def attempt[R](dag_id: str, do: Callable[[], R]) -> R | RotationError | None:
        if failures.count(dag_id) > FAILED_RUNS or len(failing) >= FAILED_DAGS:
            return None
        try:
            result = do()
        except TransientError as error:
            failures.append(dag_id)
            failing.add(dag_id)
            return error
        except RotationError as error:
            return error
        failing.clear()
        return result

    def retry(run: tuple[str, str]) -> Retried | RotationError | None:
        dag = dags[run[0]]
        if not isinstance(dag, _Dag):
            return dag
        return attempt(run[0], lambda: _Run(session, *run).retry(runs[run], rotated, dag))

    by_dag: dict[str, list[FailedTask]] = defaultdict(list)
    for (dag_id, _), failed in runs.items():
        by_dag[dag_id] += failed
    with ThreadPoolExecutor(RUNS_AT_A_TIME, thread_name_prefix="airflow-run") as pool:
        read = spread(pool, lambda dag_id: attempt(dag_id, lambda: _read_dag(session, dag_id, by_dag[dag_id])), by_dag)
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

    def retry(self, failed: Sequence[FailedTask], rotated: RotatedConnection, dag: _Dag) -> Retried:
        """Clear these tasks, what failed only because they did, and the setups and teardowns of all of them.

        Return what was cleared, and what somebody should know.
        """
        ours = {task.key for task in failed}
        if dag.is_gone:
            return (), [f"{self._title}: the DAG is gone, so its failed tasks stay as they are"]
        behind, remarks = self._behind(ours)
        wanted = {one.task for one in behind if one.task in ours or one.state == "upstream_failed"}
        # Whatever its state, what is selected besides is what belongs to them: setups and teardowns.
        around = (self._clear(wanted, only_failed=False) or []) if wanted else []
        helpers = self._of_same_index(wanted, {one.task for one in around} - wanted)
        wanted = {one.task for one in around if one.task in wanted and one.state in FAILED}
        if not wanted & ours:
            return (), remarks  # somebody else was faster
        if helpers and not self._is_over():
            return (), [
                *remarks,
                f"{self._title}: it has setups or teardowns and still runs; looked at again until the grace is over",
            ]
        remarks += self._remarks(dag, failed)
        of_persons = {one.task for one in around if one.note and not is_ours(one.note)}
        # What is cleared along with ours did not fail on the old credential, and may do so yet.
        notes_at_once = self._session.supports >= TAKES_NOTE and not of_persons and wanted | helpers <= ours
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

    def _behind(self, ours: Iterable[Task]) -> tuple[list[_Selected], list[str]]:
        """Return these tasks and what is behind them, what failed for another reason too, and remarks on those gone.

        To a task that the newest version of the DAG does not have Airflow answers 500.
        """
        gone: set[str] = set()
        try:
            behind = self._clear(ours, include_downstream=True)
        except TransientError:
            gone = {task_id for task_id, _ in ours if not self._is_in_dag(task_id)}
            if not gone:
                raise
            left = [task for task in ours if task[0] not in gone]
            behind = self._clear(left, include_downstream=True) if left else None
        return behind or [], [
            f"{self._title}: task {task_id!r} is no longer in the DAG, so it stays as it is" for task_id in sorted(gone)
        ]

    def _of_same_index(self, tasks: set[Task], helpers: set[Task]) -> set[Task]:
        """Return these setups and teardowns without those that belong to other indices of a mapped group.

        Airflow adds them by their names, and what is before and behind a mapped task by its index.
        """
        mapped = {task for task in tasks if task[1] >= 0}
        if not mapped or all(map_index < 0 for _, map_index in helpers):
            return helpers
        before, behind, around_others = (
            {one.task for one in self._clear(some, only_failed=False, **how) or []} if some else set()
            for some, how in (
                (mapped, {"include_upstream": True}),
                (mapped, {"include_downstream": True}),
                (tasks - mapped, {}),
            )
        )
        return helpers & (before & behind | around_others)

    def _is_in_dag(self, task_id: str) -> bool:
        path = path_of("dags", self._dag_id, "tasks", task_id)
        return self._session.call("GET", path, rights=READ_TASKS, expecting=(NOT_THERE,)).is_good

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
