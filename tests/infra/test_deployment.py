"""`azd up` and the workflow: what they read is there, and says the same."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.infra.bicep import INFRA, read
from tests.infra.package import ROOT, packaged

WORKFLOWS = ROOT / ".github" / "workflows"
MAIN = read(INFRA / "main.bicep")
# azd's own, set with an environment.
OF_AZD = {"AZURE_ENV_NAME", "AZURE_LOCATION"}


def yaml(path: Path) -> Any:  # what stands in the file
    return YAML(typ="safe").load(path)


def variables() -> dict[str, tuple[str, str]]:
    """Return for each parameter the variable that sets it and its default."""
    parameters = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    found = {name: re.fullmatch(r"\$\{(\w+)(?:=(.*))?\}", entry["value"]) for name, entry in parameters.items()}
    return {name: (match[1], match[2] or "") for name, match in found.items() if match}


# -- Parameters ---------------------------------------------------------------------------------------------------


def test_every_parameter_has_a_variable() -> None:
    """`ROTATED_SECRETS` is `rotatedSecrets`; so nobody has to look them up."""
    assert variables().keys() == MAIN.parameters.keys()
    for name, (variable, _) in variables().items():
        expected = re.sub(r"([A-Z])", r"_\1", name).upper()
        assert variable in {expected, "AZURE_ENV_NAME" if name == "environmentName" else f"AZURE_{expected}"}


def test_a_variable_that_is_not_set_means_the_default() -> None:
    """So the first run asks for a name and a region, and for nothing else."""
    for name, (variable, default) in variables().items():
        declared = MAIN.parameters[name].default
        assert bool(declared) is (variable not in OF_AZD), name
        assert declared.strip("'") == default, name


def test_an_output_is_no_parameter_of_the_next_run() -> None:
    """Since azd keeps both under their names: a vault that was made would be an existing one at the next run."""
    assert MAIN.outputs.keys().isdisjoint(variable for variable, _ in variables().values())


def test_the_page_has_a_row_for_each_variable() -> None:
    page = (ROOT / "docs" / "infrastructure.md").read_text()
    named = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    settings = {variable for variable, _ in variables().values() if variable.startswith(("AIRFLOW_", "ROTATION_"))}
    assert named == {variable for variable, _ in variables().values()} - settings - OF_AZD


# -- azure.yaml ---------------------------------------------------------------------------------------------------


def test_azure_yaml_names_what_is_there() -> None:
    project = yaml(ROOT / "azure.yaml")
    infra = project["infra"]
    assert (ROOT / infra["path"] / f"{infra['module']}.bicep").is_file()
    ((service, how),) = project["services"].items()
    assert how.pop("hooks") == {"prepackage": {"shell": "sh", "run": "./infra/bytecode.sh"}}
    assert os.access(ROOT / "infra" / "bytecode.sh", os.X_OK)
    assert how == {"project": ".", "language": "python", "host": "function"}
    assert f"{{ 'azd-service-name': '{service}' }}" in MAIN.path.read_text()
    hook = project["hooks"]["postdeploy"]
    assert hook == {"shell": "sh", "run": "./infra/events.sh"}
    assert os.access(ROOT / hook["run"], os.X_OK)


def test_the_workflow_gets_every_variable() -> None:
    """Else what was deployed from a laptop is undone by the next push."""
    names = {variable for variable, _ in variables().values()}
    assert set(yaml(ROOT / "azure.yaml")["pipeline"]["variables"]) == names - OF_AZD
    environment = yaml(WORKFLOWS / "azure-dev.yml")["jobs"]["deploy"]["env"]
    assert environment == {name: f"${{{{ vars.{name} }}}}" for name in names | {"AZURE_SUBSCRIPTION_ID"}}


# -- The workflow -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "path"),
    [("github-workflows", ".github/workflows/azure-dev.yml"), ("dependabot", ".github/dependabot.yml")],
)
def test_files_for_github_have_the_form_that_github_reads(schema: str, path: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(ROOT / path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own interpreter)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_nothing_in_the_workflow() -> None:
    """It knows how workflows are taken over: injected text, kept credentials, actions that can be exchanged."""
    command = [str(Path(sys.executable).parent / "zizmor"), "--offline", "--no-progress", str(ROOT / ".github")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (from our environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_deployment_needs_no_secret_and_only_follows_the_tests() -> None:
    workflow = (WORKFLOWS / "azure-dev.yml").read_text()
    assert "secrets." not in workflow
    jobs = yaml(WORKFLOWS / "azure-dev.yml")["jobs"]
    assert jobs["deploy"]["needs"] == "test"
    assert jobs["deploy"]["permissions"] == {"contents": "read", "id-token": "write"}
    assert "refs/heads/main" in jobs["deploy"]["if"]
    assert jobs["test"]["permissions"] == {"contents": "read"}
    assert any(step.get("run") == "bash .ci/run" for step in jobs["test"]["steps"])
    steps = [step for job in jobs.values() for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert [step["with"] for step in steps] == [{"persist-credentials": False}] * 2
    order = [step["run"].split()[1] for step in jobs["deploy"]["steps"] if str(step.get("run", "")).startswith("azd")]
    assert order == ["config", "provision", "deploy"]


def test_actions_have_a_version() -> None:
    for line in re.findall(r"uses: (\S+.*)", (WORKFLOWS / "azure-dev.yml").read_text()):
        assert re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$|@v\d+\.\d+\.\d+\b", line), line


def test_dependabot_looks_after_actions_and_packages() -> None:
    updates = {entry["package-ecosystem"] for entry in yaml(ROOT / ".github" / "dependabot.yml")["updates"]}
    assert updates == {"github-actions", "uv"}


# -- The hook after a deployment ----------------------------------------------------------------------------------

GIVEN_OUT = {
    "AZURE_SUBSCRIPTION_ID": "sub",
    "AZURE_RESOURCE_GROUP": "rg-test",
    "FUNCTION_APP_NAME": "func-x",
    "KEY_VAULT_RESOURCE_GROUP": "rg-vault",
    "SYSTEM_TOPIC_NAME": "egst-x",
    "OUTCOME_TOPIC_NAME": "evgt-x",
    "STORAGE_ACCOUNT_NAME": "stx",
    "DEAD_LETTER_CONTAINER": "dead-letters",
    "SUBJECT_BEGINS_WITH": "airflow-connections-",
}
# Writes down what it is asked, a line each, with tabs between the words; shows the function from the third time on.
AZ = """#!/bin/sh
IFS="$(printf '\\t')"
echo "$*" >> "$CALLS"
fail() { echo "what Azure says" >&2; exit 3; }
case "$1 $2" in
    "account show") [ -z "${SIGNED_OUT:-}" ] ;;
    "functionapp function") [ "$(grep -c '^functionapp' "$CALLS")" -ge "${SHOWN_AT:-1}" ] || fail ;;
