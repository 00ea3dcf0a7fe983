"""Policies: frozen values, and the pure decisions they make.

A policy never waits and never draws a random number by itself: it is asked, with the
attempt and a number in [0, 1), and answers with a value. So a simulation decides as
production does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from choreo.errors import ConfigurationError

__all__ = ["UNKNOWN_OUTCOME", "Keep", "Retry"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and when, a failed attempt is made again.

    `attempts_max` counts the first one. Delays in seconds: `first_s`, then times `factor`,
    at most `longest_s`, spread by ± `jitter` (a share, 0 to 1). Exceptions of a class in
    `never` are not tried again.
    """

    attempts_max: int = 5
    first_s: float = 0.2
    factor: float = 5.0
    jitter: float = 0.0
    longest_s: float = 3600.0
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that no schedule can be made of."""
        listed = self.never if isinstance(self.never, tuple) else (self.never,)
        classes = all(isinstance(one, type) and issubclass(one, BaseException) for one in listed)
        wrong = (
            (
                "attempts_max must be a whole number from 1 on",
                not _within(self.attempts_max, 1, whole=True),
            ),
            ("first_s must be seconds from 0 on", not _within(self.first_s, 0)),
            ("factor must be at least 1", not _within(self.factor, 1)),
            ("jitter must lie in 0..1", not _within(self.jitter, 0, 1)),
            ("longest_s must be seconds from 0 on", not _within(self.longest_s, 0)),
            ("never must hold classes of exceptions", not classes),
        )
        for what, bad in wrong:
            if bad:
                raise ConfigurationError(
                    f"Retry: {what}", code="CH1011", fix="correct the value", policy=self
                )

    def delay_s(self, attempt: int, draw: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1); `draw` in [0, 1)."""
        try:
            plain = min(self.first_s * float(self.factor) ** (attempt - 1), self.longest_s)
        except OverflowError:
            plain = self.longest_s if self.first_s else 0.0
        return max(0.0, plain * (1 + self.jitter * (2 * draw - 1)))

    def retryable(self, error: BaseException) -> bool:
        """Tell whether an attempt that failed like this may be made again at all."""
        return not isinstance(error, self.never)


def _within(value: object, least: float, most: float = math.inf, *, whole: bool = False) -> bool:
    """Tell whether it is a finite number within bounds; True and False are none."""
    number = isinstance(value, int) or (isinstance(value, float) and not whole)
    if not number or isinstance(value, bool):
        return False
    assert isinstance(value, (int, float))
    return math.isfinite(value) and least <= value <= most


UNKNOWN_OUTCOME = Retry(attempts_max=1, first_s=0.2, factor=2.0, jitter=0.2, longest_s=60.0)
"""The pace at which a delivery with an open intent, or an undo, is tried again, for ever."""


DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Keep:
    """How long a service's rows are kept once nothing waits for them, in seconds.

    `inbox_s`: that a delivery was settled; a record that is older, and comes again, is a dead
    letter. `flow_s`: what belongs to a flow as a whole (gates, outside calls), and the ids
    that say nothing of their time: a caller's own keys. `log_s`: records; None keeps all.
    It is looked for what is old every `every_s`.
    """

    inbox_s: float = 30 * DAY_S
    flow_s: float = 400 * DAY_S
    log_s: float | None = None
    every_s: float = 3600.0

    def __post_init__(self) -> None:
        """Refuse times that keep nothing, or a flow for less long than its parts."""
        if not (self.inbox_s > 0 and self.flow_s >= self.inbox_s):
            raise ConfigurationError(
                "inbox_keep_s must be more than 0 seconds, flow_keep_s no less than that",
                code="CH1011",
                fix="correct the values",
                inbox_keep_s=self.inbox_s,
                flow_keep_s=self.flow_s,
            )
