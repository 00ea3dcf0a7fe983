"""Machines start again what ends, and give what stands still an heir, whoever has asked for it."""

import asyncio
import gc
import random
import warnings
from collections.abc import Callable, Collection
from contextvars import Context, copy_context
from dataclasses import replace

from choreo.events import Partition
from choreo.ports import Topic
from choreo.testing import CALM
from choreo.testing.simulation import World
from choreo.testing.simulation.broker import SimBroker
from choreo.testing.simulation.cluster import Cluster
from choreo.testing.simulation.host import Process
from choreo.testing.simulation.loop import HOST, SimLoop
from tests.simulation.desk import careful, orders, scenario

pytest_plugins = ["choreo.testing.plugin"]
SERVICES = [orders, careful]
WOKEN_S = 30.0


class PutOut:
    """An assignee that is too slow the first time: its group goes on without it."""

    def __init__(self, cluster: Cluster) -> None:
        self.group = cluster.groups["group"]
        self.told: list[tuple[str, list[Partition]]] = []
        self.again = asyncio.Event()

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        del generation
        if not self.told:
            self.group.leave(self.group.members[0])
        else:
            self.again.set()
        self.told.append(("assigned", [*partitions]))

    async def revoked(self, partitions: Collection[Partition]) -> None:
        if partitions:
            self.told.append(("revoked", [*partitions]))


class Gone:
    """A host none of whose code runs any more."""

    def runs(self, handle: asyncio.Handle) -> bool:
        del handle
        return False

    def stepped(self) -> None:
        raise AssertionError("nothing of it runs")


def processes(world: World) -> list[Process]:
    return [machine.process for machine in world.machines.values() if machine.process is not None]


def test_what_is_asked_for_in_the_name_of_nobody_is_no_process_of_who_asks() -> None:
    """An empty context is a context."""
    loop, happened = SimLoop(random.Random(0)), list[str]()
    inside = copy_context()
    inside.run(HOST.set, Gone())
    for name, context in (("nobody's", Context()), ("its own", None)):
        inside.run(loop.call_later, 1.0, happened.append, f"{name}, later", context=context)
        inside.run(loop.call_soon, happened.append, f"{name}, soon", context=context)
    loop.run_until(2.0)
    loop.bury()
    assert happened == ["nobody's, soon", "nobody's, later"]


def test_what_is_begun_by_what_is_buried_is_buried_with_it() -> None:
    """As a reading of the outbox is, that is to look once more when it has ended."""
    loop, ended = SimLoop(random.Random(0)), list[str]()

    async def work(name: str) -> None:
        try:
            ended.append(f"{name} begins")
            await asyncio.sleep(1.0)
        finally:
            ended.append(f"{name} ends")
            asyncio.create_task(work("the next")).set_name("next")

    loop.create_task(work("one"))
    loop.run_until(0.5)
    gc.collect()  # what others left behind is not told here
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop.bury()
        del loop
        gc.collect()
    assert ended == ["one begins", "one ends"]
    assert [str(one.message) for one in told] == []


def test_who_stands_still_has_an_heir_and_goes_on_beside_it(
    simulated: Callable[..., World],
) -> None:
    world = simulated(SERVICES, seed=3, faults=replace(CALM, hang=0.01))
    scenario(world)
    world.audit()
    stood = [at for at, what in world.happenings if what.endswith("stands still")]
    went_on = [at for at, what in world.happenings if what.endswith("goes on")]
    assert len(stood) > 1
    assert len(went_on) == len(stood)
    assert all(0 < back - at <= WOKEN_S for at, back in zip(stood, went_on, strict=True))
    begun = sum(int(one.name.rpartition("-")[2]) for one in processes(world))
    assert begun == len(SERVICES) + len(stood)


def test_what_stops_by_itself_is_there_again(simulated: Callable[..., World]) -> None:
    """A process that is refused something at its start ends; so may the next."""
    world = simulated(SERVICES, seed=4, faults=replace(CALM, crash=0.02, refused=0.05))
    scenario(world)
    stopped = [what for _, what in world.happenings if " stops: " in what]
    assert stopped
    assert not any(one.gone for one in processes(world))
    world.audit()


async def test_who_is_put_out_while_it_takes_over_gives_that_back_first() -> None:
    """Else it has two claims of one partition, and what stands on the first is refused."""
    cluster = Cluster(random.Random(0))
    broker = SimBroker(cluster)
    await broker.ensure([Topic("places", 2)])
    places = cluster.partitions(["places"])
    assignee = PutOut(cluster)
    subscription = await broker.subscribe("group", ["places"], assignee=assignee)
    assert not subscription.assigned()
    await asyncio.wait_for(assignee.again.wait(), 5.0)
    assert assignee.told == [("assigned", places), ("revoked", places), ("assigned", places)]
    await broker.close()
