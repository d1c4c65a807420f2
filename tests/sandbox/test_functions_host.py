"""The Functions host stand-in answers, runs and prints as the real host does."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.functions_host import FunctionsHost

APP = Path(__file__).parent / "app"
NEVER = "0 0 0 1 1 *"
WEBHOOK = "/runtime/webhooks/EventGrid?functionName=on_event"


@pytest.fixture(scope="module")
def host() -> Iterator[FunctionsHost]:
    with FunctionsHost(APP, environment={"SWEEP": NEVER}) as running:
        yield running


def app(folder: Path, source: str, host_json: object = None, settings: object = None) -> Path:
    """Make an app in a folder."""
    (folder / "function_app.py").write_text(source)
    if host_json:
        (folder / "host.json").write_text(json.dumps(host_json))
    if settings:
        (folder / "local.settings.json").write_text(json.dumps({"IsEncrypted": False, "Values": settings}))
    return folder


def event(subject: str = "thing", identifier: str = "1") -> dict[str, object]:
    return {
        "id": identifier,
        "topic": "/vault",
        "subject": subject,
        "eventType": "Made.Up",
        "eventTime": "2026-11-25T01:02:03.1234567Z",
        "data": {},
        "dataVersion": "1",
    }


# HTTP functions


def test_function_gets_all_of_a_request(host: FunctionsHost) -> None:
    """Route parameters, query, headers and body reach the function, and its answer the caller."""
    status, headers, body = host.http(
        "POST", "/api/things/a%20b/turn?x=1&x=2&empty=", json=[1], headers={"X-Colour": "red"}
    )
    answer = json.loads(body)
    assert (status, headers["content-type"]) == (201, "application/json")
    assert (answer["route"], answer["query"], answer["body"]) == ({"name": "a b"}, {"x": "1,2"}, [1])
    assert answer["headers"]["x-colour"] == "red"


def test_log_line_carries_level_and_function(host: FunctionsHost) -> None:
    """What a function logs is printed under its name, between the host's own two lines."""
    host.http("POST", "/api/things/lever/turn", json={})
    host.wait_for_output(
        r"Function\.turn_thing: Executing 'Functions\.turn_thing' \(Reason='.*', Id=(.*)\)\n"
        r".* Information Function\.turn_thing\.User: turning lever\n"
        r".*Executed 'Functions\.turn_thing' \(Succeeded, Id=\1, Duration=\d+ms\)\n"
    )


def test_line_without_an_invocation_is_dropped(tmp_path: Path) -> None:
    """As the real host does: what is logged at import, or in a thread that does not know its invocation."""
    source = """
import logging, threading, azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
logging.error("at import")
@app.route("log")
def log(req: func.HttpRequest) -> str:
    thread = threading.Thread(target=logging.error, args=("in a thread",))
    thread.start()
    thread.join()
    logging.error("in the function")
    return "x"
"""
    with FunctionsHost(app(tmp_path, source)) as host:
        host.http("GET", "/api/log")
        host.wait_for_output(r"Error Function\.log\.User: in the function")
        assert "at import" not in host.output()
        assert "in a thread" not in host.output()


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/things/x", (200, b'{"thing": "x"}')),
        ("PATCH", "/API/Things/x/", (200, b'{"changed": "x"}')),
        ("GET", "/api/things/special", (200, b"GET special")),
        ("GET", "/api/files/text/a/b.txt", (200, b'{"kind": "text", "path": "a/b.txt"}')),
        ("GET", "/api/files/7/a", (404, b"")),
        ("PUT", "/api/things/x", (404, b"")),
        ("GET", "/api/nothing", (404, b"")),
        ("GET", "/things/x", (404, b"")),
    ],
)
def test_route_is_found_as_aspnet_does(
    host: FunctionsHost, method: str, path: str, expected: tuple[int, bytes]
) -> None:
    """Literals go before parameters, case does not matter, and a wrong method is a 404."""
    status, _, body = host.http(method, path)
    assert (status, body) == expected


def test_uncaught_exception_is_an_empty_500_and_stands_in_the_log(host: FunctionsHost) -> None:
    """The caller learns nothing of an exception; the log has its text and its traceback once."""
    start = len(host.output())
    status, _, body = host.http("GET", "/api/broken")
    assert (status, body) == (500, b"")
    host.wait_for_output(r"Failed, Id=.*\n(.*\n)*Exception: ValueError\('the body must not say this'\)", start=start)
    assert host.output().count("raise ValueError", start) == 1


