"""Slow handlers: what they would hold up goes to the store, and the offset moves on.

A delivery that runs for long is parked while it runs. Should the process end, the row is what
another one goes on from; until then the delivery is the row's, and settles it when it ends.
What waits behind it is parked behind it, and comes when it has settled, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from choreo.plan import Plan, Status
from choreo.ports import Applied, Want
from choreo.step import Delivery, parked_behind, parked_running
from choreo.worker.lane import Batch, Lane
from choreo.worker.pipeline import Pipeline
from choreo.worker.runners import Runners

__all__ = ["Spiller", "park", "written"]

LOOK_S = 0.1
SLOW_S = 0.1
"""From then on a handler counts as slow where there is no room for what waits behind it."""


class Spiller:
    """Looks for what runs for long. Time is the machine's: it is about real waiting."""

    def __init__(self, pipeline: Pipeline, runners: Runners) -> None:
        """Look at what these runners are at."""
        self._pipeline = pipeline
        self._runners = runners
        self._since: dict[Delivery, float] = {}
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on, for as long as something runs."""
        self._runners.begun = self._begin

    def stop(self) -> None:
        """End. May be called twice, and before start."""
        self._runners.begun = _nothing
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _begin(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._next = None
        pipeline, limits = self._pipeline, self._pipeline.limits
        now = asyncio.get_running_loop().time()
        self._since = {d: self._since.get(d, now) for d in self._runners.running()}
        if self._since or pipeline.ready:
            self._begin()
        for d, since in self._since.items():
            lane: Lane = d.lane
            if d.spilled or d.writing is not None or pipeline.stopping:
                continue
            long = now - since >= limits.spill_s
            crowds = pipeline.crowded or lane.length(d) > limits.chain_max
            if long or (crowds and now - since >= SLOW_S):
                d.writing = _nothing
                pipeline.spawn(self._spill(d, long=long), "spill")

    async def _spill(self, d: Delivery, *, long: bool) -> None:
        """Park a delivery that runs, and all that waits behind it."""
        pipeline = self._pipeline
        lane: Lane = d.lane
        if d.seen is None and d.timer is None:
            if not await park(pipeline, d):  # settled elsewhere, or another process's
                self._go_on(d)
                return
            await self._park_behind(lane, d)
        d.spilled = True
        pipeline.spilled += 1
        if pipeline.crowded:
            pipeline.make_room()
        if long and pipeline.spilled <= pipeline.limits.in_flight_max:
            self._runners.relieve(d)
        self._go_on(d)

    async def _park_behind(self, lane: Lane, d: Delivery) -> None:
        """Park what waits behind `d`, and what comes until that is done; free the chain.

        What waits for a State waits where it is: beside what it waits for, one of the two would
        be run again, and the slow one for ever.
        """
        if d.route.state is not None:
            return
        pipeline = self._pipeline
        chain = d.chain_text()
        while chain and (waiting := lane.followers(d)):
            pipeline.behind -= len(waiting)
            now = pipeline.clock.now()
            plans = [parked_behind(one, now) for one in waiting]
            for one, applied in zip(waiting, await written(pipeline, plans), strict=True):
                if applied is not Applied.DONE:  # settled before: found out when it is looked up
                    pipeline.load(one)
                    continue
                lane.hold(one)
                one.batch.left -= 1
                one.owned.open -= 1  # type: ignore[union-attr]
                pipeline.in_flight -= 1
        following = lane.unchained(d)
        d.chain = None
        if following is not None:
            pipeline.behind -= 1
            pipeline.load(following)

    @staticmethod
    def _go_on(d: Delivery) -> None:
        """Do what the delivery came to while its row was written."""
        then, d.writing = d.writing, None
        if then is not None:
            then()


def _nothing() -> None:
    """The delivery still runs."""


async def park(pipeline: Pipeline, d: Delivery) -> bool:
    """Put a delivery into the store that runs, or is about to; tell whether it is there.

    From then on its offset is free, and it settles the row when it ends.
    """
    lane: Lane = d.lane
    due_key = (d.name, d.subject)
    seen = (d.run, d.attempt)  # it may fail meanwhile, and go on with another attempt
    lane.running_due.add(due_key)  # not due to anybody here while it runs
    (applied,) = await written(pipeline, [parked_running(d, pipeline.clock.now())])
    if applied is Applied.DUPLICATE and await _is_ours(pipeline, d, seen):
        applied = Applied.DONE
    if applied is not Applied.DONE:
        if d.due_key is None:
            lane.running_due.discard(due_key)
        return False
    if d.seen is None and d.timer is None:
        lane.hold(d)
        d.batch.left -= 1
        d.batch = Batch(1)
        lane.uncommitted = True
        pipeline.moved.set()
    d.timer = None
    d.seen, d.due_key = seen, due_key
    return True


async def _is_ours(pipeline: Pipeline, d: Delivery, parked: tuple[int, int]) -> bool:
    """Tell whether the row that is there is the one just written, whose answer was lost."""
    if d.seen is not None or d.timer is not None:
        return False
    load = partial(pipeline.store.load, [Want(d.name, d.subject)])
    (found,) = await pipeline.outlasting(load)
    there = found.status is Status.PARKED and found.source == d.source
    return there and (found.run, found.attempt) == parked


async def written(pipeline: Pipeline, plans: Sequence[Plan]) -> list[Applied | BaseException]:
    """Apply in order, a group after the other."""
    most = pipeline.limits.batch_max
    found: list[Applied | BaseException] = []
    for start in range(0, len(plans), most):
        group = plans[start : start + most]
        found += await pipeline.outlasting(partial(pipeline.apply, group))
    return found
