"""Why a try failed: the shapes of a log, and which of them are ours. All texts were seen in a real Airflow."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rotators.airflow_logs import FailedTask, RotatedConnection, judge
from rotators.credential import Credential, Password

PUBLISHED = datetime(2026, 11, 24, 12, tzinfo=UTC)
WAREHOUSE = RotatedConnection(
    secret="airflow-connections-warehouse",
    connection_id="warehouse",
    engine="postgresql",
    hosts=("warehouse.example.com",),
    ports=(5432,),
    database="warehouse",
    credential=Credential("app_alt", Password("a-password")),
    users=frozenset({"app", "app_alt"}),
    rotation_id="id-1",
    version="v2",
    published_at=PUBLISHED,
    dags=(),
)
TASK = FailedTask(
    dag_id="report",
    dag_run_id="run",
    task_id="extract",
    map_index=-1,
    try_number=1,
    started=PUBLISHED - timedelta(minutes=1),
    ended=PUBLISHED,
    note=None,
    connection_ids=frozenset(),
    is_open=False,
)
AFTER = dataclasses.replace(TASK, started=PUBLISHED + timedelta(minutes=1))
WITH_CONNECTION = dataclasses.replace(TASK, connection_ids=frozenset({"Warehouse"}))

PSYCOPG2 = 'connection to server at "warehouse.example.com" (10.0.0.5), port 5432 failed: '
PSYCOPG3 = 'connection failed: connection to server at "10.0.0.5", port 5432 failed: '
WRONG_PASSWORD = 'FATAL:  password authentication failed for user "app"\n'
NO_ENTRY = 'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "app", database "d", no encryption\n'

Entry = Mapping[str, Any]


def error(text: str, kind: str = "OperationalError", **more: object) -> dict[str, object]:
    return {"exc_type": kind, "exc_value": text, "exc_notes": [], "is_cause": False, "exceptions": [], **more}


def failed(*errors: dict[str, object], event: str = "Task failed with exception", logger: str = "task") -> Entry:
    return {"event": event, "level": "error", "logger": logger, "error_detail": list(errors)}


def said(text: str, logger: str) -> Entry:
    return {"event": text, "level": "info", "logger": logger}


def triggered(cause: dict[str, object]) -> Entry:
    return {**failed(cause, event="Trigger report/run/extract/-1/1 (ID 7) exited with error …"), "logger": None}


HANDLED = failed(error(PSYCOPG2 + WRONG_PASSWORD), event="no warehouse, going on", logger="report")
DEFERRED = failed(error("Trigger failure", "TaskDeferralError"))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        # what the server and libpq say of a credential
        (PSYCOPG2 + WRONG_PASSWORD, "ours"),
        (PSYCOPG3 + WRONG_PASSWORD, "ours"),
        (PSYCOPG2 + 'FATAL:  role "app" is not permitted to log in\n', "ours"),
        (PSYCOPG2 + 'FATAL:  role "app" does not exist\n', "ours"),
        (f"(psycopg.OperationalError) {PSYCOPG3}{WRONG_PASSWORD}(Background on this error at: https://…)", "ours"),
        # two lines: with TLS, without, and a line of pg_hba.conf matches neither
        (PSYCOPG2 + WRONG_PASSWORD + PSYCOPG2 + NO_ENTRY, "ours"),
        # several hosts: each attempt has its own address
        (PSYCOPG2.replace("warehouse", "other") + WRONG_PASSWORD + PSYCOPG2 + "Connection refused\n", "other"),
        (PSYCOPG2.replace("warehouse", "other") + "Connection refused\n" + PSYCOPG2 + WRONG_PASSWORD, "ours"),
        # what they say of everything else
        (PSYCOPG2 + 'FATAL:  too many connections for role "app"\n', "other"),
        (PSYCOPG2 + "FATAL:  remaining connection slots are reserved for roles with …\n", "other"),
        (PSYCOPG2 + "Connection refused\n\tIs the server running on that host and accepting connections?", "other"),
        ('could not translate host name "warehouse.example.com" to address: Name not known', "other"),
        ("failed to resolve host 'warehouse.example.com': [Errno -2] Name or service not known", "other"),
        (PSYCOPG2 + "FATAL:  the database system is starting up\n", "other"),
        (PSYCOPG2 + 'FATAL:  pg_hba.conf rejects connection for host "10.0.0.9", user "app", no encryption', "other"),
        (PSYCOPG2 + NO_ENTRY, "other"),
        (PSYCOPG2 + 'FATAL:  database "warehouse" does not exist\n', "other"),
        (PSYCOPG2 + 'FATAL:  permission denied for database "d"\nDETAIL:  User does not have CONNECT …', "other"),
        (PSYCOPG2 + 'FATAL:  database "warehouse" is not currently accepting connections\n', "other"),
        ("permission denied for table orders\n", "other"),
        ('role "app" does not exist\n', "other"),  # the answer to a GRANT
        ("The conn_id `warehouse` isn't defined", "other"),
        # who, and where
        (PSYCOPG2 + WRONG_PASSWORD.replace('"app"', '"stranger"'), "other"),
        (PSYCOPG2.replace("5432", "5433") + WRONG_PASSWORD, "other"),
        (PSYCOPG2.replace("warehouse.", "another.") + WRONG_PASSWORD, "other"),
        (PSYCOPG2.replace("warehouse.", "WAREHOUSE.") + WRONG_PASSWORD, "ours"),
        (PSYCOPG2.replace("warehouse", "***") + WRONG_PASSWORD, "ours"),
        (PSYCOPG2 + WRONG_PASSWORD.replace("app", "***"), "unknown"),
        (PSYCOPG2 + WRONG_PASSWORD.replace("app", "***_alt"), "unknown"),
        (PSYCOPG2 + "fe_sendauth: no password supplied\n", "suspected"),
        (WRONG_PASSWORD, "suspected"),  # asyncpg, and libpq before 14, name no server
    ],
)
def test_text_of_an_error(text: str, verdict: str) -> None:
    """A refused login of one of our users at our server is ours, whatever driver says so (P5)."""
    assert judge([failed(error(text))], TASK, WAREHOUSE).kind == verdict


@pytest.mark.parametrize("text", [WRONG_PASSWORD, PSYCOPG2 + "fe_sendauth: no password supplied\n"])
def test_connection_id_of_the_operator_fills_the_gap(text: str) -> None:
    """Where the text does not say who or where, the operator's own connection id does."""
    assert judge([failed(error(text))], WITH_CONNECTION, WAREHOUSE).kind == "ours"


