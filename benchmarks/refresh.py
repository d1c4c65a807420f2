"""The refresh of an Airflow with many failed tasks of which few are ours, beside who knows already which these are."""

import json
import math
import re
import tracemalloc
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from airflow_client.client import (
    ApiClient,
    ClearTaskInstancesBody,
    ClearTaskInstancesBodyTaskIdsInner,
    Configuration,
    TaskInstanceApi,
)

from benchmarks.failed_tasks import NEW_USER, OURS, USER, WINDOWS, FailedTasks, Window, failed_tasks
from benchmarks.plot import Frame, plot
from benchmarks.refresh_told import AGAIN, LEAST, MAX_EXAMINED, PLOT, REFRESH, Asked, Seen, limits, lines, section
from benchmarks.section import BenchmarkError, Section
from rotators.airflow import Airflow, AirflowAccess, RotatedConnection
from rotators.airflow_api import PAGE_SIZE
from rotators.airflow_search import LOGS_AT_A_TIME
from rotators.credential import Credential, Password
from sandbox.postgresql import HOST

# One with the largest takes as long as ten of the others together.
ROUNDS: Mapping[int, int] = {WINDOWS[0].size: 6, WINDOWS[1].size: 6, WINDOWS[2].size: 2}
_ACCESS = re.compile(r"\[http\.access\].* method=(\w+) path=(\S+)")
_ALL = "~"


def run(part: float = 1.0) -> Section:
    """Measure in this part of the rounds; return a section of the results.

    Raise BenchmarkError if anything else is cleared than what failed on the old credential, and what waited for it.
    """
    with failed_tasks() as failed:
        night = _Night(failed)
        # The first search finds Airflow's own caches empty; it is the one whose memory is looked at.
        seen = {window.size: night.look_at(window) for window in WINDOWS}
        samples: dict[int, dict[str, list[float]]] = {window.size: defaultdict(list) for window in WINDOWS}
        asked: dict[int, dict[str, Asked]] = {window.size: {} for window in WINDOWS}
        for number in range(math.ceil(max(ROUNDS.values()) * part)):
            left = [window for window in WINDOWS if number < math.ceil(ROUNDS[window.size] * part)]
            for window in left if number % 2 else reversed(left):
                for heal in (night.refresh, night.least) if number % 2 else (night.least, night.refresh):
                    for name, (seconds, calls) in heal(window).items():
                        samples[window.size][name].append(seconds)
                        asked[window.size][name] = calls
    frame = Frame("A refresh", "failed task instances", f"times as long as {LEAST}, of {WINDOWS[0].size}", is_log=True)
    return Section(section(samples, asked, seen), {PLOT: plot(frame, lines(samples), limits(samples))})


type Measured = tuple[float, Asked]
"""Seconds, and what was asked for."""


