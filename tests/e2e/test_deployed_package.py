"""What is deployed, and nothing else: the files that .funcignore leaves and the packages of requirements.txt."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from sandbox.event_schemas import key_vault_event
from sandbox.functions_host import FunctionsHost
from sandbox.postgresql import PostgreSQL
from tests.infra.package import ROOT, unpack
from tests.world import World, world

NEAR_EXPIRY = "Microsoft.KeyVault.SecretNearExpiry"
# Loaded only when they are needed, so an import of the app does not show that they are there.
LATE = ("airflow_client.client", "azure.eventgrid", "azure.identity", "jinja2", "psycopg_binary")
MEBIBYTE = 2**20
OLD = timedelta(days=61)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    unpack(folder)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """A Python 3.13 with nothing but what the remote build installs, with the hashes checked."""
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    environment = tmp_path_factory.mktemp("clean") / "environment"
    made = environment / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--require-hashes"]
    for command in (
        [uv, "venv", "--quiet", "--python", "3.13", str(environment)],
        [*install, "--python", str(made), "-r", str(package / "requirements.txt")],
    ):
        subprocess.run(command, check=True)  # noqa: S603 (uv, by the path that the Makefile gives)
    return made


@pytest.fixture
def here(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[World]:
    """A vault whose clock is two months behind the app's, which is the real one."""
    with world(tmp_path, postgresql, behind=OLD) as made:
        yield made


@pytest.fixture
def host(here: World, package: Path, python: Path) -> Iterator[FunctionsHost]:
    with FunctionsHost(package, environment=here.vault.environment(), python=python) as started:
        yield started


def test_the_app_is_imported_with_nothing_but_what_is_deployed(package: Path, python: Path) -> None:
    """A package that only a tool of ours brings along would be missing on Azure."""
    code = (
        f"import sys; sys.path.insert(0, {str(package)!r}); import function_app, rotators, importlib; "
        f"[importlib.import_module(name) for name in {LATE}]; print(rotators.__file__)"
    )
    environment = {"KEY_VAULT_URL": "https://rotation.vault.azure.net"}
    command = [str(python), "-I", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 (it is ours)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).is_relative_to(package)


def test_the_package_is_small(package: Path, python: Path) -> None:
    """It is unpacked at each cold start, and the remote build has a minute to install what it names."""
    own = sum(path.stat().st_size for path in package.rglob("*.*") if "__pycache__" not in path.parts)
    installed = sum(path.stat().st_size for path in python.parents[1].rglob("*") if path.is_file())
    assert own < MEBIBYTE
    assert installed < 150 * MEBIBYTE


def test_it_rotates_on_the_worker_library(here: World, host: FunctionsHost) -> None:
    """From Event Grid's POST to a version that logs in, with the deployed files and packages alone."""
    name = here.alternating()
    here.clock.advance(OLD)
    current = here.vault.current(name)
    identifier = f"{here.vault.url}/secrets/{name}/{current.version}"
    status, _ = host.post_event(key_vault_event(NEAR_EXPIRY, identifier, current.expires_on))
    assert status == 202
    assert here.logs_in(name)
    assert len(here.versions(name)) == 2


def test_its_pages_are_in_the_package(host: FunctionsHost) -> None:
    """Templates and the document are files, or made from them, and easily left behind."""
    assert host.http("GET", "/api/health", key=False)[0] == 200
    assert json.loads(host.http("GET", "/api/openapi.json", key=False)[2])["openapi"].startswith("3.1")
    status, _, page = host.http("GET", "/api/dashboard")
    assert status == 200
    assert b"<html" in page
