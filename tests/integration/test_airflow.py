"""A real Airflow after a rotation: what failed on the old credential runs again, and nothing else is touched.

Most tests look at one night: runs of many DAGs have failed, then the credentials were rotated and Airflow refreshed.
"""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rotators.airflow import Airflow, AirflowAccess, AirflowLook, RotatedConnection
from rotators.credential import Credential, Password
from rotators.doctor import examine
from rotators.errors import AirflowRefusedError, TransientError
from rotators.outcome import AirflowReport
from rotators.systems import connect
from sandbox.airflow_fab import FabApiServer
from sandbox.airflow_server import DAGS, AirflowServer
from sandbox.key_vault import KeyVault
from sandbox.postgresql import HOST, PostgreSQL
from tests.world import environment

pytestmark = pytest.mark.timeout(600)

Task = tuple[str, int]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "airflow.md"
ROLE_FILE = "infra/airflow/role.json"

# A DAG whose file is deleted while its failed run waits for a retry.
GONE = """
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task


@dag(schedule=None)
def gone():
    @task
    def warehouse():
        PostgresHook("warehouse").get_first("SELECT 1")

    warehouse()


gone()
"""

# The same, but that only its task gets another name.
REWRITTEN = GONE.replace("gone", "is_rewritten")

IN_A_GROUP = """
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, setup, task, task_group, teardown


@dag(schedule=None)
def is_in_a_group():
    @task_group
    def group(connection):
        @setup
        def create(): ...

        @task
        def read(connection):
            if connection != "none":
                PostgresHook(connection).get_first("SELECT 1")

        @teardown
        def drop(): ...

        created, dropped = create(), drop()
        created >> read(connection) >> dropped
        created >> dropped

    @task
    def reduce(): ...

    group.expand(connection=["none", "warehouse"]) >> reduce()


is_in_a_group()
"""


@dataclass(frozen=True)
class World:
    """A warehouse whose users take turns, a lake with one user, and somebody else's database, all on one server."""

    postgresql: PostgreSQL
    vault: KeyVault
    server: AirflowServer
    dags: Path

    def airflow(
        self,
        *,
        username: str = "admin",
        password: Callable[[], Password] | None = None,
        max_examined: int = 2000,
        **access: object,
    ) -> Airflow:
        default = AirflowAccess(self.server.url, "password", username, "clear", timedelta(hours=1), max_examined)
        return Airflow(
            dataclasses.replace(default, **access),  # type: ignore[arg-type]
            password or (lambda: Password(self.server.password)),
        )

    def rotated(self, connection_id: str, user: str, *users: str, rotation_id: str = "night") -> RotatedConnection:
        return RotatedConnection(
            secret=f"airflow-connections-{connection_id}",
            connection_id=connection_id,
            engine="postgresql",
            hosts=(HOST,),
            ports=(self.postgresql.port,),
            database="postgres",
            credential=Credential(user, Password(f"right-for-{user}")),
            users=frozenset({user, *users}),
            rotation_id=rotation_id,
            version="1",
            published_at=datetime.now(UTC),
            dags=(),
        )

    def publish(self, connection_id: str, user: str, password: str | None = None) -> None:
        dsn = self.postgresql.dsn(user, password or f"right-for-{user}")
        self.vault.put(f"airflow-connections-{connection_id}", dsn)

    def copy(self, login: str, **fields: object) -> Mapping[str, object]:
        """Return the fields of a copy of the warehouse's connection in the metastore."""
        address = {"host": HOST, "port": self.postgresql.port, "schema": "postgres"}
        return {**address, "login": login, "password": "an-old-password", "conn_type": "postgres", **fields}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    shutil.copytree(DAGS, dags)
    for name, text in (("gone", GONE), ("is_rewritten", REWRITTEN), ("is_in_a_group", IN_A_GROUP)):
        (dags / f"{name}.py").write_text(text)
    with PostgreSQL() as postgresql, KeyVault(folder) as vault:
        for user in ("app", "app_alt", "lake"):
            postgresql.create_user(user, f"right-for-{user}")
        with AirflowServer(vault_url=vault.url, environment=vault.environment(), dags=dags) as server:
            yield World(postgresql, vault, server, dags)


