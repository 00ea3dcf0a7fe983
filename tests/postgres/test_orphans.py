"""What is parked in a partition of nobody: whose it is until the group has given it to a member."""

from choreo.events import Partition
from choreo.plan import Plan, Status
from choreo.ports import ORPHANS, Applied
from choreo.testing.contracts.place import GROUP, TOPIC, parked, settle, source
from tests.postgres.test_generation import process

HERE, THERE = (Partition(TOPIC.name, number) for number in range(2))


async def test_a_topic_of_the_group_is_left_to_the_next_member(url: str) -> None:
    """That one publishes first what the former owner has left to be published."""
    async with process(url) as heir:
        async with process(url) as former:
            owned = await former.own(GROUP, [THERE])
            waits = settle(1, Status.PARKED, parked=parked(1.0), at=source(1, partition=1))
            assert await former.apply([Plan(owned, (waits,))]) == [Applied.DONE]
        ours = await heir.own(GROUP, [HERE, ORPHANS])
        ours.topics = {TOPIC.name}
        assert await heir.due(ours, skip=(), most=9) == ([], None)
        ours.topics = {"a topic that it has now"}
        (rows, _) = await heir.due(ours, skip=(), most=9)
        assert [one.source for one in rows] == [source(1, partition=1)]
