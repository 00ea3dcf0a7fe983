"""Open-loop load: what is to happen when is fixed beforehand, whatever becomes of it.

Latencies count from the intended time. A loop that waits for answers would stop asking
exactly when it is slow, and never see that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

__all__ = ["Pacer", "percentile"]

LEAD_S = 0.05


class Pacer:
    """Calls `act(n)` in a thread of its own, `per_s` times a second, without drift.

    A call that is late is made at once, and those after it are not put off. The thread
    sleeps to within a tenth of a millisecond; an event loop's timers are as coarse as one.
    """

    def __init__(self, act: Callable[[int], object], *, per_s: float, count: int) -> None:
        """Nothing runs yet."""
        self._act = act
        self._every_s = 1.0 / per_s
        self.count = count
        self._first = 0.0
        self._thread = threading.Thread(target=self._run, name="bench-pacer", daemon=True)

    def start(self) -> None:
        """Begin; the first call is due in a moment."""
        self._first = time.perf_counter() + LEAD_S
        self._thread.start()

    def intended(self, n: int) -> float:
        """Give when the n-th call is due, by `time.perf_counter`."""
        return self._first + n * self._every_s

    def _run(self) -> None:
        for n in range(self.count):
            early = self.intended(n) - time.perf_counter()
            if early > 0:
                time.sleep(early)  # in a thread of its own: the pace owes nothing to the loop
            self._act(n)


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that this share of all (0 to 1) does not exceed."""
    assert values
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
