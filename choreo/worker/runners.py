"""Running handlers: a pool of long-lived tasks, time-outs by one sweep, retries inside the step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from choreo.context import AskFirst, UndoFirst
from choreo.errors import FencedError, HandlerError, HandlerTimeoutError
from choreo.events import TYPE
from choreo.plan import Plan
from choreo.step import Delivery, MoreGates, StepVoid, after_run, failed
from choreo.telemetry import CURRENT
from choreo.worker.pipeline import Pipeline

__all__ = ["Runners"]


class Runners:
    """Takes what is ready. No task a delivery: a handler that does not wait costs no switch.

    A runner that takes work leaves word with the loop to look after the rest: only when its
    handler waits for something does the loop come to that, and wake one more.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        """Start no runner yet."""
        self._pipeline = pipeline
        self._idle: list[asyncio.Future[None]] = []
        self._count = 0
        self._free: list[int] = []
        self._relieved: set[int] = set()
        self._relief = False
        self.slots: list[Delivery | None] = []  # what each runner has, or had last
        self.late: dict[Delivery, float] = {}  # told to end, and when
        self._timed: dict[asyncio.Task[None], tuple[float, Delivery]] = {}
        self._timed_added = asyncio.Event()
        self.begun: Callable[[], object] = lambda: None
        """Called when somebody begins after a rest."""
        pipeline.wake_runner = self.wake
        pipeline.attempt = self._attempt

    def wake(self) -> None:
        """Have somebody look at what is ready."""
        self._relief = False
        if not self._pipeline.ready:
            return
        while self._idle:
            waiting = self._idle.pop()
            if not waiting.done():
                waiting.set_result(None)
                self.begun()
                return
        if self._count < self._pipeline.limits.runners_max:
            self._count += 1
            if not self._free:
                self._free.append(len(self.slots))
                self.slots.append(None)
            slot = self._free.pop()
            self._pipeline.spawn(self._run(slot), f"runner {slot}")
            self.begun()

    def relieve(self, d: Delivery) -> None:
        """Count the runner of a delivery that goes on for long no more; it ends with it."""
        if d in self.slots:
            self._count -= 1
            self._relieved.add(self.slots.index(d))
            self.wake()

    async def _run(self, slot: int) -> None:
        slots = self.slots
        CURRENT.set(lambda: slots[slot])
        loop = asyncio.get_running_loop()
        ready = self._pipeline.ready
        burst = self._pipeline.limits.burst
        done = 0
        while True:
            if not ready:
                done = 0
                waiting: asyncio.Future[None] = loop.create_future()
                self._idle.append(waiting)
                slots[slot] = None
                await waiting
                continue
            d = ready.popleft()
            if d.owned.lost:  # type: ignore[union-attr]
                self._pipeline.drop(d)
                continue
            slots[slot] = d
            if not self._relief:
                self._relief = True
                loop.call_soon(self.wake)
            await self._pipeline.attempt(d)
            if slot in self._relieved:
                self._relieved.remove(slot)
                self._free.append(slot)
                slots[slot] = None
                return
            done += 1
            if done >= burst:
                done = 0
                await asyncio.sleep(0)

    async def _attempt(self, d: Delivery) -> None:
        pipeline = self._pipeline
        clock = pipeline.clock
        route = d.route
        d.error = None
        d.simple = False
        d.started = clock.now()
        begun = clock.elapsed()
        try:
            if route.plain:
                record = d.record
                event = route.decode(route.views[record.headers[TYPE]], record)
                d.result = await route.handler.fn(event)
                d.took = clock.elapsed() - begun
                plan = after_run(d, d.loaded, d.result, d.started + d.took)
            elif route.handler.timeout_s is None:
                plan = await pipeline.run(d, begun)
            else:
                plan = await self._timed_run(d, begun, route.handler.timeout_s)
        except MoreGates as more:
            d.see_more(more.keys)
            self._pipeline.decide_again(d)
        except StepVoid:
            pipeline.load(d)
        except AskFirst as asking:
            d.took = clock.elapsed() - begun
            await self.undo_and_fail(d, asking)
        except UndoFirst:
            await self.undo_and_fail(d, HandlerError("given up; its outside calls were undone"))
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self.undo_and_fail(d, exc)  # something that the handler awaits was cancelled
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever it raises, step decides
            d.took = clock.elapsed() - begun
            await self.undo_and_fail(d, exc)
        else:
            pipeline.finish(d, plan)

    def look_again(self, d: Delivery, more: MoreGates) -> None:
        """Begin again with more gates in sight: a section was rolled back."""
        d.see_more(more.keys)
        self._pipeline.load(d)

    # ── time-outs ────────────────────────────────────────────────────────────────────────

    async def _timed_run(self, d: Delivery, begun: float, timeout_s: float) -> Plan:
        task = asyncio.current_task()
        assert task is not None
        self._timed[task] = (begun + timeout_s, d)
        self._timed_added.set()
        plan: Plan | None = None
        try:
            plan = await self._pipeline.run(d, begun)
        except asyncio.CancelledError:
            if task in self._timed:
                raise
        finally:
            late = self._timed.pop(task, None) is None
            self.late.pop(d, None)
            if late:  # whatever the handler made of it: the task has others to run
                task.uncancel()
        if plan is not None and not late:
            return plan
        raise HandlerTimeoutError(
            f"did not end within {timeout_s:g} s",
            fix="raise timeout_s, or find out what it waits for",
            handler=d.route.name,
        )

    async def sweep(self) -> None:
        """Cancel what runs for too long: one loop for all, no timer a delivery."""
        clock = self._pipeline.clock
        while True:
            self._timed_added.clear()
            if not self._timed:
                await self._timed_added.wait()
                continue
            delay = min(deadline for deadline, _ in self._timed.values()) - clock.elapsed()
            if delay > 0:
                await self._pipeline.sleep_or(self._timed_added, delay)
            now = clock.elapsed()
            for task, (deadline, d) in list(self._timed.items()):
                if deadline <= now:
                    del self._timed[task]
                    self.late[d] = time.monotonic()
                    task.cancel()

    def running(self) -> list[Delivery]:
        """Give what handlers are at, once nothing new is begun."""
        return [d for d in self.slots if d is not None]

    # ── failures ─────────────────────────────────────────────────────────────────────────

    async def undo_and_fail(self, d: Delivery, error: BaseException) -> None:
        """Undo outside calls if this was the last attempt; then decide what follows."""
        if isinstance(error, AskFirst):
            self.fail(d, error.error)
            return
        try:
            await self._pipeline.caller.undo_calls(d, error)
        except StepVoid:
            self._pipeline.load(d)
        except Exception as exc:  # noqa: BLE001 - an undo's outcome is unknown: tried again
            self.fail(d, exc)
        else:
            self.fail(d, error)

    def fail(self, d: Delivery, error: BaseException) -> None:
        """Decide what follows from a failed attempt, and see to it."""
        if isinstance(error, FencedError):
            self._pipeline.drop(d)
            return
        d.error = error
        now, draw = self._pipeline.clock.now(), self._pipeline.caller.draw()
        verdict = failed(d, d.loaded, error, now, draw=draw)
        if verdict.again_s is None:
            self._pipeline.finish(d, verdict.plan)
            return
        self._pipeline.note(verdict.plan)
        self._pipeline.spawn(self._again(d, verdict.again_s), "again")

    async def _again(self, d: Delivery, delay_s: float) -> None:
        d.attempt += 1
        await self._pipeline.put_off(delay_s)
        d.error = None
        self._pipeline.load(d)