esac
"""


def run_hook(
    folder: Path, *, script: str = AZ, **changes: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run the hook; return what became of it, and the words of each command that it gave."""
    az = folder / "az"
    az.write_text(script)
    az.chmod(0o755)
    calls = folder / "calls"
    environment = GIVEN_OUT | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls)}
    environment |= {"EVENTS_WAIT_SECONDS": "0", **changes}
    done = subprocess.run([INFRA / "events.sh"], env=environment, capture_output=True, text=True, check=False)  # noqa: S603 (ours)
    return done, [call.split("\t") for call in calls.read_text().splitlines()] if calls.exists() else []


def test_the_hook_waits_for_the_function_and_then_subscribes(tmp_path: Path) -> None:
    """The order problem: a subscription before the function shows is refused."""
    done, calls = run_hook(tmp_path, SHOWN_AT="3")
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls] == ["account", *["functionapp"] * 3, "deployment"]
    words = calls[-1]
    assert words[words.index("--template-file") + 1] == str(INFRA / "events.bicep")
    assert words[words.index("--resource-group") + 1] == "rg-test"


def test_the_hook_hands_over_every_parameter_of_the_subscriptions(tmp_path: Path) -> None:
    _, calls = run_hook(tmp_path)
    passed = dict(word.split("=", 1) for word in calls[-1][calls[-1].index("--parameters") + 1 :])
    assert passed.keys() == read(INFRA / "events.bicep").parameters.keys()
    given = {
        value for name, value in GIVEN_OUT.items() if name not in {"AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP"}
    }
    assert set(passed.values()) == given


def test_the_hook_reads_what_main_gives_out() -> None:
    """Or azd itself, the subscription."""
    assert GIVEN_OUT.keys() - {"AZURE_SUBSCRIPTION_ID"} <= MAIN.outputs.keys()
    assert set(re.findall(r"\$\{?([A-Z][A-Z_]+)", (INFRA / "events.sh").read_text())) - GIVEN_OUT.keys() <= {
        "EVENTS_ATTEMPTS",
        "EVENTS_WAIT_SECONDS",
    }


