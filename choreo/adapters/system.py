"""The time of the machine."""

from __future__ import annotations

import asyncio
import time

__all__ = ["SystemClock"]


class SystemClock:
    """The Clock of production: the machine's time, and the event loop's waiting."""

    def now(self) -> float:
        return time.time()

    def elapsed(self) -> float:
        return time.perf_counter()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
