"""How a command of the sandbox ends: whoever asks, what it started ends with it."""

import signal

_ASK_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_when_asked() -> None:
    """Raise KeyboardInterrupt in the main thread at the first SIGINT, SIGTERM or SIGHUP, and ignore those after it."""
    for number in _ASK_TO_END:
        # `nohup` has a hangup ignored on purpose; a shell that starts this in the background has Ctrl-C ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def _end(*_: object) -> None:
    # Who ends a group sends twice: `make` passes on what it gets. The second would break off the tidying up.
    for other in _ASK_TO_END:
        signal.signal(other, _nothing)
    raise KeyboardInterrupt


def _nothing(*_: object) -> None:
    """Unlike SIG_IGN, not inherited by a process that is started."""
