"""P3 when the whole process goes down: neither a core file nor what a crash prints holds a password."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PASSWORD = "open-sesame-Z9k2"


def crash(folder: Path, first: str) -> tuple[bool, str]:
    """Abort a process that has the password at hand; return whether the kernel dumped it, and what it printed."""
    code = f"""if True:
        import faulthandler, os
        faulthandler.enable(all_threads=True)
        {first}
        from rotators.credential import Password
        held = Password("{PASSWORD[:5]}" + "{PASSWORD[5:]}")

        def rotate(password):
            os.abort()

        rotate(held.reveal())
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (our own interpreter)
            [sys.executable, "-c", code],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "KEY_VAULT_URL": "https://v.vault.azure.net"},
            stdout=output,
            stderr=output,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),  # noqa: PLW1509 (no thread yet)
        )
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGABRT
    return os.WCOREDUMP(status), (folder / "output").read_text()


def test_an_aborted_process_leaves_no_password_behind(tmp_path: Path) -> None:
    """Where core files are allowed without limit: a process without our app leaves one, with the password in it."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    if not crash(theirs, "pass")[0] or not list(theirs.glob("core*")):
        pytest.skip("this machine writes no core files beside the process: look at kernel.core_pattern and ulimit -Hc")
    assert any(PASSWORD.encode() in path.read_bytes() for path in theirs.glob("core*"))
    is_dumped, printed = crash(ours, "import function_app")
    assert not is_dumped
    assert [path.name for path in ours.iterdir()] == ["output"]
    assert "in rotate" in printed
    assert PASSWORD not in printed