@dataclass(frozen=True, slots=True)
class _Night:
    """Tasks have failed, and the credential was rotated."""

    failed: FailedTasks

    def refresh(self, window: Window) -> dict[str, Measured]:
        """Refresh as the program does, and search again as its next sweep does."""
        airflow, rotated = self._airflow(window), self._rotated()
        with self._exactly_ours(window):
            return {
                REFRESH: self._measured(lambda: airflow.refresh(rotated)),
                AGAIN: self._measured(lambda: airflow.retry_failed([rotated])),
            }

    def least(self, window: Window) -> dict[str, Measured]:
        """List what has failed, read the logs of ours, clear these: nothing else."""
        client = ApiClient(Configuration(host=self.failed.airflow.url, access_token=self.failed.airflow.token()))
        api = TaskInstanceApi(client)
        logs: list[str] = []

        def heal() -> None:
            tasks = [row for row in _pages(api, window) if row["dag_id"].startswith(OURS)]
            with ThreadPoolExecutor(LOGS_AT_A_TIME) as pool:
                logs.extend(pool.map(lambda row: _log(api, row), tasks))
                list(pool.map(lambda row: _clear(api, row), tasks))

        with self._exactly_ours(window):
            measured = self._measured(heal)
        if len(logs) != window.ours or not all(f'user \\"{USER}\\"' in log for log in logs):
            raise BenchmarkError("a log of ours does not say that the old credential was refused")
        return {LEAST: measured}

    def look_at(self, window: Window) -> Seen:
        """Refresh, and return what was read for that, and the most memory that was needed."""
        airflow = self._airflow(window)
        with self._exactly_ours(window):
            tracemalloc.start()
            report = airflow.refresh(self._rotated())
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        if report.status != "healed" or len(report.retried) != window.ours:
            raise BenchmarkError(f"{window.ours} runs were to be retried, and the report says: {report.status}")
        return Seen(report.examined, peak)

    def _measured(self, do: Callable[[], object]) -> Measured:
        """Return the seconds that it takes, and what Airflow's API server has noted of requests meanwhile."""
        begin = self._mark()
        started = perf_counter()
        do()
        seconds = perf_counter() - started
        end = self._mark()
        return seconds, _asked(self.failed.airflow.output().partition(begin)[2].partition(end)[0])

    def _mark(self) -> str:
        """Leave a mark in the API server's log, which has all requests in the order of their answers."""
        mark = uuid.uuid4().hex
        self.failed.airflow.call("GET", "dags", dag_id_pattern=mark)
        self.failed.airflow.wait_until(lambda: mark in self.failed.airflow.output())
        return mark

    def _airflow(self, window: Window) -> Airflow:
        server = self.failed.airflow
        access = AirflowAccess(server.url, "password", server.username, "clear", window.lookback, MAX_EXAMINED)
        airflow = Airflow(access, lambda: Password(server.password))
        # Logged in, as one that was used before; the client itself is loaded.
        airflow.check()
        return airflow

    def _rotated(self) -> RotatedConnection:
        return RotatedConnection(
            secret="airflow-connections-warehouse",  # noqa: S106 (its name)
            connection_id="warehouse",
            engine="postgresql",
            hosts=(HOST,),
            ports=(self.failed.database_port,),
            database="postgres",
            credential=Credential(NEW_USER, Password(uuid.uuid4().hex)),
            users=frozenset({USER, NEW_USER}),
            rotation_id=uuid.uuid4().hex,
            version="1",
            published_at=datetime.now(UTC),
            dags=(),
        )

    @contextmanager
    def _exactly_ours(self, window: Window) -> Iterator[None]:
        yield
        cleared, ours = self.failed.cleared(), self.failed.ours(window)
        if cleared != ours:
            raise BenchmarkError(
                f"of {window.size} failed tasks {len(ours)} were to be cleared with what waited for them; "
                f"{len(ours - cleared)} of these were not, and {len(cleared - ours)} others were"
            )
        self.failed.restore()


def _pages(api: TaskInstanceApi, window: Window) -> Iterator[dict[str, Any]]:  # Any: JSON
    since, cursor = datetime.now(UTC) - window.lookback, ""
    while cursor is not None:
        answer = api.get_task_instances_without_preload_content(
            _ALL, _ALL, cursor=cursor, state=["failed"], end_date_gte=since, limit=PAGE_SIZE, order_by=["-end_date"]
        )
        page = json.loads(answer.data)
        yield from page["task_instances"]
        cursor = page["next_cursor"]


def _log(api: TaskInstanceApi, row: dict[str, Any]) -> str:
    answer = api.get_log_without_preload_content(
        row["dag_id"], row["dag_run_id"], row["task_id"], row["try_number"], map_index=-1, accept="application/json"
    )
    return str(answer.data.decode())


def _clear(api: TaskInstanceApi, row: dict[str, Any]) -> None:
    tasks = [ClearTaskInstancesBodyTaskIdsInner(task) for task in (row["task_id"], "publish")]
    body = ClearTaskInstancesBody(dry_run=False, dag_run_id=row["dag_run_id"], task_ids=tasks, only_failed=True)
    api.post_clear_task_instances_without_preload_content(row["dag_id"], body).read()


def _asked(log: str) -> Asked:
    """Return what the API server was asked, by its own log."""
    calls: Counter[str] = Counter()
    for method, path in _ACCESS.findall(log):
        kind = "logs" if "/logs/" in path else "clear" if path.endswith("/clearTaskInstances") else "others"
        calls["pages" if path == "/api/v2/dags/~/dagRuns/~/taskInstances" and method == "GET" else kind] += 1
    # The one that leaves the mark at the end is not part of it.
    return Asked(calls["pages"], calls["logs"], calls["clear"], calls["others"] - 1)