@dataclass
class Night:
    """Runs that failed on an old credential or for another reason, and what the refresh after it did."""

    world: World
    runs: dict[str, str]
    warehouse: RotatedConnection
    lake: RotatedConnection
    before: dict[str, dict[Task, str | None]] = field(default_factory=dict)
    only_sql: AirflowReport = field(default_factory=lambda: AirflowReport("none"))
    limited: AirflowReport = field(default_factory=lambda: AirflowReport("none"))
    reports: dict[str, AirflowReport] = field(default_factory=dict)
    looked: AirflowLook | None = None

    def states(self, dag: str) -> dict[Task, str | None]:
        return self.world.server.states(dag.partition("#")[0], self.runs[dag])

    def end(self, dag: str) -> str:
        """Wait until the run of this DAG is over."""
        return self.world.server.wait(dag.partition("#")[0], self.runs[dag])

    def tries(self, dag: str) -> dict[Task, int]:
        tasks = self.world.server.tasks(dag.partition("#")[0], self.runs[dag])
        return {(t["task_id"], t["map_index"]): t["try_number"] for t in tasks}

    def note(self, dag: str, task: str, map_index: int = -1) -> str | None:
        note = self.world.server.task(dag.partition("#")[0], self.runs[dag], task, map_index)["note"]
        return None if note is None else str(note)

    def retried(self, dag: str) -> tuple[Task, ...]:
        """Return what the report says of this DAG's run."""
        report = self.reports[self.warehouse.secret]
        return next((run.tasks for run in report.retried if run.dag_run_id == self.runs[dag]), ())

    def warning(self, dag: str) -> str:
        warnings = self.reports[self.warehouse.secret].warnings
        return next((warning for warning in warnings if self.runs[dag] in warning), "")


UNFINISHED = ("is_retried", "still_runs")


