"""An event loop without a clock, a socket or a thread: time stands still until all is done.

Which of the tasks that could go on does so is drawn from a seed; plain callbacks keep the
order that asyncio promises them. When nothing can go on, time moves to the next timer. So
the same program with the same seed runs the same way, whatever machine it is on.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from itertools import count
from typing import Any, Protocol

from choreo.errors import SimulationError

__all__ = ["HOST", "Runs", "SimLoop"]

TICK_S = 1e-6
"""The shortest time that a timer waits: less would be lost in the seconds of an epoch."""
STEPS_MAX = 2_000_000
"""Turns at one moment of time, after which something turns for ever."""


class Runs(Protocol):
    """Whose code a handle is: a host counts what it does, and may be gone or stand still."""

    def runs(self, handle: asyncio.Handle) -> bool:
        """Tell whether it may run now; one that may not is the host's to keep."""
        ...

    def stepped(self) -> None:
        """Hear that one of its tasks has come to an await, or to its end."""
        ...


HOST: ContextVar[Runs | None] = ContextVar("HOST", default=None)
"""The host whose code runs now."""


class SimLoop(asyncio.BaseEventLoop):
    """A loop on virtual time; `rng` orders what is ready."""

    def __init__(self, rng: random.Random) -> None:
        """Begin at second 0 with nothing to do."""
        super().__init__()
        self._draw = rng.random
        self._now = 0.0
        self._callbacks: deque[asyncio.Handle] = deque()
        self._steps: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._turn = count()
        self.steps = 0
        self.refused: list[SimulationError] = []
        self.errors: list[dict[str, Any]] = []
        """What callbacks and tasks raised that nobody waited for."""
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    # ── what asyncio asks of a loop ──────────────────────────────────────────────────────

    def time(self) -> float:
        """Give virtual seconds since the loop was made."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Run a callback; a task's next step takes its chance among all that are ready."""
        context = copy_context() if context is None else context  # an empty one is false
        handle = asyncio.Handle(callback, args, self, context)
        if isinstance(getattr(callback, "__self__", None), asyncio.Task):
            self._steps.append(handle)
        else:
            self._callbacks.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback after `delay` virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback at a moment of the loop's time."""
        if when > self._now:
            when = max(when, self._now + TICK_S)
        context = copy_context() if context is None else context  # an empty one is false
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._turn), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is: it is passed over when its time comes."""

    def is_running(self) -> bool:
        """Tell whether it is being run."""
        return asyncio._get_running_loop() is self  # noqa: SLF001 - asyncio's own for loops

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        """Refuse: there is no thread. What choreo would do in one is done at once."""
        del executor
        called = func.args[0] if isinstance(func, partial) and func.args else func
        if getattr(called, "__module__", "").startswith("choreo."):
            done = self.create_future()
            done.set_result(func(*args))
            return done
        raise self.refuse("a thread (run_in_executor, asyncio.to_thread)", "call it directly")

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        """Refuse: there is no network."""
        raise self.refuse("the network (getaddrinfo)", INJECT)

    async def create_connection(self, *_: Any, **__: Any) -> Any:
        """Refuse: there is no network."""
        raise self.refuse("the network (create_connection)", INJECT)

    async def create_server(self, *_: Any, **__: Any) -> Any:
        """Refuse: there is no network."""
        raise self.refuse("the network (create_server)", INJECT)

    def refuse(self, what: str, instead: str) -> SimulationError:
        """Make the error for a call that leaves the simulation, which ends with it."""
        error = SimulationError(
            f"in a simulation a service asked for {what}", code="CH8002", fix=instead
        )
        self.refused.append(error)
        return error

    def check(self) -> None:
        """Raise what was refused, if something was."""
        if self.refused:
            raise self.refused[0]

    # ── running ──────────────────────────────────────────────────────────────────────────

    def run_until(self, moment: float) -> None:
        """Do all that is to be done up to a moment of virtual time, and stand there."""
        self._within(lambda: self._run_until(moment))

    def complete(self, work: Coroutine[Any, Any, Any], *, within_s: float = 3600.0) -> Any:
        """Run until a coroutine has ended; give what it gives."""

        def run() -> Any:
            task = self.create_task(work)
            moment = self._now + within_s
            while not task.done() and self._next(moment):
                self._turn_once()
            self.check()
            if not task.done():
                what = f"did not end within {within_s:g} virtual seconds"
                raise SimulationError(what, fix="find out what it waits for", work=work)
            return task.result()

        return self._within(run)

    def at_once(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Drive a coroutine that waits for nothing to its end, before anything else goes on."""

        def run() -> Any:
            while True:
                try:
                    waits_for = work.send(None)
                except StopIteration as stop:
                    return stop.value
                assert waits_for is None, "it waits for something"

        return self._within(run)

    def _within(self, run: Callable[[], Any]) -> Any:
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - asyncio's own for loops
            what = "a simulation was begun inside of a running event loop"
            raise SimulationError(what, fix="make the test a plain function, without async")
        asyncio._set_running_loop(self)  # noqa: SLF001 - asyncio's own for loops
        try:
            return run()
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001 - asyncio's own for loops

    def _run_until(self, moment: float) -> None:
        while self._next(moment):
            self._turn_once()
        self._now = max(self._now, moment)

    def _next(self, moment: float) -> bool:
        """Let time go on to the next timer when nothing is ready; false when there is none."""
        if self._callbacks or self._steps:
            return True
        if self.refused:
            return False
        self.steps = 0
        timers = self._timers
        while timers and timers[0][0] <= moment:
            when, _, timer = heapq.heappop(timers)
            if timer.cancelled():
                continue
            self._now = max(self._now, when)
            self._callbacks.append(timer)
            while timers and timers[0][0] <= when:
                self._callbacks.append(heapq.heappop(timers)[2])
            return True
        return False

    def _turn_once(self) -> None:
        """Run the callbacks that wait, or one task up to its next await."""
        self.steps += 1
        if self.steps > STEPS_MAX:
            what = f"something turns for ever, at second {self._now:g}"
            raise SimulationError(what, fix="let it wait for time, or for something to happen")
        callbacks = self._callbacks
        if callbacks:
            self._run_handle(callbacks.popleft(), step=False)
            return
        steps = self._steps
        chosen = int(self._draw() * len(steps))
        handle = steps[chosen]
        steps[chosen] = steps[-1]
        steps.pop()
        self._run_handle(handle, step=True)

    @staticmethod
    def _run_handle(handle: Any, *, step: bool) -> None:
        if handle._cancelled:  # noqa: SLF001 - asyncio's own for loops
            return
        host = handle._context.get(HOST)  # noqa: SLF001 - asyncio's own for loops
        if host is None:
            handle._run()  # noqa: SLF001 - asyncio's own for loops
        elif host.runs(handle):
            handle._run()  # noqa: SLF001 - asyncio's own for loops
            if step:
                host.stepped()

    def requeue(self, handles: list[asyncio.Handle]) -> None:
        """Take handles back that a host had kept while it stood still."""
        for handle in handles:
            callback = handle._callback  # type: ignore[attr-defined]  # noqa: SLF001
            if isinstance(getattr(callback, "__self__", None), asyncio.Task):
                self._steps.append(handle)
            else:
                self._callbacks.append(handle)

    def bury(self) -> None:
        """End for good: what still waits is closed, and what it says then is not heard.

        Whoever was left behind by a crash has run no `finally` so far. The verdict has been
        given by now, and a coroutine that is only dropped would do so at any later moment.
        """
        outer = asyncio._get_running_loop()  # noqa: SLF001 - asyncio's own for loops
        asyncio._set_running_loop(self)  # noqa: SLF001 - asyncio's own for loops
        try:
            buried = set[asyncio.Task[Any]]()
            while left := asyncio.all_tasks(self) - buried:  # a `finally` may begin more
                buried |= left
                for task in left:
                    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
                    _close(task.get_coro())
        finally:
            asyncio._set_running_loop(outer)  # noqa: SLF001 - asyncio's own for loops
        self._callbacks.clear()
        self._steps.clear()
        self._timers.clear()
        self._closed = True


def _close(coroutine: Any) -> None:
    """Close a coroutine; one that has never run, with those that it was to await."""
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        for value in list(coroutine.cr_frame.f_locals.values()):
            if inspect.iscoroutine(value):
                _close(value)
    with suppress(BaseException):  # nobody is left whom it could tell
        coroutine.close()


INJECT = "give the client as a resource, and in a simulation one that calls an Outside"
