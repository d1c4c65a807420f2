"""The HTTP contract on the Functions host: what openapi.json says is what comes."""

import base64
import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker

from rotators.policy import read_state
from sandbox.event_grid import EventGrid
from sandbox.functions_host import FunctionsHost
from sandbox.key_vault import KeyVault
from tests.e2e.test_end_to_end import APP, json_of
from tests.world import World

# Not to be had here: a fault of the program, a refresh that is pending (below), an Airflow or a database that refuses
# what was just read; and what is in the other helpers' routes.
NOT_PROVOKED = {
    *((function, "500") for function in ("list_secrets", "show_secret", "update_secret", "show_history")),
    *((function, "500") for function in ("rotate_secret", "roll_back_secret", "rotate_secrets", "check_secret")),
}


class Client:
    """Sends requests, and holds each answer against the document."""

    def __init__(self, host: FunctionsHost) -> None:
        self.host = host
        status, _, body = host.http("GET", "/api/openapi.json", key=False)
        assert status == 200
        self.document = strict(json_of(body))
        self.seen = {("openapi", "200")}

    def send(self, method: str, path: str, json: object = None, **how: Any) -> tuple[int, Any]:  # JSON
        """Return status and body; fail where the document does not know them."""
        status, headers, body = self.host.http(method, f"/api{path}", json=json, **how)
        operation = self._operation(method, path.partition("?")[0])
        assert str(status) in operation["responses"], (method, path, status, body)
        self.seen.add((operation["x-function"], str(status)))
        described = operation["responses"][str(status)]
        for header in described.get("headers", {}):
            # A 409 says when to come again only when it is busy.
            assert header in headers or status == 409, (path, status)
        if "content" not in described:
            return status, None
        ((media_type, content),) = described["content"].items()
        assert headers["Content-Type"].partition(";")[0] == media_type
        assert headers["Cache-Control"] == "no-store"
        schema = {**content["schema"], "components": self.document["components"]}
        parsed = json_of(body)
        OAS31Validator(schema, format_checker=oas31_format_checker).validate(parsed)
        if status >= 400 and operation["x-function"] != "health":
            assert parsed["status"] == status
            assert parsed["detail"]
        return status, parsed

    def _operation(self, method: str, path: str) -> Any:  # JSON
        parts = path.strip("/").split("/")
        for template, item in self.document["paths"].items():
            wanted = template.strip("/").split("/")
            if len(wanted) == len(parts) and all(w in (p, "{name}") for w, p in zip(wanted, parts, strict=True)):
                return item[method.lower()]
        raise AssertionError(f"{path} is not in the document")


def strict(document: Any) -> Any:  # JSON
    """Return the document with no other properties than those it names: an answer must not have one that it lacks."""
    made = copy.deepcopy(document)
    waiting: list[Any] = [made["components"]["schemas"]]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("type") == "object" and "properties" in node:
                node.setdefault("additionalProperties", False)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return made


@pytest.fixture
def client(here: World) -> Iterator[Client]:
    with FunctionsHost(APP, environment=here.vault.environment()) as host:
        yield Client(host)


