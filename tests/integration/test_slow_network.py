"""The link that the benchmarks delay all contestants by: bytes as they were, later, and counted."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.slow_network import SlowLink


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers each chunk with itself, on the port that is given."""

    def serve() -> None:
        with listener.accept()[0] as connection:
            while chunk := connection.recv(65536):
                connection.sendall(chunk)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def ask(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    answer = b""
    while len(answer) < len(question):
        answer += connection.recv(65536)
    return answer


def test_bytes_pass_as_they_are(echo: int) -> None:
    question = bytes(range(256)) * 2_000
    with SlowLink(echo) as link, socket.create_connection(("127.0.0.1", link.port)) as client:
        link.delay = 0.001
        assert ask(client, question) == question


def test_each_question_with_its_answer_is_a_round_trip_and_so_is_the_connection(echo: int) -> None:
    with SlowLink(echo) as link, socket.create_connection(("127.0.0.1", link.port)) as client:
        for question in (b"a", b"b", b"c"):
            assert ask(client, question) == question
        traffic = link.traffic
        assert (traffic.connections, traffic.answers, traffic.round_trips) == (1, 3, 4)
        assert traffic.server_seconds > 0
        assert ask(client, b"d") == b"d"
        passed = link.traffic - traffic
        assert (passed.connections, passed.answers) == (0, 1)
        assert (traffic + passed).round_trips == link.traffic.round_trips == 5


def test_an_answer_in_pieces_is_one_answer() -> None:
    """TLS records and large values come in several."""
    goes_on = threading.Event()

    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1)
            connection.sendall(b"a")
            goes_on.wait()
            connection.sendall(b"b")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        with (
            SlowLink(listener.getsockname()[1]) as link,
            socket.create_connection(("127.0.0.1", link.port)) as client,
        ):
            client.sendall(b"?")
            pieces = [client.recv(1)]
            goes_on.set()
            pieces.append(client.recv(1))
            assert pieces == [b"a", b"b"]
            assert link.traffic.answers == 1


def test_a_round_trip_takes_the_delay_longer_and_the_first_pays_for_the_connection(echo: int) -> None:
    """At least: a busy machine adds to it, and nothing takes from it."""
    with SlowLink(echo) as link:
        link.delay = 0.05
        started = time.perf_counter()
        with socket.create_connection(("127.0.0.1", link.port)) as client:
            ask(client, b"a")
            assert time.perf_counter() - started >= 2 * link.delay
            started = time.perf_counter()
            ask(client, b"b")
            assert time.perf_counter() - started >= link.delay


def test_who_hangs_up_is_heard_on_the_other_side(echo: int) -> None:
    with SlowLink(echo) as link, socket.create_connection(("127.0.0.1", link.port)) as client:
        assert ask(client, b"a") == b"a"
        client.shutdown(socket.SHUT_WR)
        client.settimeout(10)
        assert client.recv(1) == b""
