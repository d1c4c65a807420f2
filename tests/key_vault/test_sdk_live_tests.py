"""The live tests that Microsoft ships with azure-keyvault-secrets, run against the stand-in.

They come with the source distribution of the version that is installed here. It and what they need are fetched once
into a virtual environment of their own under `.sandbox/`; later runs need no network. They are a weak
judge of a stand-in, though: what rotation depends on is pinned by name in test_stand_in.py.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from sandbox.key_vault import KeyVault

SDK = "azure-keyvault-secrets"
# The same as here, so that it is this SDK that is content; and two that only these tests need.
REQUIREMENTS = [
    *(f"{name}=={version(name)}" for name in (SDK, "azure-core", "azure-identity", "pytest", "python-dateutil")),
    "aiohttp==3.14.5",
    "pytest-asyncio==1.5.0",
]
FOLDER = Path(__file__).parents[2] / ".sandbox" / "sdk-tests" / version(SDK)
# Waits for a minute after a purge, twice; test_secrets_client.py restores as well, without waiting.
LEFT_OUT = "not test_example_secrets_backup_restore"
# These create a client through the shim and so talk to the server; the others are content with mocks.
TALKING = ("TestSecretClient", "TestKeyVaultSecret", "TestParseId", "TestExamplesKeyVault")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the tests, by name."""

    passed: list[str]
    failed: list[str]
    output: str

    @property
    def talked(self) -> list[str]:
        return [name for name in self.passed if any(part in name for part in TALKING)]


@pytest.fixture(scope="session")
def sdk_tests() -> Path:
    """The folder with the SDK's tests, beside it an environment that can run them."""
    tests = FOLDER / "tests"
    if not tests.exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        run(sys.executable, "-m", "venv", FOLDER / "venv")
        python = FOLDER / "venv" / "bin" / "python"
        pip: tuple[str | Path, ...] = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
        run(*pip, "install", *REQUIREMENTS)
        run(*pip, "download", "--no-deps", f"--no-binary={SDK}", f"--dest={FOLDER}", f"{SDK}=={version(SDK)}")
        (archive,) = FOLDER.glob("*.tar.gz")
        with tarfile.open(archive) as content:
            content.extractall(FOLDER, filter="data")
        # Last, in one step: a run that was interrupted before begins again.
        (FOLDER / archive.name.removesuffix(".tar.gz") / "tests").rename(tests)
    return tests


def test_the_sdk_is_content_with_the_stand_in(sdk_tests: Path, tmp_path: Path) -> None:
    """No live test of the SDK fails, synchronous or asynchronous, and those that talk to the server did."""
    with KeyVault(tmp_path) as vault:
        verdict = judge(vault, sdk_tests, tmp_path, "-k", LEFT_OUT)
        requests = len(vault.requests)
    assert verdict.failed == [], verdict.output
    assert len(verdict.talked) >= 31, verdict.output
    assert requests >= 250
    assert len(verdict.passed) >= 1000


@pytest.mark.parametrize(("method", "status"), [("PATCH", 400), ("DELETE", 404), ("PUT", 409)])
def test_the_sdk_is_not_content_with_a_broken_stand_in(
    sdk_tests: Path, tmp_path: Path, method: str, status: int
) -> None:
    """The verdict above is worth something: when a method fails, tests fail."""
    with KeyVault(tmp_path) as vault:
        vault.fail(method=method, status=status, times=None)
        verdict = judge(vault, sdk_tests, tmp_path, "test_secrets_client.py", "-k", "crud")
    assert any("crud" in name for name in verdict.failed), verdict.output


def judge(vault: KeyVault, tests: Path, folder: Path, *options: str) -> Verdict:
    """Run the SDK's tests against the vault as a production process would meet it."""
    environment = {
        **vault.environment(),
        # aiohttp reads this when it is imported, and does not know REQUESTS_CA_BUNDLE.
        "SSL_CERT_FILE": str(vault.ca_file),
        "AZURE_KEYVAULT_URL": vault.url,
        "AZURE_TEST_RUN_LIVE": "true",
        "AZURE_SKIP_LIVE_RECORDING": "true",
        "PYTHONPATH": str(Path(__file__).parent),  # devtools_testutils
    }
    report = folder / "report.xml"
    arguments = ("-q", "--tb=short", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", f"--junit-xml={report}")
    python = tests.parent / "venv" / "bin" / "python"
    command = ("-m", "pytest", *arguments, "--ignore=perfstress_tests", *options)
    output = run(python, *command, cwd=tests, environment=environment, may_fail=True)
    cases = ET.parse(report).iter("testcase")  # noqa: S314 (pytest has just written it)
    passed, failed = [], []
    for case in cases:
        outcomes = {child.tag for child in case} & {"failure", "error", "skipped"}
        name = f"{case.get('classname')}::{case.get('name')}"
        if outcomes - {"skipped"}:
            failed.append(name)
        elif not outcomes:
            passed.append(name)
    return Verdict(passed, failed, output)


def run(
    *command: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None, may_fail: bool = False
) -> str:
    done = subprocess.run(  # noqa: S603 (our own commands)
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
    assert may_fail or done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout
