"""The triggers, and nothing else: each turns what it is given into a call of `rotators`."""
# ruff: noqa: E402 (the imports come after what makes them cheaper)

import gc

# What an import makes stays. Looking for garbage in all of it, again and again, takes a twentieth of a cold start.
gc.disable()

import logging
import os
import sys
from collections.abc import Callable

import azure.functions as func

from rotators import api, dashboard_requests
from rotators.batch import request_rotations
from rotators.decision import Trigger
from rotators.dispatch import deliver, sweep
from rotators.errors import RotationError, SettingsError
from rotators.events import EventIn
from rotators.journal import guarded
from rotators.rotation import rotate
from rotators.settings import sweep_schedule
from rotators.systems import Systems, connect

gc.freeze()
gc.enable()

if sys.platform != "win32":
    import resource

    # A core file would hold every password that is in memory (P3).
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

# Functions passes on whatever a library logs; these two log every request.
logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)
logging.getLogger("azure.identity").setLevel(logging.WARNING)

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)


def _connect() -> Systems | SettingsError:
    """An exception at import would take every function away, `health` too: keep the complaint instead."""
    try:
        return connect()
    except SettingsError as error:
        return error


_systems = _connect()


def systems() -> Systems:
    """Return the outside systems. Raise SettingsError, at each call, when the app settings are wrong."""
    if isinstance(_systems, SettingsError):
        # At import it would be lost: the host drops what is logged outside of an invocation.
        logging.getLogger("rotators").error("%s", _systems)
        raise SettingsError(_systems.complaints)
    return _systems


def answering(request: Callable[[], api.Answer | dashboard_requests.Page]) -> func.HttpResponse:
    """Return what `request` answers, or the problem that it raises."""
    answer: api.Answer | dashboard_requests.Page
    try:
        answer = guarded("the request", request)
    except RotationError as error:
        answer = api.error_answer(error)
    return func.HttpResponse(
        # A tag may hold half of a character, which no encoding has.
        answer.text.encode(errors="replace"),
        status_code=answer.status,
        headers={**answer.headers, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        mimetype=answer.content_type,
    )


def rotating(req: func.HttpRequest, read: Callable[..., Trigger]) -> func.HttpResponse:
    """Return the outcome of the trigger that `read` makes of a request for one secret."""

    def request() -> api.Answer:
        world = systems()
        trust_principal = world.settings.trust_principal
        trigger = read(req.route_params["name"], req.get_body(), req.headers, trust_principal=trust_principal)
        return api.outcome_answer(rotate(world, trigger))

    return answering(request)


@app.event_grid_trigger(arg_name="event")
def rotation_event(event: func.EventGridEvent) -> None:
    # A CloudEvent arrives as one, whatever the annotation says.
    kind = event.type if isinstance(event, func.CloudEvent) else event.event_type
    deliver(systems(), EventIn.of(event.id, kind, event.get_json()))


@app.timer_trigger(arg_name="timer", schedule=sweep_schedule(os.environ), run_on_startup=False)
def rotation_sweep(timer: func.TimerRequest) -> None:  # noqa: ARG001 (the host passes it)
    sweep(systems())


@app.route(route="secrets/{name}/rotate", methods=["POST"])
def rotate_secret(req: func.HttpRequest) -> func.HttpResponse:
    return rotating(req, api.read_rotate_request)


@app.route(route="secrets/{name}/rollback", methods=["POST"])
def roll_back_secret(req: func.HttpRequest) -> func.HttpResponse:
    return rotating(req, api.read_rollback_request)


@app.route(route="rotations", methods=["POST"])
def rotate_secrets(req: func.HttpRequest) -> func.HttpResponse:
    def request() -> api.Answer:
        world = systems()
        batch = api.read_rotations_request(req.get_body(), req.headers, trust_principal=world.settings.trust_principal)
        return api.rotations_answer(request_rotations(world, batch), dry_run=batch.dry_run)

    return answering(request)


@app.route(route="secrets/{name}", methods=["PATCH"])
def update_secret(req: func.HttpRequest) -> func.HttpResponse:
    return answering(lambda: api.update(systems(), req.route_params["name"], req.get_body(), req.headers))


@app.route(route="secrets/{name}/history", methods=["GET"])
def show_history(req: func.HttpRequest) -> func.HttpResponse:
    return answering(lambda: api.show_history(systems(), req.route_params["name"], req.url, req.params))


@app.route(route="secrets/{name}", methods=["GET"])
def show_secret(req: func.HttpRequest) -> func.HttpResponse:
    return answering(lambda: api.show(systems(), req.route_params["name"]))


@app.route(route="secrets/{name}/check", methods=["POST"])
def check_secret(req: func.HttpRequest) -> func.HttpResponse:
    return answering(lambda: api.check(systems(), req.route_params["name"]))


@app.route(route="secrets", methods=["GET"])
def list_secrets(req: func.HttpRequest) -> func.HttpResponse:
    return answering(lambda: api.list_secrets(systems(), req.url, req.params))


@app.route(route="health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def health(req: func.HttpRequest) -> func.HttpResponse:  # noqa: ARG001 (the host passes it)
    return answering(lambda: api.health(systems()))


@app.route(route="dashboard", methods=["GET", "POST"])
def dashboard(req: func.HttpRequest) -> func.HttpResponse:
    asked = dashboard_requests.BrowserRequest(req.method, req.url, req.params, req.headers, req.get_body())
    return answering(lambda: dashboard_requests.answer(systems, asked))


@app.route(route="openapi.json", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def openapi(req: func.HttpRequest) -> func.HttpResponse:  # noqa: ARG001 (the host passes it)
    return answering(api.openapi)
