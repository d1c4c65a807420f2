"""DAGs of the demo on the connection `lake`: one that only needs it to log in, and one with a mistake of its own."""

# mypy: ignore-errors
# (Airflow reads this folder in an environment of its own, where it is no package; ours has no `airflow`.)

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task


def read_lake():
    return PostgresHook("lake").get_first("SELECT current_user")[0]


@dag(schedule=None, tags=["lake"])
def lake_report():
    @task
    def extract():
        return read_lake()

    @task
    def publish(user):
        print(f"the lake was read as {user}")

    publish(extract())


@dag(schedule=None, tags=["lake"])
def lake_mistake():
    """Fail for a reason that no new password mends."""

    @task
    def divide():
        read_lake()
        return 1 / 0

    divide()


lake_report()
lake_mistake()
