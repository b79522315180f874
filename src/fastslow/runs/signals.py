"""Ctrl-C and SIGTERM: a run is left where it can be gone on with, with a line that says how."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastslow.errors import RunError

_stopped = False  # a run of this process was asked to stop


class Interrupted(BaseException):
    """The run was asked to stop (Ctrl-C or SIGTERM).

    No ``Exception``: the fences around scorers and reflectors must let it pass, as they do ``KeyboardInterrupt``.
    """


class Stopped(RunError):
    """A run left on request, ``at`` a place that it goes on from in the way that ``how`` tells."""

    def __init__(self, at: str, how: str) -> None:
        super().__init__(f"{at}; {how}")
        self.at = at


class StopSignals:
    """As a context manager, turns SIGINT and SIGTERM into :class:`Interrupted`.

    The first one raises at once or, while the signals are held, at :meth:`release`. Later ones change nothing: the run
    is on its way out, and an impatient second Ctrl-C must not break off the saving. Off the main thread, which alone
    may set handlers, nothing changes.
    """

    def __init__(self) -> None:
        self._held = self._asked = False
        self._previous: dict = {}

    def hold(self) -> None:
        """From here on weights and state may disagree: a signal waits."""
        self._held = True

    def release(self) -> None:
        """Raises :class:`Interrupted` if a signal has come."""
        self._held = False
        if self._asked:
            raise Interrupted

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        global _stopped
        first, self._asked, _stopped = not self._asked, True, True
        if first and not self._held:
            raise Interrupted


@contextmanager
def last_word() -> Iterator[None]:
    """For a command line: once its run was asked to stop, a further Ctrl-C changes nothing to the end of the process.

    Else it would cut off the line that says how to go on, or put a traceback below it.
    """
    global _stopped

    def unless_stopped(number: int, frame: FrameType | None) -> None:
        if not _stopped:
            signal.default_int_handler(number, frame)

    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    _stopped = False
    signal.signal(signal.SIGINT, unless_stopped)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if _stopped else usual)
