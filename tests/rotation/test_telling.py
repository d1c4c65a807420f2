"""What an operator is told of real rotations: lines, outcomes, spans and metrics, and by whom each was asked for."""

import logging
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest

from rotators.api import list_secrets
from rotators.databases.postgresql import PostgreSQLEngine
from rotators.dispatch import deliver, sweep
from rotators.errors import LockHeldError, PermanentError, RotationError, TransientError
from rotators.outcome import timestamp
from rotators.policy import read_state
from rotators.rotation import rotate
from rotators.vault import Vault
from tests.rotation.test_leaks import found, secrets_of
from tests.rotation.test_promises import FakeAirflow
from tests.telemetry import Telemetry, lines, telemetry
from tests.world import ADMIN_SECRET, World

__all__ = ["telemetry"]

NEW_VERSION = "Microsoft.KeyVault.SecretNewVersionCreated"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def test_a_rotation_is_one_line_and_each_step_one_more(here: World, log: pytest.LogCaptureFixture) -> None:
    """The steps of the outcome are those of the lines, in the same order."""
    name = here.alternating()
    outcome = rotate(here.systems, here.trigger(name, id="key-1", by="ada", reason="leaver"))
    (told,) = lines(log, "rotation rotated")
    assert {**told, "event": None} == {**outcome.as_json(), "event": None}
    assert (told["by"], told["reason"], told["cause"], told["rotationId"]) == ("ada", "leaver", "http", "key-1")
    steps = lines(log, "step")
    assert [step["step"] for step in steps] == [step.name for step in outcome.steps]
    assert {(step["secret"], step["rotationId"]) for step in steps} == {(name, "key-1")}
    assert len(lines(log)) == len(steps) + 1


