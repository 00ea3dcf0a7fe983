"""Plans that need no order: what comes while others are written is written together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from choreo.plan import Plan
from choreo.ports import Applied

__all__ = ["Gathering"]

PLANS_MAX = 256
"""In one group; one call's plans stay together all the same."""

Results: TypeAlias = list[Applied | BaseException]


@dataclass(slots=True, eq=False)
class _Asked:
    plans: list[Plan]
    results: asyncio.Future[Results]
    taken: bool = False


class Gathering:
    """Writes groups, a few at a time; the slower the disk, the larger the next one."""

    def __init__(self, write: Callable[[list[Plan]], Awaitable[Results]], most: int) -> None:
        """`write` writes one group; so many of them go on at once."""
        self._write = write
        self._turns = asyncio.Semaphore(most)
        self._waiting: deque[_Asked] = deque()

    async def write(self, plans: list[Plan]) -> Results:
        """Write plans, alone or with others; raises what came of their group."""
        asked = _Asked(plans, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        async with self._turns:
            if not asked.taken:  # into somebody else's group
                await self._next()
        return await asked.results

    async def _next(self) -> None:
        group: list[_Asked] = []
        while self._waiting and sum(len(one.plans) for one in group) < PLANS_MAX:
            group.append(self._waiting.popleft())
            group[-1].taken = True
        try:
            results = await self._write([plan for one in group for plan in one.plans])
        except BaseException as exc:
            for one in group:
                if not one.results.done():
                    one.results.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
            return
        for one in group:
            if not one.results.done():
                one.results.set_result(results[: len(one.plans)])
            results = results[len(one.plans) :]