@pytest.mark.parametrize("name", sorted(GIVEN_OUT.keys() - {"SUBJECT_BEGINS_WITH"}))
def test_the_hook_says_which_variable_it_lacks(tmp_path: Path, name: str) -> None:
    """And has asked Azure nothing (P7)."""
    done, calls = run_hook(tmp_path, **{name: ""})
    assert (done.returncode, calls) == (1, [])
    assert f"{name} is not set; run 'azd provision'" in done.stderr


def test_the_hook_says_who_is_not_signed_in(tmp_path: Path) -> None:
    done, calls = run_hook(tmp_path, SIGNED_OUT="yes")
    assert (done.returncode, len(calls)) == (1, 1)
    assert "run 'az login'" in done.stderr


def test_the_hook_gives_up_on_an_app_that_does_not_start(tmp_path: Path) -> None:
    """It says where to look and what works meanwhile (P7)."""
    done, calls = run_hook(tmp_path, SHOWN_AT="9", EVENTS_ATTEMPTS="3")
    assert done.returncode == 1
    assert {call[0] for call in calls} == {"account", "functionapp"}
    assert done.stderr.startswith("what Azure says")
    assert "shows no function rotation_event; look at its log stream" in done.stderr


def test_a_deployment_that_azure_refuses_is_no_success(tmp_path: Path) -> None:
    done, _ = run_hook(tmp_path, script=AZ + '[ "$1" != deployment ]\n')
    assert done.returncode != 0
    assert "is subscribed" not in done.stdout


# -- The package --------------------------------------------------------------------------------------------------


def test_the_package_has_the_program_and_nothing_else() -> None:
    """No test, no tool, no page, no setting of a laptop."""
    listed = subprocess.run(["git", "ls-files", "rotators"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    program = set(listed.stdout.split())
    assert program
    assert set(packaged()) == program | {"LICENSE", "function_app.py", "host.json", "requirements.txt"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What is packaged, and what packages it, in a folder of its own."""
    folder = tmp_path / "project"
    for path in (*packaged(), ".funcignore", ".python-version", "infra/bytecode.sh"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder


def compile_package(project: Path) -> str:
    """Run azd's hook with this Python; return what it says."""
    command, path = [project / "infra" / "bytecode.sh"], f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)  # noqa: S603 (ours)
    return done.stdout + done.stderr


def read_by_python(project: Path) -> set[str]:
    """Return of which of the program's files Python takes the code, importing all of it; nothing is written."""
    modules = [path.removesuffix(".py").replace("/", ".") for path in packaged(project) if path.endswith(".py")]
    code = f"import sys; sys.path.insert(0, {str(project)!r}); import {', '.join(modules)}"
    environment = {"KEY_VAULT_URL": "https://rotation.vault.azure.net", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-v", "-c", code.replace(".__init__", "")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 (ours)
    return set(re.findall(rf"^# code object from '?{re.escape(str(project))}/([^'\n]+)", done.stderr, re.MULTILINE))


def test_no_start_compiles_the_program(project: Path) -> None:
    """A sixth of a cold start: the package holds bytecode, which counts though unpacking sets other times."""
    assert compile_package(project) == ""
    for path in project.rglob("*.py"):
        os.utime(path, (0, 0))
    taken = read_by_python(project)
    assert len(taken) == len([path for path in packaged(project) if path.endswith(".py")])
    assert {Path(path).suffix for path in taken} == {".pyc"}
    assert taken <= set(packaged(project, bytecode=True))


def test_a_source_that_was_changed_since_counts(project: Path) -> None:
    """Whoever deploys without azd, or mends a file by hand, gets what the source says."""
    compile_package(project)
    with (project / "rotators" / "policy.py").open("a") as source:
        source.write("\nCHANGED = True\n")
    assert {path for path in read_by_python(project) if path.endswith(".py")} == {"rotators/policy.py"}


def test_bytecode_of_another_python_stays_out(project: Path) -> None:
    """It would never be taken. A deployment does not fail for it, but says so."""
    (project / ".python-version").write_text("3.99\n")
    assert "no Python 3.99 on the PATH" in compile_package(project)
    assert packaged(project, bytecode=True) == packaged(project)
