"""An Airflow in trouble: busy, slow, old, behind a proxy, with a token that has expired. Played by a small server."""

import contextvars
import dataclasses
import json
import ssl
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotators import airflow_api, airflow_runs, airflow_search
from rotators.airflow import Airflow, AirflowAccess, Copy, RotatedConnection
from rotators.credential import Credential, Password
from rotators.errors import AirflowRefusedError, RotationError, TransientError
from sandbox.certificates import certificates
from sandbox.http_service import HttpService, Request, Response

NOW = datetime.now(UTC)
PASSWORD = "the-password-of-airflow"
ROTATED = RotatedConnection(
    secret="airflow-connections-warehouse",
    connection_id="warehouse",
    engine="postgresql",
    hosts=("db",),
    ports=(5432,),
    database="warehouse",
    credential=Credential("app_alt", Password("the-new-password")),
    users=frozenset({"app", "app_alt"}),
    rotation_id="id-1",
    version="v2",
    published_at=NOW,
    dags=(),
)
REFUSED = (
    'connection to server at "db" (10.0.0.5), port 5432 failed: FATAL:  password authentication failed for user "app"'
)
LOG = {
    "content": [{"event": "Task failed with exception", "error_detail": [{"exc_type": "E", "exc_value": REFUSED}]}],
    "continuation_token": None,
}
COPY = {"connection_id": "warehouse", "conn_type": "postgres", "host": "db", "port": None, "schema": "warehouse"}


class FakeAirflow:
    """Answers like an Airflow 3.3 in which each DAG has one failed task; `trouble` answers in its place if it does."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.version = "3.3.2"
        self.dags = ["report"]
        self.page_size = 100
        self.trouble: Callable[[Request], Response | None] = lambda _: None
        self.requests: list[Request] = []
        self.service = HttpService(self.answer, tls=tls)

    def asked(self, method: str, ending: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        status = {"POST": 201, "DELETE": 204}.get(request.method, 200)
        return self.trouble(request) or Response.json(status, self.body(request))

    def body(self, request: Request) -> Any:  # noqa: C901, PLR0911 (a table)
        match request.method, request.path.removeprefix("/api/v2").strip("/").split("/"):
            case _, ["version"]:
                return {"version": self.version}
            case _, ["auth", "token"]:
                return {"access_token": f"token-{len(self.asked('POST', '/auth/token'))}"}
            case "GET", ["connections"]:
                return {"connections": [{**COPY, "login": "app"}], "total_entries": 1}
            case "PATCH", ["connections", _]:
                return COPY
            case "GET", ["dags", "~", *_]:
                return self.page(request, [self.row(dag) for dag in self.dags])
            case _, [*_, "logs", _]:
                return LOG
            case "GET", ["dags"]:
                return {"dags": [], "total_entries": 0}
            case _, ["dags", _, "details"]:
                return {"is_stale": False, "is_paused": False}
            case "POST", ["dags", dag, "clearTaskInstances"]:
                return {"task_instances": [self.row(dag)]}
            case "GET", [*_, "taskInstances"]:
                return {"task_instances": [], "total_entries": 0}
            case _:
                return {}

    def page(self, request: Request, rows: list[Any]) -> Any:
        offset = int(request.query.get("offset", "0"))
        return {"task_instances": rows[offset : offset + self.page_size], "total_entries": len(rows)}

    def row(self, dag: str) -> dict[str, object]:
        times = {"start_date": (NOW - timedelta(minutes=1)).isoformat(), "end_date": NOW.isoformat()}
        task = {"dag_id": dag, "dag_run_id": "run/1", "task_id": "load", "map_index": -1, "try_number": 1}
        return {**task, **times, "state": "failed", "note": None, "rendered_fields": {}}

    def airflow(self, password: Callable[[], Password] = lambda: Password(PASSWORD), **access: object) -> Airflow:
        default = AirflowAccess(self.service.url, "password", "rotator", "clear", timedelta(hours=24), 2000)
        return Airflow(dataclasses.replace(default, **access), password)  # type: ignore[arg-type]


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    fake = FakeAirflow()
    with fake.service:
        yield fake


class Once:
    """Answers so to the first requests whose path ends like this."""

    def __init__(self, response: Response, *, ending: str = "/taskInstances", times: int = 1) -> None:
        self._response = response
        self._ending = ending
        self._left = times

    def __call__(self, request: Request) -> Response | None:
        if not request.path.endswith(self._ending) or not self._left:
            return None
        self._left -= 1
        return self._response


def always(response: Response, ending: str = "/taskInstances") -> Once:
    return Once(response, ending=ending, times=-1)


def refusal(airflow: Airflow, kind: type[RotationError]) -> RotationError:
    """Return how a check fails, after a look for what it must not say."""
    with pytest.raises(kind) as raised:
        airflow.check()
    assert PASSWORD not in str(raised.value)
    assert "token-" not in str(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None
    return raised.value


def test_everything_is_well(fake: FakeAirflow) -> None:
    """What the other tests disturb: a copy is cleared and a task retried, on behalf of one login."""
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, report.connection, report.warnings) == ("healed", "cleared", ())
    assert [(run.dag_id, run.dag_run_id, run.tasks) for run in report.retried] == [
        ("report", "run/1", (("load", -1),)),
    ]
    assert len(fake.asked("POST", "/auth/token")) == 1
    assert {r.headers["User-Agent"] for r in fake.requests} == {"airflow-credential-rotation"}


def test_a_look_changes_nothing(fake: FakeAirflow) -> None:
    """What a retry would clear is named, and nothing but reading is asked for (P5)."""
    look = fake.airflow().look(ROTATED)
    assert [(task.dag_id, task.task_id) for task in look.failed] == [("report", "load")]
    assert (look.retried, look.suspected, look.unknown, look.warnings) == ((), (), (), ())
    assert {r.method for r in fake.requests if not r.path.endswith("/auth/token")} == {"GET"}


def test_a_look_knows_its_own_rotations_tasks_by_their_note(fake: FakeAirflow) -> None:
    """Not those of another secret with the same idempotency key, nor a person's; a part only is told as such."""
    others = [dataclasses.replace(ROTATED, connection_id="lake"), dataclasses.replace(ROTATED, rotation_id="id-12")]
    notes = [ROTATED.note, *(other.note for other in others), "Ask Ada", None]
    rows = [{**fake.row(f"dag-{n}"), "state": "success", "note": note} for n, note in enumerate(notes)]

    def noted(request: Request) -> Response | None:
        if "updated_at_gte" not in request.query:
            return None
        return Response.json(200, fake.page(request, rows))

    fake.trouble = noted
    look = fake.airflow().look(ROTATED)
    assert [(task.dag_id, task.why) for task in look.retried] == [("dag-0", "success")]
    (warning,) = fake.airflow(max_examined=3).look(ROTATED).warnings
    assert "AIRFLOW_MAX_EXAMINED" in warning