@pytest.fixture(scope="module")
def night(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    server = world.server
    go_on = tmp_path_factory.mktemp("night") / "go on"
    psql = f'psql: error: connection to server at "{HOST}", port {world.postgresql.port} failed: FATAL:  '
    conf = {"text": f'{psql}password authentication failed for user "app"', "file": str(go_on)}
    world.publish("warehouse", "app", "wrong")
    world.publish("lake", "lake", "wrong")
    world.publish("elsewhere", "stranger", "wrong")
    dags = [
        "gone", "is_paused", "queries_warehouse", "warehouse_report", "warehouse_report#with a note", "has_a_bug",
        "is_mapped", "has_setup_and_teardown", "is_shell", "is_retried", "succeeds_all_the_same", "fails_fast",
        "reads_lake", "reads_elsewhere", "still_runs", "is_rewritten", "is_in_a_group",
    ]  # fmt: skip
    runs = {dag: server.trigger(dag.partition("#")[0], conf) for dag in dags}
    assert server.wait("gone", runs["gone"]) == "failed"
    (world.dags / "gone.py").unlink()
    for dag in dags:
        if dag not in UNFINISHED:
            server.wait(dag.partition("#")[0], runs[dag])
    server.wait_for_task("is_retried", runs["is_retried"], "patient", "up_for_retry")
    server.wait_for_task("still_runs", runs["still_runs"], "report", "upstream_failed")
    server.wait_for_task("still_runs", runs["still_runs"], "busy", "running")
    server.set_note("warehouse_report", runs["warehouse_report#with a note"], "extract", "Ask Ada before a retry")
    server.call("PATCH", "dags/is_paused", {"is_paused": True}, update_mask="is_paused")
    (world.dags / "is_rewritten.py").write_text(REWRITTEN.replace("warehouse()", "renamed()"))
    server.wait_until(lambda: server.call("GET", "dags/gone")["is_stale"])
    server.wait_until(lambda: server.call("GET", "dags/is_rewritten/tasks")["tasks"][0]["task_id"] == "renamed")

    world.publish("warehouse", "app_alt")
    world.publish("lake", "lake")
    night = Night(world, runs, world.rotated("warehouse", "app_alt", "app"), world.rotated("lake", "lake"))
    night.before = {dag: night.states(dag) for dag in dags}
    night.looked = world.airflow().look(night.warehouse)
    stranger = dataclasses.replace(night.warehouse, users=frozenset({"stranger"}))
    night.limited = world.airflow(max_examined=2).retry_failed([stranger])[stranger.secret]
    airflow = world.airflow()
    only_sql = dataclasses.replace(night.warehouse, dags=("no_such_dag", "tag:sql"))
    night.only_sql = airflow.retry_failed([only_sql])[only_sql.secret]
    night.reports = airflow.retry_failed([night.warehouse, night.lake])
    yield night
    go_on.touch()


def test_failed_run_ends_in_success(night: Night) -> None:
    """A task that failed on the old credential runs again, and so does what waited for it in vain (P5)."""
    assert night.before["warehouse_report"] == {("extract", -1): "failed", ("publish", -1): "upstream_failed"}
    assert night.retried("warehouse_report") == (("extract", -1), ("publish", -1))
    assert night.end("warehouse_report") == "success"
    report = night.reports[night.warehouse.secret]
    assert report.status == "healed", report.warnings


def test_note_says_why_a_task_runs_again(night: Night) -> None:
    """Who looks at a retried task finds the rotation that did it."""
    assert night.note("warehouse_report", "extract") == night.warehouse.note
    assert "night" in night.warehouse.note


def test_a_look_before_it_finds_what_will_be_retried_and_clears_nothing(night: Night) -> None:
    """The dashboard looks with this: what it found, the refresh after it found as well (P5)."""
    assert night.looked is not None
    assert ("warehouse_report", "extract") in {(task.dag_id, task.task_id) for task in night.looked.failed}
    assert night.retried("warehouse_report") == (("extract", -1), ("publish", -1))
    assert "is_shell" in {task.dag_id for task in night.looked.suspected}
    assert night.looked.retried == ()


def test_a_look_after_it_finds_what_was_retried_by_its_note(night: Night) -> None:
    """Airflow itself keeps what a rotation retried, also when the task has succeeded since."""
    assert night.end("warehouse_report") == "success"
    look = night.world.airflow().look(night.warehouse)
    assert ("warehouse_report", "extract", "success") in {(t.dag_id, t.task_id, t.why) for t in look.retried}
    # Of what failed for another reason nothing, and nothing of the lake, which was rotated under the same id.
    assert {task.task_id for task in look.retried if task.dag_id in ("has_a_bug", "reads_lake")} == {"wrap"}
    other = dataclasses.replace(night.warehouse, rotation_id="nigh")
    assert night.world.airflow().look(other).retried == ()


def test_note_of_a_person_is_kept(night: Night) -> None:
    """A task with a person's note is retried, and the note stays (P5)."""
    assert night.retried("warehouse_report#with a note") == (("extract", -1), ("publish", -1))
    assert night.end("warehouse_report#with a note") == "success"
    assert night.note("warehouse_report#with a note", "extract") == "Ask Ada before a retry"


def test_operator_with_a_rendered_connection_is_retried(night: Night) -> None:
    """What an operator of common-sql asks fails and heals like any other."""
    assert night.end("queries_warehouse") == "success"


def test_search_keeps_to_the_dags_of_the_policy(night: Night) -> None:
    """With `airflow-dags` only the DAGs that it names, by id or by tag, are looked at (P5)."""
    assert [run.dag_id for run in night.only_sql.retried] == ["queries_warehouse"]
    assert night.only_sql.examined == 1


def test_bug_is_left_alone(night: Night) -> None:
    """What failed for another reason stays failed, though the text of a refused login is in its log (P5)."""
    assert night.retried("has_a_bug") == (("wrap", -1),)
    night.world.server.wait_for_task("has_a_bug", night.runs["has_a_bug"], "wrap", "success")
    states, tries = night.states("has_a_bug"), night.tries("has_a_bug")
    for task in ("print_and_divide", "handle_and_divide", "conceal", "leave"):
        assert states[task, -1] == "failed"
        assert tries[task, -1] == 1


def test_handled_and_hidden_refusals_are_suspected(night: Night) -> None:
    """A refused login that the error of the task does not show is reported and not retried (P5)."""
    suspected = {(t.dag_id, t.task_id) for t in night.reports[night.warehouse.secret].suspected}
    assert suspected == {("has_a_bug", "handle_and_divide"), ("is_shell", "psql")}
    assert night.states("is_shell") == night.before["is_shell"]


def test_task_without_an_error_is_unknown(night: Night) -> None:
    """A log without an error may still be on its way: the task is looked at again by the next sweep."""
    unknown = {(t.dag_id, t.task_id) for t in night.reports[night.warehouse.secret].unknown}
    # A fail_fast DAG ends its running tasks from outside, which their logs may show or not.
    assert unknown - {("fails_fast", "first")} == {("has_a_bug", "leave")}


def test_another_connection_is_left_alone(night: Night) -> None:
    """A wrong password of another connection is not our affair, though its server is ours (P5)."""
    assert night.retried("reads_elsewhere") == ()
    assert night.states("reads_elsewhere") == night.before["reads_elsewhere"]
    assert set(night.tries("reads_elsewhere").values()) <= {0, 1}


def test_mapped_task_is_retried_by_index(night: Night) -> None:
    """Of a mapped task only the index that failed on the credential runs again (P5)."""
    assert night.retried("is_mapped") == (("reduce", -1), ("work", 1))
    assert night.end("is_mapped") == "failed"
    states, tries = night.states("is_mapped"), night.tries("is_mapped")
    assert [states["work", index] for index in range(3)] == ["success", "success", "failed"]
    assert [tries["work", index] for index in range(3)] == [1, 2, 1]
    assert states["reduce", -1] == "upstream_failed"


def test_setup_and_teardown_run_with_their_task(night: Night) -> None:
    """A task that runs again has its setup before it and its teardown behind it."""
    assert night.retried("has_setup_and_teardown") == (("create", -1), ("drop", -1), ("warehouse", -1))
    assert night.end("has_setup_and_teardown") == "success"
    assert set(night.tries("has_setup_and_teardown").values()) == {2}


def test_running_task_is_not_disturbed(night: Night) -> None:
    """In a run that still goes on, the failed task is retried and the running one is left to it (P5)."""
    run = night.runs["still_runs"]
    assert night.retried("still_runs") == (("report", -1), ("warehouse", -1))
    assert night.world.server.wait_for_task("still_runs", run, "report", "success", "failed") == "success"
    assert night.states("still_runs")["busy", -1] == "running"
    assert night.tries("still_runs")["busy", -1] == 1


def test_task_that_retries_by_itself_is_left_to_it(night: Night) -> None:
    """`up_for_retry` keeps the delay that its author chose (P5)."""
    assert night.retried("is_retried") == ()
    assert night.states("is_retried") == {("patient", -1): "up_for_retry"}


def test_failed_task_in_a_successful_run_is_retried(night: Night) -> None:
    """The state of the task counts, not that of its run."""
    assert night.before["succeeds_all_the_same"]["last", -1] == "success"
    assert night.retried("succeeds_all_the_same") == (("warehouse", -1),)
    assert night.end("succeeds_all_the_same") == "success"


def test_what_fail_fast_skipped_is_reported(night: Night) -> None:
    """The tasks that a fail_fast DAG skipped do not run again by themselves: a warning says so."""
    assert night.before["fails_fast"] == {
        ("warehouse", -1): "failed",
        ("first", -1): "failed",
        ("later", -1): "skipped",
    }
    assert night.retried("fails_fast") == (("warehouse", -1),)
    assert "fail_fast" in night.warning("fails_fast")


def test_paused_dag_is_reported(night: Night) -> None:
    """The run of a paused DAG waits until somebody unpauses it: a warning says so."""
    assert night.retried("is_paused") == (("warehouse", -1),)
    assert "paused" in night.warning("is_paused")


def test_run_of_a_dag_that_is_gone_is_reported(night: Night) -> None:
    """A run whose DAG file was deleted would wait for ever: it is left as it is, and a warning says so (P5)."""
    assert night.retried("gone") == ()
    assert "gone" in night.warning("gone")
    assert night.states("gone") == {("warehouse", -1): "failed"}


def test_task_that_is_no_longer_in_its_dag_is_reported(night: Night) -> None:
    """Airflow answers 500 to it, which is no reason to try it again at each sweep (P5)."""
    assert night.retried("is_rewritten") == ()
    assert "task 'warehouse' is no longer in the DAG" in night.warning("is_rewritten")
    assert night.reports[night.warehouse.secret].status == "healed"


def test_mapped_group_is_retried_by_index(night: Night) -> None:
    """With the setup and the teardown of the index that failed, and no others (P5)."""
    tasks = ("group.create", 1), ("group.drop", 1), ("group.read", 1), ("reduce", -1)
    assert night.retried("is_in_a_group") == tasks
    assert night.end("is_in_a_group") == "success"
    assert {task for task, number in night.tries("is_in_a_group").items() if number > 1} == set(tasks[:3])
    assert night.note("is_in_a_group", "group.create", 1) is None


def test_one_search_serves_two_secrets(night: Night) -> None:
    """Each secret of a sweep has its own tasks retried, and all logs are read once."""
    lake = night.reports[night.lake.secret]
    assert [run.dag_id for run in lake.retried] == ["reads_lake"]
    assert lake.examined == night.reports[night.warehouse.secret].examined
    assert night.end("reads_lake") == "success"


def test_limit_of_examined_tasks_is_reported(night: Night) -> None:
    """When there are more failed tasks than may be examined, the report says so."""
    assert night.limited.examined == 2
    assert "AIRFLOW_MAX_EXAMINED" in night.limited.warnings[0]


def test_refresh_again_changes_nothing(night: Night) -> None:
    """A refresh that is done twice clears nothing the second time (P5)."""
    for dag in night.runs:
        if dag not in (*UNFINISHED, "is_paused", "gone"):
            night.end(dag)
    before = {dag: night.tries(dag) for dag in night.runs}
    report = night.world.airflow().refresh(night.warehouse)
    assert report.retried == ()
    assert report.connection == "absent"
    assert {dag: night.tries(dag) for dag in night.runs} == before


# -- copies in the metastore ----------------------------------------------------------------------------------


@pytest.fixture
def warehouse(world: World) -> Iterator[RotatedConnection]:
    yield world.rotated("warehouse", "app_alt", "app", rotation_id="morning")
    world.server.delete_connection("warehouse")


def test_stale_copy_is_cleared(world: World, warehouse: RotatedConnection) -> None:
    """A copy with an old login is what Airflow falls back to when the vault fails: it is deleted (P5)."""
    world.server.create_connection("warehouse", **world.copy("app"))
    assert world.airflow().refresh(warehouse).connection == "cleared"
    assert world.server.connection("warehouse") is None


def test_stale_copy_is_updated(world: World, warehouse: RotatedConnection) -> None:
    """With `update` the copy gets the new login and keeps everything else."""
    world.server.create_connection("warehouse", **world.copy("app", extra='{"sslmode": "prefer"}'))
    before = world.server.connection("warehouse")
    assert before is not None
    airflow = world.airflow(connections="update")
    assert airflow.refresh(warehouse).connection == "updated"
    assert world.server.connection("warehouse") == before | {"login": "app_alt"}
    outage = world.vault.deny("getSecret", warehouse.secret)
    # Nothing but the copy says how to log in now: that its password is the new one is seen by using it.
    assert world.server.wait("queries_warehouse", world.server.trigger("queries_warehouse")) == "success"
    outage.remove()


def test_copy_is_kept_on_demand(world: World, warehouse: RotatedConnection) -> None:
    """With `keep` a copy is seen and left alone; who may not even see it is not troubled."""
    world.server.create_connection("warehouse", **world.copy("app"))
    before = world.server.connection("warehouse")
    assert world.airflow(connections="keep").refresh(warehouse).connection == "kept"
    report = world.airflow(connections="keep", username="user").refresh(warehouse)
    assert (report.status, report.connection) == ("healed", None)
    assert world.server.connection("warehouse") == before


def test_copy_with_an_underscore_is_one_too(world: World) -> None:
    """Airflow's backend reads `my_db` from the secret `my-db`: a copy under either name is cleared."""
    world.server.create_connection("my_db", **world.copy("app"))
    world.server.create_connection("my_db_2", **world.copy("app"))
    assert world.airflow().refresh(world.rotated("my-db", "app_alt", "app")).connection == "cleared"
    assert world.server.connection("my_db") is None
    assert world.server.connection("my_db_2") is not None


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("type", {"conn_type": "mysql"}),
        ("host", {"host": "elsewhere.example.com"}),
        ("port", {"port": 1}),
        ("schema", {"schema": "another"}),
        ("login", {"login": "stranger"}),
        ("login", {"login": None}),
    ],
)
def test_connection_that_is_not_a_copy_is_never_touched(
    world: World, warehouse: RotatedConnection, what: str, fields: Mapping[str, object]
) -> None:
    """A connection of the same name that leads elsewhere belongs to somebody: it is reported (P5)."""
    world.server.create_connection("warehouse", **{**world.copy("app"), **fields})
    before = world.server.connection("warehouse")
    for connections in ("clear", "update", "keep"):
        report = world.airflow(connections=connections).refresh(warehouse)
        assert report.connection == "different"
        assert what in report.warnings[0]
    assert world.server.connection("warehouse") == before


