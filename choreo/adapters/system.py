"""The time of the machine."""

from __future__ import annotations

import asyncio
import time

__all__ = ["SystemClock"]


class SystemClock:
    """The Clock of production: the machine's time, and the event loop's waiting.

    A store on another machine has it follow its own: what one host sets for ten o'clock all
    hosts do at ten, whatever their clocks show. From then on it goes on by seconds elapsed.
    """

    _began: float | None = None

    def now(self) -> float:
        return time.time() if self._began is None else self._began + time.perf_counter()

    def follow(self, now: float) -> None:
        """Go on from this time, which a store has told."""
        self._began = now - time.perf_counter()

    def elapsed(self) -> float:
        return time.perf_counter()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