def test_keys_open_what_their_level_allows(host: FunctionsHost) -> None:
    """Anonymous needs no key, function either key in header or query, admin the master key."""
    master, function = host.master_key, host.function_key

    def status(path: str, key: str | bool) -> int:
        return host.http("GET", path, key=key)[0]

    assert [status("/api/things/special", key) for key in (False, "wrong")] == [200, 200]
    assert [status("/api/things/x", key) for key in (False, "wrong", function, master)] == [401, 401, 200, 200]
    assert [status("/api/setting/X", key) for key in (False, function, master)] == [401, 401, 200]
    assert [status(f"/api/things/x?code={key}", key=False) for key in ("wrong", function)] == [401, 200]


def test_without_auth_no_key_is_asked_for() -> None:
    """`--no-auth` is what `func start` does: everything is open."""
    with FunctionsHost(APP, environment={"SWEEP": NEVER}, authorize=False) as host:
        assert host.http("GET", "/api/setting/X", key=False)[0] == 200
        assert host.http("GET", "/admin/host/status", key=False)[0] == 200
        assert "Function key" not in host.output()


def test_answer_keeps_headers_and_cookies(tmp_path: Path) -> None:
    """Headers, several cookies and an empty body pass, and HEAD has no body."""
    source = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route("plain")
def plain(req: func.HttpRequest) -> func.HttpResponse:
    response = func.HttpResponse(b"text", status_code=418, headers={"Cache-Control": "no-store"})
    response.headers.add("Set-Cookie", "a=1; Path=/")
    response.headers.add("Set-Cookie", "b=2; HttpOnly")
    return response
