"""DAGs whose tasks fail, each in a way of its own: what a refresh has to tell apart.

`warehouse` and `lake` are connections whose credentials are rotated, `elsewhere` is one that is not ours.
"""

# mypy: ignore-errors
# (Airflow reads this folder in an environment of its own, where it is no package; ours has no `airflow`.)

import logging
import time
from datetime import timedelta
from pathlib import Path

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import dag, setup, task, teardown


def read(connection_id):
    return PostgresHook(connection_id).get_first("SELECT current_user")[0]


@task
def warehouse():
    read("warehouse")


@task
def report():
    """Stand behind another task."""


@dag(schedule=None)
def reads_lake():
    @task
    def lake():
        read("lake")

    lake()


@dag(schedule=None)
def reads_elsewhere():
    @task
    def elsewhere():
        read("elsewhere")

    # The operator shows its conn_id to the API, so that its log need not be read.
    elsewhere() >> EmptyOperator(task_id="behind")
    SQLExecuteQueryOperator(task_id="query", conn_id="elsewhere", sql="SELECT 1")


@dag(schedule=None, tags=["sql"])
def queries_warehouse():
    SQLExecuteQueryOperator(task_id="query", conn_id="warehouse", sql="SELECT 1") >> report()


@dag(schedule=None)
def has_a_bug():
    """The text is in the log, and the reason is another."""

    @task
    def print_and_divide(dag_run=None):
        print(dag_run.conf["text"])
        return 1 / 0

    @task
    def handle_and_divide():
        try:
            read("warehouse")
        except Exception:
            logging.getLogger(__name__).exception("the warehouse does not answer; going on without it")
        return 1 / 0

    @task
    def wrap():
        try:
            read("warehouse")
        except Exception as error:
            raise RuntimeError("cannot load") from error

    @task
    def conceal():
        try:
            read("warehouse")
        except Exception:  # noqa: BLE001
            raise RuntimeError("cannot load") from None

    @task
    def leave():
        raise SystemExit(3)

    print_and_divide()
    handle_and_divide()
    wrap()
    conceal()
    leave()


@dag(schedule=None)
def is_mapped():
    @task
    def work(kind):
        if kind == "bug":
            raise ValueError(kind)
        if kind == "warehouse":
            read("warehouse")

    @task
    def reduce(done):
        pass

    reduce(work.expand(kind=["fine", "warehouse", "bug"]))


@dag(schedule=None)
def has_setup_and_teardown():
    @setup
    def create():
        pass

    @teardown
    def drop():
        pass

    created, worked, dropped = create(), warehouse(), drop()
    created >> worked >> dropped
    created >> dropped


@dag(schedule=None)
def is_shell():
    BashOperator(
        task_id="psql",
        bash_command='echo "$TEXT" >&2; exit 2',
        env={"TEXT": "{{ dag_run.conf['text'] }}"},
        append_env=True,
    )


@dag(schedule=None)
def is_retried():
    @task(retries=1, retry_delay=timedelta(minutes=30))
    def patient():
        read("warehouse")

    patient()


@dag(schedule=None)
def still_runs():
    """One task has failed, another is still at work: until the file is there that the run's `conf` names."""

    @task
    def busy(dag_run=None):
        until = time.monotonic() + 120
        while not Path(dag_run.conf["file"]).exists() and time.monotonic() < until:
            time.sleep(0.1)

    warehouse() >> report()
    busy()


@dag(schedule=None)
def succeeds_all_the_same():
    """A failed task in a run that is a success."""
    warehouse() >> EmptyOperator(task_id="last", trigger_rule="all_done")


@dag(schedule=None, fail_fast=True)
def fails_fast():
    """When `warehouse` fails, Airflow ends `first`, which has no error of its own, and skips `later`."""

    @task
    def first():
        time.sleep(60)

    @task
    def later():
        pass

    warehouse()
    first() >> later()


@dag(schedule=None)
def is_paused():
    """Paused after it has failed."""
    warehouse()


reads_lake()
reads_elsewhere()
queries_warehouse()
has_a_bug()
is_mapped()
has_setup_and_teardown()
is_shell()
is_retried()
still_runs()
succeeds_all_the_same()
fails_fast()
is_paused()