# -- busy, slow, broken ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_busy_airflow_is_asked_again(fake: FakeAirflow, status: int) -> None:
    """Airflow says how long to wait, and that is done."""
    fake.trouble = Once(Response.json(status, {}, {"Retry-After": "0"}), times=2)
    fake.airflow().check()
    assert len(fake.asked("GET", "/taskInstances")) == 3


def test_busy_airflow_is_left_in_peace(fake: FakeAirflow) -> None:
    """Who has to wait for an hour does not sleep that long: the sweep comes again (P5)."""
    fake.trouble = always(Response.json(429, {}, {"Retry-After": "3600"}))
    error = refusal(fake.airflow(), TransientError)
    assert isinstance(error, TransientError)
    assert error.retry_after == timedelta(hours=1)
    assert len(fake.asked("GET", "/taskInstances")) == 1


def test_retry_after_may_be_a_date(fake: FakeAirflow) -> None:
    """Of its two forms both are understood; a date that has passed means now."""
    fake.trouble = Once(Response.json(503, {}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}))
    fake.airflow().check()


def test_odd_retry_after_is_passed_over(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is a digit need not be a number; our own pause takes its place."""
    monkeypatch.setattr(airflow_api, "MOST_SLEPT_SECONDS", 0)
    fake.trouble = always(Response.json(503, {}, {"Retry-After": "\u00b2"}))
    refusal(fake.airflow(), TransientError)


def test_busy_airflow_ends_our_patience(fake: FakeAirflow) -> None:
    """An Airflow that stays busy is asked a few times only."""
    fake.trouble = always(Response.json(503, {}, {"Retry-After": "0"}))
    refusal(fake.airflow(), TransientError)
    assert len(fake.asked("GET", "/taskInstances")) == airflow_api.ATTEMPTS


def test_silent_airflow_times_out(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call waits for ever (P5)."""
    monkeypatch.setattr(airflow_api, "READ_SECONDS", 0.2)
    airflow = fake.airflow()
    airflow.check()
    fake.trouble = slow
    assert "ReadTimeoutError" in str(refusal(airflow, TransientError))


def slow(request: Request) -> Response | None:
    if request.path.endswith("/taskInstances"):
        import time  # noqa: PLC0415

        time.sleep(1)
    return None


def test_connection_that_breaks_off_is_opened_again(fake: FakeAirflow) -> None:
    """A server closes idle connections, possibly while we send: the request is sent once more."""
    breaks = iter([True])

    def trouble(_: Request) -> None:
        if next(breaks, False):
            raise ConnectionAbortedError

    airflow = fake.airflow()
    airflow.check()
    fake.trouble = trouble
    airflow.check()
    breaks = iter([True] * 2)
    assert "broke off" in str(refusal(airflow, TransientError))


@pytest.mark.parametrize("status", [500, 502, 504, 520])
def test_failing_airflow_is_transient(fake: FakeAirflow, status: int) -> None:
    """An error of Airflow, or of the proxy before it, may be over the next time."""
    fake.trouble = always(Response.text(status, "<html>"))
    refusal(fake.airflow(), TransientError)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"task_instances": null}', b"[" * 200_000])
def test_odd_answer_is_transient(fake: FakeAirflow, body: bytes) -> None:
    """What is not the JSON that Airflow gives is no reason to forget the refresh (P5)."""
    fake.trouble = always(Response(200, body))
    with pytest.raises(TransientError, match="not what Airflow 3 gives"):
        fake.airflow().retry_failed([ROTATED])


def test_failed_copy_step_does_not_stop_the_retry(fake: FakeAirflow) -> None:
    """The two halves of a refresh do not depend on each other, and the report says what is left to do."""
    fake.trouble = always(Response.json(500, {}), ending="/connections")
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, report.connection) == ("pending", None)
    assert len(report.retried) == 1
    assert "500" in report.warnings[0]