"""
    made = app(tmp_path, source, {"version": "2.0", "extensions": {"http": {"routePrefix": ""}}})
    with FunctionsHost(made) as host:
        status, headers, body = host.http("GET", "/plain")
        assert (status, headers["Cache-Control"], body) == (418, "no-store", b"text")
        assert headers.get_all("Set-Cookie") == ["a=1; Path=/", "b=2; HttpOnly"]
        status, headers, body = host.http("HEAD", "/plain")
        assert (status, headers["Content-Length"], body) == (418, "4", b"")


# Event Grid


def test_event_is_accepted_when_its_function_ended_well(host: FunctionsHost) -> None:
    """An array of one, as Event Grid sends, and a bare object are each an invocation, and 202."""
    start = len(host.output())
    assert host.post_event([event("array")], "on_event") == (202, "")
    assert host.post_event(event("object"), "on_event") == (202, "")
    for subject in ("array", "object"):
        host.wait_for_output(rf"on_event\.User: event Made\.Up {subject} on_event", start=start)


def test_cloud_event_reaches_the_function(host: FunctionsHost) -> None:
    """An event in the CloudEvents schema is delivered as one object."""
    cloud = {"id": "1", "source": "/vault", "subject": "cloud", "type": "Made.Up", "specversion": "1.0", "data": {}}
    headers = {"aeg-event-type": "Notification", "Content-Type": "application/cloudevents+json"}
    status, _, _ = host.http(
        "POST", WEBHOOK.lower().replace("functionname", "functionName"), json=cloud, headers=headers
    )
    assert status == 202
    host.wait_for_output(r"on_event\.User: event Made\.Up cloud on_event")


def test_one_failure_fails_the_request(host: FunctionsHost) -> None:
    """When one of an array's functions raises, the answer is 500 without the exception's text."""
    start = len(host.output())
    status, body = host.post_event([event("good"), event("bad", "7")], "on_event")
    assert (status, body) == (500, "Exception while executing function: Functions.on_event")
    host.wait_for_output("Exception: RuntimeError\\('cannot handle 7'\\)", start=start)


def test_events_of_an_array_run_in_parallel(tmp_path: Path) -> None:
    """Two events that wait for each other both end."""
    with FunctionsHost(APP, environment={"SWEEP": NEVER, "MEETING": str(tmp_path)}) as host:
        assert host.post_event([event("meet", "a"), event("meet", "b")], "on_event") == (202, "")


@pytest.mark.parametrize(
    ("path", "event_type", "body", "expected"),
    [
        ("?functionName=nobody", "Notification", "[]", (404, b"cannot find function: 'nobody'")),
        ("?functionName=broken", "Notification", "[]", (404, b"cannot find function: 'broken'")),
        ("", "Notification", "[]", (404, b"cannot find function: ''")),
        ("?functionName=on_event", "", "[]", (400, b"")),
        ("?functionName=on_event", "Other", "[]", (400, b"")),
        ("?functionName=on_event", "Unsubscribe", "", (202, b"")),
        ("?functionName=on_event", "Notification", "{", (500, b"")),
        (
            "?functionName=on_event",
            "SubscriptionValidation",
            '[{"data": {"validationCode": "512d38b6"}}]',
            (200, b'{"validationResponse": "512d38b6"}'),
        ),
    ],
)
def test_webhook_answers_as_the_extension(
    host: FunctionsHost, path: str, event_type: str, body: str, expected: tuple[int, bytes]
) -> None:
    """Unknown names, missing headers and the validation handshake are answered as by the real extension."""
    headers = {"aeg-event-type": event_type} if event_type else {}
    status, _, answer = host.http("POST", f"/runtime/webhooks/eventgrid{path}", body=body, headers=headers)
    assert (status, answer) == expected


def test_cloud_events_handshake(host: FunctionsHost) -> None:
    """OPTIONS with an origin is answered with the leave to send."""
    status, headers, _ = host.http("OPTIONS", WEBHOOK, headers={"WebHook-Request-Origin": "eventgrid.azure.net"})
    assert (status, headers["WebHook-Allowed-Origin"]) == (200, "eventgrid.azure.net")


def test_webhook_asks_for_its_system_key() -> None:
    """With a system key, as on Azure, the webhook wants it; the function key does not do."""
    with FunctionsHost(APP, environment={"SWEEP": NEVER}, event_grid_key="system") as host:
        assert host.http("POST", WEBHOOK, json=[event()], headers={"aeg-event-type": "Notification"})[0] == 401
        assert host.post_event([event()], "on_event") == (202, "")
        query = f"{WEBHOOK}&code=system"
        assert host.http("POST", query, json=[], headers={"aeg-event-type": "Notification"}, key=False)[0] == 202


# Administration


def test_admin_starts_a_function_and_does_not_wait(host: FunctionsHost) -> None:
    """The answer is 202 whatever becomes of the run; the input is the JSON text of an event."""
    start = len(host.output())
    for subject in ("bad", "by hand"):
        request = {"input": json.dumps(event(subject))}
        assert host.http("POST", "/admin/functions/On_Event", json=request, key=host.master_key)[0] == 202
    host.wait_for_output(r"event Made\.Up by hand on_event", start=start)
    host.wait_for_output(r"Executed 'Functions\.on_event' \(Failed", start=start)


def test_admin_refuses(host: FunctionsHost) -> None:
    """No master key 401, unknown function 404, no body 400, no JSON 415."""
    path, master = "/admin/functions/sweep", host.master_key
    assert host.http("POST", path, json={"input": ""})[0] == 401
    assert host.http("POST", "/admin/functions/none", json={"input": ""}, key=master)[0] == 404
    assert host.http("POST", path, headers={"Content-Type": "application/json"}, key=master)[0] == 400
    assert host.http("POST", path, json={"input": {}}, key=master)[0] == 400
    assert host.http("POST", path, body="x", key=master)[0] == 415
    with pytest.raises(RuntimeError, match="'none' could not be started: 404"):
        host.run_timer("none")


def test_admin_tells_what_there_is(host: FunctionsHost) -> None:
    """Ping is open; status and the list of functions need the master key."""
    assert host.http("GET", "/admin/host/ping", key=False)[0] == 200
    assert host.http("GET", "/admin/host/status")[0] == 401
    assert json.loads(host.http("GET", "/admin/host/status", key=host.master_key)[2])["state"] == "Running"
    functions = json.loads(host.http("GET", "/admin/functions", key=host.master_key)[2])
    assert {"sweep", "on_event", "turn_thing"} <= {function["name"] for function in functions}


# Timers


def test_timer_runs_by_hand_and_is_waited_for(host: FunctionsHost) -> None:
    """`run_timer` comes back when the function has ended, with what became of it."""
    outcome = host.run_timer("sweep")
    assert (outcome["succeeded"], outcome["exception"]) == (True, None)
    host.wait_for_output(rf"Executed 'Functions\.sweep' \(Succeeded, Id={outcome['invocationId']}", timeout=0)


def test_timer_runs_at_the_start_and_on_its_schedule() -> None:
    """`run_on_startup` fires at once, and a schedule that an app setting gives again and again."""
    with FunctionsHost(APP, environment={"SWEEP": "* * * * * *"}) as host:
        host.wait_for_output(r"Warning Function\.at_start\.User: started")
        host.wait_for_output(r"(?s)(sweep\.User: swept .*){2}", timeout=10)


@pytest.mark.parametrize(
    ("schedule", "complaint"),
    [
        (None, "'%SWEEP%' does not resolve to a value."),
        ("0 99 * * * *", "The schedule expression '0 99 * * * *' was not recognized as a valid cron expression"),
        ("0 0 0 L * *", "The schedule expression '0 0 0 L * *' was not recognized as a valid cron expression"),
    ],
)
def test_timer_without_a_schedule_is_in_error_and_the_others_run(schedule: str | None, complaint: str) -> None:
    """A schedule that is missing or wrong costs that one function, and is said."""
    with FunctionsHost(APP, environment={"SWEEP": schedule} if schedule else {}) as host:
        assert "The 'sweep' function is in error: Microsoft.Azure.WebJobs.Host: Error indexing method" in host.output()
        assert complaint in host.output()
        assert host.http("POST", "/admin/functions/sweep", json={"input": ""}, key=host.master_key)[0] == 404
        assert host.http("GET", "/api/things/x")[0] == 200


# The app and its settings


def test_app_that_cannot_be_imported_has_no_functions(tmp_path: Path) -> None:
    """An exception while function_app.py is imported takes every function away; the host goes on."""
    with FunctionsHost(app(tmp_path, "raise LookupError('no such planet')")) as host:
        assert "Exception: LookupError: no such planet" in host.output()
        assert host.http("GET", "/api/health")[0] == 404
        assert host.http("GET", "/admin/host/ping")[0] == 200


def test_function_names_are_the_host_s_to_accept(tmp_path: Path) -> None:
    """The library takes names that the host refuses: wrong characters, `host`, the same but for case."""
    source = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
for name in ("good", "Good", "host", "_wrong"):
    app.function_name(name)(app.route(name.strip("_") + "-route")(lambda req: "yes"))
"""
    with FunctionsHost(app(tmp_path, source)) as host:
        assert "The 'Good' function is in error: The function name 'Good' must be unique" in host.output()
        assert "The 'host' function is in error: 'host' is not a valid function name." in host.output()
        assert "The '_wrong' function is in error: '_wrong' is not a valid function name." in host.output()
        assert host.http("GET", "/api/good-route")[2] == b"yes"


