"""How a tracker gets on, for who asks whether it may be relied on."""

from __future__ import annotations

from choreo.errors import ChoreoError
from choreo.ports import Clock

__all__ = ["Course"]


class Course:
    """Whether a tracker has begun, how long ago it was at the end, and what holds it up.

    `begun` once it knows where the views stand; `outage` is what log or views answer instead
    of doing what they are asked for.
    """

    def __init__(self, clock: Clock) -> None:
        """Nothing has begun."""
        self._clock = clock
        self._at_end: float | None = None
        self.begun = False
        self.outage: ChoreoError | None = None

    def reached_the_end(self) -> None:
        """All that was on the log is in the views."""
        self._at_end = self._clock.elapsed()
        self.begun = True
        self.outage = None

    @property
    def behind_s(self) -> float | None:
        """Seconds since it was last at the end of the log; None: it has not been there yet."""
        return None if self._at_end is None else self._clock.elapsed() - self._at_end