@pytest.mark.parametrize(
    ("treatment", "gone"),
    [
        ("clear", Response.text(404, "<html>")),
        ("clear", Response.text(200, "<html>")),
        ("update", Response.text(404, "<html>")),
        ("update", Response.json(200, {**COPY, "connection_id": "another"})),
    ],
)
@pytest.mark.parametrize("is_listed", [True, False])
def test_copy_that_is_said_to_be_gone_is_looked_for(
    fake: FakeAirflow, treatment: str, gone: Response, *, is_listed: bool
) -> None:
    """A gateway may say 404 of what is there, or all is well, and a copy that stays has the old password (P5).

    Or answer for another connection, which says nothing of this one.
    """

    def say_gone(request: Request) -> Response | None:
        if request.path.endswith("/connections/warehouse"):
            return gone
        is_second = request.path.endswith("/connections") and len(fake.asked("GET", "/connections")) > 1
        return Response.json(200, {"connections": [], "total_entries": 0}) if is_second and not is_listed else None

    fake.trouble = say_gone
    report = fake.airflow(connections=treatment).refresh(ROTATED)
    assert len(report.retried) == 1
    assert report.status == ("pending" if is_listed else "healed")
    assert ("is gone" in "".join(report.warnings)) is is_listed


@pytest.mark.parametrize("body", ["<html>", "{}", "[]"])
def test_copy_is_updated_when_airflow_says_so(fake: FakeAirflow, body: str) -> None:
    """And not when a gateway does (P5)."""
    fake.trouble = always(Response.text(200, body), ending="/connections/warehouse")
    report = fake.airflow(connections="update").refresh(ROTATED)
    assert (report.status, report.connection, len(report.retried)) == ("pending", None, 1)


def test_failed_search_does_not_hide_the_cleared_copy(fake: FakeAirflow) -> None:
    """And the other way round."""
    fake.trouble = always(Response.json(500, {}))
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, report.connection, report.retried) == ("pending", "cleared", ())


def test_log_that_cannot_be_read_is_unknown(fake: FakeAirflow) -> None:
    """A log storage that fails for one task does not stop the others."""
    fake.dags = ["a", "b", "c"]
    fake.trouble = lambda r: Response.text(500, "no") if "/dags/b/" in r.path and "/logs/" in r.path else None
    report = fake.airflow().refresh(ROTATED)
    assert [task.dag_id for task in report.unknown] == ["b"]
    assert [run.dag_id for run in report.retried] == ["a", "c"]
    assert report.status == "healed"


NESTED = b'{"exc_value": "", "exceptions": [' * 600 + b"]}" * 600


@pytest.mark.parametrize(
    "log", [b"[" * 200_000, b'{"content": [{"event": "Task failed with exception", "error_detail": [%b]}]}' % NESTED]
)
def test_log_that_nobody_can_take_apart_is_unknown(fake: FakeAirflow, log: bytes) -> None:
    """Nor does it stop the others."""
    fake.dags = ["a", "b", "c"]
    fake.trouble = lambda r: Response(200, log) if "/dags/b/" in r.path and "/logs/" in r.path else None
    report = fake.airflow().refresh(ROTATED)
    assert [task.dag_id for task in report.unknown] == ["b"]
    assert [run.dag_id for run in report.retried] == ["a", "c"]


def test_logs_that_cannot_be_read_are_transient(fake: FakeAirflow) -> None:
    """But when many logs fail, it is Airflow that is in trouble."""
    fake.dags = [f"dag-{number}" for number in range(20)]
    fake.trouble = always(Response.json(503, {}, {"Retry-After": "60"}), ending="/logs/1")
    with pytest.raises(TransientError):
        fake.airflow().retry_failed([ROTATED])
    assert len(fake.asked("GET", "/logs/1")) < 15


def test_logs_that_cannot_be_read_stop_no_other(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are, if others are read between them (P5)."""
    monkeypatch.setattr(airflow_search, "LOGS_AT_A_TIME", 1)
    monkeypatch.setattr(airflow_search, "UNREADABLE_LOGS", 3)
    fake.dags = [f"{kind}-{number}" for number in range(5) for kind in ("a", "b", "good")]
    fake.trouble = lambda r: Response.text(502, "no") if "/logs/" in r.path and "/good" not in r.path else None
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, len(report.retried), len(report.unknown)) == ("healed", 5, 10)


def test_what_was_read_before_airflow_went_away_counts(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks that are known to have failed on the old credential are cleared, and the rest is looked for again."""
    monkeypatch.setattr(airflow_search, "LOGS_AT_A_TIME", 1)
    fake.dags = ["good", *(f"dag-{number:02}" for number in range(20))]
    fake.trouble = lambda r: Response.text(502, "no") if "/logs/" in r.path and "/good/" not in r.path else None
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, [run.dag_id for run in report.retried]) == ("pending", ["good"])
    assert "Airflow failed with 502" in report.warnings[0]
    assert len(fake.asked("GET", "/logs/1")) == 1 + airflow_search.UNREADABLE_LOGS
    assert "Airflow failed with 502" in fake.airflow().look(ROTATED).warnings[0]


@pytest.mark.parametrize("status", [302, 400, 403, 422])
def test_logs_that_are_refused_stop_no_other(fake: FakeAirflow, status: int) -> None:
    """Those of a DAG of others, say, however many: each is unknown (P5)."""
    runs = [{**fake.row("theirs"), "dag_run_id": f"run/{number:02}"} for number in range(20)]
    rows = [*runs, fake.row("good")]
    fake.page = lambda request, _rows: FakeAirflow.page(fake, request, rows)  # type: ignore[method-assign, assignment]
    fake.trouble = lambda r: Response.json(status, {}) if "/theirs/" in r.path and "/logs/" in r.path else None
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, [run.dag_id for run in report.retried]) == ("healed", ["good"])
    assert len(report.unknown) == 20


