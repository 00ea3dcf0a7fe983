"""Time, as everything that waits asks for it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """Time. Everything that waits or looks at the time asks this.

    One that is the machine's has `follow(now)`, too: a store that is somewhere else tells it
    the time there, and it goes on from that. Who is handed a clock may not set it.
    """

    def now(self) -> float:
        """Give epoch seconds."""
        ...

    def elapsed(self) -> float:
        """Give seconds of a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds of this clock."""
        ...