def acts(here: World, name: str, log: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Return event, who asked, and cause of all that was told of a secret since the last call."""
    told = [(line["event"], line["by"], line["cause"]) for line in lines(log) if "cause" in line]
    log.clear()
    assert [
        {"by": event.data["by"], "cause": event.data["cause"]} for event in here.topic.events if event.secret == name
    ] == [{"by": by, "cause": cause} for event, by, cause in told if event != "rotation skipped"]
    here.topic.events.clear()
    return told


def test_every_act_that_changes_something_says_who_asked_and_why(here: World, log: pytest.LogCaptureFixture) -> None:
    """In the line and in the event: rotate, retire, revoke, reconcile."""
    name = here.alternating()
    there = here.app(topic=None).systems
    rotate(here.systems, here.trigger(name, by="ada 1234", reason="audit"))
    assert acts(here, name, log) == [("rotation rotated", "ada 1234", "http")]
    here.clock.advance(timedelta(hours=25))
    sweep(here.systems)  # with a topic it only asks for it
    (requested,) = here.topic.events
    assert requested.data["By"] == "timer"
    here.topic.events.clear()
    log.clear()
    sweep(there)
    retired, skipped = (line for line in lines(log) if "cause" in line)
    assert (retired["by"], retired["cause"], retired["reason"]) == ("timer", "sweep", "the old credential is retired")
    assert skipped["event"] == "rotation skipped"
    log.clear()
    rotate(here.systems, here.trigger(name, by="eve", reason="leaked", revoke=True))
    (line,) = lines(log, "rotation rotated")
    assert "revoke" in [step["step"] for step in line["steps"]]
    state = read_state(here.tags(name))
    assert state is not None
    assert state.revokes
    assert (line["reason"], line["retireAt"]) == ("leaked", timestamp(state.at))
    assert acts(here, name, log) == [("rotation rotated", "eve", "http")]
    here.vault.put(name, here.value(name).replace(here.value(name).split(":")[2].split("@")[0], "by-hand"))
    deliver(here.systems, here.event(NEW_VERSION, name))
    (inherited,) = lines(log, "policy inherited")
    assert (inherited["secret"], inherited["version"]) == (name, here.vault.current(name).version)
    assert [line["step"] for line in lines(log, "step")].count("reconcile") == 1
    assert acts(here, name, log) == [("rotation resumed", "event-grid", "reconcile")]
    assert here.logs_in(name)


def test_what_is_late_is_told_at_each_sweep_until_it_is_mended(
    here: World, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert that is grouped by secret stays up for as long as it lasts, and goes by itself."""
    there = here.app(topic=None, airflow=FakeAirflow(TransientError("Airflow cannot be reached"))).systems
    fresh, pending, paused = here.alternating(), here.alternating(), here.alternating(rotation_enabled="false")
    rotate(there, here.trigger(pending))
    sweep(there)
    assert (lines(log, "rotation overdue"), lines(log, "rotation pending")) == ([], [])
    here.clock.advance(timedelta(hours=2))
    log.clear()
    sweep(there)
    (late,) = lines(log, "rotation pending")
    assert (late["secret"], late["pending"]) == (pending, ["refresh"])
    here.make_due()

    def is_down(*_: object, **__: object) -> None:
        raise TransientError("the database cannot be reached")

    monkeypatch.setattr(PostgreSQLEngine, "admin", is_down)
    for _ in range(2):
        log.clear()
        sweep(there)
        overdue = {line["secret"] for line in lines(log, "rotation overdue")}
        assert overdue == {fresh, pending}
        (swept,) = lines(log, "sweep")
        assert (swept["overdue"], swept["byState"]["due"], swept["byState"]["paused"]) == (2, 2, 1)
    monkeypatch.undo()
    sweep(there)
    log.clear()
    sweep(there)
    assert lines(log, "rotation overdue") == []
    assert paused not in {line.get("secret") for line in lines(log)}


def test_what_is_delayed_says_what_kind_of_trouble_it_is(
    here: World, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is held for long has an alert of its own."""
    name = here.alternating()

    def held(*_: object, **__: object) -> None:
        raise LockHeldError("the secret is being rotated")

    monkeypatch.setattr(PostgreSQLEngine, "admin", held)
    with pytest.raises(LockHeldError):
        rotate(here.systems, here.trigger(name))
    (delayed,) = lines(log, "rotation delayed")
    assert (delayed["secret"], delayed["problem"]) == (name, "Rotation in progress")


# -- OpenTelemetry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["alternating", "single"])
def test_a_rotation_is_one_trace_with_a_span_for_each_step(here: World, telemetry: Telemetry, strategy: str) -> None:
    """Each step hangs on the rotation, or on the step that it is part of."""
    name = here.alternating() if strategy == "alternating" else here.single(rotation_admin=ADMIN_SECRET)
    outcome = rotate(here.systems, here.trigger(name))
    rotation = telemetry.span("rotation")
    assert [span.name for span in telemetry.spans] == [*(step.name for step in outcome.steps), "rotation"]
    parents = {span.context.span_id: span.name for span in telemetry.spans}
    of = {span.name: parents[span.parent.span_id] for span in telemetry.spans if span.parent is not None}
    assert of.pop("publish") == ("rotation" if strategy == "alternating" else "apply")
    assert set(of.values()) == {"rotation"}
    assert {span.context.trace_id for span in telemetry.spans} == {rotation.context.trace_id}
    attributes = dict(rotation.attributes or {})
    assert (attributes["rotation.secret"], attributes["rotation.version"]) == (name, outcome.version)


def test_a_retirement_is_a_trace_too(here: World, telemetry: Telemetry) -> None:
    """Also where the sweep does it in a thread of its own."""
    rotate(here.systems, here.trigger(here.alternating()))
    here.clock.advance(timedelta(hours=25))
    sweep(here.app(topic=None).systems)
    retirement = telemetry.span("retirement").context
    steps = [s.name for s in telemetry.spans if s.parent is not None and s.parent.span_id == retirement.span_id]
    assert steps == ["verify", "retire", "disable"]


def test_metrics_tell_what_became_of_the_rotations(here: World, telemetry: Telemetry) -> None:
    airflow = FakeAirflow()
    there = here.app(topic=None, airflow=airflow).systems
    rotate(there, here.trigger(here.alternating()))
    with pytest.raises(PermanentError):
        rotate(there, here.trigger(here.alternating(rotation_admin="nobody-has-it")))
    sweep(there)
    measured = telemetry.metrics()
    rotated = {"status": "rotated", "cause": "http", "strategy": "alternating-users"}
    failed = {"status": "failed", "cause": "http", "strategy": "unknown"}
    assert (rotated, 1) in measured["rotation.outcomes"]
    assert (failed, 1) in measured["rotation.outcomes"]
    assert (rotated, 1) in measured["rotation.duration"]
    assert (failed, 1) in measured["rotation.duration"]
    assert measured["airflow.retried_tasks"] == [({}, 1)]


def test_the_sweep_measures_states_from_its_list(here: World, telemetry: Telemetry) -> None:
    """The states are those that GET /api/secrets shows, and no secret is asked for because of them."""
    here.alternating(rotation_enabled="false")
    here.alternating(rotation_every="often")
    for _ in range(2):
        here.alternating()
    sweep(here.systems)
    assert [request.path for request in here.vault.requests if request.status == 200] == ["/secrets"]
    shown: list[Any] = list_secrets(here.systems, "", {}).body["value"]  # type: ignore[assignment]
    states = [secret["status"] for secret in shown]
    measured = telemetry.metrics()
    by_state = {labels["state"]: number for labels, number in measured["secrets.by_state"]}
    assert {state: number for state, number in by_state.items() if number} == {s: states.count(s) for s in states}
    assert measured["secrets.overdue"] == [({}, 0)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("strategy", ["alternating", "single", "self"])
def test_no_password_is_in_a_span_a_metric_or_a_log_attribute(
    here: World,
    telemetry: Telemetry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
) -> None:
    """P3: also when a library's error has the password in its text, and at DEBUG."""
    caplog.set_level(logging.DEBUG)
    if strategy == "alternating":
        name = here.alternating()
    else:
        name = here.single(rotation_admin=ADMIN_SECRET if strategy == "single" else "self")
    for fault in (
        {"method": "PUT", "drop": True, "when": "after"},
        {"method": "GET", "status": 403, "code": "Forbidden"},
    ):
        here.vault.fail(**fault)
        with pytest.raises(RotationError) if fault["method"] == "GET" else nullcontext():
            rotate(here.systems, here.trigger(name, force=True))
    publish = Vault.publish

    def break_down(_self: Vault, _before: object, published: Any, **_: object) -> None:
        raise ValueError(published.reveal())

    monkeypatch.setattr(Vault, "publish", break_down)
    with pytest.raises(RotationError):
        rotate(here.systems, here.trigger(name, force=True))
    monkeypatch.setattr(Vault, "publish", publish)
    rotate(here.systems, here.trigger(name, revoke=True, force=True))
    sweep(here.app(topic=None).systems)
    secrets = secrets_of(here)
    kept = telemetry.everything()
    assert len(secrets) > 2
    assert "error.type" in kept
    assert found(secrets, kept) == []
