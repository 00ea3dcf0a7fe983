"""Partitions come and go: a lane takes them over, and comes to rest before another one does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from choreo.errors import ChoreoError
from choreo.events import Partition
from choreo.plan import Owned
from choreo.ports import ORPHANS
from choreo.worker.careful import Careful
from choreo.worker.lane import Lane
from choreo.worker.pipeline import Pipeline
from choreo.worker.relay import Relay

__all__ = ["Assigned"]

log = logging.getLogger("choreo.worker")
LOOK_S = 0.002


class Assigned:
    """What the broker tells of a lane's partitions (the port `Assignee`)."""

    def __init__(self, pipeline: Pipeline, lane: Lane, relay: Relay | None) -> None:
        """Speak for a lane."""
        self._pipeline = pipeline
        self._relay = relay
        self._lane = lane
        self._starting = True
        self._careful = Careful(pipeline, lane)
        lane.suspect = self._careful.suspect

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        """Take them over in the store; what was left parked in them comes with them.

        At the start a store that does not answer is told; later it is waited for.
        """
        pipeline, lane = self._pipeline, self._lane
        wanted = [*partitions, *self._orphans(partitions)]

        async def take_over() -> Owned:
            owned = await pipeline.store.own(lane.name, wanted, generation=generation)
            await self._careful.count(owned)
            return owned

        owned = await (take_over() if self._starting else pipeline.outlasting(take_over))
        lane.gain(owned)
        if self._relay is not None:
            self._relay.gain(owned, [lane.claims[partition] for partition in owned.epochs])

    def joined(self) -> None:
        """Wait for the store from now on: nobody is left whom its silence could be told.

        Not with the first partitions only: a member for whom none was free yet is given its
        own by itself, later, and nobody would ask again for what it could not take over.
        """
        self._starting = False

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Begin nothing new in them; wait, for a time, for what runs; commit where we are."""
        pipeline, lane = self._pipeline, self._lane
        lost = lane.lose([*partitions, *self._orphans(partitions)])
        loop = asyncio.get_running_loop()
        last = loop.time() + pipeline.limits.revoke_s
        while self._open(lost) and loop.time() < last:  # noqa: ASYNC110 - once
            await asyncio.sleep(LOOK_S)
        if self._relay is not None:
            self._relay.drop(lost)
        if not self._starting:  # else nothing can have been polled: there is no subscription yet
            await self._commit(partitions)
        lane.forget(partitions)

    async def _commit(self, partitions: Collection[Partition]) -> None:
        marks = self._lane.watermarks()
        try:
            await self._lane.subscription.commit({p: marks[p] for p in partitions if p in marks})
        except ChoreoError as exc:
            log.warning("offsets are not committed; the inbox makes up for it: %s", exc)

    def _open(self, lost: Collection[Owned]) -> bool:
        """Tell whether something of these is on its way, to the store or to the broker."""
        left = self._relay is not None and self._relay.holds(lost)
        return left or any(claim.open for claim in lost)

    def _orphans(self, partitions: Collection[Partition]) -> list[Partition]:
        """Whoever has the first partition has also what came in on partitions of nobody."""
        first = Partition(min(self._lane.compiled.topics, default=""), 0)
        return [ORPHANS] if first in partitions else []