def test_task_that_used_a_stale_copy_is_retried_once(world: World, warehouse: RotatedConnection) -> None:
    """A try that began after the rotation with the old user had a stale copy: it is retried, but not for ever (P5)."""
    world.server.create_connection("warehouse", **world.copy("app"))
    outage = world.vault.deny("getSecret", warehouse.secret)
    keeping, clearing = world.airflow(connections="keep"), world.airflow(connections="clear")
    run = world.server.trigger("queries_warehouse")
    assert world.server.wait("queries_warehouse", run) == "failed"
    assert [r.dag_run_id for r in keeping.refresh(warehouse).retried] == [run]
    assert world.server.wait("queries_warehouse", run) == "failed"
    again = keeping.retry_failed([warehouse])[warehouse.secret]
    assert again.retried == ()
    assert [task.dag_run_id for task in again.suspected if task.dag_id == "queries_warehouse"] == [run]
    outage.remove()
    # The next rotation clears the copy, and has not retried it yet.
    report = clearing.refresh(dataclasses.replace(warehouse, rotation_id="noon"))
    assert report.connection == "cleared"
    assert [r.dag_run_id for r in report.retried] == [run]
    assert world.server.wait("queries_warehouse", run) == "success"


# -- who may do what ------------------------------------------------------------------------------------------