def test_every_answer_is_as_the_document_says(here: World, client: Client) -> None:
    """Each status that can be had, of each route, with its schema, its media type and its headers; P7."""
    send = client.send
    name, lost, single = here.alternating(), here.alternating(), here.single(rotation_admin="self")
    paused = here.alternating(rotation_enabled="false")
    broken, unmanaged = here.alternating(rotation_every="often"), here.secret(here.user(), {})
    refused = here.alternating("postgresql://nobody:x@127.0.0.1/x")
    here.vault.put("disabled", "x", tags={"rotation-strategy": "single-user"})
    here.systems.vault.disable("disabled", here.vault.current("disabled").version)

    def statuses(method: str, path: str, *bodies: object) -> list[int]:
        return [send(method, path, body)[0] for body in bodies]

    assert statuses("POST", f"/secrets/{name}/rotate", {"dryRun": True}, {"reason": "x"}, {}) == [200, 200, 409]
    assert statuses("POST", f"/secrets/{name}/rotate", {"x": 1}, {"force": "yes"}) == [400, 400]
    assert statuses("POST", "/secrets/a_b/rotate", None) == [400]
    assert statuses("POST", f"/secrets/{paused}/rotate", {}, {"force": True}) == [409, 200]
    assert [send("POST", f"/secrets/{it}/rotate")[0] for it in ("nobody", broken, unmanaged, refused)] == [
        404,
        422,
        422,
        422,
    ]
    assert statuses("POST", f"/secrets/{name}/rollback", {"dryRun": True}, {}, {"force": True}) == [200, 200, 400]
    assert [send("POST", f"/secrets/{it}/rollback")[0] for it in ("nobody", single, unmanaged)] == [404, 409, 422]
    first = here.user_of(lost)
    assert statuses("POST", f"/secrets/{lost}/rotate", {}) == [200]
    here.server.execute(f"ALTER ROLE \"{first}\" PASSWORD 'another'")
    assert statuses("POST", f"/secrets/{lost}/rollback", {}) == [502]
    here.server.execute(f'ALTER ROLE "{here.user_of(single)}" NOLOGIN')
    assert statuses("POST", f"/secrets/{single}/rotate", {}) == [502]
    here.server.execute(f'ALTER ROLE "{here.user_of(single)}" LOGIN')

    assert statuses("GET", "/secrets", None) == [200]
    assert statuses("GET", "/secrets?maxresults=2", None) == [200]
    assert statuses("GET", "/secrets?maxresults=0", None) == [400]
    for it in (name, single, paused, broken, unmanaged):
        assert statuses("GET", f"/secrets/{it}", None) == [200]
        assert statuses("GET", f"/secrets/{it}/history", None) == [200]
    assert [send("GET", f"/secrets/{it}")[0] for it in ("a_b", "nobody", "disabled")] == [400, 404, 422]
    assert [send("GET", f"/secrets/{it}/history")[0] for it in ("a_b", "nobody")] == [400, 404]
    for it in (name, single, paused, broken, unmanaged):
        assert statuses("POST", f"/secrets/{it}/check", None) == [200]
    assert [send("POST", f"/secrets/{it}/check")[0] for it in ("a_b", "nobody")] == [400, 404]
    assert statuses("PATCH", f"/secrets/{single}", {"enabled": False}, {"enabled": True}, {}) == [200, 200, 400]
    assert [send("PATCH", f"/secrets/{it}", {"enabled": True})[0] for it in ("nobody", unmanaged)] == [404, 422]

    assert statuses("POST", "/rotations", {"secrets": [single, "nobody"], "dryRun": True}) == [200]
    assert statuses("POST", "/rotations", {"secrets": [single, "nobody"]}, {}) == [202, 400]
    assert statuses("POST", "/rotations", {"host": "elsewhere", "strategy": "alternating-users"}) == [404]
    assert statuses("POST", "/rotations", {"secrets": ["nobody"]}) == [409]
    assert statuses("GET", "/health", None) == [200]

    out_of_order(here.vault, client, name)
    documented = {
        (operation["x-function"], status)
        for item in client.document["paths"].values()
        for method, operation in item.items()
        # The page speaks HTML to browsers: tests/browser.
        if method != "parameters" and operation["x-function"] != "dashboard"
        for status in operation["responses"]
    }
    assert documented - client.seen == {*NOT_PROVOKED, ("rotate_secret", "202"), ("roll_back_secret", "202")}


def out_of_order(vault: KeyVault, client: Client, name: str) -> None:
    """Ask each route without a key, and with a vault that refuses, and one that is down."""
    requests: list[tuple[str, str, object]] = [
        ("GET", "/secrets", None),
        ("GET", f"/secrets/{name}", None),
        ("GET", f"/secrets/{name}/history", None),
        ("PATCH", f"/secrets/{name}", {"enabled": False}),
        ("POST", f"/secrets/{name}/check", None),
        ("POST", f"/secrets/{name}/rotate", None),
        ("POST", f"/secrets/{name}/rollback", None),
        ("POST", "/rotations", {"strategy": "single-user"}),
    ]
    assert {client.send(*request, key=False)[0] for request in requests} == {401}
    denials = [vault.deny("getSecret"), vault.deny("list")]
    # Only the doctor says that too as one of its findings.
    check = ("POST", f"/secrets/{name}/check", None)
    assert {client.send(*request)[0] for request in requests if request != check} == {502}
    assert client.send(*check)[0] == 200
    for denial in denials:
        denial.remove()
    vault.fail(status=503, times=None)
    # Each waits for the retries of the SDK.
    with ThreadPoolExecutor(len(requests)) as pool:
        assert {status for status, _ in pool.map(lambda request: client.send(*request), requests)} == {503}
    assert client.send("GET", "/health", key=False)[0] == 503


