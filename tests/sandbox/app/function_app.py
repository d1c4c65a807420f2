"""A small function app for the tests of the Functions host stand-in."""

import contextlib
import json
import logging
import os
import time
from pathlib import Path

import azure.functions as func

log = logging.getLogger("things")
app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)


@app.route("things/{name}/turn", methods=["POST"])
def turn_thing(req: func.HttpRequest) -> func.HttpResponse:
    log.info("turning %s", req.route_params["name"])
    with contextlib.suppress(ValueError):
        body = req.get_json()
        return _json(201, route=dict(req.route_params), query=dict(req.params), headers=dict(req.headers), body=body)
    return _json(400, url=req.url)


@app.route("things/{name}", methods=["GET"])
def show_thing(req: func.HttpRequest) -> func.HttpResponse:
    return _json(200, thing=req.route_params["name"])


@app.route("things/{name}", methods=["PATCH"])
def change_thing(req: func.HttpRequest) -> func.HttpResponse:
    return _json(200, changed=req.route_params["name"])


@app.route("things/special", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def special(req: func.HttpRequest) -> str:
    return f"{req.method} special"


@app.route("files/{kind:alpha}/{*path}", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def files(req: func.HttpRequest) -> func.HttpResponse:
    return _json(200, **req.route_params)


@app.route("broken", auth_level=func.AuthLevel.ANONYMOUS)
def broken(req: func.HttpRequest) -> func.HttpResponse:  # noqa: ARG001 (the binding's name)
    raise ValueError("the body must not say this")


@app.route("slow", auth_level=func.AuthLevel.ANONYMOUS)
def slow(req: func.HttpRequest) -> str:
    log.info("slow begins")
    time.sleep(float(req.params["seconds"]))
    log.info("slow ends")
    return "done"


@app.route("setting/{name}", auth_level=func.AuthLevel.ADMIN)
def setting(req: func.HttpRequest) -> str:
    return os.environ.get(req.route_params["name"], "")


@app.event_grid_trigger(arg_name="event")
def on_event(event: func.EventGridEvent, context: func.Context) -> None:
    subject = event.subject
    kind = event.type if isinstance(event, func.CloudEvent) else event.event_type
    log.info("event %s %s %s", kind, subject, context.function_name)
    if subject == "meet":
        meet(event.id)
    if subject == "bad":
        raise RuntimeError(f"cannot handle {event.id}")


@app.timer_trigger(arg_name="timer", schedule="%SWEEP%")
def sweep(timer: func.TimerRequest) -> None:
    log.info("swept %s", "late" if timer.past_due else "in time")


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *", run_on_startup=True)
def at_start(timer: func.TimerRequest) -> None:  # noqa: ARG001 (the binding's name)
    log.warning("started")


def meet(name: str) -> None:
    """Wait until another invocation is here too: it ends only when both run at the same time."""
    folder = Path(os.environ["MEETING"])
    (folder / name).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.005)


def _json(status: int, **value: object) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(value), status_code=status, mimetype="application/json")
