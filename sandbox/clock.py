"""A clock that tests move."""

import threading
from datetime import UTC, datetime, timedelta


class Clock:
    """Runs with real time, ahead of it by what it was advanced.

    `behind`: how far in the past it begins, so that what is made first is old when it has caught up.
    """

    def __init__(self, *, behind: timedelta = timedelta(0)) -> None:
        self._ahead = -behind
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the time in UTC."""
        with self._lock:
            return datetime.now(UTC) + self._ahead

    def advance(self, by: timedelta) -> None:
        """Move on at once. Raise ValueError if `by` is negative: nothing in the sandbox expects time to go back."""
        if by < timedelta(0):
            raise ValueError(f"a clock is only moved forward, not by {by}")
        with self._lock:
            self._ahead += by