def test_a_refresh_that_is_pending_is_202(here: World) -> None:
    """Published, and Airflow is to be asked again."""
    nowhere = {"AIRFLOW_URL": "http://127.0.0.1:9", "AIRFLOW_AUTH": "token", "AIRFLOW_TOKEN": "x"}
    with FunctionsHost(APP, environment={**here.vault.environment(), **nowhere}) as host:
        client, name = Client(host), here.alternating()
        assert client.send("POST", f"/secrets/{name}/rotate")[0] == 202
        assert client.send("POST", f"/secrets/{name}/rollback")[0] == 202


def test_over_the_topic_the_id_in_the_answer_is_that_of_the_outcome(here: World) -> None:
    """P4: through Event Grid and the worker, and who asked and why with it."""
    names = {here.alternating(), here.single(rotation_admin="self")}
    with EventGrid() as grid:
        topic = {"EVENT_GRID_TOPIC_ENDPOINT": grid.topic_endpoint, "EVENT_GRID_TOPIC_KEY": grid.topic_key}
        with FunctionsHost(APP, environment={**here.vault.environment(), **topic}) as host:
            url = f"{host.url}/runtime/webhooks/EventGrid?functionName=rotation_event"
            grid.subscribe(url, source="topic", event_types=["SecretRotation.Requested"])
            _, answer = Client(host).send("POST", "/rotations", {"secrets": sorted(names), "reason": "leaked"})

            def completed(grid: EventGrid) -> dict[str, str]:
                done = [event["data"] for event in grid.received if event["eventType"] == "SecretRotation.Completed"]
                return {data["secret"]: data["rotationId"] for data in done if data["reason"] == "leaked"}

            grid.wait_for(lambda grid: completed(grid).keys() == names)
            assert completed(grid) == {entry["secret"]: entry["id"] for entry in answer["value"]}
    assert {entry["status"] for entry in answer["value"]} == {"requested"}


def test_who_called_is_known_wherever_something_is_changed(here: World) -> None:
    """App Service authentication says it: in the state, the outcome, and the log."""
    headers = {"X-MS-CLIENT-PRINCIPAL-NAME": "ann@example.com", "X-MS-CLIENT-PRINCIPAL-ID": "object-1"}
    environment = {**here.vault.environment(), "ROTATION_TRUST_PRINCIPAL": "true"}
    name, by = here.alternating(), "ann@example.com object-1"
    with FunctionsHost(APP, environment=environment) as host:
        client = Client(host)
        client.send("POST", "/rotations", {"secrets": [name], "reason": "leaked"}, headers=headers)
        _, rolled_back = client.send("POST", f"/secrets/{name}/rollback", {"reason": "no"}, headers=headers)
        client.send("PATCH", f"/secrets/{name}", {"enabled": False}, headers=headers)
        assert rolled_back["by"] == by
        _, page = client.send("GET", f"/secrets/{name}/history")
        assert [(entry["cause"], entry["by"], entry["reason"]) for entry in page["value"]] == [
            ("rollback", by, "no"),
            ("requested", by, "leaked"),
            ("by hand", None, None),
        ]
        line = json.dumps({"event": "paused", "secret": name, "version": here.vault.current(name).version, "by": by})
        host.wait_for_output(line.replace('": "', '":"').replace('", "', '","'))
    assert read_state(here.tags(name)) is not None


def test_a_page_leads_to_the_next_and_shows_no_key(here: World, client: Client) -> None:
    """As a client of Azure follows `nextLink`; P3: the key that stood in the address does not come back."""
    names = {here.single(rotation_admin="self") for _ in range(3)}
    found = []
    link = f"/api/secrets?maxresults=2&code={client.host.function_key}"
    while link:
        _, page = client.send("GET", link.partition("/api")[2])
        found += [secret["secret"] for secret in page["value"]]
        link = page["nextLink"] or ""
        assert client.host.function_key not in link
    assert (len(found), set(found)) == (3, names)


def test_the_principal_header_is_not_needed_for_anything(here: World, client: Client) -> None:
    """P6: forged, while the setting is off, it changes nothing."""
    principal = base64.b64encode(json.dumps({"claims": [{"typ": "oid", "val": "forged"}]}).encode()).decode()
    name = here.single(rotation_admin="self")
    _, answer = client.send("POST", "/rotations", {"secrets": [name]}, headers={"X-MS-CLIENT-PRINCIPAL": principal})
    assert answer["value"][0]["status"] == "rotated"
    state = read_state(here.tags(name))
    assert state is not None
    assert state.by == "key"
