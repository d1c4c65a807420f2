"""What does not depend on each other is waited for at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context


@contextmanager
def beside[T](call: Callable[[], T]) -> Iterator[Future[T]]:
    """Call it in a thread of its own while the block runs; when the block is left, it has ended."""
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
        # A thread of ours starts without the invocation id that the worker's logging looks for.
        yield pool.submit(copy_context().run, call)
