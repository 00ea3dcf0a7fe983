"""Publishing, polling, committing, stopping, by two groups: the log agrees with a list."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.events import Partition, Record
from choreo.ports import Subscription, Topic

TOPICS = (Topic("contract.one", 1), Topic("contract.two", 2))
GROUPS = ("here", "there")
KEYS = "abcd"
WAIT_S = 20.0


class Group:
    """What a group was given, and where it goes on after a stop: indexes by partition."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None
        self.given: dict[Partition, int] = {}
        self.committed: dict[Partition, int] = {}


class BrokerMachine(RuleBasedStateMachine):
    """Runs a broker and the model side by side."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.log: dict[Partition, list[Record]] = {}
        self.published: list[Record] = []
        self.groups = {name: Group() for name in GROUPS}
        self.open()

    def open(self) -> None:
        self.broker = SqliteBroker(Log(Database(Path(self.folder.name) / "choreo.db")))
        self.run(self.broker.ensure(TOPICS))

    def run(self, work: Any) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(WAIT_S):
                return await work

        return self.runner.run(limited())

    def behind(self, group: Group) -> int:
        """Count what a group has not been given yet."""
        return sum(len(log) - group.given.get(at, 0) for at, log in self.log.items())

    # ── rules ────────────────────────────────────────────────────────────────────────────

    @rule(keys=st.lists(st.tuples(st.sampled_from(TOPICS), st.sampled_from(KEYS)), max_size=5))
    def publish(self, keys: list[tuple[Topic, str]]) -> None:
        first = len(self.published)
        records = [
            Record(topic.name, key.encode(), {"ce_id": str(n)}, str(n).encode())
            for n, (topic, key) in enumerate(keys, first)
        ]
        self.run(self.broker.publish(records))
        for record in records:
            at = Partition(record.topic, record.partition)
            log = self.log.setdefault(at, [])
            assert not log or log[-1].offset < record.offset
            log.append(record)
        self.published += records

    @rule(name=st.sampled_from(GROUPS))
    def subscribe(self, name: str) -> None:
        """Whoever comes anew goes on where its group committed."""
        group = self.groups[name]
        if group.subscription is not None:
            self.run(group.subscription.close())
        names = [topic.name for topic in TOPICS]
        group.subscription = self.run(self.broker.subscribe(name, names))
        group.given = dict(group.committed)

    @precondition(lambda self: any(self.polling()))
    @rule(draw=st.data(), most=st.integers(1, 4))
    def poll(self, draw: st.DataObject, most: int) -> None:
        group = self.groups[draw.draw(st.sampled_from(self.polling()))]
        assert group.subscription is not None
        records = self.run(group.subscription.poll(most))
        assert 1 <= len(records) <= most
        for record in records:
            at = Partition(record.topic, record.partition)
            index = group.given.get(at, 0)
            assert self.log[at][index] == record
            assert self.log[at][index].offset == record.offset
            group.given[at] = index + 1

    def polling(self) -> list[str]:
        """Name the groups that have something to poll."""
        return [
            name
            for name, group in self.groups.items()
            if group.subscription is not None and self.behind(group)
        ]

    @rule(name=st.sampled_from(GROUPS), draw=st.data())
    def commit(self, name: str, draw: st.DataObject) -> None:
        """All that was given, or less, in some of the partitions."""
        group = self.groups[name]
        if group.subscription is None:
            return
        offsets: dict[Partition, int] = {}
        for at, given in group.given.items():
            committed = group.committed.get(at, 0)
            if given > committed and draw.draw(st.booleans()):
                upto = draw.draw(st.integers(committed + 1, given))
                offsets[at] = self.log[at][upto - 1].offset + 1
                group.committed[at] = upto
        self.run(group.subscription.commit(offsets))

    @rule()
    def reopen(self) -> None:
        self.run(self.broker.close())
        self.open()
        for group in self.groups.values():
            group.subscription = None

    # ── what always holds ────────────────────────────────────────────────────────────────

    @invariant()
    def everything_is_there(self) -> None:
        if hasattr(self, "broker"):
            assert self.run(self.everything()) == self.published

    async def everything(self) -> list[Record]:
        return [one async for batch in self.broker.read(None) for one in batch]

    def teardown(self) -> None:
        if hasattr(self, "broker"):
            self.run(self.broker.close())
            self.runner.close()
            self.folder.cleanup()


TestBroker = BrokerMachine.TestCase
TestBroker.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
