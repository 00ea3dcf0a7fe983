"""What stands between a process and its broker and store: the faults of its machine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from choreo.errors import BrokerUnavailableError, ChoreoError, StoreUnavailableError
from choreo.events import Partition, Record
from choreo.plan import Gate, Owned, Plan, Remember, SaveState
from choreo.ports import Applied
from choreo.testing.faults import Faults, FaultyBroker, FaultyStore
from choreo.testing.simulation.broker import SimBroker
from choreo.testing.simulation.chance import Chance
from choreo.testing.simulation.cluster import copied

__all__ = ["HostBroker", "HostStore", "Victim"]

REBOOTS = ("crash", "hang", "jump")


class Mark(NamedTuple):
    """A moment of a disk: all that was committed, and how often somebody was told of that."""

    content: bytes | None
    """None while a transaction is open: what is committed can not be told from the rest."""
    acknowledged: int


class Victim(Protocol):
    """The process that the faults of a machine befall."""

    chance: Chance

    def befall(self, fault: str) -> bool:
        """Let it happen; true when the process does not go on from here."""
        ...

    def takes(self, partition: Partition, generation: int) -> bool:
        """Tell whether nobody who lives has it by a newer generation; if so, note that it is ours.

        A file counts no generations: no broker that does is on one machine with it, but here.
        """
        ...

    def acknowledge(self) -> None:
        """Note that somebody is told of something that was written: it is there for good."""
        ...

    def at_mercy(self) -> Mark:
        """Give what its disk holds for certain."""
        ...

    def lose_power(self, mark: Mark) -> None:
        """End, with the disk as it was, or as it is: what was not acknowledged may be either."""
        ...


class _Befallen:
    """The faults of a machine, in place of a seed of their own."""

    victim: Victim

    @property
    def faults(self) -> Faults:
        return self.victim.chance.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        """They are the machine's."""

    @property
    def rng(self) -> random.Random:
        return self.victim.chance.rng

    @rng.setter
    def rng(self, rng: random.Random) -> None:
        """It is the machine's."""

    def fires(self, fault: str, verb: str) -> bool:
        return self.victim.chance.fires(fault, verb)

    async def reboot(self, verb: str) -> None:
        """Have what ends or stops a process happen here, if it is to happen."""
        for fault in REBOOTS:
            if self.fires(fault, verb) and self.victim.befall(fault):
                await asyncio.get_running_loop().create_future()


class HostBroker(_Befallen, FaultyBroker):
    """A process's way to the cluster."""

    def __init__(self, inner: SimBroker, victim: Victim) -> None:
        """Let the faults of `victim`'s machine fire on the way."""
        self.victim = victim
        super().__init__(inner, seed=0)
        self._sim = inner
        self._unavailable = BrokerUnavailableError

    async def before(self, verb: str) -> None:
        """Have a fault happen before anything is done."""
        await self.reboot(verb)
        if verb == "poll" and self.fires("rebalance", verb):
            for subscription in self._sim.subscriptions:
                subscription.shake(self.rng)
        await super().before(verb)

    async def after(self, verb: str) -> None:
        """Have a fault happen although it is done."""
        await self.reboot(verb)
        await super().after(verb)

    async def publish(self, records: Sequence[Record]) -> None:
        if records and self.fires("late", "publish"):
            later = [copied(record) for record in records]
            delay_s = self.rng.random() * self.faults.late_s
            asyncio.get_running_loop().call_later(
                delay_s, self._sim.cluster.append, later, context=self._sim.cluster.context
            )
            raise self.error("it is on its way, and nothing was heard of it", "publish")
        await super().publish(records)
        if records and self.fires("duplicate", "publish"):
            self._sim.cluster.append([copied(record) for record in records])


class HostStore(_Befallen, FaultyStore):
    """A process's way to its disk."""

    def __init__(self, inner: Any, victim: Victim) -> None:
        """Let the faults of `victim`'s machine fire on the way."""
        self.victim = victim
        super().__init__(inner, seed=0)
        self._unavailable: type[ChoreoError] = StoreUnavailableError

    async def before(self, verb: str) -> None:
        """Have a fault happen before anything is done."""
        await self.reboot(verb)
        await super().before(verb)

    async def after(self, verb: str) -> None:
        """Have a fault happen although it is done."""
        self.victim.acknowledge()
        await self.reboot(verb)
        await super().after(verb)

    async def own(
        self, group: str, partitions: Collection[Partition], *, generation: int | None = None
    ) -> Owned:
        await self.before("own")
        assert generation is not None, "the cluster counts them"
        ours = [one for one in partitions if self.victim.takes(one, generation)]
        owned = await self._inner.own(group, ours, generation=generation)
        await self.after("own")
        return owned

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        contested = any(_contested(plan) for plan in plans)
        if contested and self.fires("conflict", "apply"):
            return [Applied.CONFLICT if _contested(plan) else _UNWRITTEN for plan in plans]
        if self.fires("power_loss", "apply"):
            mark = self.victim.at_mercy()
            await self._inner.apply(plans)
            self.victim.lose_power(mark)
            await asyncio.get_running_loop().create_future()
        return await super().apply(plans)


_UNWRITTEN = StoreUnavailableError(
    "a fault: taken back with the step of another", fix="call again: a test has made it fail"
)


def _contested(plan: Plan) -> bool:
    """Tell whether a plan stands on something that others may have changed."""
    return plan.section is not None or any(
        isinstance(change, Gate | SaveState | Remember) for change in plan.changes
    )
