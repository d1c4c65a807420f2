"""A fresh process of Microsoft's worker library, from its start until its first rotation is done."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from sandbox.event_schemas import key_vault_event
from sandbox.postgresql import PostgreSQL
from tests.world import World, world

ROOT = Path(__file__).parents[2]
OLD = timedelta(days=61)
SELDOM_USED = ["airflow_client", "azure.eventgrid", "jinja2", "opentelemetry"]
ALWAYS_USED = ["azure.identity", "azure.keyvault.secrets", "psycopg"]


@pytest.fixture
def here(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[World]:
    """A vault whose clock is two months behind the process's, which is the real one."""
    with world(tmp_path, postgresql, behind=OLD) as made:
        yield made


def test_the_first_rotation_loads_nothing_that_it_does_not_use(here: World) -> None:
    """Of a secret without Airflow and a topic: neither Airflow's client nor Event Grid's costs anything."""
    name = here.alternating()
    here.clock.advance(OLD)
    current = here.vault.current(name)
    identifier = f"{here.vault.url}/secrets/{name}/{current.version}"
    order = {
        "event": key_vault_event("SecretNearExpiry", identifier, current.expires_on),
        "loaded": SELDOM_USED + ALWAYS_USED,
    }
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-m", "benchmarks.cold_worker", str(ROOT)],
        input=json.dumps(order),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert (answer["exception"], len(here.versions(name)), here.logs_in(name)) == (None, 2, True)
    assert answer["modules"] == ALWAYS_USED
