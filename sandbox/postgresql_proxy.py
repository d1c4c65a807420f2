"""A PostgreSQL server as seen over a network that can be tampered with: each round trip is a call.

The protocol (version 3, without TLS) is read only as far as it takes to tell where a call begins and ends: a login,
a simple query, or an extended query up to its Sync; and its end, ReadyForQuery.
"""

import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from sandbox.faults import Call, Dropped, Tap
from sandbox.postgresql import HOST

# Before the login a client may ask for encryption; one byte is the answer.
_ENCRYPTION_REQUESTS = (80877103, 80877104)
_CANCEL_REQUEST = 80877102
_WORDS = 3


class PostgreSQLProxy:
    """Listens on a free port, and passes on to the server whatever `tap` lets pass. From `with` to its end."""

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.tap: Tap | None = None
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = tuple(self._open)
        for connection in connections:
            _shut(connection)

    def through(self, uri: str) -> str:
        """Return this URI of the server with the proxy's port in it."""
        return uri.replace(f":{urlsplit(uri).port}", f":{self.port}")

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(socket.create_connection((HOST, self.server_port), timeout=10))
            except OSError:
                return  # the server is down: so is this
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            session = _Session(client, server, self.tap)
            answers = threading.Thread(target=session.pass_answers, daemon=True)
            answers.start()
            session.pass_questions()
            answers.join()
            with self._lock:
                self._open -= {client, server}


class _Session:
    """One connection: one thread passes on what the client asks, another what the server answers."""

    def __init__(self, client: socket.socket, server: socket.socket, tap: Tap | None) -> None:
        self._client = client
        self._server = server
        self._tap = tap
        self._asked: deque[Call] = deque()

    def pass_questions(self) -> None:
        try:
            for what, question in _questions(self._client):
                if what and self._tap:
                    call = self._tap(what)
                    call.before()
                    self._asked.append(call)
                self._server.sendall(question)
        except OSError:
            pass
        finally:
            _shut(self._server)
            _shut(self._client)

    def pass_answers(self) -> None:
        try:
            self._pass_answers()
        except OSError:
            pass
        finally:
            _shut(self._client)
            _shut(self._server)

    def _pass_answers(self) -> None:
        answer = b""
        while chunk := self._server.recv(65536):
            answer += chunk
            kinds = list(_messages(answer))
            # A call ends with its ReadyForQuery. What the client has to answer to, half way through a login, goes on.
            if kinds[-1:] == [b"Z"] or set(kinds) == {b"R"}:
                for _ in range(kinds.count(b"Z")):
                    if self._asked:
                        self._asked.popleft().after()
                self._client.sendall(answer)
                answer = b""
        while self._asked:  # refused: the server has said why, and closed
            self._asked.popleft().after()
        self._client.sendall(answer)


def _questions(client: socket.socket) -> Iterator[tuple[str, bytes]]:
    """Yield what is to be passed on in one piece, with a name where a call begins."""
    while True:
        head = _read(client, 8)
        length, code = struct.unpack("!II", head)
        body = _read(client, length - 8)
        if code not in _ENCRYPTION_REQUESTS:
            break
        client.sendall(b"N")
    parameters = body.split(b"\0")
    if code == _CANCEL_REQUEST:
        yield "cancel", head + body
        return
    user = dict(zip(parameters[::2], parameters[1::2], strict=False)).get(b"user", b"").decode()
    yield f"log in as {user}", head + body
    question, what = b"", ""
    while True:
        head = _read(client, 5)
        kind, (length,) = head[:1], struct.unpack("!I", head[1:])
        body = _read(client, length - 4)
        question += head + body
        if kind == b"Q":
            what = _first_words(body)
        elif kind == b"P":
            what = _first_words(body.split(b"\0", 1)[1])
        if kind in b"QSXpH":
            yield what, question
            question, what = b"", ""


def _first_words(statement: bytes) -> str:
    """Name a statement; the rest of it may hold what is nobody's business."""
    return " ".join(statement.split(b"\0", 1)[0].decode(errors="replace").split()[:_WORDS])


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise Dropped
        data += chunk
    return data


def _messages(answer: bytes) -> Iterator[bytes]:
    """Yield the kind of each message that is there as a whole; then b"" if something is left."""
    at = 0
    while at + 5 <= len(answer):
        length = struct.unpack_from("!I", answer, at + 1)[0] + 1
        if at + length > len(answer):
            break
        yield answer[at : at + 1]
        at += length
    if at < len(answer):
        yield b""


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
