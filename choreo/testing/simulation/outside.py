"""Systems outside of choreo, as services meet them: late, twice, never, or with a lost answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

from choreo.testing.faults import Faults
from choreo.testing.simulation.chance import Chance

__all__ = ["Outside", "RefusedError", "UnansweredError"]

T = TypeVar("T")
PATIENCE_S = 30.0


class RefusedError(ConnectionRefusedError):
    """It can not be reached: certainly nothing was done."""


class UnansweredError(TimeoutError):
    """No answer came: nobody knows whether it was done."""


class Outside:
    """One system outside: a bank, a mailer, a carrier. It outlives every process.

    `memory` is its own, for whoever stands in for it to keep books in; what is put there is
    there for every process of the simulation, and for its audit.
    """

    def __init__(self, name: str, chance: Chance, now: Callable[[], float]) -> None:
        """Fail as `chance` says."""
        self.name = name
        self.memory: dict[str, Any] = {}
        self.reports: list[Callable[[Path], object]] = []
        """Called before an audit with the folder that invariants look into."""
        self.entries: list[str] = []
        """The idempotency key of each thing that was really done; an audit wants each one once."""
        self.calls = 0
        self._chance = chance
        self.now = now

    def faults(self, faults: Faults) -> None:
        """Fail so from now on."""
        self._chance.faults = faults

    def calm(self) -> None:
        """Fail no more."""
        self._chance.calm()

    def report(self, folder: Path) -> None:
        """Write what invariants look for."""
        for one in self.reports:
            one(folder)

    def draw(self, *about: object) -> float:
        """Give a number in [0, 1) that hangs on the seed and on these values only."""
        return self._chance.drawn(*about)

    async def call(
        self, do: Callable[[], T], *, verb: str = "call", patience_s: float | None = PATIENCE_S
    ) -> T:
        """Have it do something, and wait for its answer.

        It may do it twice, as after a retry on the way: idempotency keys are for that. Raises
        RefusedError when certainly nothing was done, UnansweredError when nobody knows;
        `patience_s` is how long a client waits that gets no answer (None: for ever).
        """
        chance = self._chance
        faults = chance.faults
        self.calls += 1
        await asyncio.sleep(0)
        if chance.fires("refused", verb):
            raise RefusedError(f"a fault: {self.name} can not be reached")
        if chance.fires("silent", verb):
            if chance.rng.random() < 1 / 2:
                do()
            await self._silence(patience_s)
        if chance.fires("late", verb):
            delay_s = chance.rng.random() * faults.late_s
            if patience_s is not None and delay_s > patience_s:
                asyncio.get_running_loop().call_later(delay_s, do, context=Context())
                await self._silence(patience_s)
            await asyncio.sleep(delay_s)
        answer = do()
        if chance.fires("duplicate", verb):
            answer = do()
        if chance.fires("ack_lost", verb):
            raise UnansweredError(f"a fault: the answer of {self.name} is lost")
        await asyncio.sleep(0)
        return answer

    async def _silence(self, patience_s: float | None) -> None:
        if patience_s is None:
            await asyncio.get_running_loop().create_future()
        else:
            await asyncio.sleep(patience_s)
        raise UnansweredError(f"a fault: {self.name} does not answer")
