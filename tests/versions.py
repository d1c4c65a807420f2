"""Other versions of PostgreSQL than the one that all tests have: the oldest, or with THOROUGH=1 every one."""

import os
from typing import Any

import pytest

from sandbox.older_postgresql import MAJORS, bin_dir
from sandbox.postgresql import PostgreSQL, PostgreSQLError

# The last is the wheel's.
VERSIONS = (*(MAJORS if os.environ.get("THOROUGH") else MAJORS[:1]), 18)


def older_server(version: int, **how: Any) -> PostgreSQL:  # Any: whatever PostgreSQL takes
    """Return a server of an older version, not started; skip the test, and say why, where it can't be had."""
    try:
        return PostgreSQL(bin_dir=bin_dir(version), **how)
    except PostgreSQLError as error:
        pytest.skip(str(error))
