"""The time of the database, which all processes go by, whatever their machines' clocks show."""

from __future__ import annotations

import logging
from collections.abc import Callable

from choreo.adapters.postgres.lines import Connection
from choreo.errors import StoreError
from choreo.ports import Clock

__all__ = ["Timing"]

NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
OFF_S = 5.0
log = logging.getLogger("choreo.postgres")


class Timing:
    """Has a machine's clock follow the database's; one that a test moves is told nothing.

    What the database told is older by the way back, so the clock is never ahead of it: nothing
    that it says is due is early by the database's time.
    """

    def __init__(self, clock: Clock, where: str) -> None:
        """Follow for this clock; `where` names the database."""
        self._clock = clock
        self._where = where
        self._follow: Callable[[float], None] | None = getattr(clock, "follow", None)
        self._told = False

    async def look(self, connection: Connection) -> None:
        """Ask what time it is."""
        if self._follow is None:
            return
        now = float(await connection.fetchval(NOW))
        off = self._clock.now() - now
        self._follow(now)
        if abs(off) >= OFF_S and not self._told:
            self._told = True
            ahead = "ahead of" if off > 0 else "behind"
            error = StoreError(
                f"the machine's clock is {abs(off):.3g} s {ahead} the database's, which counts",
                code="CH4015",
                fix="have the machine keep its time (NTP); choreo needs nothing",
                database=self._where,
            )
            log.warning("%s", error)