def test_settings_come_from_the_file_but_the_environment_wins(tmp_path: Path) -> None:
    """Values of local.settings.json are in the environment, unless it has them already, which is said."""
    settings = tmp_path / "local.settings.json"
    settings.write_text(json.dumps({"Values": {"SWEEP": NEVER, "COLOUR": "red", "SHAPE": "round"}}))
    with FunctionsHost(APP, settings=settings, environment={"COLOUR": "blue"}) as host:
        assert "Skipping 'COLOUR' from local settings as it's already defined" in host.output()
        values = [host.http("GET", f"/api/setting/{name}", key=host.master_key)[2] for name in ("COLOUR", "SHAPE")]
        assert values == [b"blue", b"round"]


def test_setting_that_is_no_string_is_refused(tmp_path: Path) -> None:
    """A number in local.settings.json ends the start with a sentence."""
    (tmp_path / "s.json").write_text('{"Values": {"COUNT": 1}}')
    with pytest.raises(RuntimeError, match=r"Values\.COUNT is 1, expected a string"):
        FunctionsHost(APP, settings=tmp_path / "s.json").start()


def test_disabled_function_is_not_there() -> None:
    """`AzureWebJobs.<name>.Disabled` takes a function out."""
    with FunctionsHost(APP, environment={"SWEEP": NEVER, "AzureWebJobs.special.Disabled": "true"}) as host:
        assert "Function special is disabled." in host.output()
        assert json.loads(host.http("GET", "/api/things/special")[2]) == {"thing": "special"}


def test_host_json_sets_prefix_and_log_levels(tmp_path: Path) -> None:
    """The route prefix and the log levels of host.json hold."""
    shutil.copy(APP / "function_app.py", tmp_path)
    host_json = {
        "extensions": {"http": {"routePrefix": "v1/x"}},
        "logging": {"logLevel": {"default": "Error", "Function.turn_thing.User": "Information"}},
    }
    (tmp_path / "host.json").write_text(json.dumps(host_json))
    with FunctionsHost(tmp_path, environment={"SWEEP": NEVER}) as host:
        assert host.http("POST", "/v1/x/things/a/turn", json={})[0] == 201
        host.wait_for_output("turn_thing.User: turning a")
        assert "Executing" not in host.output()


