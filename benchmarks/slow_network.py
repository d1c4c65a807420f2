"""A network that is as slow as one likes: bytes pass as they are, TLS included, each way half the delay later."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has passed a link so far.

    Attributes:
        connections: that were opened; each costs a round trip before its first byte.
        answers: how often a server answered after a client had spoken: the round trips besides.
        server_seconds: how long the server took for that by itself.
    """

    connections: int = 0
    answers: int = 0
    server_seconds: float = 0.0

    @property
    def round_trips(self) -> int:
        """Those of opening connections included."""
        return self.connections + self.answers

    def __add__(self, other: Self) -> "Traffic":
        return Traffic(
            self.connections + other.connections,
            self.answers + other.answers,
            self.server_seconds + other.server_seconds,
        )

    def __sub__(self, before: Self) -> "Traffic":
        return Traffic(
            self.connections - before.connections,
            self.answers - before.answers,
            self.server_seconds - before.server_seconds,
        )


class SlowLink:
    """Listens on a free port of 127.0.0.1 and passes on to `server_port`, from `with` to its end.

    Attributes:
        port: where clients come to.
        server_port: where what they say goes; may be changed, for connections to come.
        delay: seconds that a round trip takes longer; may be changed, for what is said from then on.
    """

    def __init__(self, server_port: int = 0) -> None:
        self.server_port = server_port
        self.delay = 0.0
        self._listener = socket.create_server((_HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._traffic = Traffic()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shut(self._listener)
        self._listener.close()
        with self._lock:
            connections = tuple(self._open)
        for connection in connections:
            _shut(connection)

    @property
    def traffic(self) -> Traffic:
        """What has passed so far; of two of these, the difference is what passed in between."""
        with self._lock:
            return self._traffic

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client, time.perf_counter()), daemon=True).start()

    def _serve(self, client: socket.socket, accepted: float) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection((_HOST, self.server_port)) as server:
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
                self._traffic += Traffic(connections=1)
            conversation = _Conversation(self)
            # Here a connection is there at once; over a network its client speaks one round trip later.
            opened = accepted + self.delay
            back = threading.Thread(
                target=self._pass_on, args=(server, client, 0.0), kwargs={"on_read": conversation.answered}
            )
            back.start()
            self._pass_on(client, server, opened, on_delivery=conversation.asked)
            back.join()
            with self._lock:
                self._open -= {client, server}

    def _pass_on(
        self,
        source: socket.socket,
        target: socket.socket,
        not_before: float,
        *,
        on_read: Callable[[], None] = lambda: None,
        on_delivery: Callable[[], None] = lambda: None,
    ) -> None:
        """Read in this thread and write in another: what comes while a chunk is on its way is not delayed by that."""
        under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        sender = threading.Thread(target=_deliver, args=(under_way, target, on_delivery), daemon=True)
        sender.start()
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                on_read()
                under_way.put((max(time.perf_counter(), not_before) + self.delay / 2, chunk))
        under_way.put((time.perf_counter() + self.delay / 2, b""))
        sender.join()

    def count_answer(self, server_seconds: float) -> None:
        """Note that a server has answered, and how long that took."""
        with self._lock:
            self._traffic += Traffic(answers=1, server_seconds=server_seconds)


class _Conversation:
    """One connection: who spoke last, and when the server heard it."""

    def __init__(self, link: SlowLink) -> None:
        self._link = link
        self._asked_at: float | None = None

    def asked(self) -> None:
        self._asked_at = time.perf_counter()

    def answered(self) -> None:
        asked_at, self._asked_at = self._asked_at, None
        if asked_at is not None:
            self._link.count_answer(time.perf_counter() - asked_at)


def _deliver(
    under_way: "queue.SimpleQueue[tuple[float, bytes]]", target: socket.socket, on_delivery: Callable[[], None]
) -> None:
    """Write each chunk when it is due; the empty one is the end."""
    with contextlib.suppress(OSError):
        while True:
            due, chunk = under_way.get()
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            if not chunk:
                break
            on_delivery()
            target.sendall(chunk)
    _shut(target)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
