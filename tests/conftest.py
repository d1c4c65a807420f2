"""What tests of every kind share: one PostgreSQL for a run, and a fresh world for a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.postgresql import PostgreSQL
from tests.world import World, world


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for all: who stops or restarts one makes a server of its own."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def here(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[World]:
    """A vault of its own, the program wired to it, and no Airflow."""
    with world(tmp_path, postgresql) as made:
        yield made