def test_missing_right_to_read_logs_is_named(fake: FakeAirflow) -> None:
    """P7: when none can be read it is no affair of a single DAG."""
    fake.dags = ["a", "b"]
    fake.trouble = always(Response.json(403, {"detail": "Forbidden"}), ending="/logs/1")
    with pytest.raises(AirflowRefusedError, match="can_read on Task Logs"):
        fake.airflow().retry_failed([ROTATED])


def test_task_that_never_ran_has_no_log(fake: FakeAirflow) -> None:
    """A person may mark as failed what has not begun; Airflow 3.0 answers 422 when it is asked for its log."""
    fake.row = lambda dag: {**FakeAirflow.row(fake, dag), "try_number": 0}  # type: ignore[method-assign]
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, report.examined, report.unknown) == ("healed", 0, ())
    assert not fake.airflow().check_logs()


def test_run_that_refuses_stops_no_other(fake: FakeAirflow) -> None:
    """A 404, a 409 or a missing right for one DAG is a warning, and the other runs are cleared."""
    fake.dags = ["deleted", "running", "forbidden", "fine"]
    answers = {"deleted": 404, "running": 409, "forbidden": 403}

    def trouble(request: Request) -> Response | None:
        dag = request.path.split("/")[4] if request.path.endswith("/clearTaskInstances") else ""
        is_real = bool(request.body) and not json.loads(request.body).get("dry_run", True)
        return Response.json(answers[dag], {"detail": "no"}) if dag in answers and is_real else None

    fake.trouble = trouble
    report = fake.airflow().refresh(ROTATED)
    assert [run.dag_id for run in report.retried] == ["fine"]
    assert report.status == "refused"
    assert len(report.warnings) == 3
    assert "can_edit" in report.warnings[0]


def test_run_that_fails_stops_no_other(fake: FakeAirflow) -> None:
    """What was cleared is reported, what was not is tried again (P5)."""
    fake.dags = ["a", "b", "c"]
    fake.trouble = lambda r: Response.json(500, {}) if r.path.endswith("/dags/b/clearTaskInstances") else None
    report = fake.airflow().refresh(ROTATED)
    assert [run.dag_id for run in report.retried] == ["a", "c"]
    assert report.status == "pending"