@pytest.mark.parametrize("refusal", [WRONG_PASSWORD, 'FATAL:  role "app" is not permitted to log in\n'])
@pytest.mark.parametrize(
    ("user", "stranger", "end"),
    [
        ('we"ird', "we", "\n"),
        ('"quoted"', "quoted", "\n"),
        ('a" b', "a", f"\n{PSYCOPG2}{NO_ENTRY}"),
        ('we"ird', "we", " (from a pooler)"),
        ('we"ird', "we", "')"),
    ],
)
def test_name_of_a_user_may_have_quotes(user: str, stranger: str, end: str, refusal: str) -> None:
    """The server does not escape them; who has a name that goes on after a quote is somebody else (P5)."""
    log = [failed(error(PSYCOPG2 + refusal.replace("app", user).strip() + end))]
    assert judge(log, TASK, dataclasses.replace(WAREHOUSE, users=frozenset({user}))).kind == "ours"
    assert judge(log, TASK, dataclasses.replace(WAREHOUSE, users=frozenset({stranger}))).kind == "other"


def test_asyncpg_needs_no_fatal() -> None:
    """The texts of asyncpg lack FATAL; there the kind of the error counts, and pg_hba.conf is not a credential."""
    kind = "InvalidAuthorizationSpecificationError"
    nologin = failed(error('role "app" is not permitted to log in', kind))
    assert judge([nologin], WITH_CONNECTION, WAREHOUSE).kind == "ours"
    entry = failed(error('no pg_hba.conf entry for host "10.0.0.9", user "app", database "d"', kind))
    assert judge([entry], WITH_CONNECTION, WAREHOUSE).kind == "other"


def test_addresses_are_compared_when_all_hosts_are_addresses() -> None:
    """Where an error names an address only (psycopg 3), that tells servers apart when the secret has addresses too."""
    by_address = dataclasses.replace(WAREHOUSE, hosts=("10.0.0.5", "fd00:0::1"))
    log = [failed(error(PSYCOPG3 + WRONG_PASSWORD))]
    assert judge(log, TASK, by_address).kind == "ours"
    assert judge(log, TASK, dataclasses.replace(WAREHOUSE, hosts=("10.0.0.6",))).kind == "other"
    log = [failed(error(PSYCOPG3.replace("10.0.0.5", "fd00::1") + WRONG_PASSWORD))]
    assert judge(log, TASK, by_address).kind == "ours"


