"""Where it is read for the end of a flow: on a log whose partitions count for themselves."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from choreo import App, Service
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.system import SystemClock
from choreo.events import Partition, Record
from choreo.ports import BrokerTraits, Since
from tests.semantics.events import Placed, Reserved


class PartitionedBroker(SqliteBroker):
    """Says of itself that an offset tells nothing of another partition; notes who reads where."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.places: list[Since] = []

    @property
    def traits(self) -> BrokerTraits:
        return BrokerTraits(durable=True, stores=True, partitioned=True)

    async def read(
        self, topics: Sequence[str] | None, *, since: Since = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        if topics == ["desk.reserved"]:
            self.places.append(since)
        async for records in super().read(topics, since=since, follow=follow):
            yield records


async def test_ends_are_read_from_where_the_app_began_and_others_from_the_beginning(
    tmp_path: Path,
) -> None:
    service = Service("desk")
    service.flow("booking", starts=Placed, ends=(Reserved,))

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved(k=placed.k, n=placed.n)

    flows: list[str] = []
    for turn in range(2):
        log = Log(Database(tmp_path / "choreo.db"))
        broker = PartitionedBroker(log)
        store = SqliteStore(log, clock=SystemClock())
        async with App(service, broker=broker, store=store) as app:
            for n in range(5):
                flows.append(await app.publish(Placed(k=f"k{n}", n=n)))
                assert await app.outcome(flows[-1], within_s=20) == Reserved(k=f"k{n}", n=n)
            (began,) = broker.places
            assert isinstance(began, dict)
            assert set(began) == {Partition("desk.reserved", n) for n in range(4)}
            if turn:
                assert min(began.values()) > 1
                assert await app.outcome(flows[0], within_s=20) == Reserved(k="k0", n=0)
                assert broker.places == [began, 0]