def test_dag_that_fails_is_left_in_peace_and_stops_no_other(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs of it there are, and however many DAGs fail like it, with others that do not between (P5)."""
    monkeypatch.setattr(airflow_runs, "RUNS_AT_A_TIME", 1)
    monkeypatch.setattr(airflow_runs, "FAILED_DAGS", 3)
    runs = [{**fake.row("bad-0"), "dag_run_id": f"run/{number:02}"} for number in range(9)]
    rows = [*runs, *map(fake.row, ("a", "bad-1", "bad-2", "b", "bad-3", "bad-4", "c"))]
    fake.page = lambda request, _rows: FakeAirflow.page(fake, request, rows)  # type: ignore[method-assign, assignment]
    fake.trouble = lambda r: Response.json(500, {}) if "/dags/bad" in r.path and r.method == "POST" else None
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, [run.dag_id for run in report.retried]) == ("pending", ["a", "b", "c"])
    assert len(fake.asked("POST", "/dags/bad-0/clearTaskInstances")) == airflow_runs.FAILED_RUNS + 1


def test_task_that_is_no_longer_in_the_dag_stays_as_it_is(fake: FakeAirflow) -> None:
    """Airflow answers 500 to it, and would the next time; what else failed in the run is retried (P5)."""
    tasks = [fake.row("report"), {**fake.row("report"), "task_id": "old"}, {**fake.row("other"), "task_id": "old"}]
    fake.page = lambda request, _rows: FakeAirflow.page(fake, request, tasks)  # type: ignore[method-assign, assignment]

    def trouble(request: Request) -> Response | None:
        if request.path.endswith("/tasks/old"):
            return Response.json(404, {})
        return Response.json(500, {}) if request.method == "POST" and b'"old"' in request.body else None

    fake.trouble = trouble
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, [run.tasks for run in report.retried]) == ("healed", [(("load", -1),)])
    assert ["task 'old' is no longer in the DAG" in warning for warning in report.warnings] == [True, True]


def test_airflow_that_goes_away_is_not_asked_for_each_run(fake: FakeAirflow) -> None:
    """When many runs fail, it is Airflow that is in trouble."""
    fake.dags = [f"dag-{number}" for number in range(20)]
    fake.trouble = always(Response.json(500, {}), ending="/clearTaskInstances")
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, report.retried) == ("pending", ())
    assert len(fake.asked("POST", "/clearTaskInstances")) < 20


# -- another server than expected -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        Response.json(404, {"title": "Not Found"}),
        Response.json(200, {"version": "2.11.0"}),
        Response.text(200, "<html>"),
        Response.json(200, {"version": None}),
    ],
)
def test_airflow_2_is_refused(fake: FakeAirflow, response: Response) -> None:
    """Airflow 2 and what is no Airflow at all give a clear sentence, before anybody logs in (P7)."""
    fake.trouble = always(response, ending="/version")
    assert "Airflow 3 is needed" in str(refusal(fake.airflow(), AirflowRefusedError))
    assert not fake.asked("POST", "/auth/token")


@pytest.mark.parametrize("status", [301, 400, 404, 405, 422])
def test_unexpected_answer_is_refused(fake: FakeAirflow, status: int) -> None:
    """What would be answered again in the same way is for a person; no redirect is followed (P3, P7)."""
    fake.trouble = always(Response.json(status, {"detail": PASSWORD}, {"Location": "http://elsewhere.example.com/"}))
    assert "AIRFLOW_URL" in str(refusal(fake.airflow(), AirflowRefusedError))


def test_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    """TLS is checked against what the system trusts (P3)."""
    fake = FakeAirflow(certificates(tmp_path).tls())
    with fake.service:
        assert "SSL_CERT_FILE" in str(refusal(fake.airflow(), AirflowRefusedError))


def test_certificate_of_a_private_authority_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE, OpenSSL's own setting, names an authority of one's own."""
    authority = certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    fake = FakeAirflow(authority.tls())
    with fake.service:
        fake.airflow().check()


def test_older_airflow_gets_only_what_it_knows(fake: FakeAirflow) -> None:
    """Airflow 3.0 answers 422 to fields that it does not know: the note is written by itself."""
    fake.version = "3.0.6"
    report = fake.airflow().refresh(ROTATED)
    assert len(report.retried) == 1
    bodies = [json.loads(r.body) for r in fake.asked("POST", "/clearTaskInstances")]
    assert not any({"note", "prevent_running_task"} & body.keys() for body in bodies)
    notes = [json.loads(r.body) for r in fake.asked("PATCH", "/taskInstances/load/-1")]
    assert notes == [{"note": ROTATED.note}]


def test_clearing_always_names_run_and_tasks(fake: FakeAirflow) -> None:
    """A missing run or list would clear tasks in every run, or every failed task (P5)."""
    fake.airflow().refresh(ROTATED)
    bodies = [json.loads(r.body) for r in fake.asked("POST", "/clearTaskInstances")]
    assert [body["dry_run"] for body in bodies] == [True, True, False]
    assert all(body["dag_run_id"] == "run/1" and body["task_ids"] == [["load", -1]] for body in bodies)
    assert bodies[-1]["only_failed"] is bodies[-1]["prevent_running_task"] is True
    assert bodies[-1]["include_downstream"] is False


@pytest.mark.parametrize("also", ["publish", None])
def test_note_is_written_on_what_failed_alone(fake: FakeAirflow, also: str | None) -> None:
    """What runs again along with it may yet fail on a stale copy, and is retried then (P5)."""

    def trouble(request: Request) -> Response | None:
        if also is None or not request.path.endswith("/clearTaskInstances"):
            return None
        behind = {**fake.row("report"), "task_id": also, "state": "upstream_failed"}
        return Response.json(200, {"task_instances": [fake.row("report"), behind]})

    fake.trouble = trouble
    (run,) = fake.airflow().refresh(ROTATED).retried
    assert len(run.tasks) == (2 if also else 1)
    given = [json.loads(r.body).get("note") for r in fake.asked("POST", "/clearTaskInstances")]
    assert given == [None, None, None if also else ROTATED.note]
    assert [r.path.rpartition("taskInstances")[2] for r in fake.asked("PATCH", "")] == (["/load/-1"] if also else [])


@pytest.mark.parametrize(("state", "cleared"), [("running", 0), ("failed", 1)])
def test_setup_does_not_run_again_below_a_running_task(fake: FakeAirflow, state: str, cleared: int) -> None:
    """What a setup made may be in use as long as its run goes on: the next sweep looks again (P5)."""

    def trouble(request: Request) -> Response | None:
        if request.method == "GET" and request.path.endswith("/dagRuns/run%2F1"):
            return Response.json(200, {"state": state})
        if not request.path.endswith("/clearTaskInstances") or json.loads(request.body)["only_failed"]:
            return None
        setup = {**fake.row("report"), "task_id": "create", "state": "success"}
        return Response.json(200, {"task_instances": [fake.row("report"), setup]})

    fake.trouble = trouble
    report = fake.airflow().refresh(ROTATED)
    assert [run.tasks for run in report.retried] == [(("create", -1), ("load", -1))] * cleared
    assert len(report.warnings) == 1 - cleared


def test_setup_of_a_mapped_group_runs_again_for_the_failed_index_alone(fake: FakeAirflow) -> None:
    """Airflow selects setups and teardowns by their names, those of other indices as well (P5).

    Each index of a mapped task is set up by all of a mapped setup, and so is what is behind all of them.
    """
    every = [(name, index) for name in ("create", "drop", "lock") for index in range(3)]
    load, report, others = ("load", 1), ("report", -1), [one for one in every if one[1] != 1]
    upstream = [one for one in every if one not in others or one[0] == "drop"]
    downstream = [one for one in every if one not in others or one[0] == "create"]

    def selected(how: dict[str, Any]) -> list[tuple[str, int]]:
        match how:
            case {"dry_run": False, "task_ids": tasks}:
                return [(name, index) for name, index in tasks]
            case {"only_failed": True}:
                return [load, report]
            case {"include_upstream": True, "task_ids": [["load", 1]]}:
                return [load, *upstream]
            case {"include_downstream": True, "task_ids": [["load", 1]]}:
                return [load, report, *downstream]
            case {"task_ids": [["report", -1]]}:
                return [report, *(one for one in every if one[0] == "lock")]
        return [load, report, *every]

    def trouble(request: Request) -> Response | None:
        if request.path.endswith("/dagRuns/run%2F1"):
            return Response.json(200, {"state": "failed"})
        if not request.path.endswith("/clearTaskInstances"):
            return None
        states = {load: "failed", report: "upstream_failed"}
        rows = [
            {"task_id": one[0], "map_index": one[1], "state": states.get(one, "success"), "note": None}
            for one in selected(json.loads(request.body))
        ]
        return Response.json(200, {"task_instances": rows})

    fake.trouble = trouble
    failed = {**fake.row("report"), "map_index": 1}
    fake.row = lambda _dag: failed  # type: ignore[method-assign, assignment]
    (run,) = fake.airflow().refresh(ROTATED).retried
    locks = [("lock", index) for index in range(3)]
    assert run.tasks == (("create", 1), ("drop", 1), load, *locks, report)


def test_task_that_somebody_cleared_meanwhile_is_left_alone(fake: FakeAirflow) -> None:
    """Between the search and the clearing a person may have been faster (P5)."""

    def trouble(request: Request) -> Response | None:
        if not request.path.endswith("/clearTaskInstances") or json.loads(request.body)["only_failed"]:
            return None
        return Response.json(200, {"task_instances": [{**fake.row("report"), "state": None}]})

    fake.trouble = trouble
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, report.retried) == ("healed", ())
    assert all(json.loads(r.body)["dry_run"] for r in fake.asked("POST", "/clearTaskInstances"))


