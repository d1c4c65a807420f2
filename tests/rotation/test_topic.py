"""Our own topic: what is sent to it, and over which connections."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from benchmarks.slow_network import SlowLink
from rotators.credential import Password
from rotators.events import EventOut, Topic
from sandbox.http_service import HttpService, Request, Response


class Requests:
    """What came in, a list of events each; `at` is called with the number of each, from 0 on, before it is answered."""

    def __init__(self, at: Callable[[int], object] = lambda _: None) -> None:
        self.received: list[list[dict[str, object]]] = []
        self._at = at

    def answer(self, request: Request) -> Response:
        self.received.append(json.loads(request.body))
        self._at(len(self.received) - 1)
        return Response(200)


@contextmanager
def topic_at(port: int) -> Iterator[Topic]:
    with closing(Topic(f"http://127.0.0.1:{port}/api/events", Password("key"))) as topic:
        yield topic


def test_many_events_go_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event Grid takes a megabyte in one: a sweep may find thousands of secrets due."""
    monkeypatch.setattr("rotators.events._EVENTS_IN_A_REQUEST", 2)
    requests = Requests()
    with HttpService(requests.answer) as service, topic_at(service.port) as topic:
        topic.publish(*(EventOut("Requested", f"s{number}", {}, id=f"id-{number}") for number in range(5)))
    assert [[(event["subject"], event["id"]) for event in events] for events in requests.received] == [
        [("secrets/s0", "id-0"), ("secrets/s1", "id-1")],
        [("secrets/s2", "id-2"), ("secrets/s3", "id-3")],
        [("secrets/s4", "id-4")],
    ]


def test_a_request_of_the_most_events_is_taken() -> None:
    """A megabyte is 1,000,000 bytes, and these names, people and reasons are as long as they may be."""
    requests = Requests()
    with HttpService(requests.answer) as service, topic_at(service.port) as topic:
        name, by = "n" * 127, "b" * 200
        identifier = f"https://{'v' * 24}.vault.azure.net/secrets/{name}/{'0' * 32}"
        data = {
            "Id": identifier,
            "ObjectName": name,
            "Version": "0" * 32,
            "Cause": "requested",
            "By": by,
            "Force": True,
        }
        topic.publish(*(EventOut("Requested", name, {**data, "Reason": "r" * 200}) for _ in range(501)))
    assert [len(events) for events in requests.received] == [500, 1]
    assert len(json.dumps(requests.received[0])) < 1_000_000


def test_its_connection_is_kept() -> None:
    """A new one for each outcome would cost more round trips than the outcome."""
    with HttpService(Requests().answer) as service, SlowLink(service.port) as link, topic_at(link.port) as topic:
        for _ in range(3):
            topic.publish(EventOut("Completed", "s", {}))
        assert (link.traffic.connections, link.traffic.answers) == (1, 3)


def test_a_kept_connection_that_has_died_costs_no_event() -> None:
    """P5: the outcome is sent again, with the id that it had, over another connection."""

    def die(number: int) -> None:
        if number == 1:
            raise ConnectionResetError

    requests = Requests(die)
    with HttpService(requests.answer) as service, topic_at(service.port) as topic:
        topic.publish(EventOut("Completed", "first", {}))
        topic.publish(EventOut("Completed", "second", {}))
    subjects, ids = zip(*((event["subject"], event["id"]) for (event,) in requests.received), strict=True)
    assert subjects == ("secrets/first", "secrets/second", "secrets/second")
    assert ids[1] == ids[2]
