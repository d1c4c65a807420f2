"""The queries of docs/alerts.md, audit.md and troubleshooting.md, against the lines that real rotations write."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rotators.databases.postgresql import PostgreSQLEngine
from rotators.dispatch import deliver, sweep
from rotators.errors import AirflowRefusedError, LockHeldError, RotationError, SettingsError, TransientError
from rotators.outcome import AirflowReport, RetriedRun, TaskRef
from rotators.rotation import rotate
from rotators.settings import read_settings
from rotators.vault import Vault
from tests.rotation.test_promises import FakeAirflow
from tests.telemetry import lines
from tests.world import World

# A query about one secret or rotation names an example.
EXAMPLES = ("secret", "rotationId")
DOCS = Path(__file__).parents[2] / "docs"
NEW_VERSION = "Microsoft.KeyVault.SecretNewVersionCreated"


@dataclass(frozen=True)
class Query:
    """What a query asks of our lines: `equal` has paths and the values allowed there, `named` all paths."""

    title: str
    equal: Mapping[str, tuple[str, ...]]
    named: frozenset[str]

    def takes(self, line: Mapping[str, Any]) -> bool:
        return all(found(line, path) in values for path, values in self.equal.items())


def found(line: Any, path: str) -> Any:
    """Return what stands at a path like `airflow.status`; of a list what its first item has; None if nothing does."""
    for name in path.split("."):
        if isinstance(line, list):
            line = line[0] if line else None
        line = line.get(name) if isinstance(line, dict) else None
    return line


def queries(name: str) -> Iterator[Query]:
    for section in (DOCS / name).read_text().split("\n## ")[1:]:
        for text in re.findall(r"```kusto\n(.*?)```", section, re.DOTALL):
            if "parse_json(Message)" not in text:
                continue
            text = re.sub(r'\["([^"]+)"\]', r".\1", text)  # noqa: PLW2901 (m.byState["x y"] is the path byState.x y)
            for item, path in re.findall(r"mv-expand (\w+) = (m\.[\w.]+)", text):
                text = re.sub(rf"\b{item}\.", f"{path}.", text)  # noqa: PLW2901
            equal = {
                path: tuple(re.findall(r'"([^"]+)"', value))
                for path, value in re.findall(r'tostring\(m\.([\w.]+)\) (?:== |in \()("[^"]+"(?:, "[^"]+")*)', text)
                if path not in EXAMPLES
            }
            named = re.findall(r"\bm\.(\w[\w. ]*\w)", text)
            yield Query(section.partition("\n")[0], equal, frozenset(named))


class Down:
    def publish(self, *_: object) -> None:
        raise TransientError("the topic took no event")


class Suspecting(FakeAirflow):
    def refresh(self, rotated: Any) -> AirflowReport:
        super().refresh(rotated)
        task = TaskRef("sales", "run-1", "load", -1, "a shell task that hides the cause")
        retried = (RetriedRun("sales", "run-1", (("extract", -1),)),)
        return AirflowReport("healed", "cleared", retried=retried, suspected=(task,), examined=2)


def attempt(here: World, name: str, **changes: Any) -> None:
    try:
        rotate(here.systems, here.trigger(name, **changes))
    except RotationError:
        return


def everything_that_can_happen(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each kind of line be written, by the program itself."""
    suspecting = here.app(airflow=Suspecting())
    refusing = here.app(topic=None, airflow=FakeAirflow(AirflowRefusedError("grant Op"))).systems
    name = here.alternating(rotation_in_use="wait")
    with psycopg.connect(here.value(name)):
        rotate(suspecting.systems, here.trigger(name, by="ada", reason="audit"))
        here.alternating(rotation_every="often")
        here.clock.advance(timedelta(hours=25))
        sweep(here.app(topic=None).systems)  # its retirement waits
    rotate(refusing, here.trigger(here.alternating()))
    here.clock.advance(timedelta(hours=2))
    sweep(refusing)  # pending for two hours
    other = here.alternating()
    attempt(here.app(topic=Down()), other)
    here.vault.put(other, here.value(other).replace(here.value(other).split(":")[2].split("@")[0], "by-hand"))
    deliver(here.systems, here.event(NEW_VERSION, other))
    for error in (LockHeldError("busy"), TransientError("the database cannot be reached")):
        with monkeypatch.context() as patch:
            patch.setattr(PostgreSQLEngine, "admin", raising(error))
            attempt(here, other, force=True)
    with monkeypatch.context() as patch:
        patch.setattr(Vault, "publish", raising(ValueError("surprise")))
        attempt(here, other, force=True)
    attempt(here, other, force=True, revoke=True, reason="leaked")
    here.make_due()
    sweep(refusing)  # overdue


def raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_a_query_asks_for_stands_in_lines_that_are_really_written(
    here: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert on a name or a value that no line has would never ring."""
    caplog.set_level(logging.INFO)
    everything_that_can_happen(here, monkeypatch)
    written = lines(caplog)
    asked = [*queries("alerts.md"), *queries("audit.md"), *queries("troubleshooting.md")]
    assert len(asked) == 18
    wrong = []
    for query in asked:
        taken = [line for line in written if query.takes(line)]
        missing = {path for path in query.named if all(found(line, path) is None for line in taken)}
        if not taken or missing:
            wrong.append((query.title, dict(query.equal), len(taken), missing))
    assert wrong == []


def test_every_alert_has_its_section_and_the_other_way_round() -> None:
    text = (DOCS / "alerts.md").read_text()
    linked = re.findall(r"^\| \[([^]]+)\]\(#([\w-]+)\) \|", text, re.MULTILINE)
    assert [title for title, _ in linked] == re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert all(anchor == title.lower().replace(" ", "-") for title, anchor in linked)


def test_the_line_of_unusable_settings_begins_as_its_alert_says() -> None:
    """It is the one line that is no JSON."""
    with pytest.raises(SettingsError, match=r"^app settings: "):
        read_settings({})
    assert 'startswith "app settings: "' in (DOCS / "alerts.md").read_text()


def test_traces_are_kept_out_of_sampling() -> None:
    """Or an alert might miss its one line."""
    host = json.loads((DOCS.parent / "host.json").read_text())
    assert "Trace" in host["logging"]["applicationInsights"]["samplingSettings"]["excludedTypes"].split(";")