def test_healthy_airflow_passes_the_check(world: World) -> None:
    """The health check logs in and looks at a task."""
    world.airflow().check()


def test_wrong_airflow_password_is_refused(world: World, warehouse: RotatedConnection) -> None:
    """Airflow's refusal says which settings to look at, and shows no password (P3, P7)."""
    airflow = world.airflow(password=lambda: Password("not-the-password"))
    with pytest.raises(AirflowRefusedError, match="AIRFLOW_USERNAME") as refusal:
        airflow.refresh(warehouse)
    assert "not-the-password" not in str(refusal.value)
    assert refusal.value.__cause__ is refusal.value.__context__ is None


def test_airflow_that_is_down_is_transient(world: World, warehouse: RotatedConnection) -> None:
    """An Airflow that does not answer delays the refresh (P5)."""
    port = urlsplit(world.server.url).port
    airflow = world.airflow(url=world.server.url.replace(str(port), "9"))
    with pytest.raises(TransientError, match="Airflow") as failure:
        airflow.refresh(warehouse)
    assert failure.value.__cause__ is failure.value.__context__ is None
    with pytest.raises(TransientError):
        airflow.check()


def test_viewer_is_told_what_is_missing(world: World, warehouse: RotatedConnection) -> None:
    """A user without rights gets a report that names them; nothing is cleared (P7)."""
    world.server.create_connection("warehouse", **world.copy("app"))
    report = world.airflow(username="viewer").refresh(warehouse)
    assert (report.status, report.connection) == ("refused", None)
    assert "can_delete on Connections" in report.warnings[0]
    assert world.server.connection("warehouse") is not None


