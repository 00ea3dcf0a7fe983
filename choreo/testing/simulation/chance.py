"""Which faults fire: drawn from a seed for each machine, or told, so that a run can be shrunk.

Each draw of a machine has a number. What fired is written down by it, and a run that is told
which numbers fire draws nothing: the same faults, or fewer of them, happen again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

from choreo.testing.faults import CALM, Faults

__all__ = ["Chance", "Crash", "Fired", "Injected"]


class Crash(NamedTuple):
    """A fault by plan: end the process of `service` at its n-th await, counted from 1."""

    service: str
    at: int


class Injected(NamedTuple):
    """Names a fault that fired: the machine, and the number of its draw."""

    machine: str
    number: int


@dataclass(frozen=True, slots=True)
class Fired:
    """One fault that fired: which, where, and when in virtual seconds."""

    at: float
    name: Injected
    fault: str
    verb: str

    def __str__(self) -> str:
        return f"{self.fault} of {self.name.machine} at {self.verb}"


class Chance:
    """What decides for one machine. `only`: what fires, instead of being drawn."""

    def __init__(
        self,
        seed: int,
        machine: str,
        faults: Faults,
        *,
        only: Collection[Injected] | None,
        fired: Callable[[Fired], object],
        now: Callable[[], float],
    ) -> None:
        """Tell `fired` of each; `now` stamps it."""
        self.faults = faults
        self._seed = f"{seed}/{machine}"
        self._machine = machine
        self._draw = random.Random(self._seed).random
        self._only = None if only is None else {n for where, n in only if where == machine}
        self._told = fired
        self._now = now
        self._number = 0
        self.rng = random.Random(self._seed)
        """For what the fault that fired last is like: how late, how often."""

    def calm(self) -> None:
        """Let nothing fire any more."""
        self.faults = replace(
            CALM, turns_max=self.faults.turns_max, repeated_max=self.faults.repeated_max
        )
        self._only = None

    def drawn(self, *about: object) -> float:
        """Give a number in [0, 1) that hangs on the seed and on these values only."""
        return random.Random(f"{self._seed}/{about!r}").random()

    def fires(self, fault: str, verb: str) -> bool:
        """Draw, and note what fires."""
        likely = getattr(self.faults, fault)
        if not likely:
            return False
        self._number += 1
        if self._only is None:
            if self._draw() >= likely:
                return False
        elif self._number not in self._only:
            return False
        self.rng = random.Random(f"{self._seed}/{self._number}")
        self._told(Fired(self._now(), Injected(self._machine, self._number), fault, verb))
        return True
