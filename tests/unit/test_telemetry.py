"""Spans, metrics and log attributes, with OpenTelemetry's own SDK; and that without it there is nothing at all."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rotators import telemetry as program
from rotators.decision import Trigger
from rotators.errors import LockHeldError, PolicyError, UnexpectedError
from rotators.journal import write_log
from rotators.outcome import AirflowReport, Outcome, RetriedRun
from tests.telemetry import Telemetry, telemetry

__all__ = ["telemetry"]

ROOT = Path(__file__).parents[2]
TRIGGER = Trigger(kind="http", secret="airflow-connections-warehouse", id="key-1", by="ada")
OUTCOME = Outcome(
    secret=TRIGGER.secret, status="rotated", reason="asked for", cause="http", by="ada", strategy="single-user"
)


def test_off_costs_no_import() -> None:
    """A rotation is told, timed and counted, and nothing of OpenTelemetry was loaded for it, installed as it is."""
    code = """if True:
        import sys
        from types import SimpleNamespace
        import function_app
        from rotators.decision import Trigger
        from rotators.journal import Invocation, report, told_as
        from rotators.outcome import AirflowReport, Outcome
        from rotators.telemetry import measure_secrets

        def work(systems, trigger):
            run = Invocation(systems, trigger)
            with run.step("read"):
                measure_secrets({"due": 1}, overdue=1)
            return report(systems, Outcome("s", "rotated", "r", "http", steps=tuple(run.steps)))

        told = told_as("rotation")(work)(SimpleNamespace(topic=None), Trigger("http", "s", "i", "key"))
        print(told.status, [name for name in sys.modules if name.startswith("opentelemetry")])
    """
    environment = {"PATH": os.environ["PATH"], "KEY_VAULT_URL": "https://rotation.vault.azure.net"}
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("rotated []\n", "")


def test_a_flow_is_a_span_that_says_who_asked_and_what_came_of_it(telemetry: Telemetry) -> None:
    with program.flow("rotation", TRIGGER) as tell, program.step("publish"):
        tell(OUTCOME)
    rotation, publish = telemetry.span("rotation"), telemetry.span("publish")
    assert publish.parent is not None
    assert publish.parent.span_id == rotation.context.span_id
    expected = {
        "rotation.secret": TRIGGER.secret,
        "rotation.id": "key-1",
        "rotation.by": "ada",
        "rotation.status": "rotated",
        "rotation.reason": "asked for",
    }
    assert expected.items() <= dict(rotation.attributes or {}).items()
    assert telemetry.metrics()["rotation.duration"] == [
        ({"status": "rotated", "cause": "http", "strategy": "single-user"}, 1)
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PolicyError("open sesame"), "failed"),
        (LockHeldError("open sesame"), "delayed"),
        (UnexpectedError("open sesame"), "fault"),
        (ValueError("open sesame"), "fault"),
    ],
)
def test_of_an_exception_only_its_class_is_told(telemetry: Telemetry, error: Exception, status: str) -> None:
    """P3: a library's text may hold a whole connection string, so neither text nor stack goes along."""
    with pytest.raises(type(error)), program.flow("rotation", TRIGGER), program.step("verify"):
        raise error
    for span in telemetry.spans:
        assert not span.status.is_ok
        assert dict(span.attributes or {})["error.type"] == type(error).__name__
        assert span.events == ()
    assert dict(telemetry.span("rotation").attributes or {})["rotation.status"] == status
    assert "sesame" not in telemetry.everything()


def test_who_had_nothing_to_do_is_no_rotation(telemetry: Telemetry) -> None:
    with program.flow("retirement", TRIGGER):
        pass
    assert telemetry.metrics()["retirement.duration"] == [
        ({"status": "nothing", "cause": "http", "strategy": "unknown"}, 1)
    ]


def test_outcomes_and_retried_tasks_are_counted(telemetry: Telemetry) -> None:
    """Mapped task instances count each; a label that cannot be known says so."""
    retried = (RetriedRun("a", "1", (("load", 0), ("load", 1))), RetriedRun("b", "2", (("load", -1),)))
    program.count(OUTCOME)
    program.count(Outcome("s", "resumed", "r", "sweep", airflow=AirflowReport("healed", retried=retried)))
    measured = telemetry.metrics()
    assert measured["rotation.outcomes"] == [
        ({"status": "rotated", "cause": "http", "strategy": "single-user"}, 1),
        ({"status": "resumed", "cause": "sweep", "strategy": "unknown"}, 1),
    ]
    assert measured["airflow.retried_tasks"] == [({}, 3)]


def test_a_state_that_nobody_is_in_any_more_goes_back_to_zero(telemetry: Telemetry) -> None:
    program.measure_secrets({"due": 2, "fresh": 1}, overdue=1)
    telemetry.metrics()
    program.measure_secrets({"due": 0, "fresh": 3}, overdue=0)
    measured = telemetry.metrics()
    assert ({"state": "due"}, 0) in measured["secrets.by_state"]
    assert ({"state": "fresh"}, 3) in measured["secrets.by_state"]
    assert measured["secrets.overdue"] == [({}, 0)]


def test_log_lines_carry_their_plain_fields_as_attributes(telemetry: Telemetry) -> None:
    """Application Insights shows them as custom dimensions; the message stays the same JSON, for one query for both."""
    write_log(logging.WARNING, "rotation skipped", secret="s", milliseconds=1.5, version=None, steps=[], again=True)
    (attributes,) = telemetry.log_attributes()
    assert {name: value for name, value in attributes.items() if name.startswith("rotation.")} == {
        "rotation.event": "rotation skipped",
        "rotation.secret": "s",
        "rotation.milliseconds": 1.5,
        "rotation.again": True,
    }
