"""`make demo` and `make sandbox` leave nothing behind, whoever ends them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The commands with a laptop that takes nothing but time, to start and to end.
COMMAND = """
import sys, time
from contextlib import contextmanager
from importlib import import_module

@contextmanager
def laptop():
    try:
        print("up", flush=True)
        time.sleep(30)
        yield
    finally:
        print("ending", flush=True)
        time.sleep(0.3)
        print("ended", flush=True)

command = import_module(sys.argv[1])
command.Laptop = laptop
sys.exit(command.main())
"""


def started(command: str, *before: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 (our own interpreter)
        [*before, sys.executable, "-c", COMMAND, command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout
    assert line + "\n" in iter(process.stdout.readline, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("command", "code"), [("sandbox.demo", 130), ("sandbox.__main__", 0)])
def test_a_command_that_is_ended_ends_what_it_started(command: str, code: int, number: signal.Signals) -> None:
    """Asked twice, too: `make` passes on what its group gets as well."""
    with started(command) as process:
        read_until(process, "up")
        process.send_signal(number)
        read_until(process, "ending")
        process.send_signal(number)
        rest, _ = process.communicate(timeout=10)
    assert (rest, process.returncode) == ("ended\n\nStopped.\n", code)


def test_a_hangup_that_nohup_has_ignored_stays_ignored() -> None:
    with started("sandbox.__main__", "nohup") as process:
        read_until(process, "up")
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.terminate()
        read_until(process, "ended")
