"""Ten thousand failed task instances in a real Airflow: a few that really failed, and copies of what they left behind.

Rows in Airflow's own metastore and logs on its disk: its API serves the copies as it serves what they are copies of.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from sandbox.airflow_server import AirflowServer
from sandbox.postgresql import PostgreSQL

OURS, OTHERS = "ours", "others"
USER, NEW_USER, STRANGER = "app", "app_alt", "stranger"
# So many tasks of a DAG fail in one run; of these the last is a function, and the others show their connection.
TASKS = 10
# Airflow keeps what was rendered for so many runs of a task.
_RENDERED_RUNS = 30
_OURS_DAGS, _OTHERS_DAGS = 10, 34

_DAGS = f"""
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task


def fails_on_the_old_credential(dag_id):
    @dag(dag_id=dag_id, schedule=None)
    def reads():
        @task
        def extract():
            PostgresHook("warehouse").get_first("SELECT 1")

        @task
        def publish():
            pass

        extract() >> publish()

    reads()


def fails_for_other_reasons(dag_id):
    @dag(dag_id=dag_id, schedule=None)
    def reads():
        @task
        def divide():
            return 1 / 0

        divide()
        for number in range({TASKS - 1}):
            SQLExecuteQueryOperator(task_id=f"query_{{number}}", conn_id="elsewhere", sql="SELECT 1")

    reads()


for number in range({_OURS_DAGS}):
    fails_on_the_old_credential(f"{OURS}_{{number:02}}")
for number in range({_OTHERS_DAGS}):
    fails_for_other_reasons(f"{OTHERS}_{{number:02}}")