@pytest.mark.parametrize(
    ("log", "verdict"),
    [
        # raise X from e; raise X in an except block; SQLAlchemy
        ([failed(error("cannot load", "RuntimeError"), error(PSYCOPG2 + WRONG_PASSWORD, is_cause=True))], "ours"),
        ([failed(error("cannot load", "RuntimeError"), error(PSYCOPG2 + WRONG_PASSWORD))], "ours"),
        # ExceptionGroup, also in a group
        ([failed(error("2 errors", "ExceptionGroup", exceptions=[[error(PSYCOPG2 + WRONG_PASSWORD)]]))], "ours"),
        (
            [
                failed(
                    error(
                        "1 error",
                        "ExceptionGroup",
                        exceptions=[[error("1 error", exceptions=[[error(PSYCOPG3 + WRONG_PASSWORD)]])]],
                    )
                )
            ],
            "ours",
        ),
        # a trigger in the triggerer, whose clock may be ahead, and whose log may come later
        ([triggered(error(PSYCOPG3 + WRONG_PASSWORD)), DEFERRED], "ours"),
        ([DEFERRED, triggered(error(PSYCOPG3 + WRONG_PASSWORD))], "ours"),
        ([triggered(error("the service answered 500", "ValueError")), DEFERRED], "other"),
        ([said("Pausing task as DEFERRED. ", "task"), DEFERRED], "unknown"),
        # which failed for another reason than what the task handled before, or is not known yet
        ([HANDLED, triggered(error("the service answered 500", "ValueError")), DEFERRED], "suspected"),
        ([HANDLED, triggered(error(PSYCOPG3 + WRONG_PASSWORD.replace("app", "me"))), DEFERRED], "other"),
        ([HANDLED, DEFERRED], "suspected"),
        # logged, and followed by another error: was it handled?
        ([HANDLED, failed(error("division by zero", "ZeroDivisionError"))], "suspected"),
        ([failed(error(PSYCOPG2 + WRONG_PASSWORD), event="no warehouse"), said("Task exited", "task")], "suspected"),
        # the final error counts, and what its callbacks log does not
        (
            [
                failed(error("division by zero", "ZeroDivisionError")),
                failed(error(PSYCOPG2 + WRONG_PASSWORD), event="Failed to run task callback"),
            ],
            "other",
        ),
        # `raise … from None`
        ([failed(error("cannot load", "RuntimeError"))], "other"),
        # a sensor that swallows errors until its time is over
        ([failed(error("Sensor has timed out; run duration of 61.0 seconds …", "AirflowSensorTimeout"))], "other"),
        # a shell, and a pool
        (
            [
                said(f"psql: error: {PSYCOPG2}{WRONG_PASSWORD}", "airflow.task.hooks.….SubprocessHook"),
                failed(error("Bash command failed. The command returned a non-zero exit code 2.", "AirflowException")),
            ],
            "suspected",
        ),
        (
            [
                said(f"error connecting in 'pool-1': {PSYCOPG3}{WRONG_PASSWORD}", "psycopg.pool"),
                failed(error("pool initialization incomplete after 5.0 sec", "PoolTimeout")),
            ],
            "suspected",
        ),
        (
            [
                said(f"psql: error: {PSYCOPG2}{WRONG_PASSWORD.replace('app', 'me')}", "x.SubprocessHook"),
                failed(error("Bash command failed.", "AirflowException")),
            ],
            "other",
        ),
        # printed by the task
        (
            [said(PSYCOPG2 + WRONG_PASSWORD, "task.stdout"), failed(error("division by zero", "ZeroDivisionError"))],
            "other",
        ),
        # no error: killed, left by sys.exit, or a log that is not there (yet)
        ([said("Task exited", "task")], "unknown"),
        ([said("Log file not found on worker 'x' at /logs/…", "")], "unknown"),
        ([], "unknown"),
        # odd, but JSON
        ([{"event": None, "logger": None, "error_detail": None}, failed(error(PSYCOPG2 + WRONG_PASSWORD))], "ours"),
    ],
)
def test_shape_of_a_log(log: list[Entry], verdict: str) -> None:
    """The final error counts, with its causes and groups; what only looks like it is not retried (P5)."""
    assert judge(log, TASK, WAREHOUSE).kind == verdict


