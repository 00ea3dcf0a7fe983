"""After crashes: deliveries that may have killed the process run one by one, counted before.

Crashes are counted twice. By partition, when it is taken over from a process that did not let
go: from the third on its new owner is careful, until it has lived for a while and all that it
began with is settled. And by delivery, while its owner is careful: it is parked, with one crash
more, before it runs; if the process ends, the count has been written already.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from functools import partial

from choreo.events import Partition
from choreo.plan import Change, Gate, GateKey, Owned, Plan
from choreo.ports import GateSeen, Want
from choreo.step import Delivery, killed
from choreo.worker.lane import Lane
from choreo.worker.pipeline import Pipeline
from choreo.worker.spill import park, written

__all__ = ["Careful"]

CAREFUL_FROM = 3
WAIT_S = 0.2
"""For a delivery to end, before the next one begins."""
CALM_S = 5.0
LOOK_S = 0.002


class Careful:
    """Counts the crashes of a lane's partitions, and begins their deliveries one by one."""

    def __init__(self, pipeline: Pipeline, lane: Lane) -> None:
        """Trust everything."""
        self._pipeline = pipeline
        self._lane = lane
        self._suspects: deque[Delivery] = deque()
        self._beginning = False

    async def count(self, owned: Owned) -> None:
        """Count a crash for each partition that was not let go of; note which are suspect."""
        pipeline, lane = self._pipeline, self._lane
        if not lane.compiled.by_name or not owned.epochs:
            return
        keys = {self._key(partition): partition for partition in owned.epochs}
        (seen,) = await pipeline.store.load([self._want(tuple(keys))])
        counted: list[Change] = []
        crashed = False
        for key, partition in keys.items():
            crashes = _crashes(seen.gates[key])
            if partition in owned.unclean:
                crashes += 1
                counted.append(_noted(key, seen.gates[key], crashes))
            crashed = crashed or bool(crashes)
            if crashes >= CAREFUL_FROM:
                lane.careful[partition] = crashes
        if counted:
            (applied,) = await pipeline.store.apply([Plan(owned, tuple(counted))])
            if isinstance(applied, BaseException):
                raise applied
        if crashed:
            pipeline.spawn(self._until_calm(tuple(keys)), f"calm {lane.name}")

    def _want(self, keys: tuple[GateKey, ...]) -> Want:
        return Want(next(iter(self._lane.compiled.by_name)), bytes(16), keys)

    def _key(self, partition: Partition) -> GateKey:
        return GateKey("crash", self._lane.name, f"{partition.topic}/{partition.number}")

    async def _until_calm(self, keys: tuple[GateKey, ...]) -> None:
        """Forget the crashes once everything that this process began with is settled."""
        pipeline, lane = self._pipeline, self._lane
        await asyncio.sleep(CALM_S)
        mark = lane.mark()
        while self._suspects or not lane.beyond(mark):  # noqa: ASYNC110 - seldom, and for long
            await asyncio.sleep(CALM_S / 10)
        if pipeline.stopping:  # what was left for the next start may be what ended the process
            return
        load = partial(pipeline.store.load, [self._want(keys)])
        (seen,) = await pipeline.outlasting(load)
        plans = []
        for key, gate in seen.gates.items():
            topic, _, number = key.scope.rpartition("/")
            place = (topic, int(number))
            if place in lane.claims and _crashes(gate):
                plans.append(Plan(lane.claims[place], (_noted(key, gate, 0),)))
                lane.careful.pop(place, None)
        await written(pipeline, plans)

    # ── suspects ─────────────────────────────────────────────────────────────────────────

    def suspect(self, d: Delivery) -> None:
        """Begin a delivery in its turn."""
        self._suspects.append(d)
        if not self._beginning:
            self._beginning = True
            self._pipeline.spawn(self._begin_all(), f"careful {self._lane.name}")

    async def _begin_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._suspects and not self._pipeline.stopping:
            d = self._suspects.popleft()
            last = loop.time() + WAIT_S
            begun = await self._begin(d)
            while begun and d.batch.left and loop.time() < last:  # noqa: ASYNC110 - seldom
                await asyncio.sleep(LOOK_S)
        self._beginning = False
        if self._suspects:  # they wait for the next start, not the drain for them
            self._pipeline.behind += len(self._suspects)
            self._suspects.clear()

    async def _begin(self, d: Delivery) -> bool:
        """Count a crash, as if there were one, and let the delivery go on; or give it up.

        Tells whether it has begun.
        """
        pipeline, lane = self._pipeline, self._lane
        if d.owned is None or d.owned.lost:
            pipeline.drop(d)
            return False
        if lane.is_held(d):
            pipeline.load(d)  # it goes behind the one before it, and comes again
            return False
        if d.crashes >= pipeline.limits.crashes_max:
            d.error = killed(d)
            pipeline.decide_again(d)
        else:
            d.crashes += 1
            parked = await park(pipeline, d)
            pipeline.load(d)
            return parked  # otherwise it was settled before: nothing runs
        return True


def _crashes(gate: GateSeen) -> int:
    return int(json.loads(gate.members)) if gate.members else 0


def _noted(key: GateKey, seen: GateSeen, crashes: int) -> Gate:
    return Gate(key, seen.seq, closed=False, members=json.dumps(crashes).encode())
