"""What the processes of a run share: the moved clock, how often each has worked, and when to stop.

Imports nothing of ours, and only what every Python has: one of the processes runs in Airflow's environment.
"""

import fcntl
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Self

_NUMBER_BYTES = 8
_AHEAD, _STARTED, _STOPPING, _FIRST_COUNT = range(4)
_POLL_SECONDS = 0.01


class Board:
    """Numbers in a file that all processes have mapped; each number has one writer.

    A jump of the clock is an artefact: in reality milliseconds pass between reading a secret and logging in with
    it. So a jump waits for who is between the two (`instant`), and who comes meanwhile waits for the jump. Nothing
    else does: rotations, retirements and logins run into each other as they please.
    """

    def __init__(self, folder: Path) -> None:
        """Open the board that `create` has made in this folder."""
        with (folder / "board").open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        self._lock = (folder / "jump.lock").open("wb")
        # Who wants to jump holds this one first: else readers that come and go would never let it pass.
        self._gate = (folder / "gate.lock").open("wb")

    @classmethod
    def create(cls, folder: Path, *, consumers: int) -> Self:
        """Make a board in a folder."""
        (folder / "board").write_bytes(bytes(_NUMBER_BYTES * (_FIRST_COUNT + consumers)))
        return cls(folder)

    def now(self) -> float:
        """Return the moved clock's time, in seconds since 1970."""
        return time.time() + self._numbers[_AHEAD]

    def advance(self, by: timedelta) -> None:
        """Move the clock, whatever others are doing."""
        self._numbers[_AHEAD] += by.total_seconds()

    @contextmanager
    def instant(self) -> Iterator[None]:
        """No jump happens inside."""
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextmanager
    def jump(self) -> Iterator[None]:
        """Nobody is inside of `instant`."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    @property
    def counts(self) -> tuple[int, ...]:
        """How often each consumer has worked so far."""
        return tuple(int(count) for count in self._numbers[_FIRST_COUNT:])

    def count(self, consumer: int) -> None:
        """Note that a consumer has worked once more."""
        self._numbers[_FIRST_COUNT + consumer] += 1

    def start(self) -> None:
        """Let everybody work without pause from now on."""
        self._numbers[_STARTED] = 1

    def await_start(self) -> None:
        """Wait for the others: who works already takes the machine from those that are still being loaded."""
        while not (self._numbers[_STARTED] or self.is_stopping):
            time.sleep(_POLL_SECONDS)

    @property
    def is_stopping(self) -> bool:
        return bool(self._numbers[_STOPPING])

    def stop(self) -> None:
        """Let every consumer finish what it is at, and report."""
        self._numbers[_STOPPING] = 1

    def close(self) -> None:
        self._lock.close()
        self._gate.close()
