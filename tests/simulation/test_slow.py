"""A handler that is put aside while it runs ends, though the answer of that is lost."""

import asyncio

from choreo import Event, Service
from choreo.testing import Faults
from choreo.testing.simulation import Case, Trial, World, run_all


class Asked(Event, topic="slow.asks", key="what"):
    what: str


class Answered(Event, topic="slow.asks", key="what"):
    what: str


slow = Service("slow")
failed: set[str] = set()


@slow.on(Asked, timeout_s=8)
async def think(asked: Asked) -> Answered:
    if asked.what not in failed:
        failed.add(asked.what)
        await asyncio.sleep(10)  # longer than it may; it is put aside before that
    return Answered(what=asked.what)


slow.flow("ask", starts=Asked, ends=Answered)


def scenario(world: World) -> None:
    failed.clear()
    world.publish(Asked(what="1"))
    world.run(hours=1)


def test_what_was_put_aside_with_a_lost_answer_is_not_forgotten() -> None:
    faults = Faults(refused=0, ack_lost=0.4, delayed=0, repeated=0, commit_lost=0)
    outcomes = list(run_all(Trial([slow], scenario, faults), [Case(n) for n in range(1, 21)]))
    assert [one.violations for one in outcomes if one.violations] == []
    assert all(one.faults["ack_lost"] for one in outcomes)
