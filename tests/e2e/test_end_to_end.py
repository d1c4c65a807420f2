"""End to end: Microsoft's worker library runs the app; events, HTTP and the timer come in as on Azure."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotators.policy import read_state
from sandbox.event_grid import EventGrid
from sandbox.event_schemas import Schema, key_vault_event
from sandbox.functions_host import FunctionsHost
from sandbox.postgresql import PostgreSQL
from tests.world import World, world

NEAR_EXPIRY = "Microsoft.KeyVault.SecretNearExpiry"
APP = str(Path(__file__).parents[2])


@pytest.fixture
def topic() -> Iterator[EventGrid]:
    with EventGrid() as grid:
        yield grid


@pytest.fixture
def host(here: World, topic: EventGrid) -> Iterator[FunctionsHost]:
    environment = {
        **here.vault.environment(),
        "EVENT_GRID_TOPIC_ENDPOINT": topic.topic_endpoint,
        "EVENT_GRID_TOPIC_KEY": topic.topic_key,
    }
    with FunctionsHost(APP, environment=environment) as started:
        yield started


OLD = timedelta(days=61)
VAULT_COMPLAINT = (
    "KEY_VAULT_URL is not a URL that starts with https:// and has a host's name, with neither a user nor a query"
)


@pytest.fixture
def here(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[World]:
    """A vault whose clock is two months behind the app's, until `due` lets it catch up."""
    with world(tmp_path, postgresql, behind=OLD) as made:
        yield made


def due(here: World) -> str:
    """Return a secret that is due by the app's clock, which is the real one."""
    name = here.alternating()
    here.clock.advance(OLD)
    return name


def event(here: World, name: str, **changes: Any) -> dict[str, Any]:  # JSON
    current = here.vault.current(name)
    built = key_vault_event(NEAR_EXPIRY, f"{here.vault.url}/secrets/{name}/{current.version}", current.expires_on)
    return {**built, **changes}


def json_of(body: bytes) -> dict[str, Any]:  # JSON
    parsed = json.loads(body)
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize("schema", ["EventGridSchema", "CloudEventSchemaV1_0"])
def test_an_event_of_either_schema_rotates(here: World, host: FunctionsHost, topic: EventGrid, schema: Schema) -> None:
    """The main job: from Event Grid's POST to a new version that logs in, and a `Completed` event."""
    name = due(here)
    current = here.vault.current(name)
    identifier = f"{here.vault.url}/secrets/{name}/{current.version}"
    status, _ = host.post_event(key_vault_event(NEAR_EXPIRY, identifier, current.expires_on, schema=schema))
    assert status == 202
    assert here.logs_in(name)
    assert here.user_of(name).endswith("_alt")
    (completed,) = topic.received
    assert completed["eventType"] == "SecretRotation.Completed"
    assert completed["subject"] == f"secrets/{name}"
    assert completed["data"]["status"] == "rotated"


