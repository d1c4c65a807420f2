"""What a rotation did, as JSON: public names, the same in answers, events and logs."""

import json
from datetime import UTC, datetime, timedelta, timezone

from rotators.outcome import AirflowReport, Outcome, RetriedRun, Step, TaskRef, timestamp
from tests.local_time import local_time

NOW = datetime(2026, 11, 24, 12, 30, 15, 999_999, tzinfo=UTC)


def test_the_least_outcome_has_every_name() -> None:
    """Who reads an outcome finds each name of the contract, with null where there is nothing to say."""
    assert Outcome(secret="s", status="failed", reason="why", cause="event").as_json() == {
        "secret": "s",
        "status": "failed",
        "reason": "why",
        "cause": "event",
        "by": None,
        "rotationId": None,
        "version": None,
        "previousVersion": None,
        "strategy": None,
        "user": None,
        "expiresOn": None,
        "retireAt": None,
        "steps": [],
        "airflow": None,
        "warnings": [],
    }


def test_a_full_outcome_is_as_the_contract_says() -> None:
    """Names in camelCase, times in UTC, task instances as pairs; and all of it is JSON."""
    task = TaskRef("sales", "run-1", "load", 3, "no cause found")
    report = AirflowReport(
        "healed",
        connection="cleared",
        retried=(RetriedRun("sales", "run-1", (("extract", -1), ("load", 2))),),
        suspected=(task,),
        unknown=(task, task),
        examined=7,
        warnings=("not in the JSON: the outcome has warnings",),
    )
    outcome = Outcome(
        secret="airflow-connections-warehouse",
        status="rotated",
        reason="due",
        cause="near-expiry",
        by="ann@example.com o-1",
        obstacle="in grace",
        rotation_id="event-1",
        version="v2",
        previous_version="v1",
        strategy="alternating-users",
        user="app_alt",
        expires_on=NOW + timedelta(days=90),
        retire_at=NOW + timedelta(days=1),
        steps=(Step("lock", 12.345), Step("publish", 40)),
        airflow=report,
        warnings=("w",),
    )
    shown = {"dagId": "sales", "dagRunId": "run-1", "taskId": "load", "mapIndex": 3, "why": "no cause found"}
    expected = {
        "secret": "airflow-connections-warehouse",
        "status": "rotated",
        "reason": "due",
        "cause": "near-expiry",
        "by": "ann@example.com o-1",
        "rotationId": "event-1",
        "version": "v2",
        "previousVersion": "v1",
        "strategy": "alternating-users",
        "user": "app_alt",
        "expiresOn": "2027-02-22T12:30:15Z",
        "retireAt": "2026-11-25T12:30:15Z",
        "steps": [{"step": "lock", "milliseconds": 12.3}, {"step": "publish", "milliseconds": 40}],
        "airflow": {
            "status": "healed",
            "connection": "cleared",
            "retried": [{"dagId": "sales", "dagRunId": "run-1", "tasks": [["extract", -1], ["load", 2]]}],
            "suspected": [shown],
            "unknown": [shown, shown],
            "examined": 7,
        },
        "warnings": ["w"],
    }
    assert json.loads(json.dumps(outcome.as_json())) == expected


def test_the_least_report_of_airflow_says_that_nothing_was_touched() -> None:
    """P5: what was not looked at was neither retried nor suspected."""
    assert AirflowReport("pending").as_json() == {
        "status": "pending",
        "connection": None,
        "retried": [],
        "suspected": [],
        "unknown": [],
        "examined": 0,
    }


def test_a_timestamp_is_in_utc_with_whole_seconds() -> None:
    """One way to write a time, whatever zone it was in, or the machine is in."""
    assert timestamp(NOW) == "2026-11-24T12:30:15Z"
    with local_time("Asia/Kolkata"):
        assert timestamp(NOW) == "2026-11-24T12:30:15Z"
    assert timestamp(NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))) == "2026-11-24T12:30:15Z"
    assert timestamp(None) is None