def test_run_over_its_time_is_a_failure(tmp_path: Path) -> None:
    """`functionTimeout` ends the waiting with a 500, and the end does not wait for the run either."""
    shutil.copy(APP / "function_app.py", tmp_path)
    (tmp_path / "host.json").write_text('{"functionTimeout": "00:00:01"}')
    with FunctionsHost(tmp_path, environment={"SWEEP": NEVER}) as host:
        assert host.http("GET", "/api/slow?seconds=30")[0] == 500
        assert "Timeout value of 1 s exceeded by function: Functions.slow" in host.output()
        assert host.stop(timeout=5) == 0


def test_debug_logging_is_the_worker_s_own_setting(tmp_path: Path) -> None:
    """With debug logging, which `func start` turns on, debug lines of all libraries are shown."""
    source = """
import logging, azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route("log")
def log(req: func.HttpRequest) -> str:
    logging.getLogger("some.library").debug("in detail")
    return "x"
"""
    made = app(tmp_path, source)
    with FunctionsHost(made) as quiet, FunctionsHost(made, debug_logging=True) as loud:
        for host in (quiet, loud):
            host.http("GET", "/api/log")
        loud.wait_for_output(r"Debug Function\.log\.User: in detail")
        assert "in detail" not in quiet.output()


# The program


def test_start_prints_what_func_prints(host: FunctionsHost) -> None:
    """The list of functions has func's form: HTTP functions first, with methods and URL."""
    url = f"http://localhost:{host.port}/api"
    printed = host.output()
    assert "\nFunctions:\n\n\tbroken: [GET,POST] " + url + "/broken\n\n" in printed
    assert f"\tturn_thing: [POST] {url}/things/{{name}}/turn\n\n" in printed
    assert "\ton_event: eventGridTrigger\n\n\tsweep: timerTrigger\n\n" in printed
    assert "For detailed output, run func with --verbose flag.\n" in printed


def test_term_lets_running_functions_finish() -> None:
    """After SIGTERM a function ends and its caller gets the answer; the exit code is 0."""
    host = FunctionsHost(APP, environment={"SWEEP": NEVER})
    answers: list[int] = []
    with host:
        caller = threading.Thread(target=lambda: answers.append(host.http("GET", "/api/slow?seconds=0.3")[0]))
        caller.start()
        host.wait_for_output("slow begins")
        assert host.stop() == 0
        caller.join()
    assert answers == [200]
    assert "slow ends" in host.output()


def test_interrupt_ends_the_program_though_a_function_hangs() -> None:
    """Ctrl-C waits for running functions as long as it was told, then ends with 0."""
    command = [sys.executable, "-m", "sandbox.functions_host", "--app", str(APP), "--port", "0", "--grace", "0.1"]
    environment = {**os.environ, "SWEEP": NEVER}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout
        port = int(next(line for line in process.stdout if "Now listening" in line).rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /api/slow?seconds=30 HTTP/1.1\r\nHost: x\r\n\r\n")
            next(line for line in process.stdout if "slow begins" in line)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0


def test_killed_host_starts_again_at_the_same_address() -> None:
    """A kill ends everything at once; a new start has the same port and keys, and its output follows the old."""
    with FunctionsHost(APP, environment={"SWEEP": NEVER}) as host:
        url, group = host.url, host.process_id
        host.kill()
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)
        with pytest.raises(ConnectionError):
            host.http("GET", "/api/things/x")
        host.start()
        assert host.url == url
        assert host.http("GET", "/api/things/x")[0] == 200
    assert host.output().count("Now listening on") == 2


def test_host_that_ends_by_itself_is_waited_for(tmp_path: Path) -> None:
    """A function may end the process, as a fault does: its exit code is told, and another start is possible."""
    source = """
import os, azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route("die")
def die(req: func.HttpRequest) -> str:
    os._exit(7)
"""
    with FunctionsHost(app(tmp_path, source)) as host:
        with pytest.raises(ConnectionError):
            host.http("GET", "/api/die")
        assert host.wait_for_end() == 7
        assert host.start().http("GET", "/admin/host/ping")[0] == 200


def test_waiting_for_output_tells_what_was_printed_instead(host: FunctionsHost) -> None:
    """A wait that fails shows the output."""
    with pytest.raises(TimeoutError, match="turn_thing"):
        host.wait_for_output("never printed", timeout=0)