def test_token_is_renewed_once(world: World) -> None:
    """A token that Airflow takes no longer is fetched again, once (`entra`)."""
    tokens = iter([Password("expired"), Password(world.server.token())])
    world.airflow(auth="entra", password=lambda: next(tokens)).check()
    assert next(tokens, None) is None


def test_rejected_token_is_refused(world: World) -> None:
    """A token that was given, and that Airflow does not take, is for a person to replace (P7)."""
    with pytest.raises(AirflowRefusedError, match="AIRFLOW_TOKEN"):
        world.airflow(auth="token", password=lambda: Password("malformed")).check()


# -- what the doctor asks -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ended(world: World) -> str:
    """Return a run whose task began and ended, as only such a one has a log: a busy Airflow fails some before."""
    runs: list[str] = []

    def has_begun() -> bool:
        runs.append(world.server.trigger("reads_lake"))
        world.server.wait("reads_lake", runs[-1])
        return any(task["start_date"] for task in world.server.tasks("reads_lake", runs[-1]))

    world.server.wait_until(has_begun)
    return runs[-1]


def test_the_doctor_finds_airflow_well(world: World, ended: str) -> None:
    """Version, login, tasks, logs, clearing, DAGs and copies, asked of a real Airflow; nothing is changed there."""
    before = world.server.states("reads_lake", ended)
    dsn = world.postgresql.create_user("examined", "right-for-examined")
    tags = {"rotation-strategy": "single-user", "airflow-dags": "reads_lake,no_such_dag"}
    world.vault.put("airflow-connections-examined", dsn, tags=tags)
    world.server.create_connection("examined", **world.copy("examined"))
    login = {"AIRFLOW_USERNAME": "admin", "AIRFLOW_PASSWORD": world.server.password}
    with environment({**world.vault.environment(), "AIRFLOW_URL": world.server.url, **login}) as settings:
        systems = connect(settings)
        diagnosis = examine(systems, "airflow-connections-examined")
        systems.vault.close()
    lines = {one.check: one for one in diagnosis.checks}
    assert {lines[check].result for check in ("airflow", "airflow-logs", "airflow-clearing")} == {"fine"}
    assert lines["airflow-dags"].detail.endswith("no_such_dag")
    assert "has a copy 'examined' for user 'examined'" in lines["airflow-connection"].detail
    assert diagnosis.ready
    assert world.server.connection("examined") is not None
    assert world.server.states("reads_lake", ended) == before
    world.server.delete_connection("examined")


