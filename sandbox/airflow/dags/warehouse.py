"""The DAG of the demo: what a data team runs on the connection `warehouse`."""

# mypy: ignore-errors
# (Airflow reads this folder in an environment of its own, where it is no package; ours has no `airflow`.)

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task


@dag(schedule=None, tags=["warehouse"])
def warehouse_report():
    """Ask the warehouse who it takes us for, and publish the answer."""

    @task
    def extract():
        return PostgresHook("warehouse").get_first("SELECT current_user")[0]

    @task
    def publish(user):
        print(f"the warehouse was read as {user}")

    publish(extract())


warehouse_report()
