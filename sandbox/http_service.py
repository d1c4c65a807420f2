"""A small HTTP/1.1 server for the stand-ins of this folder: one function answers, a thread for each connection."""

import contextlib
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, override
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    method: str
    target: str
    """Path and query, as sent."""
    headers: Message
    """Looked up without regard to case."""
    body: bytes

    @property
    def path(self) -> str:
        """The decoded path, but for `%2F`, which would not be told from a separator."""
        return unquote(urlsplit(self.target).path.replace("%2F", "%252F").replace("%2f", "%252F"))

    @property
    def query(self) -> dict[str, str]:
        """The query; a name that was given several times has its values joined by commas, as in ASP.NET."""
        return {name: ",".join(values) for name, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in lower case, or empty."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def text(cls, status: int, text: str) -> Self:
        """Answer a line of text."""
        return cls(status, text.encode(), (("Content-Type", "text/plain; charset=utf-8"),))

    @classmethod
    def json(cls, status: int, value: object, headers: Mapping[str, str] | None = None) -> Self:
        """Answer a value as JSON."""
        content_type = ("Content-Type", "application/json; charset=utf-8")
        return cls(status, json.dumps(value).encode(), (content_type, *(headers or {}).items()))


class HttpService:
    """Serves `answer` on 127.0.0.1 from `start` to `close`; port 0 takes a free one."""

    def __init__(
        self, answer: Callable[[Request], Response], *, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._server = _Server(answer, port, tls)
        self._scheme = "https" if tls else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        """The port, known before `start`."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """Scheme, address and port."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Answer from now on; connections made since the construction were waiting."""
        self._thread.start()

    def stop_accepting(self) -> None:
        """Take no new connection; those that are being answered go on."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no request is being answered; tell whether that came about."""
        with self._server.changed:
            return self._server.changed.wait_for(lambda: not self._server.answering, timeout)

    def close(self) -> None:
        """End, the connections that clients keep open included."""
        self.stop_accepting()
        self._server.close_connections()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Hundreds of events come at once; with a shorter queue Linux resets some of their connections.
    request_queue_size = 1024

    def __init__(self, answer: Callable[[Request], Response], port: int, tls: ssl.SSLContext | None) -> None:
        self.answer = answer
        self.answering = 0
        self.changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        if tls:
            # The handshake is left to the connection's own thread: a silent client must not block the others.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @override
    def server_bind(self) -> None:
        # HTTPServer would look up the name of the address, which can take seconds on a laptop.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a killed server's port is free at once
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away (a deliverer that waited long enough) is no error of ours.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Answers leave in one piece and at once: else Nagle's algorithm costs 40 ms each.
    disable_nagle_algorithm = True
    wbufsize = -1

    server: _Server

    def _answer(self) -> None:
        with self.server.changed:
            self.server.answering += 1
        try:
            self._send_answer()
        finally:
            with self.server.changed:
                self.server.answering -= 1
                self.server.changed.notify_all()

    def _send_answer(self) -> None:
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            response = Response.text(411, "This stand-in reads bodies with a Content-Length only.")
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            response = self.server.answer(Request(self.command, self.path, self.headers, body))
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer  # noqa: N815 (http.server's names)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the services that answer keep their own records."""
