"""Telemetry turned on as on Azure: Microsoft's worker library, the Azure Monitor distro, a collector on loopback."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.rotation.test_leaks import found, secrets_of
from tests.world import World

ROOT = Path(__file__).parents[2]
ROTATE_ONCE = """if True:
    import asyncio, logging, sys
    from pathlib import Path
    from sandbox.worker import Worker, http_datum

    async def rotate(name):
        worker = Worker()
        (function,) = [f for f in await worker.load(Path.cwd()) if f.name == "rotate_secret"]
        request = http_datum(
            method="POST", url="http://app/api/secrets/x/rotate", headers={}, route={"name": name}, query={}, body=b""
        )
        done = await worker.invoke(function, request)
        print(done.exception or done.returned.value["status_code"].value)

    logging.getLogger().setLevel(logging.INFO)  # as the worker process does, around the library
    asyncio.run(rotate(sys.argv[1]))
"""


class Collector(ThreadingHTTPServer):
    """Takes what the exporter sends, and keeps it as text."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[str] = []

    def sent(self, kind: str) -> list[dict[str, Any]]:
        """Return what came of one kind: `MessageData` (traces), `RemoteDependencyData` (spans), `MetricData`."""
        items = [item for body in self.bodies for item in json.loads(body) if isinstance(item, dict)]
        return [i["data"]["baseData"] | {"tags": i["tags"]} for i in items if i.get("data", {}).get("baseType") == kind]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/track"):
            self.server.bodies.append(body.decode())
        taken = len(json.loads(body)) if body else 0
        answer = json.dumps({"itemsReceived": taken, "itemsAccepted": taken, "errors": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_workers_own_switch_sends_our_spans_metrics_and_lines(here: World, collector: Collector) -> None:
    """P3 as well: the distro instruments the SDK's HTTP, and no password is in anything that left the process."""
    name = here.alternating()
    url = f"http://127.0.0.1:{collector.server_port}/"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        **here.vault.environment(),
        "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": "true",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": (
            f"InstrumentationKey=00000000-0000-0000-0000-000000000001;IngestionEndpoint={url};LiveEndpoint={url}"
        ),
        # As docs/telemetry.md advises: the distro's own sampler drops spans of the SDK out of the middle of a trace.
        "OTEL_TRACES_SAMPLER": "always_on",
        # The distro's own statistics, which would go to Microsoft.
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
        "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
    }
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", ROTATE_ONCE, name],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "200\n", done.stderr
    spans = {span["name"]: span for span in collector.sent("RemoteDependencyData")}
    assert {"rotation", "lock", "verify", "publish", "SecretClient.set_secret"} <= spans.keys()
    assert spans["rotation"]["properties"]["rotation.secret"] == name
    lines = {line["event"]: line for line in map(json.loads, ours(collector))}
    assert lines["rotation rotated"]["secret"] == name
    (rotated,) = (m for m in collector.sent("MessageData") if "rotation rotated" in m["message"])
    assert rotated["properties"]["rotation.status"] == "rotated"
    assert rotated["tags"]["ai.operation.parentId"] != ""
    metrics = {metric["metrics"][0]["name"]: metric for metric in collector.sent("MetricData")}
    assert metrics["rotation.outcomes"]["properties"]["status"] == "rotated"
    assert metrics["rotation.duration"]["metrics"][0]["count"] == 1
    secrets = secrets_of(here)
    assert len(secrets) > 2
    assert found(secrets, "\n".join(collector.bodies) + done.stderr) == []


def ours(collector: Collector) -> list[str]:
    return [m["message"] for m in collector.sent("MessageData") if m["message"].startswith('{"event":')]
