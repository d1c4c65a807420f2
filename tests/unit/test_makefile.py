"""The commands work wherever the folder lies."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """All that is on the PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in ("make", "mkdir", "touch"):
        (folder / tool).symlink_to(shutil.which(tool) or "")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a name that make splits at its spaces, and a shell does too where nobody has quoted it."""
    folder = tmp_path / "a & ü"
    (folder / ".tools" / "bin").mkdir(parents=True)
    for name in ("Makefile", "uv.lock", "pyproject.toml", ".python-version"):
        shutil.copy(ROOT / name, folder)
    script(folder / ".tools" / "bin" / "uv", 'mkdir -p .venv/bin; touch .venv/bin/activate; echo "$0 $1"')
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def make(target: str, folder: Path, tools: Path) -> tuple[str, str]:
    command, environment = [str(tools / "make"), "--no-print-directory", target], {"PATH": str(tools)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 (of the system)
    return done.stdout, done.stderr


def test_the_folder_may_have_any_name(folder: Path, tools: Path) -> None:
    """Without uv on the PATH ours is a target, too."""
    assert make(".venv/.ready", folder, tools) == (f"{folder}/.tools/bin/uv sync\n", "")


def test_start_says_that_the_sandbox_comes_first(folder: Path, tools: Path) -> None:
    """P7: without its settings every request would be answered by complaints."""
    script(tools / "func", "echo started")
    printed, complaint = make("start", folder, tools)
    assert "started" not in printed
    assert complaint.startswith("There is no local.settings.json: start `make sandbox` in another terminal first\n")
