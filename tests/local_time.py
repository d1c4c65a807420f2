"""A machine in another time zone: Azure's run in UTC, a laptop does not."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def local_time(zone: str) -> Iterator[None]:
    """Make `zone` the local time of this process meanwhile."""
    try:
        with patch.dict(os.environ, TZ=zone):
            time.tzset()
            yield
    finally:
        time.tzset()
