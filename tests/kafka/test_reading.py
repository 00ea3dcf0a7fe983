"""Reading outside of groups: partitions side by side, in the order of time."""

from dataclasses import dataclass
from random import Random

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from choreo.adapters.kafka import KafkaBroker
from choreo.adapters.kafka.aligning import BYTES_MAX, Alignment
from choreo.events import Partition, Record
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import member

ROUNDS = 40
APART = 10
"""So many rounds later a clock of milliseconds has gone on."""


@dataclass
class Raw:
    """What the client gives, as far as it is looked at."""

    place: TopicPartition
    offset: int
    timestamp: int
    key: bytes | None = b"k"
    value: bytes | None = b"v"


@given(
    st.lists(st.lists(st.integers(-1, 9), max_size=8), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_all_come_in_the_order_of_time_and_of_their_partition(
    times: list[list[int]], chance: Random
) -> None:
    """Whatever comes first from the cluster; a time that goes back does not count."""
    partitions: dict[TopicPartition, list[Raw]] = {}
    for number, stamps in enumerate(times):
        place = TopicPartition("t", number)
        partitions[place] = [Raw(place, n, stamp) for n, stamp in enumerate(stamps)]
    coming = {place: [*records] for place, records in partitions.items() if records}
    alignment, given_, latest = Alignment(len(partitions)), list[Raw](), -1
    while coming:
        place = chance.choice(sorted(coming))
        count = chance.randint(1, 3)
        alignment.add(place, coming[place][:count])
        coming[place] = coming[place][count:]
        if not coming[place]:
            del coming[place]
        given_ += alignment.take(coming.keys())
    latest_of: dict[TopicPartition, int] = {}
    for raw in given_:
        at = latest_of[raw.place] = max(latest_of.get(raw.place, -1), raw.timestamp)
        assert at >= latest
        latest = at
    for place, records in partitions.items():
        assert [raw for raw in given_ if raw.place == place] == records


def test_who_is_far_ahead_is_full() -> None:
    ahead, behind = TopicPartition("t", 0), TopicPartition("t", 1)
    alignment = Alignment(2)
    alignment.add(ahead, [Raw(ahead, 0, 5, value=b"x" * (BYTES_MAX // 2))])
    assert alignment.full() == {ahead}
    assert alignment.take({ahead, behind}) == []
    alignment.add(behind, [Raw(behind, 0, 6)])
    assert [raw.place for raw in alignment.take({ahead, behind})] == [ahead]
    assert alignment.full() == set()


async def test_what_belongs_together_comes_together(kafka_server: KafkaServer) -> None:
    broker = KafkaBroker(member(kafka_server.bootstrap))
    topics = ["t.first", "t.second", "t.third"]
    await broker.ensure([Topic(name, 2) for name in topics])
    for number in range(ROUNDS):
        key = str(number).encode()
        await broker.publish([Record(name, key, {"ce_id": str(number)}, b"{}") for name in topics])
    order = [int(one.headers["ce_id"]) async for some in broker.read(None) for one in some]
    assert sorted(order) == sorted([*range(ROUNDS)] * 3)
    for place, number in enumerate(order):
        assert all(later > number - APART for later in order[place:])
    await broker.close()


async def test_a_partition_that_is_far_ahead_waits_for_the_others(
    kafka_server: KafkaServer,
) -> None:
    """More records of it than there is room for come first; none is lost, or comes twice."""
    broker = KafkaBroker(member(kafka_server.bootstrap))
    await broker.ensure([Topic("t.early", 1), Topic("t.late", 1)])
    value = bytes(BYTES_MAX // 2000)
    for topic, count in (("t.late", 1), ("t.early", 2500), ("t.late", 9)):
        for start in range(0, count, 500):
            some = [Record(topic, b"k", {}, value) for _ in range(min(500, count - start))]
            await broker.publish(some)
    found = [(one.topic, one.offset) async for some in broker.read(None) for one in some]
    for topic, count in (("t.early", 2500), ("t.late", 10)):
        assert [offset for name, offset in found if name == topic] == [*range(count)]
    assert found.index(("t.late", 0)) < found.index(("t.early", 500))
    assert found.index(("t.early", 2000)) < found.index(("t.late", 1))
    await broker.close()


async def test_what_was_committed_before_it_was_given_is_not_given(
    kafka_server: KafkaServer,
) -> None:
    """Its reader has it from elsewhere."""
    broker = KafkaBroker(member(kafka_server.bootstrap))
    await broker.ensure([Topic("t.some", 1)])
    await broker.publish([Record("t.some", b"k", {}, bytes(1000)) for _ in range(9000)])
    subscription = await broker.subscribe("g", ["t.some"])
    first = await subscription.poll(1)
    await subscription.commit({Partition("t.some", 0): 8990})
    seen = len(first)
    while (records := await subscription.poll(500))[-1].offset < 8999:
        seen += len(records)
    assert seen < 8990
    await broker.close()
