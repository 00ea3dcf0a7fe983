"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable
from itertools import count

__all__ = ["ManualClock"]

START = 1_767_225_600.0  # 2026-01-01T00:00:00Z: any moment would do, a round one reads well
TICK_S = 1e-6
ROUNDS_MAX = 10_000
ROUNDS_BLIND = 100
Settle = Callable[[], Awaitable[object]]


class ManualClock:
    """A Clock for tests: thirty minutes pass when `advance(1800)` says so, in no time.

    Time moves from sleeper to sleeper, in order of their time and then of their call, and
    before each move everything settles: the loop turns until nothing is ready on it, and
    those registered by `settle_with` say that they are idle. So what a woken sleeper begins,
    a sleep of its own included, belongs to the moment at which it was woken, and a test that
    runs again runs the same way.

    The loop alone can not tell that nothing goes on: a store works on a thread, whose answer
    is not ready until it is there. Counting turns of the loop would be a guess, so whoever
    works on threads says when it is done.

    `now` and `elapsed` may be read from any thread; all else belongs to the loop.
    """

    def __init__(self, start: float = START) -> None:
        """Stand still at `start`, in epoch seconds."""
        self._start = start
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._turn = count()
        self._settlers: list[Settle] = []
        self._moving = False

    def now(self) -> float:
        return self._now

    def elapsed(self) -> float:
        return self._now - self._start

    async def sleep(self, delay_s: float) -> None:
        if not delay_s > 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        due = max(_tick(self._now + delay_s), _tick(self._now + TICK_S))
        heapq.heappush(self._sleepers, (due, next(self._turn), future))
        await future

    @property
    def sleepers(self) -> int:
        """How many wait for this clock now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def settle_with(self, settle: Settle) -> Callable[[], None]:
        """Ask `settle` before each move of time; give a function that takes it back.

        It waits until its owner is idle, and is true if it had to wait: then all are asked
        once more, since what it did may have given the others work. Work that waits for
        this very clock counts as idle.
        """
        self._settlers.append(settle)
        return lambda: self._settlers.remove(settle) if settle in self._settlers else None

    async def settle(self) -> None:
        """Let everything happen that can happen without time going on."""
        for _ in range(ROUNDS_MAX):
            await _quiet()
            busy = [await settle() for settle in tuple(self._settlers)]
            if not any(busy):
                break
        else:
            msg = f"nothing came to rest in {ROUNDS_MAX} rounds at {self._now}"
            raise AssertionError(msg)
        if self._settlers:
            await _quiet()

    async def advance(self, delay_s: float) -> None:
        """Let `delay_s` seconds pass, waking every sleeper at its own time."""
        assert 0 <= delay_s < math.inf, f"time can not move by {delay_s} s"
        assert not self._moving, "this clock is being moved already"
        self._moving = True
        try:
            await self._advance(_tick(self._now + delay_s))
        finally:
            self._moving = False

    async def _advance(self, target: float) -> None:
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():  # its sleeper was cancelled
                continue
            self._now = max(self._now, due)
            future.set_result(None)
            await self.settle()
        self._now = target
        await self.settle()


def _tick(moment: float) -> float:
    """Round to the microsecond, so that ten times 0.1 s are a second."""
    return round(moment, 6)


async def _quiet() -> None:
    """Yield until the loop has nothing ready but us; twice, for what a poll of sockets brings.

    A loop that does not show what is ready is given a fixed number of turns.
    """
    ready = getattr(asyncio.get_running_loop(), "_ready", None)
    idle = 0
    for _ in range(ROUNDS_BLIND if ready is None else ROUNDS_MAX):
        await asyncio.sleep(0)
        idle = idle + 1 if ready is not None and not ready else 0
        if idle == 2:  # noqa: PLR2004 - see above
            return
    assert ready is None, f"the event loop did not come to rest in {ROUNDS_MAX} turns"
