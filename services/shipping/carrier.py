"""Who carries parcels: here, one who only decides whether he takes them.

The seed decides, with the order and the attempt: the same run refuses the same parcels.
"""

import hashlib

REFUSED = 0.04
BUSY = 0.03


class CarrierBusyError(Exception):
    """The carrier takes nothing just now; he may later."""


class CarrierRefusedError(Exception):
    """The carrier does not take this parcel, ever."""


class Carrier:
    """Takes a parcel and names its number, or raises."""

    def __init__(self, seed: int = 1) -> None:
        """Take the seed that decides which parcels are refused."""
        self._seed = seed

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
