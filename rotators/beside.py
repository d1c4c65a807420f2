"""What does not depend on each other is waited for at once."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context


@contextmanager
def beside[T](call: Callable[[], T]) -> Iterator[Future[T]]:
    """Call it in a thread of its own while the block runs; when the block is left, it has ended."""
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
        # A thread of ours starts without the invocation id that the worker's logging looks for.
        yield pool.submit(copy_context().run, call)


def spread[T, R](pool: ThreadPoolExecutor, do: Callable[[T], R], items: Collection[T]) -> Iterator[R]:
    """Do it to each item in the pool, and return what comes of it in their order."""
    # For each a context of its own: one cannot be entered twice.
    return pool.map(lambda context, item: context.run(do, item), [copy_context() for _ in items], items)
