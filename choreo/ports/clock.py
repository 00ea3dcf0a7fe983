"""Time, as everything that waits asks for it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """Time. Everything that waits or looks at the time asks this."""

    def now(self) -> float:
        """Give epoch seconds."""
        ...

    def elapsed(self) -> float:
        """Give seconds of a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds of this clock."""
        ...
