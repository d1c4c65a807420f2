"""The fast part of the model; `make soak` plays it for long, with other seeds."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.model.bench import bench_server
from tests.model.machine import play

SETTINGS = settings(
    max_examples=8, stateful_step_count=25, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
)  # fmt: skip


@pytest.mark.timeout(900)  # ten seconds of work, however busy the machine is
def test_whatever_happens_the_promises_hold(tmp_path: Path) -> None:
    """P1 to P6, after each of some hundred steps on real PostgreSQL."""
    counts: Counter[str] = Counter()
    with bench_server() as server:
        play(tmp_path, server, counts, SETTINGS)
    assert counts["steps"] > 100, counts
    assert counts["versions"] > 20, counts