def test_the_same_event_in_parallel_makes_one_version(here: World, host: FunctionsHost) -> None:
    """P4: duplicates overlap in time."""
    name = due(here)
    one = event(here, name)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(host.post_event(one)[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [202] * 6
    assert len(here.versions(name)) == 2
    assert here.logs_in(name)


def test_two_instances_make_one_version(here: World, host: FunctionsHost) -> None:
    """P4: one secret is rotated by one invocation at a time, over all instances."""
    name = due(here)
    one = event(here, name)
    with FunctionsHost(APP, environment=here.vault.environment()) as other:
        threads = [threading.Thread(target=instance.post_event, args=(one,)) for instance in (host, other) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(here.versions(name)) == 2


def test_the_timer_rotates_what_is_due_when_no_event_came(here: World, host: FunctionsHost) -> None:
    """P2: late or never. With a topic, the sweep hands the work out; the topic brings it to the function."""
    name = due(here)
    fresh = here.alternating()
    with EventGrid() as grid:
        environment = {
            **here.vault.environment(),
            "EVENT_GRID_TOPIC_ENDPOINT": grid.topic_endpoint,
            "EVENT_GRID_TOPIC_KEY": grid.topic_key,
        }
        with FunctionsHost(APP, environment=environment) as instance:
            url = f"{instance.url}/runtime/webhooks/EventGrid?functionName=rotation_event"
            grid.subscribe(url, source="topic", event_types=["SecretRotation.Requested"])
            assert instance.run_timer("rotation_sweep")["succeeded"]
            grid.wait_for(lambda g: any(e["eventType"] == "SecretRotation.Completed" for e in g.received))
    assert len(here.versions(name)) == 2
    assert len(here.versions(fresh)) == 1
    assert host.run_timer("rotation_sweep")["succeeded"]
    assert len(here.versions(name)) == 2


def test_killed_in_the_middle_the_redelivery_finishes(here: World, host: FunctionsHost) -> None:
    """P2: SIGKILL while Key Vault is being asked to take the new version of a single-user secret."""
    name = here.single(rotation_admin="self")
    here.clock.advance(OLD)
    one = event(here, name)
    here.vault.fail(method="PUT", path=f"/secrets/{name}", run=host.kill, when="after")
    with pytest.raises(OSError):  # noqa: PT011 (the connection breaks in one of several ways)
        host.post_event(one)
    assert not here.logs_in(name)
    host.start()
    assert host.post_event(one)[0] == 202
    assert here.logs_in(name)
    assert len(here.versions(name)) == 2


def test_by_hand_over_http(here: World, host: FunctionsHost) -> None:
    """A dry run, the rotation, and what can be read about it: never a value."""
    name = here.single(rotation_admin="self")
    password = here.value(name).split(":")[2].split("@")[0]
    status, _, body = host.http("POST", f"/api/secrets/{name}/rotate", json={"dryRun": True})
    assert (status, json_of(body)["status"]) == (200, "planned")
    assert len(here.versions(name)) == 1
    status, headers, body = host.http("POST", f"/api/secrets/{name}/rotate", json={"reason": "quarterly"})
    assert (status, json_of(body)["status"], json_of(body)["reason"]) == (200, "rotated", "quarterly")
    assert {name.lower(): value for name, value in headers.items()}["cache-control"] == "no-store"
    assert here.logs_in(name)
    _, _, shown = host.http("GET", f"/api/secrets/{name}")
    assert json_of(shown)["state"]["cause"] == "http"
    _, _, listed = host.http("GET", "/api/secrets")
    assert [secret["secret"] for secret in json_of(listed)["value"]] == [name]
    for text in (body, shown, listed):
        assert password.encode() not in text
        assert here.value(name).split(":")[2].split("@")[0].encode() not in text


def test_an_idempotency_key_makes_one_version(here: World, host: FunctionsHost) -> None:
    """P4: a client that lost the answer asks again, also after somebody else rotated."""
    name = here.single(rotation_admin="self")

    def rotate(key: str) -> str:
        status, _, body = host.http("POST", f"/api/secrets/{name}/rotate", headers={"Idempotency-Key": key})
        assert status == 200
        return str(json_of(body)["version"])

    first = rotate("request-1")
    assert rotate("request-1") == first
    assert rotate("request-2") != first
    assert rotate("request-1") == first
    assert len(here.versions(name)) == 3


def test_who_called_is_noted_where_app_service_says_it(here: World) -> None:
    principal = {"claims": [{"typ": "appid", "val": "app-1"}]}
    headers = {
        "X-MS-CLIENT-PRINCIPAL": base64.b64encode(json.dumps(principal).encode()).decode(),
        "X-MS-CLIENT-PRINCIPAL-ID": "object-1",
    }
    for trust, by in (("false", "key"), ("true", "app-1 object-1")):
        name = here.single(rotation_admin="self")
        environment = {**here.vault.environment(), "ROTATION_TRUST_PRINCIPAL": trust}
        with FunctionsHost(APP, environment=environment) as host:
            host.http("POST", f"/api/secrets/{name}/rotate", headers=headers)
        state = read_state(here.tags(name))
        assert state is not None
        assert state.by == by


def test_health_is_for_everybody_and_names_nothing(here: World, host: FunctionsHost) -> None:
    status, _, body = host.http("GET", "/api/health", key=False)
    assert (status, json_of(body)["status"]) == (200, "healthy")
    here.vault.fail(status=503, times=None)
    status, _, body = host.http("GET", "/api/health", key=False)
    assert status == 503
    assert b"127.0.0.1" not in body


def test_the_dashboard_is_a_page_that_nobody_stores_or_frames(here: World, host: FunctionsHost) -> None:
    """Through the host: its headers, and a form that no browser of ours sent."""
    name = here.single(rotation_admin="self")
    status, sent, body = host.http("GET", "/api/dashboard")
    headers = {header.lower(): value for header, value in sent.items()}
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "text/html; charset=utf-8", "no-store")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert name.encode() in body
    status, _, body = host.http("POST", "/api/dashboard", body="token=x", headers={"Origin": "https://evil.example"})
    assert (status, b"another site" in body) == (403, True)
    assert host.http("GET", "/api/dashboard?secret=no-such-secret")[0] == 404


def test_every_other_route_wants_a_key(here: World, host: FunctionsHost) -> None:
    name = here.single(rotation_admin="self")
    for method, path in (
        ("POST", f"/api/secrets/{name}/rotate"),
        ("GET", f"/api/secrets/{name}"),
        ("GET", "/api/secrets"),
        ("GET", "/api/dashboard"),
        ("POST", "/api/dashboard"),
    ):
        assert host.http(method, path, key=False)[0] == 401
    assert len(here.versions(name)) == 1


def test_wrong_settings_are_all_named_by_health_and_every_route(here: World) -> None:
    """P7: an app that is set up wrongly says all that is wrong, and takes no event for done."""
    environment = {"KEY_VAULT_URL": "ftp://x", "AIRFLOW_AUTH": "magic", "ROTATION_CONCURRENCY": "0"}
    with FunctionsHost(APP, environment=environment) as host:
        for method, path in (
            ("GET", "/api/health"),
            ("GET", "/api/secrets"),
            ("GET", "/api/secrets/x"),
            ("PATCH", "/api/secrets/x"),
            ("GET", "/api/secrets/x/history"),
            ("POST", "/api/secrets/x/rotate"),
            ("POST", "/api/secrets/x/rollback"),
            ("POST", "/api/rotations"),
        ):
            status, _, body = host.http(method, path)
            assert status == 503
            assert json_of(body)["complaints"] == [
                VAULT_COMPLAINT,
                "AIRFLOW_AUTH is not one of password, token, entra",
                "ROTATION_CONCURRENCY is not a whole number from 1 on",
            ]
        status, _, page = host.http("GET", "/api/dashboard")
        assert (status, b"AIRFLOW_AUTH is not one of password, token, entra" in page) == (503, True)
        named = key_vault_event(NEAR_EXPIRY, f"{here.vault.url}/secrets/x/0123", None)
        assert host.post_event(named)[0] == 500


def test_wrong_settings_are_told_by_each_invocation_for_the_alert_to_find() -> None:
    """The host drops a line that is logged at import; each sweep says it, whoever else calls."""
    with FunctionsHost(APP, environment={"KEY_VAULT_URL": "ftp://x"}) as host:
        for _ in range(2):
            start = len(host.output())
            assert not host.run_timer("rotation_sweep")["succeeded"]
            line = r"Error Function\.rotation_sweep\.User: app settings: KEY_VAULT_URL is not a URL"
            host.wait_for_output(line, start=start)
        named = key_vault_event(NEAR_EXPIRY, "https://v.vault.azure.net/secrets/x/0123", None)
        assert host.post_event(named)[0] == 500
        host.wait_for_output(r"Error Function\.rotation_event\.User: app settings: ")
        assert host.http("GET", "/api/health", key=False)[0] == 503
        host.wait_for_output(r"Error Function\.health\.User: app settings: ")


def test_what_is_down_is_503_and_brought_again(tmp_path: Path) -> None:
    """P2, P7: a database, a vault, an identity or an Airflow that is not there makes nothing worse, and it passes."""
    with PostgreSQL() as server, world(tmp_path, server, behind=OLD) as here:
        name = due(here)
        one = event(here, name)
        nowhere = {"AIRFLOW_URL": "http://127.0.0.1:9", "AIRFLOW_AUTH": "token", "AIRFLOW_TOKEN": "x"}
        with FunctionsHost(APP, environment={**here.vault.environment(), **nowhere}) as host:

            def refused() -> tuple[int, bool]:
                status, headers, body = host.http("POST", f"/api/secrets/{name}/rotate")
                assert name in json_of(body)["detail"]
                return status, any(header.lower() == "retry-after" for header in headers)

            identity = here.vault.identity.fail(status=500, times=None)
            assert refused() == (503, True)
            assert host.post_event(one)[0] == 500
            identity.remove()
            # msal goes on saying no for 5 s without asking; Event Grid's first repetition comes after 10 s.
            until = time.monotonic() + 30
            while host.http("GET", f"/api/secrets/{name}")[0] != 200 and time.monotonic() < until:
                time.sleep(0.2)
            server.stop()
            assert refused() == (503, True)
            assert host.post_event(one)[0] == 500
            server.start()
            assert len(here.versions(name)) == 1
            # The vault and the database are back; only Airflow is not: the rotation stands, the refresh is pending.
            assert host.post_event(one)[0] == 500
            assert len(here.versions(name)) == 2
            assert here.logs_in(name)
            state = read_state(here.tags(name))
            assert state is not None
            assert state.pending == ("refresh",)
            single = here.single(rotation_admin="self")
            status, _, body = host.http("POST", f"/api/secrets/{single}/rotate")
            assert (status, json_of(body)["airflow"]["status"]) == (202, "pending")
