"""Slow links in a process of their own: what passes them takes no time from the interpreter that is measured.

A network takes none either. In the same one, a program that waits for two things at once would wait for the links too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import Any, Protocol

from benchmarks.slow_network import SlowLink, Traffic


class _Remote(Protocol):
    """What the other process does for this one; Any: an attribute of a link."""

    def begin(self) -> None: ...
    def end(self) -> None: ...
    def read(self, name: str) -> Any: ...
    def write(self, name: str, value: object) -> None: ...


class _Link(SlowLink):
    """Implements _Remote: only methods can be called from another process."""

    def begin(self) -> None:
        self.__enter__()

    def end(self) -> None:
        self.__exit__(None, None, None)

    def read(self, name: str) -> Any:  # see _Remote
        return getattr(self, name)

    def write(self, name: str, value: object) -> None:
        setattr(self, name, value)


class _Links(BaseManager):
    """The process."""

    link: Callable[[], _Remote]


_Links.register("link", _Link, exposed=("begin", "end", "read", "write"))


class FarLink:
    """What `SlowLink` is, elsewhere.

    Attributes:
        port: where clients come to.
    """

    def __init__(self, remote: _Remote) -> None:
        self._remote = remote
        self.port = int(remote.read("port"))

    @property
    def server_port(self) -> int:
        """Where goes what is said on connections to come."""
        return int(self._remote.read("server_port"))

    @server_port.setter
    def server_port(self, port: int) -> None:
        self._remote.write("server_port", port)

    def delay(self, seconds: float) -> None:
        """Let each round trip take so much longer from now on."""
        self._remote.write("delay", seconds)

    @property
    def traffic(self) -> Traffic:
        """What has passed so far."""
        passed: Traffic = self._remote.read("traffic")
        return passed


@contextmanager
def far_links(*server_ports: int) -> Iterator[tuple[FarLink, ...]]:
    """Start a process with a link for each of these ports; all of it ends with the block."""
    # Forked, it would hold whatever this process has open.
    with _Links(ctx=get_context("spawn")) as process:
        remotes = [process.link() for _ in server_ports]
        for remote, port in zip(remotes, server_ports, strict=True):
            remote.write("server_port", port)
            remote.begin()
        yield tuple(map(FarLink, remotes))
        for remote in remotes:
            remote.end()