def test_list_is_paged_by_the_rows_received(fake: FakeAirflow) -> None:
    """Airflow silently gives shorter pages than asked for; nothing is passed over."""
    fake.page_size = 3
    fake.dags = [f"dag-{number}" for number in range(10)]
    report = fake.airflow().refresh(ROTATED)
    assert report.examined == len(report.retried) == 10


@pytest.mark.parametrize("version", ["3.1.8", "3.2.0", "3.3.2"])
def test_list_that_changes_while_it_is_read_is_read_whole(fake: FakeAirflow, version: str) -> None:
    """Where Airflow has cursors, what somebody clears on the first page hides nothing on the second (P5)."""
    fake.version, fake.page_size = version, 2
    fake.dags = [f"dag-{number}" for number in range(6)]

    def trouble(request: Request) -> Response | None:
        # The first 3.2 had none, and does not look at what it does not know.
        if version != "3.3.2" or not request.path.endswith("/dags/~/dagRuns/~/taskInstances"):
            return None
        rest = [fake.row(dag) for dag in fake.dags if dag > request.query.get("cursor", "")]
        fake.dags = fake.dags[1:]
        following = rest[1]["dag_id"] if len(rest) > 2 else None
        return Response.json(200, {"task_instances": rest[:2], "next_cursor": following})

    fake.trouble = trouble
    assert fake.airflow().refresh(ROTATED).examined == 6
    asked = ["cursor=" in request.target for request in fake.asked("GET", "/dags/~/dagRuns/~/taskInstances")]
    assert asked == {"3.1.8": [False] * 3, "3.2.0": [True, False, False], "3.3.2": [True] * 3}[version]


@pytest.mark.timeout(60)
def test_list_that_goes_round_in_circles_is_not_read_for_ever(fake: FakeAirflow) -> None:
    """What stands before Airflow may have a cache. The refresh stays pending; half a list clears nothing."""
    fake.dags = ["dag"]

    def trouble(request: Request) -> Response | None:
        if not request.path.endswith("/dags/~/dagRuns/~/taskInstances"):
            return None
        return Response.json(200, {"task_instances": [fake.row("dag")], "next_cursor": "again"})

    fake.trouble = trouble
    report = fake.airflow().refresh(ROTATED)
    assert (report.status, report.retried) == ("pending", ())
    assert "not what Airflow 3 gives" in report.warnings[0]


def log_of(error: str) -> Response:
    detail = [{"exc_type": "E", "exc_value": error}]
    return Response.json(200, {"content": [{"event": "Task failed with exception", "error_detail": detail}]})


def test_what_a_log_has_told_is_not_asked_again(fake: FakeAirflow) -> None:
    """The search goes on until the grace is over, and the tasks that failed for reasons of their own stay the same."""
    fake.trouble = always(log_of("division by zero"), ending="/logs/1")
    airflow = fake.airflow()
    assert [airflow.refresh(ROTATED).examined for _ in range(2)] == [1, 0]
    assert len(fake.asked("GET", "/logs/1")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"version": "v3", "published_at": NOW + timedelta(days=1)},
        {"users": frozenset({"app_alt", "app", "app_b"})},
        {"secret": "airflow-connections-another"},
        {"ports": (5433,)},
        {"hosts": ("other",)},
    ],
)
def test_what_a_log_has_told_of_one_rotation_says_nothing_of_another(fake: FakeAirflow, change: dict[str, Any]) -> None:
    """P5: what is no affair of one credential may be that of the next."""
    fake.trouble = always(log_of("division by zero"), ending="/logs/1")
    airflow = fake.airflow()
    airflow.refresh(ROTATED)
    assert airflow.refresh(dataclasses.replace(ROTATED, **change)).examined == 1


@pytest.mark.parametrize(
    "log",
    [
        Response.json(200, {"content": [{"event": "Log file not found on worker"}]}),
        Response.json(404, {}),
        log_of(REFUSED.replace('user "app"', 'user "***"')),
    ],
)
def test_what_a_log_has_not_told_is_asked_again(fake: FakeAirflow, log: Response) -> None:
    """P5: a log may still be on its way."""
    once = Once(log, ending="/logs/1")
    fake.trouble = once
    airflow = fake.airflow()
    assert [len(airflow.refresh(ROTATED).retried) for _ in range(2)] == [0, 1]


def test_a_task_that_failed_again_is_examined_again(fake: FakeAirflow) -> None:
    """P5: it is the try whose log has told."""
    fake.trouble = lambda r: log_of("division by zero") if r.path.endswith("/logs/1") else None
    airflow = fake.airflow()
    assert airflow.refresh(ROTATED).retried == ()
    fake.row = lambda dag: {**FakeAirflow.row(fake, dag), "try_number": 2}  # type: ignore[method-assign]
    assert len(airflow.refresh(ROTATED).retried) == 1


