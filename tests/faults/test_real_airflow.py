"""A real Airflow whose refresh is killed again and again, at each of its calls in turn."""

import http.client
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rotators.events import EventIn
from rotators.policy import read_state
from sandbox.airflow_server import AirflowServer
from sandbox.faults import Faults
from sandbox.http_service import HttpService, Request, Response
from sandbox.postgresql import HOST, PostgreSQL
from tests.faults.evidence import Evidence
from tests.faults.instance import Instance
from tests.faults.test_killed import AFTER, BEFORE, kill
from tests.faults.wire import Wire
from tests.world import World, world

pytestmark = pytest.mark.timeout(900)

OLD = timedelta(days=61)
CONNECTION, DAG = "warehouse", "warehouse_report"
NAME = f"airflow-connections-{CONNECTION}"
USER = "warehouse_app"
HOP_BY_HOP = ("connection", "content-length", "date", "server", "transfer-encoding")


@dataclass(frozen=True)
class Night:
    """A run that failed on the old password, and a copy of the connection with it, in a real Airflow."""

    here: World
    airflow: AirflowServer
    run: str
    wire: Wire
    instance: Instance


@pytest.fixture
def night(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[Night]:
    evidence, wire = Evidence(), Wire()
    with ExitStack() as stack:
        here = stack.enter_context(world(tmp_path, postgresql, behind=OLD))
        here.admin()
        uri = postgresql.create_user(USER)
        tags = {"rotation-strategy": "alternating-users", "rotation-admin": "postgres-admin"}
        here.vault.put(NAME, uri, tags=tags)
        here.clock.advance(OLD)
        airflow = stack.enter_context(AirflowServer(vault_url=here.vault.url, environment=here.vault.environment()))
        relay = Faults(lambda status, _code, headers: Response.json(status, {}, headers))
        relay.tap = wire.tap("airflow")
        service = HttpService(lambda request: relay.around(request, lambda asked: passed_on(asked, airflow.url)))
        stack.enter_context(service)
        run = failed_run(here, airflow)
        copy = {"host": HOST, "port": postgresql.port, "schema": "postgres", "login": USER, "password": "stale"}
        airflow.create_connection(CONNECTION, **copy)
        settings = {
            **here.vault.environment(),
            "AIRFLOW_URL": service.url,
            "AIRFLOW_USERNAME": airflow.username,
            "AIRFLOW_PASSWORD": airflow.password,
        }
        log, made = tmp_path / "instance.log", tmp_path / "made"
        yield Night(here, airflow, run, wire, stack.enter_context(Instance(settings, log, made)))
        evidence.secrets_in(version.value for version in here.versions(NAME))
        evidence.secret(airflow.password, *made.read_text().split(), *here.vault.identity.issued)
        evidence.keep_file(log)
        evidence.keep(*(str(task) for task in airflow.tasks(DAG, run)), airflow.log(DAG, run, "extract"))
        assert evidence.found() == []


def failed_run(here: World, airflow: AirflowServer) -> str:
    """Run the DAG while the password of its user is another one, as if an old one were in use."""
    (password,) = here.server.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (USER,))[0]
    here.server.execute(f"ALTER ROLE {USER} PASSWORD 'another'")
    run = airflow.trigger(DAG)
    assert airflow.wait(DAG, run) == "failed"
    here.server.execute(f"ALTER ROLE {USER} PASSWORD '{password}'")
    return run


def passed_on(request: Request, url: str) -> Response:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        connection.request(request.method, request.target, request.body or None, headers)
        answer = connection.getresponse()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        return Response(answer.status, answer.read(), tuple(kept))
    finally:
        connection.close()


def test_killed_at_each_call_in_turn_a_task_runs_again_once(night: Night) -> None:
    """P5: neither is the refresh forgotten, nor does a task run more often than it has to."""
    current = night.here.vault.current(NAME).version
    data = {"Id": f"{night.here.vault.url}/secrets/{NAME}/{current}"}
    event = asdict(EventIn("night", "Microsoft.KeyVault.SecretNearExpiry", data))
    number, when, kills = 0, BEFORE, 0
    while True:
        night.wire.reset(number, when, lambda: kill(night.instance))
        result = night.instance.run("deliver", event=event)
        if night.wire.struck is None:
            break
        assert result.was_killed
        kills += 1
        number, when = (number, AFTER) if when == BEFORE else (number + 1, BEFORE)
    assert result.error is None
    assert kills > 2 * len(("version", "token", "connections", "failed tasks"))
    assert night.airflow.connection(CONNECTION) is None
    assert night.airflow.wait(DAG, night.run) == "success"
    tries = {task["task_id"]: task["try_number"] for task in night.airflow.tasks(DAG, night.run)}
    assert tries == {"extract": 2, "publish": 1}
    assert len(night.here.versions(NAME)) == 2
    state = read_state(night.here.tags(NAME))
    assert state is not None
    assert state.pending == ()