@pytest.mark.usefixtures("ended")
def test_the_doctor_names_the_rights_that_a_viewer_has_not(world: World, warehouse: RotatedConnection) -> None:
    """A dry run needs the same right as the real thing, so it tells (P7)."""
    viewer = world.airflow(username="viewer")
    assert viewer.check_logs()
    with pytest.raises(AirflowRefusedError, match="can_edit on DAGs"):
        viewer.check_clearing()
    with pytest.raises(AirflowRefusedError, match="can_delete on Connections"):
        viewer.copies(warehouse)


# -- with the least rights, as Flask-AppBuilder gives them ----------------------------------------------------

ROLE = json.loads((ROOT / ROLE_FILE).read_text())
RIGHTS = [(entry["resource"], action) for entry in ROLE for action in entry["action"].split(",")]
# What the doctor asks, each of which needs some of them.
ASKED_BY: Mapping[tuple[str, str], Callable[[Airflow, RotatedConnection], object]] = {
    ("DAGs", "can_read"): lambda airflow, _: airflow.check(),
    ("DAG Runs", "can_read"): lambda airflow, _: airflow.check(),
    ("Task Instances", "can_read"): lambda airflow, _: airflow.check(),
    ("Task Logs", "can_read"): lambda airflow, _: airflow.check_logs(),
    ("DAGs", "can_edit"): lambda airflow, _: airflow.check_clearing(),
    ("DAG Runs", "can_edit"): lambda airflow, _: airflow.check_clearing(),
    ("Task Instances", "can_edit"): lambda airflow, _: airflow.check_clearing(),
    ("Connections", "can_read"): lambda airflow, rotated: airflow.copies(rotated),
}
# In Airflow's own environment: users with each of these roles, and what becomes of somebody whom Entra sends with some.
LESSER_AND_SIGN_IN = """
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
with get_application_builder() as appbuilder:
    security = appbuilder.sm
    for name, rights in {lesser!r}.items():
        role = security.add_role(name)
        for resource, action in rights:
            security.add_permission_to_role(role, security.get_permission(action, resource))
        email = name.replace(" ", "-") + "@example.com"
        assert security.add_user(name, "Lesser", "Rotation", email, role, {password!r})
    for roles in ["Airflow.Op", "Somebody.Else"], []:
        claims = {{"username": "ada", "email": "ada@example.com", "role_keys": roles}}
        user = security.auth_user_oauth(claims, rotate_session_id=False)
        print("signed in:", *sorted(role.name for role in user.roles))
"""


def without(resource: str, action: str) -> str:
    """Return the name of the role, and of the user, that has not this right."""
    return f"without {action} on {resource}"


@dataclass(frozen=True)
class Fab:
    """The same Airflow by another API server: users with the role of docs/airflow.md, and with less."""

    world: World
    url: str
    printed: str

    def airflow(self, user: str = "rotator", *, connections: str = "clear") -> Airflow:
        return self.world.airflow(username=user, url=self.url, connections=connections)


@pytest.fixture(scope="module")
def fab(world: World) -> Iterator[Fab]:
    """Make the role and its user by the commands of the page, and one of each that lacks something."""
    lesser = {without(*right): [other for other in RIGHTS if other != right] for right in RIGHTS}
    lesser["without Connections"] = [right for right in RIGHTS if right[0] != "Connections"]
    lesser["update"] = [*lesser[without("Connections", "can_delete")], ("Connections", "can_edit")]
    import_role, create_user = (
        shlex.split(line.replace(ROLE_FILE, str(ROOT / ROLE_FILE)))[1:]
        for line in PAGE.read_text().splitlines()
        if line.startswith("    airflow ")
    )
    create_user.append(f"--password={world.server.password}")  # which may begin with a hyphen
    entra = {
        "ENTRA_TENANT_ID": "0b6ff9b6-0000-0000-0000-000000000000",
        "ENTRA_CLIENT_ID": "-",
        "ENTRA_CLIENT_SECRET": "-",
    }
    server = FabApiServer(world.server, config=ROOT / "infra" / "airflow" / "webserver_config.py", environment=entra)
    then = LESSER_AND_SIGN_IN.format(lesser=lesser, password=world.server.password)
    printed = server.run(import_role, create_user, then=then)
    with server:
        yield Fab(world, server.url, printed)


