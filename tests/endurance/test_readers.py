"""`tests.endurance.readers`, small; `make readers` runs it long."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.endurance.readers import AIRFLOW_CACHE, READERS, WAYS, Plan, run
from tests.world import World

NO_CACHE = timedelta(0)
ROUNDS = 2

# Nine processes that never rest take their time on a machine that has other work.
pytestmark = pytest.mark.timeout(900)


def test_no_login_fails_while_two_users_take_turns(here: World, tmp_path: Path) -> None:
    """P1: half of the readers with a cache, one of them Airflow's own; and sessions outlive what retires their user."""
    caches = (NO_CACHE, AIRFLOW_CACHE) * (READERS // 2)
    figures = run(here, tmp_path, Plan(ROUNDS * len(WAYS), caches=caches, with_airflow=True))
    assert figures.broken() == []
    assert figures.failures == []
    assert all(len(reader.users) == 2 for reader in figures.readers)
    assert [session.user for session in figures.sessions] == [figures.owner, f"{figures.owner}_alt"]
    assert figures.retired == ROUNDS * (len(WAYS) - 1)


def test_a_single_user_is_locked_out_only_while_it_is_rotated(here: World, tmp_path: Path) -> None:
    """P1: how long is measured by `make readers`; here, that each reader logs in again, and only passwords failed."""
    figures = run(here, tmp_path, Plan(len(WAYS), "single-user", (NO_CACHE,) * (READERS // 2)))
    assert figures.broken() == []
