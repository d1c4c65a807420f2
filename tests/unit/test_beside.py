"""What is done at once: nothing of it is lost, and nobody is left behind."""

import threading
from contextvars import ContextVar

import pytest

from rotators.beside import beside

WHERE = ContextVar("where", default="")


def test_both_run_at_once() -> None:
    """Each waits for the other, so that one after the other they would wait for ever."""
    meet = threading.Barrier(2, timeout=10)
    with beside(meet.wait) as other:
        meet.wait()
    assert other.result() in (0, 1)


def test_the_block_is_left_when_both_are_done() -> None:
    go, done = threading.Event(), []

    def late() -> None:
        go.wait(10)
        done.append("late")

    with pytest.raises(LookupError), beside(late):  # noqa: PT012 (it is about the block)
        go.set()
        raise LookupError
    assert done == ["late"]


def test_what_it_raises_comes_when_it_is_asked_for() -> None:
    def fail() -> None:
        raise LookupError("beside")

    with beside(fail) as other:
        pass
    with pytest.raises(LookupError, match="beside"):
        other.result()


def test_it_knows_the_invocation_that_it_belongs_to() -> None:
    """The worker's logging looks for it in the context."""
    WHERE.set("here")
    with beside(WHERE.get) as other:
        pass
    assert other.result() == "here"
