"""What goes wrong at the provider, decided by a seed.

A fate hangs on the seed, the idempotency key and the number of the attempt, never on the
order in which calls arrive: the same calls meet the same trouble.
"""

import hashlib
from dataclasses import dataclass, fields, replace
from enum import Enum


class Fate(Enum):
    """What happens to one call."""

    PLAIN = "plain"
    REFUSED = "refused"  # 503, and a body that says: not processed
    ERROR = "error"  # 500, nothing was done, and nothing says so
    LATE = "late"  # done, and answered when nobody listens any more
    LOST = "lost"  # done, and the connection is dropped


@dataclass(frozen=True, slots=True)
class Plan:
    """Shares of calls, 0 to 1, that meet each fate; `late_s` is how late an answer is.

    `decline` is the share of orders whose charge is declined; `shut` of those for which every
    call is refused.
    """

    seed: int = 1
    refused: float = 0.03
    error: float = 0.04
    late: float = 0.02
    lost: float = 0.04
    decline: float = 0.05
    shut: float = 0.01
    late_s: float = 3.0

    def fate(self, key: str, attempt: int, order_id: str) -> Fate:
        """Decide one call."""
        if self._draw("shut", order_id) < self.shut:
            return Fate.REFUSED
        drawn = self._draw("fate", key, str(attempt))
        for fate in (Fate.REFUSED, Fate.ERROR, Fate.LATE, Fate.LOST):
            share: float = getattr(self, fate.value)
            if drawn < share:
                return fate
            drawn -= share
        return Fate.PLAIN

    def declines(self, order_id: str) -> bool:
        """Tell whether this order's charge is declined."""
        return self._draw("decline", order_id) < self.decline

    def _draw(self, *parts: str) -> float:
        """Give a number in [0, 1) that hangs on the seed and these words only."""
        text = "\0".join((str(self.seed), *parts))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def planned(text: str, seed: int) -> Plan:
    """Read a plan such as "error=0.1,late=0"; raises ValueError with a sentence."""
    names = {field.name for field in fields(Plan)} - {"seed"}
    given: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name not in names:
            raise ValueError(f"{name!r} is not one of {', '.join(sorted(names))}")
        try:
            given[name] = float(value)
        except ValueError:
            raise ValueError(f"{name}={value!r} is no number") from None
        if not 0 <= given[name] <= (3600 if name == "late_s" else 1):
            raise ValueError(f"{name}={value} is out of range")
    return replace(Plan(seed=seed), **given)  # type: ignore[arg-type]
