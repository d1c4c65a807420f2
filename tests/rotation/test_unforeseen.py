"""An error that nobody foresaw, wherever it happens: its text stays inside (P3), and other secrets go on (P2)."""

import json
import logging
import traceback
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NoReturn

import pytest

import function_app
from rotators import dispatch, retirement, rotation
from rotators.api import error_answer, health, list_secrets
from rotators.dashboard_requests import Page
from rotators.dispatch import deliver, sweep
from rotators.errors import RotationError, TransientError, UnexpectedError
from rotators.events import EventIn
from rotators.rotation import rotate
from rotators.systems import connect
from sandbox.http_service import HttpService, Response
from tests.rotation.test_promises import FakeAirflow
from tests.world import World

SECRET_TEXT = "made-up-c0rrect-h0rse-battery"


def strange(*_: object, **__: object) -> NoReturn:
    raise LookupError(f"postgresql://app:{SECRET_TEXT}@db/d")


def assert_says_where_and_no_more(error: BaseException, log: pytest.LogCaptureFixture) -> None:
    assert type(error) is UnexpectedError
    assert "LookupError at test_unforeseen.py:" in str(error)
    assert "please report this fault" in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    # The last frame of all is the library's that raised: its locals must not come along either.
    assert SECRET_TEXT not in shown + log.text
    assert any(json.loads(record.getMessage())["event"] == "rotation fault" for record in log.records)


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "rotators")
    return caplog


def to_retire(here: World) -> str:
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.make_due(2)
    return name


@pytest.mark.parametrize(
    ("place", "act"),
    [
        ("rotation.locked", lambda here, name: rotate(here.systems, here.trigger(name))),
        ("retirement.read_connection", lambda here, name: retirement.retire(here.systems, here.trigger(name, "sweep"))),
        ("dispatch.read_event", lambda here, name: deliver(here.systems, here.near_expiry(name))),
        ("dispatch.attend", lambda here, name: deliver(here.systems, here.near_expiry(name))),
        ("dispatch._hand_out", lambda here, _: sweep(here.systems)),
    ],
    ids=["rotate", "retire", "read the event", "attend to it", "sweep"],
)
def test_what_a_strange_error_says_is_not_told(
    here: World,
    heard: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    act: Callable[[World, str], object],
) -> None:
    """P3: Event Grid's answer and the host's log get the exception: where it happened, not what was at hand."""
    name = to_retire(here)
    monkeypatch.setattr(f"rotators.{place}", strange)
    with pytest.raises(RotationError) as caught:
        act(here, name)
    assert_says_where_and_no_more(caught.value, heard)


@pytest.mark.parametrize(
    ("module", "function"),
    [(dispatch, "decide"), (retirement, "read_connection"), (rotation, "locked")],
    ids=["looking at it", "retiring it", "rotating it"],
)
def test_one_strange_secret_does_not_end_the_sweep(
    here: World, heard: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, module: Any, function: str
) -> None:
    """P2: the others are rotated, and the strange one is told."""
    odd = to_retire(here) if module is retirement else here.alternating()
    others = here.alternating(), here.alternating()
    here.make_due()
    does = getattr(module, function)

    def strange_for_one(*given: Any) -> object:  # Any: both functions'
        return strange() if odd in repr(given) else does(*given)

    monkeypatch.setattr(module, function, strange_for_one)
    outcomes = sweep(here.app(topic=None).systems)
    told = {outcome.secret: outcome for outcome in outcomes}
    assert told[odd].status == "failed"
    assert "LookupError at " in told[odd].reason
    assert [told[name].status for name in others] == ["rotated", "rotated"]
    assert SECRET_TEXT not in heard.text