@pytest.mark.parametrize(
    ("began", "user", "note", "verdict"),
    [
        (-1, "app", None, "ours"),
        (-1, "app_alt", None, "ours"),  # single-user: the name stays, the password changes
        (-1, "app", "Ask Ada before a retry", "ours"),
        (-1, "app", "Credential rotation id-0: …", "ours"),
        (0, "app_alt", None, "other"),  # the current credential failed: no retry would help
        (1, "app_alt", None, "other"),
        (1, "app", None, "ours"),  # a stale copy
        (1, "app", "Credential rotation id-0: …", "ours"),
        (1, "app", WAREHOUSE.note, "suspected"),
        # of another id, and of another secret that was rotated under the same one
        (1, "app", dataclasses.replace(WAREHOUSE, rotation_id="id-1: b").note, "ours"),
        (1, "app", dataclasses.replace(WAREHOUSE, connection_id="lake").note, "ours"),
        (1, "app", "Ask Ada before a retry", "ours"),
        (20, "app", "Ask Ada before a retry", "suspected"),
        (20, "app", None, "ours"),
    ],
)
def test_when_it_began(began: int, user: str, note: str | None, verdict: str) -> None:
    """A try counts when it began before the new version, or used a user that is current no longer; once (P5)."""
    task = dataclasses.replace(TASK, started=PUBLISHED + timedelta(minutes=began), note=note)
    log = [failed(error(PSYCOPG2 + WRONG_PASSWORD.replace("app", user)))]
    assert judge(log, task, WAREHOUSE).kind == verdict


def test_current_credential_that_failed_is_not_suspected() -> None:
    """What failed on the new credential is another trouble, however little the text tells."""
    log = [failed(error(WRONG_PASSWORD.replace("app", "app_alt")))]
    assert judge(log, AFTER, WAREHOUSE).kind == "other"


def test_engine_without_rules_has_no_verdict() -> None:
    """The texts of one database mean nothing for another."""
    mysql = dataclasses.replace(WAREHOUSE, engine="mysql")
    assert judge([failed(error(PSYCOPG2 + WRONG_PASSWORD))], TASK, mysql).kind == "other"


# -- rows of the list -----------------------------------------------------------------------------------------

ROW: Mapping[str, Any] = {
    "dag_id": "report",
    "dag_run_id": "run",
    "task_id": "extract",
    "map_index": -1,
    "try_number": 1,
    "start_date": "2026-11-24T11:59:00Z",
    "end_date": "2026-11-24T12:00:00Z",
    "note": None,
    "rendered_fields": {},
}


def test_row_of_the_list() -> None:
    """What Airflow lists is read with its times in UTC; without them the task never began."""
    assert FailedTask.from_json(ROW) == TASK
    assert FailedTask.from_json({**ROW, "start_date": None}).started is None
    assert FailedTask.from_json({**ROW, "end_date": None}).ended is None
    assert FailedTask.from_json({**ROW, "start_date": "2026-11-24T11:59:00"}) == TASK


@pytest.mark.parametrize(
    ("rendered", "may_use", "names"),
    [
        ({}, True, False),  # a function: its log has to be read
        (None, True, False),  # kept for 30 runs only
        ({"sql": "SELECT 1", "conn_id": "warehouse"}, True, True),
        ({"conn_id": "Ware_House"}, False, False),
        ({"conn_id": "elsewhere"}, False, False),
        ({"conn_id": "***"}, True, False),
        ({"conn_id": None}, True, False),
        ({"conn_id": "elsewhere", "destination_conn_id": "warehouse"}, True, True),
        ({"aws_conn_id": "aws"}, True, False),  # may have a second one that it does not show
    ],
)
def test_log_of_another_connection_is_not_read(
    rendered: Mapping[str, object] | None, may_use: bool, names: bool
) -> None:
    """Operators that show their connection save us the log."""
    task = FailedTask.from_json({**ROW, "rendered_fields": rendered})
    assert (task.may_use(WAREHOUSE), task.names(WAREHOUSE)) == (may_use, names)


def test_underscore_and_dash_are_one_in_a_connection_id() -> None:
    """Airflow's backend reads `my_db` from the secret `my-db`."""
    task = FailedTask.from_json({**ROW, "rendered_fields": {"conn_id": "my_db"}})
    assert task.may_use(dataclasses.replace(WAREHOUSE, connection_id="my-db"))