def test_what_is_beyond_the_limit_has_its_turn(fake: FakeAirflow) -> None:
    """P5: AIRFLOW_MAX_EXAMINED delays what is older; the next searches go on where the one before ended."""
    fake.dags = ["a", "b", "c"]
    fake.trouble = lambda r: log_of("division by zero") if "/dags/c/" not in r.path and "/logs/" in r.path else None
    airflow = fake.airflow(max_examined=1)
    reports = [airflow.refresh(ROTATED) for _ in range(3)]
    assert [len(report.retried) for report in reports] == [0, 0, 1]
    assert ["go on with older ones" in "".join(report.warnings) for report in reports] == [True, True, False]


def test_what_was_of_no_use_for_the_longest_time_is_forgotten(
    fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read again then; the memory is bounded."""
    monkeypatch.setattr(airflow_search, "MOST_REMEMBERED", 2)
    fake.trouble = lambda r: log_of("division by zero") if "/logs/" in r.path else None
    airflow = fake.airflow()
    examined = []
    for dags in (["a"], ["b"], ["a"], ["c"], ["a", "b"], ["b"]):
        fake.dags = dags
        examined.append(airflow.refresh(ROTATED).examined)
    assert examined == [1, 1, 0, 1, 1, 0]


def test_logs_are_forgotten_when_they_are_judged(fake: FakeAirflow) -> None:
    """Two thousand of them may be megabytes each: no more than those that are being read are there at a time."""
    fake.dags = [f"dag-{number:02}" for number in range(40)]
    large = log_of("x" * 2**20)
    fake.trouble = lambda r: large if "/logs/" in r.path else None
    airflow = fake.airflow()
    airflow.check()
    tracemalloc.start()
    try:
        assert airflow.refresh(ROTATED).examined == 40
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()


def test_what_concerns_a_dag_is_asked_once_for_all_of_its_runs(fake: FakeAirflow) -> None:
    """Whether it is there, whether it is paused, and whether anything was skipped in any run."""
    runs = [{**fake.row("report"), "dag_run_id": f"run/{number}"} for number in range(9)]
    fake.page = lambda request, rows: FakeAirflow.page(fake, request, runs)  # type: ignore[method-assign]  # noqa: ARG005
    report = fake.airflow().refresh(ROTATED)
    assert [run.dag_run_id for run in report.retried] == [f"run/{number}" for number in range(9)]
    assert len(fake.asked("GET", "/dags/report/details")) == 1
    assert len(fake.asked("GET", "/dags/report/dagRuns/~/taskInstances")) == 1


def test_where_something_was_skipped_each_run_is_looked_at(fake: FakeAirflow) -> None:
    """And only the run in which it was is warned of."""
    runs = [{**fake.row("report"), "dag_run_id": run} for run in ("a", "b")]
    fake.page = lambda request, rows: FakeAirflow.page(fake, request, runs)  # type: ignore[method-assign]  # noqa: ARG005

    def trouble(request: Request) -> Response | None:
        is_skipped = request.path.endswith(("/dagRuns/~/taskInstances", "/dagRuns/b/taskInstances"))
        skipped = Response.json(200, {"task_instances": [], "total_entries": 1})
        return skipped if is_skipped and request.query.get("state") == "skipped" else None

    fake.trouble = trouble
    report = fake.airflow().refresh(ROTATED)
    assert len(report.retried) == 2
    assert ["run 'b'" in warning for warning in report.warnings] == [True]


def test_log_is_read_to_its_end(fake: FakeAirflow) -> None:
    """Some log storages give a log piece by piece."""

    def trouble(request: Request) -> Response | None:
        if "/logs/" not in request.path or request.query.get("token") == "2":
            return None
        return Response.json(200, {"content": [{"event": "begins"}], "continuation_token": "2"})

    fake.trouble = trouble
    assert len(fake.airflow().refresh(ROTATED).retried) == 1


# -- the login ------------------------------------------------------------------------------------------------

EXPIRED = Response.json(401, {"detail": "Token Expired"})
MALFORMED = Response.json(403, {"detail": "Invalid JWT token"})


@pytest.mark.parametrize("response", [EXPIRED, MALFORMED])
def test_expired_token_is_renewed(fake: FakeAirflow, response: Response) -> None:
    """A token that ran out, or was signed before Airflow got a new key, costs one fresh login."""
    airflow = fake.airflow()
    airflow.check()
    fake.trouble = Once(response)
    airflow.check()
    assert len(fake.asked("POST", "/auth/token")) == 2
    assert fake.requests[-1].headers["Authorization"] == "Bearer token-2"


@pytest.mark.parametrize("response", [EXPIRED, MALFORMED])
def test_token_is_renewed_once_only(fake: FakeAirflow, response: Response) -> None:
    """A fresh token that is rejected too is no reason to log in for ever (P5)."""
    fake.trouble = always(response)
    refusal(fake.airflow(), AirflowRefusedError)
    assert len(fake.asked("POST", "/auth/token")) == 2


def test_missing_right_is_no_reason_to_log_in_again(fake: FakeAirflow) -> None:
    """A 403 that is about rights names them (P7)."""
    fake.trouble = always(Response.json(403, {"detail": "Forbidden"}))
    assert "can_read on DAGs" in str(refusal(fake.airflow(), AirflowRefusedError))
    assert len(fake.asked("POST", "/auth/token")) == 1


def test_changed_password_is_noticed(fake: FakeAirflow) -> None:
    """The password is asked for at each login, in the thread and context of the caller."""
    invocation = contextvars.ContextVar("invocation", default="none")
    seen = []

    def password() -> Password:
        seen.append(invocation.get())
        return Password(PASSWORD)

    airflow = fake.airflow(password)
    invocation.set("first")
    airflow.check()
    invocation.set("second")
    fake.trouble = Once(EXPIRED, ending="/logs/1")
    airflow.refresh(ROTATED)
    assert seen == ["first", "second"]


@pytest.mark.parametrize("auth", ["token", "entra"])
def test_token_of_ones_own_needs_no_login(fake: FakeAirflow, auth: str) -> None:
    """A token from the settings, or from Entra, is sent as it is, to a proxy before Airflow too."""
    fake.airflow(lambda: Password("mine"), auth=auth).check()
    assert {r.headers["Authorization"] for r in fake.requests} == {"Bearer mine"}
    assert not fake.asked("POST", "/auth/token")


def test_rejected_token_is_not_sent_again(fake: FakeAirflow) -> None:
    """When there is no other token, asking again would only be refused again."""
    fake.trouble = always(EXPIRED)
    with pytest.raises(AirflowRefusedError, match="AIRFLOW_ENTRA_SCOPE"):
        fake.airflow(lambda: Password("mine"), auth="entra").check()
    assert len(fake.asked("GET", "/taskInstances")) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_refused_login_names_the_settings(fake: FakeAirflow, status: int) -> None:
    """A wrong password is for a person to mend (P3, P7)."""
    fake.trouble = always(Response.json(status, {"detail": "Invalid credentials"}), ending="/auth/token")
    assert "AIRFLOW_USERNAME" in str(refusal(fake.airflow(), AirflowRefusedError))


@pytest.mark.parametrize("response", [Response.json(404, {}), Response.json(405, {}), Response.json(201, {})])
def test_airflow_without_password_login_is_refused(fake: FakeAirflow, response: Response) -> None:
    """An auth manager that gives no tokens for passwords needs another AIRFLOW_AUTH (P7)."""
    fake.trouble = always(response, ending="/auth/token")
    assert "AIRFLOW_AUTH" in str(refusal(fake.airflow(), AirflowRefusedError))


# -- what the doctor asks -------------------------------------------------------------------------------------


def test_rights_are_tried_and_nothing_is_done(fake: FakeAirflow) -> None:
    """P5: a log is read, clearing is asked for as a dry run of one task of one run, copies are listed."""
    airflow = fake.airflow()
    assert airflow.check_logs()
    assert airflow.check_clearing()
    assert airflow.missing_dags(("report", "tag:etl")) == ("tag:etl",)
    assert airflow.copies(ROTATED) == (Copy("warehouse", "app", ()),)
    (clear,) = fake.asked("POST", "/clearTaskInstances")
    body = json.loads(clear.body)
    assert (body["dry_run"], body["dag_run_id"], body["task_ids"]) == (True, "run/1", [["load", -1]])
    assert {r.method for r in fake.requests if r.path.startswith("/api/v2")} - {"GET"} == {"POST"}
    assert not fake.asked("DELETE", "")
    assert not fake.asked("PATCH", "")


@pytest.mark.parametrize(
    ("ask", "ending", "missing"),
    [
        (Airflow.check_logs, "/logs/1", "can_read on Task Logs"),
        (Airflow.check_clearing, "/clearTaskInstances", "can_edit on DAGs"),
        (lambda airflow: airflow.missing_dags(["report"]), "/dags/report", "can_read on DAGs"),
        (lambda airflow: airflow.copies(ROTATED), "/connections", "can_delete on Connections"),
    ],
)
def test_each_right_that_is_missing_is_named(
    fake: FakeAirflow, ask: Callable[[Airflow], object], ending: str, missing: str
) -> None:
    """P7: before a rotation needs it."""
    fake.trouble = always(Response.json(403, {"detail": "Forbidden"}), ending=ending)
    with pytest.raises(AirflowRefusedError, match=missing):
        ask(fake.airflow())


def test_without_a_task_that_ended_rights_cannot_be_tried(fake: FakeAirflow) -> None:
    """Nor on one that never began, which has no log."""
    fake.dags = []
    assert not fake.airflow().check_logs()
    fake.dags = ["report"]
    fake.row = lambda dag: {**FakeAirflow.row(fake, dag), "start_date": None}  # type: ignore[method-assign]
    assert not fake.airflow().check_clearing()
    assert not fake.asked("POST", "/clearTaskInstances")


def test_task_that_two_pages_show_is_examined_once(fake: FakeAirflow) -> None:
    """A list that grows while it is read shifts; what is shown again does not count against the limit (P5)."""
    fake.dags = ["report", "report"]
    report = fake.airflow(max_examined=1).refresh(ROTATED)
    assert (report.examined, len(report.retried), report.warnings) == (1, 1, ())


def test_dags_that_are_gone_are_named(fake: FakeAirflow) -> None:
    fake.trouble = always(Response.json(404, {}), ending="/dags/daily")
    assert fake.airflow().missing_dags(("daily", "report")) == ("daily",)


def test_who_keeps_copies_need_not_see_them(fake: FakeAirflow) -> None:
    """As in a refresh."""
    fake.trouble = always(Response.json(403, {"detail": "Forbidden"}), ending="/connections")
    assert fake.airflow(connections="keep").copies(ROTATED) is None
    assert fake.airflow(connections="keep").treatment == "keep"


def test_a_connection_that_is_no_copy_says_in_what(fake: FakeAirflow) -> None:
    other = dataclasses.replace(ROTATED, hosts=("lake",), users=frozenset({"lake"}))
    assert fake.airflow().copies(other) == (Copy("warehouse", "app", ("host", "login")),)
