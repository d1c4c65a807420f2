"""A worker process: Microsoft's library, loaded with one app and brought events, with next to nothing around it.

    python -m benchmarks.cold_worker <the folder of function_app.py>

Each line of its input is an order in JSON, and gets a line in answer. An order has any of `event`, an event for the
function `rotation_event`; `import`, names of modules to import; `trust`, a file of authorities to read, as for a first
TLS connection; `compile`, files of Python to compile; `loaded`, names of which those in `sys.modules` are answered. The
clock is that of the whole machine, so that who started the process can say how long ago that was.
"""

import asyncio
import importlib
import json
import logging
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.worker import Worker, event_datum

kept: list[ssl.SSLContext] = []


async def serve(app: Path) -> None:
    """Load the app, and obey until the input ends."""
    logging.basicConfig(level=logging.INFO)
    sys.path[0] = str(app)
    worker = Worker()
    (function,) = (function for function in await worker.load(app) if function.name == "rotation_event")
    # To look at the memory takes time, for which nothing is charged but the first event of either app.
    loaded = {"seconds": time.monotonic(), **_memory()}
    for line in sys.stdin:
        order = json.loads(line)
        begun = {**_memory(), "seconds": time.monotonic()}
        exception = None
        if "event" in order:
            exception = (await worker.invoke(function, event_datum(order["event"]))).exception
        _obey(order)
        moments = {"loaded": loaded, "begun": begun, "done": {"seconds": time.monotonic(), **_memory()}}
        modules = [name for name in order.get("loaded", ()) if name in sys.modules]
        print(json.dumps({"exception": exception, "modules": modules, **moments}), flush=True)


def _obey(order: Mapping[str, Any]) -> None:  # Any: JSON
    for name in order.get("import", ()):
        importlib.import_module(name)
    for file in order.get("compile", ()):
        compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
    if "trust" in order:
        kept.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        kept[-1].load_verify_locations(order["trust"])


def _memory() -> dict[str, float]:
    """Return the kibibytes that are resident, and those of them that no other process has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kibibytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return {"resident": kibibytes["Rss"], "unique": kibibytes["Private_Clean"] + kibibytes["Private_Dirty"]}


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
