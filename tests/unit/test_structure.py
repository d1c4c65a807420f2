"""What the design promises about the shape of the program, read off its sources."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import deque
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from rotators.settings import read_settings, sweep_schedule

ROOT = Path(__file__).parents[2]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "rotators").rglob("*.py")
}
# The modules that speak to the outside world, each with its own part of it.
OUTSIDE = {
    "Key Vault": ("rotators.vault",),
    "Airflow": ("rotators.airflow",),
    "databases": ("rotators.databases.",),
    "Event Grid": ("rotators.events",),
}
PURE = ("decision", "policy", "connection_secret", "credential", "outcome", "errors", "permissions", "diagnosis")
THE_PROGRAM_AND_ITS_TRIGGERS = [*SOURCES.values(), ROOT / "function_app.py"]


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file names in an import, wherever in it; of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def imported_here(module: str) -> frozenset[str]:
    return imported(SOURCES[module]) & (SOURCES.keys() - {module, "rotators"})


def part_of(module: str) -> str | None:
    return next((part for part, starts in OUTSIDE.items() if module.startswith(starts)), None)


# -- Imports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", THE_PROGRAM_AND_ITS_TRIGGERS, ids=lambda path: path.stem)
def test_what_is_deployed_does_not_know_sandbox_and_tests(path: Path) -> None:
    """They are not on Azure, and a stand-in must not be mistaken for the real thing."""
    assert {name.partition(".")[0] for name in imported(path)}.isdisjoint({"sandbox", "tests", "benchmarks"})


def test_modules_of_the_outside_world_do_not_know_each_other() -> None:
    """Each outside system has one module, and the flow alone brings them together."""
    for module in SOURCES:
        if (part := part_of(module)) is not None:
            others = {other for other in imported_here(module) if part_of(other) not in (None, part)}
            assert not others, f"{module} imports {others}"
    assert {part_of(module) for module in SOURCES} == {*OUTSIDE, None}


@pytest.mark.parametrize("name", PURE)
def test_what_decides_reaches_nothing_outside(name: str) -> None:
    """What a pure module imports, over whatever detour, has no network, no environment and no clock to wait for."""
    reached, waiting = set[str](), deque([f"rotators.{name}"])
    while waiting:
        module = waiting.popleft()
        reached.add(module)
        if part_of(module) is not None:
            continue
        waiting += imported_here(module) - reached
        names = imported(SOURCES[module])
        assert {n.partition(".")[0] for n in names} <= sys.stdlib_module_names | {"rotators", "cronsim"}, module
        assert names.isdisjoint({"asyncio", "http.client", "os", "socket", "ssl", "subprocess", "time"}), module
    # `permissions` has the sslmodes from `settings`, which has from Airflow's module the type of what that is given.
    assert {part_of(module) for module in reached} <= {None, "Airflow"}


def test_arrows_point_one_way() -> None:
    """No module imports, over whatever detour, one that imports it."""
    order = list(TopologicalSorter({module: imported_here(module) for module in SOURCES}).static_order())
    assert order.index("rotators.decision") < order.index("rotators.rotation") < order.index("rotators.dispatch")


def test_a_cold_start_does_not_wait_for_clients_that_are_seldom_used() -> None:
    """`airflow_client` takes longer to import than all the rest; the others are for a topic, the page, and tests."""
    names = ("airflow_client", "azure.eventgrid", "jinja2", "psycopg2", "sqlalchemy")
    assert in_a_fresh_process(f"import function_app, sys; print([n for n in {names} if n in sys.modules])") == "[]\n"


def test_the_app_is_imported_without_looking_for_garbage() -> None:
    """Else it is looked for some thirty times in vain; afterwards the collector is on, and leaves alone what stays."""
    code = (
        "import gc; collected = lambda: sum(g['collections'] for g in gc.get_stats()); before = collected(); "
        "import function_app; print(collected() - before < 5, gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    assert in_a_fresh_process(code) == "True True True\n"


def in_a_fresh_process(code: str) -> str:
    """Return what this prints, where nothing of the app is imported yet."""
    environment = {"PATH": os.environ["PATH"], "KEY_VAULT_URL": "https://rotation.vault.azure.net"}
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


# -- Triggers ----------------------------------------------------------------------------------------------------

TRIGGERS = {
    "rotation_event",
    "rotation_sweep",
    "rotate_secret",
    "show_secret",
    "list_secrets",
    "show_history",
    "check_secret",
    "roll_back_secret",
    "update_secret",
    "rotate_secrets",
    "health",
    "dashboard",
    "openapi",
}


def triggers() -> Iterator[ast.AST]:
    for node in ast.parse((ROOT / "function_app.py").read_text()).body:
        for decorator in getattr(node, "decorator_list", []):
            if ast.unparse(decorator).startswith("app."):
                yield node


def test_triggers_are_plain_functions() -> None:
    """An `async def` that calls a blocking SDK stops every invocation of the instance."""
    found = list(triggers())
    assert found
    assert all(isinstance(node, ast.FunctionDef) for node in found)
    assert not any(isinstance(node, ast.AsyncFunctionDef) for path in SOURCES.values() for node in nodes(path))


def test_triggers_have_the_names_of_the_contract() -> None:
    """Subscriptions, alerts and the portal know them by these names."""
    names = {getattr(node, "name", "") for node in triggers()}
    assert names == TRIGGERS


# -- Settings ----------------------------------------------------------------------------------------------------

SETTINGS = {
    "KEY_VAULT_URL",
    "AZURE_CLIENT_ID",
    "AIRFLOW_URL",
    "AIRFLOW_AUTH",
    "AIRFLOW_USERNAME",
    "AIRFLOW_PASSWORD",
    "AIRFLOW_PASSWORD_SECRET",
    "AIRFLOW_TOKEN",
    "AIRFLOW_ENTRA_SCOPE",
    "AIRFLOW_CONNECTIONS",
    "AIRFLOW_LOOKBACK",
    "AIRFLOW_MAX_EXAMINED",
    "AIRFLOW_CONNECTIONS_PREFIX",
    "EVENT_GRID_TOPIC_ENDPOINT",
    "EVENT_GRID_TOPIC_KEY",
    "ROTATION_SWEEP_SCHEDULE",
    "ROTATION_CONCURRENCY",
    "ROTATION_ALLOWED_HOSTS",
    "ROTATION_MIN_SSLMODE",
    "ROTATION_TRUST_PRINCIPAL",
}
# azure-identity's own, which names another credential on a laptop.
NOT_OURS = {"AZURE_TOKEN_CREDENTIALS"}


class Asked(dict[str, str]):
    """Settings that note which of them are asked for."""

    def __init__(self, **settings: str) -> None:
        super().__init__(settings)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:  # Any: as dict has it
        self.names.add(name)
        return super().get(name, default)


def test_the_settings_that_are_read_are_those_of_the_contract() -> None:
    """A setting that is documented and not read, or the other way round, is a trap."""
    names: set[str] = set()
    for auth in ("password", "token", "entra"):
        asked = Asked(
            KEY_VAULT_URL="https://v",
            AIRFLOW_URL="https://a",
            AIRFLOW_AUTH=auth,
            AIRFLOW_USERNAME="u",
            AIRFLOW_PASSWORD_SECRET="s",
            AIRFLOW_TOKEN="t",
            AIRFLOW_ENTRA_SCOPE="e",
        )
        read_settings(asked)
        sweep_schedule(asked)
        names |= asked.names
    assert names == SETTINGS | NOT_OURS


def test_the_environment_is_read_in_one_place() -> None:
    """Who looks for what a setting does finds it in settings.py; others only hand the environment over."""
    for path in THE_PROGRAM_AND_ITS_TRIGGERS:
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.stem != "settings":
                assert node.value not in SETTINGS | NOT_OURS, f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in {"os.environ", "os.getenv"}:
                assert path.stem in {"systems", "function_app"}, f"{path.name}:{node.lineno}"


# -- What is deployed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> dict[str, dict[str, Any]]:
    """The packages of uv.lock by name."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return {package["name"]: package for package in packages}