def test_a_strange_topic_neither_undoes_nor_repeats_a_rotation(
    here: World, heard: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: the outcome is told by the log alone, and the sweep works alone."""
    monkeypatch.setattr(here.topic, "publish", strange)
    name, other = here.alternating(), here.alternating()
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
    here.make_due()
    sweep(here.systems)
    assert (len(here.versions(name)), len(here.versions(other))) == (3, 2)
    assert SECRET_TEXT not in heard.text


def test_a_strange_airflow_is_not_told_by_health_nor_by_the_sweep(
    here: World, heard: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3: an HTTP library's complaint about a header holds the token that is in it."""
    airflow = FakeAirflow()
    monkeypatch.setattr(airflow, "retry_failed", strange)
    monkeypatch.setattr(airflow, "check", strange, raising=False)
    there = here.app(airflow=airflow)
    rotate(there.systems, there.trigger(here.alternating()))
    sweep(there.systems)
    answer = health(there.systems)
    assert (answer.status, answer.body["systems"]) == (
        503,
        {
            "keyVault": "well",
            "airflow": "failing: Unexpected fault",
            "eventGrid": "configured",
            "databases": "asked at each rotation",
        },
    )
    assert SECRET_TEXT not in heard.text + answer.text


@pytest.mark.parametrize(
    ("refusal", "said"),
    [(403, "give the app's identity get, set, update and list"), (503, "Key Vault is busy or failing (503)")],
)
def test_the_log_says_what_health_does_not(
    here: World, heard: pytest.LogCaptureFixture, refusal: int, said: str
) -> None:
    """P7: its answer is for everybody, and names nothing; what to mend is in the log."""
    here.vault.fail(path="/secrets", status=refusal, times=None)
    assert health(here.systems).status == 503
    (line,) = [json.loads(record.getMessage()) for record in heard.records]
    assert (line["event"], line["system"]) == ("health", "keyVault")
    assert said in line["reason"]


@pytest.mark.parametrize("body", ['{"value": 3}', "<html>login</html>", "[]", '{"value": [null]}', '{"nextLink": 5}'])
def test_a_page_of_a_gateways_is_no_list(here: World, body: str) -> None:
    """P7: 503, which says where to look."""
    here.vault.fail(method="GET", path="/secrets", status=200, body=body, times=1)
    with pytest.raises(TransientError, match=r"the list of secrets.* is not Key Vault's"):
        list_secrets(here.systems, "https://app.example/api/secrets", {})


@pytest.mark.parametrize(
    "answer", [None, (200, "<html>"), (200, "null"), (200, '{"access_token": "x", "expires_on": "soon"}')]
)
def test_an_identity_that_does_not_answer_is_waited_for(
    here: World, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str] | None
) -> None:
    """P2: it is no fault of this program. None: nobody listens."""
    status, text = answer or (0, "")
    with HttpService(lambda _: Response(status, text.encode(), (("Content-Type", "application/json"),))) as identity:
        if answer is None:
            identity.stop_accepting()
        monkeypatch.setenv("IDENTITY_ENDPOINT", identity.url)
        monkeypatch.setenv("IDENTITY_HEADER", "x")
        with pytest.raises(TransientError, match="the managed identity gave no token for scope"):
            connect({"KEY_VAULT_URL": here.vault.url}).token("scope/.default")


def test_half_of_a_character_in_a_page_is_shown_as_a_question_mark() -> None:
    """P7: in a tag there may be anything, and one secret must not spoil the page of all."""
    answer = function_app.answering(lambda: Page(HTTPStatus.OK, "a\ud800b", {}))
    assert (answer.status_code, answer.get_body()) == (200, b"a?b")


def test_a_strange_error_over_http_is_a_problem_without_its_text(heard: pytest.LogCaptureFixture) -> None:
    """P3, P7: 500 as RFC 9457 says, never a traceback; it names where to look."""
    answer = function_app.answering(strange)
    assert (answer.status_code, answer.mimetype) == (500, "application/problem+json")
    assert answer.headers["Cache-Control"] == "no-store"
    problem = json.loads(answer.get_body())
    assert problem["title"] == "Unexpected fault"
    assert problem["detail"].startswith("the request: LookupError at test_unforeseen.py:")
    assert SECRET_TEXT not in answer.get_body().decode() + heard.text


def test_an_event_that_is_not_even_text_ends_quietly(here: World) -> None:
    """P7: ids and types come as numbers, null and worse; thirty deliveries would not mend them."""
    everything: tuple[object, ...] = (None, 5, True, 1.5, [], {}, "\ud800", "x" * 100_000)
    for strange_one in everything:
        here.topic.events.clear()
        deliver(here.systems, EventIn.of(strange_one, strange_one, {}))
        assert here.topic.types == ["Failed"]
        assert len(json.dumps(dict(here.topic.events[0].data))) < 1000


@pytest.mark.parametrize("wait", ["9" * 5000, "99999999999999"])
def test_a_vault_that_asks_for_an_endless_wait_is_just_busy(here: World, wait: str) -> None:
    """P2: the event is brought again, and the answer over HTTP says when."""
    name = here.alternating()
    here.vault.fail(status=429, headers={"Retry-After": wait}, times=None)
    with pytest.raises(TransientError) as caught:
        rotate(here.systems, here.trigger(name))
    assert error_answer(caught.value).headers == {"Retry-After": "10"}


def test_a_vault_that_asks_for_no_wait_in_particular_is_asked_again(here: World) -> None:
    """P2: azure-core reads a number or a date, and for anything else raises a ValueError."""
    name = here.alternating()
    here.vault.fail(status=429, headers={"Retry-After": "\u00b2"})
    assert rotate(here.systems, here.trigger(name)).status == "rotated"
