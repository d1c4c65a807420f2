"""The commands work wherever the folder lies."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_folder_may_have_any_name(tmp_path: Path) -> None:
    """Without uv on the PATH ours is named: make splits what a rule says at spaces, and a shell what nobody quoted."""
    folder, tools = tmp_path / "a & ü", tmp_path / "tools"
    tools.mkdir()
    for tool in ("make", "mkdir", "touch"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    uv = folder / ".tools" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text('#!/bin/sh\nmkdir .venv\necho "$0 $1"\n')
    uv.chmod(0o755)
    for name in ("Makefile", "uv.lock", "pyproject.toml", ".python-version"):
        shutil.copy(ROOT / name, folder)
    command = [str(tools / "make"), ".venv/.ready"]
    done = subprocess.run(command, cwd=folder, env={"PATH": str(tools)}, capture_output=True, text=True, check=False)  # noqa: S603 (of the system)
    assert (done.stdout, done.stderr, done.returncode) == (f"{uv} sync\n", "", 0)
