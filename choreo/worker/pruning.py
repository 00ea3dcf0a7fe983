"""Forgetting what is old: rarely, a little at a time, and only while nothing else is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from choreo.plan import Passed, Plan
from choreo.ports import Broker
from choreo.worker.lane import Lane
from choreo.worker.pipeline import Pipeline
from choreo.worker.spill import written

__all__ = ["prune"]

SOON_S = 10.0
"""After the start; a process that never lives for a whole round prunes, too."""
ROUNDS = 10
"""Looks in one `prune_every_s`: the store tells whether the last sweep is old enough."""
REST_S = 0.005
RESTS = 4
"""Between two pieces it rests for so many times as long as a piece took."""
ROWS = 512


async def prune(pipeline: Pipeline, lanes: Sequence[Lane], broker: Broker) -> None:
    """Have the store forget, service by service."""
    limits = pipeline.limits
    await pipeline.sleep(SOON_S)
    while True:
        for lane in lanes:
            if not pipeline.store.traits.publishes:
                await pipeline.outlasting(partial(_tell, pipeline, lane, broker))
            kept = lane.compiled.service.keep
            keep = replace(kept, log_s=limits.log_keep_s, every_s=limits.prune_every_s)
            piece = partial(pipeline.store.prune, lane.name, keep, most=ROWS)
            began = pipeline.clock.elapsed()
            while await pipeline.outlasting(piece):
                took = pipeline.clock.elapsed() - began
                await pipeline.sleep(max(REST_S, RESTS * took))
                began = pipeline.clock.elapsed()
        await pipeline.sleep(limits.prune_every_s / ROUNDS)


async def _tell(pipeline: Pipeline, lane: Lane, broker: Broker) -> None:
    """Tell a store that can not see the log how far the service has come in it."""
    ends = await broker.ends(lane.compiled.topics)
    plans = [
        Plan(lane.claims[partition], (Passed(partition, offset, ends[partition]),))
        for partition, offset in lane.watermarks().items()
        if partition in lane.claims and partition in ends
    ]
    await written(pipeline, plans)