def pinned() -> dict[str, str]:
    text = (ROOT / "requirements.txt").read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\\n]+)", text, re.MULTILINE)
    assert len(pins) == len(dict(pins)) == sum(line[:1].isalnum() for line in text.splitlines())
    return dict(pins)


def runtime(locked: dict[str, dict[str, Any]]) -> set[str]:
    """Everything that the project needs to run, through all that needs something itself."""
    waiting = deque(locked["airflow-credential-rotation"]["dependencies"])
    asked: set[tuple[str, str]] = set()
    while waiting:
        dependency = waiting.popleft()
        package = locked[dependency["name"]]
        for extra in ("", *dependency.get("extra", ())):
            if (package["name"], extra) not in asked:
                asked.add((package["name"], extra))
                waiting += (
                    package.get("optional-dependencies", {}).get(extra, ())
                    if extra
                    else package.get("dependencies", ())
                )
    return {name for name, _ in asked}


def test_requirements_are_those_of_the_lock(locked: dict[str, dict[str, Any]]) -> None:
    """What is deployed is what was tested: the same packages, the same versions, and no tool of ours."""
    assert pinned() == {name: locked[name]["version"] for name in runtime(locked)}


def test_requirements_have_hashes() -> None:
    """Nothing else than what was locked is installed under a name."""
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned())
    assert all("--hash=sha256:" in entry for entry in entries)


def test_every_dependency_of_the_project_is_deployed() -> None:
    """pyproject.toml is where they are named; the lock and requirements.txt follow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = {re.split(r"[\[>=<~!; ]", text, maxsplit=1)[0] for text in project["project"]["dependencies"]}
    assert named
    assert named <= pinned().keys()
    tools = {re.split(r"[\[>=<~!; ]", text, maxsplit=1)[0] for text in project["dependency-groups"]["dev"]}
    assert {"pytest", "ruff", "mypy"} <= tools - pinned().keys()


def test_the_names_of_all_settings_are_in_the_sample() -> None:
    """local.settings.sample.json names no setting that does not exist."""
    text = (ROOT / "local.settings.sample.json").read_text()
    named = set(re.findall(r'"((?:KEY_VAULT|AIRFLOW|EVENT_GRID|ROTATION)_[A-Z_]+)"', text))
    assert "KEY_VAULT_URL" in named
    assert named <= SETTINGS
