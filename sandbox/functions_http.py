"""The HTTP side of the Functions host stand-in: the app's routes, the Event Grid webhook, `/admin`, and the keys."""

import hmac
import json
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from sandbox.functions_runtime import BY_HOST_API, Runtime
from sandbox.http_service import Request, Response
from sandbox.worker import Function, event_datum, http_datum


@dataclass(frozen=True, slots=True)
class Keys:
    """Who may call what: the function key opens functions, the master key everything."""

    function: str
    master: str
    event_grid: str = ""
    """The system key `eventgrid_extension`; without one the webhook is open, as it is with `func start`."""
    checked: bool = True

    def admit(self, request: Request, *accepted: str) -> bool:
        """Tell whether the request has the master key or one of `accepted`, in the header or else the query."""
        given = request.headers.get("x-functions-key") or request.query.get("code", "")
        return not self.checked or any(
            hmac.compare_digest(given.encode(), key.encode()) for key in (self.master, *accepted) if key
        )


class Endpoints:
    """Answers what the real host answers."""

    def __init__(self, runtime: Runtime, keys: Keys) -> None:
        self._runtime = runtime
        self._keys = keys
        self._routes = sorted(runtime.routes, key=lambda route: route.rank)

    def answer(self, request: Request) -> Response:
        """Answer a request."""
        try:
            return self._dispatch(request)
        except CancelledError:
            return Response(503)  # the host ends and does not wait any longer

    def _dispatch(self, request: Request) -> Response:
        match [part for part in request.path.split("/") if part]:
            case []:
                return Response.text(200, "Your Functions app is up and running")
            case [first, *rest] if first.lower() == "admin":
                return self._admin(request, [part.lower() for part in rest])
            case [runtime, webhooks, extension] if (runtime + webhooks).lower() == "runtimewebhooks":
                return self._webhook(request) if extension.lower() == "eventgrid" else Response(404)
            case _:
                return self._function(request)

    def _function(self, request: Request) -> Response:
        for route in self._routes:
            if (parameters := route.match(request)) is not None:
                break
        else:
            return Response(404)
        accepted = (self._keys.function,) if route.level == "function" else ()
        if route.level != "anonymous" and not self._keys.admit(request, *accepted):
            return Response(401)
        value = http_datum(
            method=request.method,
            url=f"http://{request.headers.get('Host', 'localhost')}{request.target}",
            headers={name: ", ".join(request.headers.get_all(name, ())) for name in request.headers},
            route=parameters,
            query=request.query,
            body=request.body,
        )
        ended = self._runtime.begin(route.function, value, BY_HOST_API).result()
        # Nothing of an uncaught exception is told to the caller.
        return Response(500) if ended.exception else _http_response(ended.returned)

    def _webhook(self, request: Request) -> Response:
        """Answer as the Event Grid extension does (EventGridExtensionConfigProvider in Azure/azure-sdk-for-net)."""
        if self._keys.event_grid and not self._keys.admit(request, self._keys.event_grid):
            return Response(401)
        name = request.query.get("functionName", "")
        of_event_grid = [it for it in self._runtime.functions if it.kind == "eventGridTrigger" and it.name == name]
        if not of_event_grid:
            return Response.text(404, f"cannot find function: '{name}'")
        if request.method == "OPTIONS":
            # The handshake of CloudEvents: who sends asks whether it may, and how fast.
            origin = request.headers.get("WebHook-Request-Origin", "")
            return Response(200, headers=(("WebHook-Allowed-Origin", origin), ("WebHook-Allowed-Rate", "*")))
        try:
            return self._events(request, of_event_grid[0])
        except (ValueError, LookupError, TypeError):
            return Response(500)  # the extension does not catch what its JSON reader raises

    def _events(self, request: Request, function: Function) -> Response:
        match request.headers.get("aeg-event-type", "").lower():
            case "subscriptionvalidation":
                code = json.loads(request.body)[0]["data"]["validationCode"]
                return Response.json(200, {"validationResponse": code})
            case "notification":
                sent = json.loads(request.body)
            case "unsubscribe":
                return Response(202)
            case _:
                return Response(400)
        events = sent if isinstance(sent, list) else [sent]
        running = [self._runtime.begin(function, event_datum(event), _BY_EVENT_GRID) for event in events]
        if any(ended.exception for ended in [run.result() for run in running]):
            # The message of the host's exception, which wraps the function's (ExecutionFailureTest in the
            # extension's TestListener.cs): the function's own text is in the log only.
            return Response.text(500, f"Exception while executing function: Functions.{function.name}")
        return Response(202)

    def _admin(self, request: Request, path: list[str]) -> Response:
        if path == ["host", "ping"]:
            return Response(200)
        if not self._keys.admit(request):
            return Response(401)
        errors = self._runtime.errors
        match path:
            case ["host", "status"]:
                complaints = [f"{name}: {error}" for name, error in errors.items()]
                return Response.json(200, {"state": "Running", "version": "4.0.0-stand-in", "errors": complaints})
            case ["functions"]:
                return Response.json(200, [_metadata(function) for function in self._runtime.functions])
            case ["functions", name, *rest] if rest in ([], ["status"]):
                return self._admin_function(request, name, status=bool(rest))
            case _:
                return Response(404)

    def _admin_function(self, request: Request, name: str, *, status: bool) -> Response:
        function = next((it for it in self._runtime.functions if it.name.lower() == name), None)
        if status:
            errors = [error for known, error in self._runtime.errors.items() if known.lower() == name]
            return Response.json(200, {"errors": errors}) if function or errors else Response(404)
        if not function:
            return Response(404)
        if request.method == "POST":
            return self._begin_by_hand(request, function)
        return Response.json(200, _metadata(function))

    def _begin_by_hand(self, request: Request, function: Function) -> Response:
        if request.content_type != "application/json":
            return Response(415)
        try:
            value = json.loads(request.body).get("input")
        except (ValueError, AttributeError):
            value = None
        if not isinstance(value, str):
            return Response.text(400, 'The body must be {"input": "..."}, a string.')
        if function.kind == "httpTrigger":
            return Response.text(400, "This stand-in starts HTTP functions by their route only.")
        running = self._runtime.begin_by_hand(function, value)
        if request.query.get("wait", "").lower() != "true":
            return Response(202)
        # An addition of this stand-in: the real host has no way to wait for the end.
        ended = running.result()
        outcome = {
            "invocationId": ended.id,
            "succeeded": ended.exception is None,
            "exception": ended.exception,
            "milliseconds": ended.milliseconds,
        }
        return Response.json(200, outcome)


_BY_EVENT_GRID = "EventGrid trigger fired"


def _http_response(returned: Any) -> Response:
    """Turn the library's answer, an `http` or a `string` Datum, into ours."""
    if returned.type != "http":
        return Response.text(200, str(returned.value))
    value = returned.value
    headers = [(name, header.value) for name, header in value["headers"].items()]
    headers = [(name, text) for name, text in headers if name.lower() not in {"content-length", "transfer-encoding"}]
    headers += [
        ("Set-Cookie", morsel.OutputString()) for cookie in value["cookies"] or () for morsel in cookie.values()
    ]
    return Response(int(value["status_code"].value), value["body"].value, tuple(headers))


def _metadata(function: Function) -> dict[str, object]:
    return {"name": function.name, "config": {"bindings": function.bindings}, "language": "python"}
