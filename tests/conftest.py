"""What tests of every kind share: one PostgreSQL for a run, and a fresh world for a test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sandbox.postgresql import PostgreSQL
from tests.versions import VERSIONS, older_server
from tests.world import World, world

# What fails says how to see it again. `HYPOTHESIS_PROFILE=soak` looks for what a short run does not find.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("soak", settings.get_profile("default"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for all: who stops or restarts one makes a server of its own."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> Iterator[PostgreSQL]:
    """A server of each version that is tested, for what they differ in."""
    if request.param == VERSIONS[-1]:
        yield postgresql
    else:
        with older_server(request.param) as other:
            yield other


@pytest.fixture
def here(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[World]:
    """A vault of its own, the program wired to it, and no Airflow."""
    with world(tmp_path, postgresql) as made:
        yield made
