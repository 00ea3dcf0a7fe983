"""Told to end: at a signal the process ends in order, and in any case."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

from choreo.errors import HandlerError

__all__ = ["Ending"]

LOOK_S = 10.0
SAY_S = 1.0


class Ending:
    """Hears that the process is to end, and sees to it that it does.

    What is to be closed may wait for ever: a resource of the user's, a server that accepts and
    does not answer, an event loop that a handler holds. So a thread waits, too: `within_s`
    seconds after the first signal it says what everything is at, and the process is over, with
    exit code 1. As after any crash the next start goes on from there.
    """

    def __init__(self, within_s: float) -> None:
        """Hear nothing yet."""
        self._within_s = within_s
        self._told = asyncio.Event()
        self._timer: threading.Timer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def heard(self, *, to_the_end: bool = False) -> Iterator[asyncio.Event]:
        """Listen to SIGTERM and SIGINT, inside of the block; give what the first one sets.

        At a second signal the process ends at once: `to_the_end` also while all is closed, after
        the block. Only the main thread can listen.
        """
        self._loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        # Not the loop's own: a loop that is held would never hear it.
        before = {number: signal.signal(number, self._tell) for number in numbers}
        try:
            yield self._told
        finally:
            for number, handler in before.items():
                if not to_the_end:
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def done(self) -> None:
        """All is closed: nobody has to see to it any more. May be called without a signal."""
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        assert self._loop is not None
        if self._timer is not None:
            os._exit(1)
        with suppress(RuntimeError):  # the loop is closed: all that is left is to end
            self._loop.call_soon_threadsafe(self._told.set)
        self._timer = _later(self._within_s, self._end)

    def _end(self) -> None:
        try:
            # The sources of what it looks at may be far away.
            _later(LOOK_S, partial(os._exit, 1))
            said = self._all()
            _later(SAY_S, partial(os._exit, 1))  # who takes it may have stopped reading
            # Not by its write(): whoever is stuck in one has its lock.
            os.write(sys.stderr.fileno(), said)
        finally:
            os._exit(1)

    def _all(self) -> bytes:
        """Give in words what everything is at."""
        assert self._loop is not None
        lines = [
            f"thread {thread:#x}\n{''.join(traceback.format_stack(frame))}"
            for thread, frame in sys._current_frames().items()  # noqa: SLF001 - no other way
        ]
        lines += [
            f"task {task.get_name()}\n{_awaited(task)}" for task in asyncio.all_tasks(self._loop)
        ]
        error = HandlerError(
            f"the process did not end within {self._within_s:g} s of being told to: it is over now",
            code="CH5016",
            fix="look above at what the threads and tasks wait for; what needs longer to close"
            " is given it by Limits(drain_s=, leave_s=)",
        )
        lines.append(f"error: {error}\n")
        return "".join(lines).encode("utf-8", "replace")


def _later(delay_s: float, what: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(delay_s, what)
    timer.daemon = True
    timer.start()
    return timer


def _awaited(task: asyncio.Task[object]) -> str:
    """Give the lines at which a task waits, the innermost last; its own stack has one only."""
    lines = []
    waits: object = task.get_coro()
    while waits is not None:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            lines.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n')
        waits = getattr(waits, "cr_await", None) or getattr(waits, "gi_yieldfrom", None)
    return "".join(lines)
