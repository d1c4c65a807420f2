"""A login to PostgreSQL in two halves: the network is waited for while something else is done.

psycopg connects and logs in at one go. Here it is done by libpq's own steps (`PQconnectStart` and `PQconnectPoll` in
its chapter "Database Connection Control Functions"), of which the first makes the kernel connect and says nothing yet.
"""

from selectors import EVENT_WRITE, DefaultSelector

import psycopg
from psycopg import waiting
from psycopg.abc import PQGenConn
from psycopg.pq import ConnStatus, PollingStatus
from psycopg.pq import abc as pq
from psycopg.waiting import Wait

# As psycopg's own: so often it looks whether somebody wants to stop. Without one it would not wait, but ask and ask.
_INTERVAL = 0.1
_WAIT_FOR = {PollingStatus.READING: Wait.R, PollingStatus.WRITING: Wait.W}


class HeadStart:
    """A TCP connection in the making, to one server: several need a time-out each, as psycopg has."""

    def __init__(self, libpq: pq.PGconn) -> None:
        """Take what `PGconn.connect_start` has returned."""
        self._libpq = libpq

    @property
    def is_connected(self) -> bool:
        """Whether the network has answered by now, with yes or no."""
        if self._libpq.status == ConnStatus.BAD:
            return False  # what keeps it from being asked at all, psycopg tells better
        with DefaultSelector() as selector:
            selector.register(self._libpq.socket, EVENT_WRITE)
            return bool(selector.select(0))

    def log_in(self, *, timeout: float) -> pq.PGconn:
        """Return libpq's connection, logged in, which is the caller's now. Raise OperationalError if that fails.

        Only if `is_connected`; `timeout` in seconds.
        """
        return waiting.wait_conn(self._steps(), _INTERVAL, timeout)

    def _steps(self) -> PQGenConn[pq.PGconn]:
        status = PollingStatus.WRITING
        while status in _WAIT_FOR:
            while not (yield self._libpq.socket, _WAIT_FOR[status]):
                pass
            status = PollingStatus(self._libpq.connect_poll())
        if status != PollingStatus.OK:
            raise psycopg.OperationalError(self._libpq.get_error_message(), pgconn=self._libpq)
        self._libpq.nonblocking = 1
        return self._libpq

    def close(self) -> None:
        """Give it up, or end the session that came of it."""
        self._libpq.finish()