def test_the_least_role_heals(world: World, fab: Fab) -> None:
    """P5: what may be cleared is cleared, what failed runs again; Airflow may read single secrets and no more."""
    denials = [world.vault.deny(permission) for permission in ("list", "setSecret", "update", "delete")]
    world.publish("lake", "lake", "wrong")
    run = world.server.trigger("reads_lake")
    assert world.server.wait("reads_lake", run) == "failed"
    world.publish("lake", "lake")
    world.server.create_connection("lake", **world.copy("lake"))
    lake = world.rotated("lake", "lake", rotation_id="least")
    report = fab.airflow().refresh(lake)
    assert (report.status, report.connection) == ("healed", "cleared"), report.warnings
    assert world.server.wait("reads_lake", run) == "success"
    assert world.server.task("reads_lake", run, "lake")["note"] == lake.note
    for denial in denials:
        denial.remove()


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("right", ASKED_BY, ids=" ".join)
def test_a_right_that_the_least_role_has_not_is_named(
    fab: Fab, warehouse: RotatedConnection, right: tuple[str, str]
) -> None:
    """P7: no right of the role is one too many, and the doctor finds each that is missing."""
    resource, action = right
    ASKED_BY[right](fab.airflow(), warehouse)
    with pytest.raises(AirflowRefusedError, match=f"{action} .*{resource}"):
        ASKED_BY[right](fab.airflow(without(resource, action)), warehouse)


def test_a_copy_that_may_not_be_deleted_is_told(world: World, fab: Fab, warehouse: RotatedConnection) -> None:
    """P7: only deleting shows whether one may; the report names the right, and the copy stays."""
    world.server.create_connection("warehouse", **world.copy("app"))
    report = fab.airflow(without("Connections", "can_delete")).refresh(warehouse)
    assert (report.status, report.connection) == ("refused", None)
    assert "can_read and can_delete on Connections" in report.warnings[0]
    assert world.server.connection("warehouse") is not None


def test_who_keeps_copies_needs_no_right_to_them(fab: Fab, warehouse: RotatedConnection) -> None:
    """With AIRFLOW_CONNECTIONS=keep the role goes without Connections."""
    report = fab.airflow("without Connections", connections="keep").refresh(warehouse)
    assert (report.status, report.connection) == ("healed", None)


def test_who_updates_copies_edits_them_and_deletes_none(world: World, fab: Fab, warehouse: RotatedConnection) -> None:
    """With AIRFLOW_CONNECTIONS=update the role has can_edit on Connections in the place of can_delete."""
    world.server.create_connection("warehouse", **world.copy("app"))
    assert fab.airflow("update", connections="update").refresh(warehouse).connection == "updated"
    report = fab.airflow(without("Connections", "can_delete"), connections="update").refresh(warehouse)
    assert "can_read and can_edit on Connections" in report.warnings[0]


def test_every_right_of_the_least_role_is_tried() -> None:
    """A right that is added to the role needs a test that misses it."""
    assert {*ASKED_BY, ("Connections", "can_delete")} == set(RIGHTS)


def test_people_have_the_roles_that_entra_says(fab: Fab) -> None:
    """What the groups of today give, at each login, beside users with a password."""
    assert [line for line in fab.printed.splitlines() if line.startswith("signed in:")] == [
        "signed in: Op Public",
        "signed in: Public",
    ]


def test_airflow_reads_its_connections_as_the_page_says(world: World) -> None:
    """The tests above ran with the very settings of docs/airflow.md."""
    lines = (line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    backend"))
    written = dict(line.split(" = ", 1) for line in lines)
    used = world.server.variables
    assert written["backend"] == used["AIRFLOW__SECRETS__BACKEND"]
    kwargs = {**json.loads(written["backend_kwargs"]), "vault_url": world.vault.url}
    assert kwargs == json.loads(used["AIRFLOW__SECRETS__BACKEND_KWARGS"])
