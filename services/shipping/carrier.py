"""Who carries parcels: here, one who only decides whether he takes them.

The seed decides, with the order and the attempt: the same run refuses the same parcels.
"""

import hashlib
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
REFUSED = 0.04
BUSY = 0.03


class CarrierBusyError(Exception):
    """The carrier takes nothing just now; he may later."""


class CarrierRefusedError(Exception):
    """The carrier does not take this parcel, ever."""


class Outside(Protocol):
    """What a simulation gives to whoever stands in for a system outside."""

    def draw(self, *about: object) -> float:
        """Give a number in [0, 1) that hangs on the seed and on these values only."""
        ...

    async def call(self, do: Callable[[], T], *, verb: str) -> T:
        """Have it do something; late, twice, never, or with a lost answer."""
        ...


class Carrier:
    """Takes a parcel and names its number, or raises."""

    def __init__(self, seed: int = 1) -> None:
        """Take the seed that decides which parcels are refused."""
        self._seed = seed

    @classmethod
    def simulated(cls, outside: Outside) -> "Carrier":
        """Stand in for him in a simulation: parcels are refused by the simulation's seed."""
        return _Van(outside)

    async def book(self, order_id: str, customer_id: str) -> str:
        """Give the parcel's number: the same for the same order.

        Raises CarrierRefusedError, and CarrierBusyError, which may be tried again.
        """
        if self._draw("refused", order_id) < REFUSED:
            raise CarrierRefusedError(f"no delivery to {customer_id}")
        if self._draw("busy", order_id) < BUSY:
            raise CarrierBusyError("no van is free")
        return f"P{self._number(order_id) % 10**12:012}"

    def _draw(self, *parts: str) -> float:
        """Give a number in [0, 1) that hangs on the seed and these words only."""
        return self._number(*parts) / 2**64

    def _number(self, *parts: str) -> int:
        text = "\0".join((str(self._seed), *parts))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class _Van(Carrier):
    """A carrier who answers as the simulation says; a parcel booked twice is one parcel."""

    def __init__(self, outside: Outside) -> None:
        super().__init__(int(outside.draw("carrier") * 2**32))
        self._outside = outside

    async def book(self, order_id: str, customer_id: str) -> str:
        try:
            await self._outside.call(lambda: None, verb="parcel")
        except OSError as exc:
            raise CarrierBusyError(str(exc)) from exc
        return await super().book(order_id, customer_id)
