"""A machine's own clock: it is off by so much, and runs a little too fast or too slow."""

from __future__ import annotations

import asyncio

from choreo.testing.clock import START
from choreo.testing.simulation.loop import SimLoop

__all__ = ["HostClock"]


class HostClock:
    """The Clock of one machine, on the loop's virtual time."""

    def __init__(self, loop: SimLoop, *, offset_s: float = 0.0, drift: float = 0.0) -> None:
        """Be `offset_s` ahead, and gain `drift` seconds a second."""
        self._loop = loop
        self._offset_s = offset_s
        self._rate = 1.0 + drift

    def now(self) -> float:
        return START + self._offset_s + self._loop.time() * self._rate

    def elapsed(self) -> float:
        return self._loop.time() * self._rate

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / self._rate)

    def jump(self, by_s: float) -> None:
        """Be set, as somebody or something sets clocks."""
        self._offset_s += by_s
