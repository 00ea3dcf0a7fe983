"""Groups of plans, each in one transaction; what fails, fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from choreo.adapters.postgres.board import Board
from choreo.adapters.postgres.edge import translated
from choreo.adapters.postgres.lines import Connection, Lines
from choreo.adapters.postgres.names import Names
from choreo.adapters.postgres.plain import PlainGroup, is_plain
from choreo.adapters.postgres.rows import lock, lock_claims, write
from choreo.errors import ChoreoError, StoreConflictError, StoreError
from choreo.plan import Plan, Publish, Sent, Settle
from choreo.ports import UNWRITTEN, Applied, Clock

__all__ = [
    "CONFLICTS_MAX",
    "EVERYBODYS",
    "PAUSE_S",
    "Results",
    "Writer",
    "in_order",
    "perform",
    "unwritten",
]

Results = list[Applied | BaseException]

CONFLICTS_MAX = 20
PAUSE_S = 0.002
EVERYBODYS = frozenset(("CH4005", "CH4011", "CH4012", "CH4013"))
"""What fails a plan for reasons that are none of its own."""


class Writer:
    """Writes groups of plans without sections."""

    def __init__(self, names: Names, clock: Clock, where: str) -> None:
        """Share the store's names and clock; `where` names the database."""
        self._names = names
        self._clock = clock
        self._where = where

    async def write(self, lines: Lines, plans: Sequence[Plan]) -> Results:
        """Write plans, all in one transaction; halve the group where one of them can not be.

        Raises what is no plan's own fault: the database is away, or its rows were wanted by
        others for too long.
        """
        try:
            return list(await self._again(lines, plans))
        except ChoreoError as exc:
            if exc.transient or exc.code in EVERYBODYS:
                raise
            if len(plans) == 1:
                return [unwritten(exc)]
        half = len(plans) // 2
        first = await self.write(lines, plans[:half])
        return first + await self.write(lines, plans[half:])

    async def _again(self, lines: Lines, plans: Sequence[Plan]) -> Sequence[Applied]:
        """Apply again when rows were wanted by others, too: no handler has to be run for that."""
        for turn in range(CONFLICTS_MAX):
            try:
                async with lines.one() as connection:
                    with translated(self._where):
                        return await self._once(connection, plans)
            except StoreConflictError:
                if turn == CONFLICTS_MAX - 1:
                    raise
            await asyncio.sleep(PAUSE_S * turn)
        raise AssertionError("the last turn raises")

    async def _once(self, connection: Connection, plans: Sequence[Plan]) -> Sequence[Applied]:
        if all(is_plain(plan.changes) for plan in plans):
            plain = PlainGroup(self._names, plans)
            if not plain.twice:
                return await plain.write(connection)
        async with connection.transaction():
            return await perform(connection, Board(self._names, self._clock.now()), plans)


async def perform(connection: Connection, board: Board, plans: Sequence[Plan]) -> list[Applied]:
    """Apply plans inside a transaction, one after the other."""
    stale = await lock_claims(connection, board.names, plans)
    living = [plan for plan in plans if id(plan.owned) not in stale]
    found = await lock(connection, board, living)
    results = [Applied.STALE if id(plan.owned) in stale else board.apply(plan) for plan in plans]
    await write(connection, board, found)
    return results


def in_order(plan: Plan) -> bool:
    """Tell whether a plan has to be committed in its turn: it settles, publishes, or runs."""
    return plan.section is not None or any(
        type(change) in (Settle, Publish, Sent) for change in plan.changes
    )


def unwritten(cause: BaseException) -> StoreError:
    """Say that what a step left could not be written, whatever its handler did."""
    error = StoreError(
        f"what a step left could not be written: {cause}",
        code=UNWRITTEN,
        fix="look at the cause; it is tried again until it can be written",
    )
    error.__cause__ = cause
    return error