"""


@dataclass(frozen=True, slots=True)
class Window:
    """How far a search looks back, and how many failed task instances it finds there, one in a hundred ours."""

    lookback: timedelta
    size: int

    @property
    def ours(self) -> int:
        return max(1, self.size // 100)


# One metastore has them all: who looks back less far sees fewer.
WINDOWS = (
    Window(timedelta(hours=6), 10),
    Window(timedelta(days=2), 1_000),
    Window(timedelta(days=20), 10_000),
)


@dataclass(frozen=True, slots=True)
class FailedTasks:
    """An Airflow whose tasks have failed, and the database that refused some of them; all DAGs are paused."""

    airflow: AirflowServer
    database_port: int

    @property
    def _metastore(self) -> str:
        return str(self.airflow.variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]).replace("+psycopg2", "")

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self._metastore) as connection:
            yield connection

    def multiply(self, ours: str, others: str) -> None:
        """Copy these two runs until each window has as many failed tasks as it is to have."""
        with self._connected() as metastore:
            metastore.execute("UPDATE dag SET is_paused = true")
            metastore.execute(_CREATE_COPIES)
            with metastore.cursor().copy("COPY copies FROM STDIN") as copies:
                for row in _copies(ours, others):
                    copies.write_row(row)
            metastore.execute(_COPY_RUNS)
            metastore.execute(_COPY_TASKS, {"tasks": TASKS})
            metastore.execute(_COPY_RENDERED, {"runs": _RENDERED_RUNS})
            metastore.execute(_REMOVE_TEMPLATES)
            for table, key in _KEYS.items():
                before = _before(table)
                metastore.execute(sql.SQL("CREATE TABLE {} AS SELECT * FROM {}").format(before, sql.Identifier(table)))
                columns = sql.SQL(", ").join(map(sql.Identifier, key))
                metastore.execute(sql.SQL("CREATE UNIQUE INDEX ON {} ({})").format(before, columns))
            logs = metastore.execute(
                "SELECT of_dag, of_run, dag_id, run_id, task_id FROM copies JOIN task_instance USING (dag_id, run_id) "
                "WHERE task_instance.state = 'failed'"
            ).fetchall()
        for of_dag, of_run, dag_id, run_id, task_id in logs:
            folder = self._logs(dag_id, run_id, task_id)
            folder.mkdir(parents=True)
            os.link(self._logs(of_dag, of_run, task_id) / "attempt=1.log", folder / "attempt=1.log")
        with psycopg.connect(self._metastore, autocommit=True) as metastore:
            metastore.execute("VACUUM ANALYZE")

    def cleared(self) -> set[tuple[str, str, str]]:
        """Return what is not as it was: DAG, run and task of each."""
        with self._connected() as metastore:
            return set(
                metastore.execute(
                    "SELECT dag_id, run_id, task_id FROM task_instance AS now FULL JOIN before_task_instance AS before "
                    "USING (dag_id, run_id, task_id, map_index) "
                    "WHERE now.id IS DISTINCT FROM before.id OR now.state IS DISTINCT FROM before.state"
                )
            )

    def ours(self, window: Window) -> set[tuple[str, str, str]]:
        """Return what is to be cleared when one looks so far back: what failed on us, and what waited for it."""
        with self._connected() as metastore:
            return set(
                metastore.execute(
                    "SELECT dag_id, run_id, task_id FROM before_task_instance WHERE (dag_id, run_id) IN "
                    "(SELECT dag_id, run_id FROM copies WHERE dag_id LIKE %s AND ended > %s)",
                    (f"{OURS}%", datetime.now(UTC) - window.lookback),
                )
            )

    def restore(self) -> None:
        """Let everything have failed again, as if nobody had cleared it."""
        with self._connected() as metastore:
            metastore.execute("DELETE FROM task_instance_note")
            metastore.execute("DELETE FROM task_instance_history")
            for table, key in _KEYS.items():
                columns = [
                    sql.Identifier(name)
                    for (name,) in metastore.execute(
                        "SELECT column_name FROM information_schema.columns WHERE table_name = %s", (table,)
                    )
                ]
                metastore.execute(
                    sql.SQL(_RESTORE).format(
                        table=sql.Identifier(table),
                        columns=sql.SQL(", ").join(columns),
                        before=_before(table),
                        same=sql.SQL(" AND ").join(
                            sql.SQL("before.{0} = now.{0}").format(sql.Identifier(name)) for name in key
                        ),
                        ours=sql.Literal(f"{OURS}%"),
                    )
                )

    def _logs(self, dag_id: str, run_id: str, task_id: str) -> Path:
        return self.airflow.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"


@contextmanager
def failed_tasks() -> Iterator[FailedTasks]:
    """Start an Airflow, let tasks of two runs fail for real, and make of them what the windows are to hold."""
    folder = Path(tempfile.mkdtemp(prefix="dags-"))
    try:
        (folder / "failing.py").write_text(_DAGS)
        with PostgreSQL() as database:
            for user in (USER, NEW_USER, STRANGER):
                database.create_user(user)
            settings = {
                # Few fail for real, and nobody waits for them.
                "AIRFLOW__CORE__PARALLELISM": "2",
                # What was asked of the API server is in its log when it is looked for.
                "PYTHONUNBUFFERED": "1",
                "AIRFLOW_CONN_WAREHOUSE": database.dsn(USER, "the-old-one"),
                "AIRFLOW_CONN_ELSEWHERE": database.dsn(STRANGER, "a-wrong-one"),
            }
            with AirflowServer(environment=settings, dags=folder) as airflow:
                runs = {}
                for kind in (OURS, OTHERS):
                    runs[kind] = airflow.trigger(f"{kind}_00")
                    airflow.wait(f"{kind}_00", runs[kind])
                failed = FailedTasks(airflow, database.port)
                failed.multiply(runs[OURS], runs[OTHERS])
                yield failed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _before(table: str) -> sql.Identifier:
    return sql.Identifier(f"before_{table}")


def _copies(ours: str, others: str) -> Iterator[Sequence[object]]:
    """Return for each copy the run that it is of, its own DAG and run, when it ended, and how many tasks failed."""
    now = datetime.now(UTC)
    before, seen, runs = timedelta(0), Window(timedelta(0), 0), {OURS: 0, OTHERS: 0}
    seen_ours = 0
    for window in WINDOWS:
        # In the middle of what this window sees beyond the one before; ours spread among the others.
        left = {OURS: window.ours - seen_ours, OTHERS: window.size - window.ours - (seen.size - seen_ours)}
        counts = {OURS: left[OURS], OTHERS: -(-left[OTHERS] // TASKS)}
        for kind, of_run, dags in ((OURS, ours, _OURS_DAGS), (OTHERS, others, _OTHERS_DAGS)):
            for number in range(counts[kind]):
                share = (number + 0.5) / counts[kind]
                ended = now - before - (window.lookback - before) * (0.25 + share / 2)
                failed = 1 if kind == OURS else min(TASKS, left[OTHERS] - number * TASKS)
                dag = f"{kind}_{runs[kind] % dags:02}"
                yield f"{kind}_00", of_run, dag, f"copy_{runs[kind]:05}", ended, failed
                runs[kind] += 1
        before, seen, seen_ours = window.lookback, window, window.ours


_KEYS = {"dag_run": ("id",), "task_instance": ("dag_id", "run_id", "task_id", "map_index")}
_RESTORE = """
UPDATE {table} AS now SET ({columns}) = (SELECT {columns} FROM {before} AS before WHERE {same}) WHERE dag_id LIKE {ours}
"""
_CREATE_COPIES = """
CREATE TABLE copies (of_dag text, of_run text, dag_id text, run_id text, ended timestamptz, failed integer)
"""
# `jsonb_populate_record` gives a row with all that the one copied has, but for what is named.
_COPY_RUNS = """
INSERT INTO dag_run SELECT made.* FROM copies JOIN dag_run ON (dag_run.dag_id, dag_run.run_id) = (of_dag, of_run)
JOIN LATERAL (SELECT id FROM dag_version WHERE dag_version.dag_id = copies.dag_id ORDER BY version_number DESC LIMIT 1)
AS version ON true, LATERAL jsonb_populate_record(dag_run, jsonb_build_object(
    'id', nextval('dag_run_id_seq'), 'dag_id', copies.dag_id, 'run_id', copies.run_id,
    'created_dag_version_id', version.id, 'run_after', ended - interval '2 minutes',
    'queued_at', ended - interval '2 minutes', 'start_date', ended - interval '1 minute', 'end_date', ended
)) AS made
"""
# Each ends a little after the other, and those beyond `failed` were a success.
_COPY_TASKS = """
INSERT INTO task_instance SELECT made.* FROM copies
JOIN (
    SELECT *, CASE WHEN task_id LIKE 'query%%' THEN 1 + row_number() OVER (PARTITION BY run_id, task_id LIKE 'query%%'
    ORDER BY task_id) ELSE 1 END AS place FROM task_instance
) AS placed ON (placed.dag_id, placed.run_id) = (of_dag, of_run)
JOIN task_instance ON task_instance.id = placed.id
JOIN LATERAL (SELECT id FROM dag_version WHERE dag_version.dag_id = copies.dag_id ORDER BY version_number DESC LIMIT 1)
AS version ON true, LATERAL jsonb_populate_record(task_instance, jsonb_build_object(
    'id', gen_random_uuid(), 'dag_id', copies.dag_id, 'run_id', copies.run_id, 'dag_version_id', version.id,
    'start_date', CASE WHEN placed.state = 'failed' THEN ended - interval '30 seconds' END,
    'end_date', ended - place * interval '1 second', 'updated_at', ended,
    'state', CASE WHEN placed.state = 'failed' AND place > failed THEN 'success' ELSE placed.state END
)) AS made
"""
_COPY_RENDERED = """
INSERT INTO rendered_task_instance_fields SELECT made.* FROM (
    SELECT *, row_number() OVER (PARTITION BY dag_id ORDER BY ended DESC) AS newest FROM copies
) AS copies JOIN rendered_task_instance_fields AS rendered ON (rendered.dag_id, rendered.run_id) = (of_dag, of_run),
LATERAL jsonb_populate_record(rendered, jsonb_build_object('dag_id', copies.dag_id, 'run_id', copies.run_id)) AS made
WHERE newest <= %(runs)s
"""
_REMOVE_TEMPLATES = "DELETE FROM dag_run WHERE (dag_id, run_id) IN (SELECT of_dag, of_run FROM copies)"
