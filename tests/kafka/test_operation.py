"""What happens to brokers and members in operation, on the real thing."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaConsumer

from choreo.adapters.kafka import KafkaBroker
from choreo.adapters.kafka.cluster import ended, started, stopped
from choreo.adapters.kafka.subscription import KafkaSubscription
from choreo.errors import BrokerUnavailableError
from choreo.events import Partition, Record
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import SESSION_S, member

TOPIC = Topic("orders", 2)
WAIT_S = 60.0


def record(number: int, key: str = "k") -> Record:
    return Record(TOPIC.name, key.encode(), {"ce_id": str(number)}, str(number).encode())


async def everything(broker: KafkaBroker) -> list[int]:
    return [int(one.value) async for batch in broker.read([TOPIC.name]) for one in batch]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def opened(broker: KafkaBroker) -> AsyncIterator[KafkaBroker]:
    try:
        yield broker
    finally:
        await broker.close()


class Load:
    """Publishes one batch after the other, each until it is acknowledged."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self.acknowledged: list[int] = []
        self.refused = 0
        self._why: BrokerUnavailableError | None = None
        self._going = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        number = 0
        while self._going:
            batch = [record(number + n, f"k{n % 7}") for n in range(20)]
            while not await self._taken(batch):
                self.refused += 1
            self.acknowledged += range(number, number + 20)
            number += 20

    async def _taken(self, batch: list[Record]) -> bool:
        try:
            await self._broker.publish(batch)
        except BrokerUnavailableError as exc:
            self._why = exc
            return False
        return True

    async def more(self) -> None:
        """Wait until more has been acknowledged than now."""
        before = len(self.acknowledged)
        try:
            await until(lambda: self._task.done() or len(self.acknowledged) > before + 20)
        except TimeoutError as exc:
            exc.add_note(f"refused {self.refused} times, for the last time by {self._why!r}")
            raise
        if self._task.done():
            await self._task  # it says what ended it

    async def stop(self) -> list[int]:
        self._going = False
        await self._task
        return self.acknowledged


class Told:
    """An assignee that remembers."""

    def __init__(self) -> None:
        self.has: frozenset[Partition] = frozenset()
        self.revocations = 0
        self.lost = asyncio.Event()

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        self.has |= frozenset(partitions)

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.has -= frozenset(partitions)
        self.revocations += 1
        self.lost.set()


async def test_a_broker_that_is_killed_and_comes_back_loses_nothing(
    kafka_server: KafkaServer,
) -> None:
    """Who publishes is told that it failed, with a new producer it goes on; who reads waits."""
    (node,) = kafka_server.nodes
    async with opened(KafkaBroker(member(kafka_server.bootstrap))) as broker:
        await broker.ensure([TOPIC])
        subscription = await broker.subscribe("desk", [TOPIC.name])
        load = Load(broker)
        await load.more()
        node.kill()
        await asyncio.to_thread(kafka_server.begin)
        await load.more()
        acknowledged = await load.stop()
        there = await everything(broker)
        assert set(acknowledged) <= set(there)
        seen: set[int] = set()
        async with asyncio.timeout(WAIT_S):
            while not seen.issuperset(acknowledged):
                seen.update(int(one.value) for one in await subscription.poll(1000))
        assert load.refused == 0 or broker._producing.made > 1


async def test_a_consumer_that_is_given_up_leaves_nothing_running(
    kafka_server: KafkaServer,
) -> None:
    """Whatever its broker does: a heart that beats on holds partitions, and nobody works there."""
    (node,) = kafka_server.nodes
    settings = member(kafka_server.bootstrap)
    async with opened(KafkaBroker(settings)) as broker:
        await broker.ensure([TOPIC])
        before = asyncio.all_tasks()
        slow = settings.member("desk") | {"retry_backoff_ms": 5000}
        consumer = AIOKafkaConsumer(settings.namespace + TOPIC.name, **slow)
        await started(consumer, settings)
        while not consumer.assignment():
            await consumer.getmany(timeout_ms=20)
        node.kill()
        try:
            await consumer.getmany(timeout_ms=1000)  # it waits to fetch again: five seconds
            await ended(consumer)
            assert not [one for one in asyncio.all_tasks() - before if "aiokafka" in repr(one)]
        finally:
            await asyncio.to_thread(kafka_server.begin)


async def test_what_a_client_cancels_of_its_own_cancels_nobody() -> None:
    """Its fetcher cancels what still fetches, and waits for it."""

    async def closing() -> None:
        fetching = asyncio.create_task(asyncio.Event().wait())
        fetching.cancel()
        await fetching

    await stopped(closing())


async def test_while_no_broker_is_there_publishing_is_refused_and_then_goes_on(
    kafka_server: KafkaServer,
) -> None:
    (node,) = kafka_server.nodes
    async with opened(KafkaBroker(member(kafka_server.bootstrap))) as broker:
        await broker.ensure([TOPIC])
        await broker.publish([record(0)])
        node.kill()
        with pytest.raises(BrokerUnavailableError, match="CH3001") as caught:
            await broker.publish([record(1)])
        assert caught.value.transient
        await asyncio.to_thread(kafka_server.begin)
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    await broker.publish([record(1)])
                except BrokerUnavailableError:
                    continue
                break
        assert broker._producing.made > 1
        assert set(await everything(broker)) == {0, 1}


async def test_a_full_member_that_nobody_polls_stays_in_its_group(
    kafka_server: KafkaServer,
) -> None:
    """Longer than the client lets a member be idle; then all comes, in order.

    It is let for so long that a loop which has to wait for a processor is not taken for idle.
    """
    idle_s = 4.0
    settings = replace(
        member(kafka_server.bootstrap),
        poll_interval_max_s=idle_s,
        session_timeout_s=10,
        buffered_max=5,
    )
    async with opened(KafkaBroker(settings)) as broker:
        await broker.ensure([TOPIC])
        await broker.publish([record(n) for n in range(50)])
        told = Told()
        subscription = await broker.subscribe("desk", [TOPIC.name], assignee=told)
        seen = [int(one.value) for one in await subscription.poll(1)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(told.lost.wait(), idle_s + 2.0)
        assert len(subscription._buffer) <= 5
        while len(seen) < 50:
            seen += [int(one.value) for one in await subscription.poll(3)]
        assert seen == list(range(50))
        assert told.revocations == 0


def task_of(subscription: KafkaSubscription) -> str:
    return "" if subscription._last is None else subscription._last.get_name()


class Slow(Told):
    """Takes its time to take over: a gate for each time."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = [asyncio.Event(), asyncio.Event()]
        self.begun = 0

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        self.begun += 1
        await self.gates[self.begun - 1].wait()
        await super().assigned(partitions, generation)


async def test_who_takes_over_while_partitions_move_again_is_given_nothing_of_before(
    kafka_server: KafkaServer,
) -> None:
    """What it were given before it has taken over it would pass over: it would be lost."""
    settings = member(kafka_server.bootstrap)
    async with opened(KafkaBroker(settings)) as broker:
        await broker.ensure([TOPIC])
        slow = Slow()
        joining = asyncio.create_task(broker.subscribe("desk", [TOPIC.name], assignee=slow))
        await until(lambda: slow.begun == 1)
        other = asyncio.create_task(broker.subscribe("desk", [TOPIC.name], assignee=Told()))
        (one,) = broker._subscriptions[:1]
        await until(lambda: task_of(one).endswith("give"))  # they move again
        slow.gates[0].set()
        await until(lambda: slow.begun == 2)
        assert not one.assigned()
        await broker.publish([record(n, f"k{n}") for n in range(20)])
        polling = asyncio.create_task(one.poll(100))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(polling), 1.0)
        slow.gates[1].set()
        assert {record.partition for record in await polling} == {p.number for p in slow.has}
        await joining
        await other


class Stubborn(Told):
    """Does not come to rest before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_rest = asyncio.Event()

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.lost.set()
        await self.may_rest.wait()
        await super().revoked(partitions)


async def test_partitions_move_although_what_runs_in_them_does_not_come_to_rest(
    kafka_server: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After a bounded time; what it commits then is passed over."""
    settings = replace(member(kafka_server.bootstrap), rest_s=0.5)
    async with opened(KafkaBroker(settings)) as broker:
        await broker.ensure([TOPIC])
        await broker.publish([record(n, f"k{n}") for n in range(20)])
        stubborn, other = Stubborn(), Told()
        one = await broker.subscribe("desk", [TOPIC.name], assignee=stubborn)
        polled: list[Record] = []
        while len(polled) < 20:
            polled += await one.poll(100)
        with caplog.at_level(logging.WARNING, "choreo.kafka"):
            two = await broker.subscribe("desk", [TOPIC.name], assignee=other)
            async with asyncio.timeout(WAIT_S):
                await stubborn.lost.wait()
                await until(lambda: len(two.assigned()) == 1)
        assert "CH3025" in caplog.text
        (theirs,) = two.assigned()
        late = {Partition(r.topic, r.partition): r.offset + 1 for r in polled}
        await one.commit(late)
        stood = await broker._cluster.committed("desk")
        assert broker._cluster.names.place(theirs) not in stood
        stubborn.may_rest.set()
        wanted = sum(1 for r in polled if Partition(r.topic, r.partition) == theirs)
        again: list[Record] = []
        async with asyncio.timeout(WAIT_S):
            while len(again) < wanted:
                again += await two.poll(100)
            await until(lambda: len(one.assigned()) == 1)
        assert not stubborn.has & other.has


class Process:
    """A member in a process of its own (tests/kafka/desk.py)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self.said: list[str] = []
        """What it has said since somebody last began to listen."""

    async def until(self, word: str, count: int = 1) -> list[str]:
        """Listen until it has said it so often; give the rest of these lines."""
        async with asyncio.timeout(WAIT_S):
            while len(found := self._rests(word)) < count:
                line = (await self._out.readline()).decode().strip()
                assert line, "it ended"
                self.said.append(line)
        return found

    def _rests(self, word: str) -> list[str]:
        return [line.partition(" ")[2] for line in self.said if line.startswith(word)]

    def commit(self) -> None:
        self._in.write(b"commit\n")

    async def end(self) -> None:
        self._in.close()
        async with asyncio.timeout(WAIT_S):
            await self._process.wait()


async def test_who_stood_still_for_too_long_commits_nothing_any_more(
    kafka_server: KafkaServer,
) -> None:
    """Its partitions and records went to the other; it joins again when it goes on."""
    settings = member(kafka_server.bootstrap)
    async with opened(KafkaBroker(settings)) as broker:
        await broker.ensure([TOPIC])
        await broker.publish([record(n, f"k{n}") for n in range(20)])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.kafka.desk",
            *(kafka_server.bootstrap, settings.namespace, "desk", TOPIC.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        zombie = Process(process)
        read = await zombie.until("read", 20)
        assert sorted(map(int, read)) == list(range(20))
        process.send_signal(19)  # SIGSTOP
        told = Told()
        subscription = await broker.subscribe("desk", [TOPIC.name], assignee=told)
        seen: list[Record] = []
        async with asyncio.timeout(SESSION_S + WAIT_S):
            while len(seen) < 20:
                seen += await subscription.poll(100)
        first = [one for one in seen if one.partition == seen[0].partition]
        here = Partition(TOPIC.name, first[0].partition)
        await subscription.commit({here: first[2].offset + 1})
        zombie.commit()
        zombie.said.clear()
        process.send_signal(18)  # SIGCONT; it commits and joins again, in whatever order
        await zombie.until("committed")
        stood = await broker._cluster.committed("desk")
        assert stood == {broker._cluster.names.place(here): first[2].offset + 1}
        await zombie.until("has")
        await zombie.end()


async def test_another_tool_reads_what_was_published(kafka_server: KafkaServer) -> None:
    """kcat knows nothing of us: topic, key, headers and value are what they are."""
    settings = member(kafka_server.bootstrap)
    async with opened(KafkaBroker(settings)) as broker:
        await broker.ensure([TOPIC])
        headers = {"ce_type": "shop.Placed", "ce_subject": "ключ"}
        one = Record(TOPIC.name, "ключ".encode(), headers, b'{"total": "9.50"}')
        await broker.publish([one])
        kcat = await asyncio.create_subprocess_exec(
            *("kcat", "-q", "-b", kafka_server.bootstrap, "-C", "-J", "-e", "-o", "beginning"),
            *("-t", settings.namespace + TOPIC.name),
            stdout=subprocess.PIPE,
        )
        out, _ = await kcat.communicate()
    found = json.loads(out)
    assert (found["partition"], found["offset"]) == (one.partition, one.offset)
    assert found["key"] == "ключ"
    assert found["payload"] == '{"total": "9.50"}'
    assert found["headers"] == ["ce_type", "shop.Placed", "ce_subject", "ключ"]


async def whole(broker: KafkaBroker, count: int) -> None:
    """Wait until each of so many nodes knows all of them: they learn of each other one by one."""
    async with asyncio.timeout(WAIT_S):
        while True:
            knows = [len(told["brokers"]) for told in await broker._cluster._everywhere()]
            if knows == [count] * (1 + count):  # whoever was asked first is asked again
                return
            await asyncio.sleep(0.05)


@pytest.mark.timeout(240)
async def test_three_brokers_lose_nothing_acknowledged_when_the_leader_is_killed() -> None:
    """Three replicas, two of them in sync: kill -9 under load."""
    cluster = KafkaServer(nodes=3)
    await asyncio.to_thread(cluster.start)
    try:
        settings = replace(member(cluster.bootstrap), request_timeout_s=10.0)
        async with opened(KafkaBroker(settings)) as broker:
            await whole(broker, 3)
            await broker.ensure([Topic(TOPIC.name, 3)])
            load = Load(broker)
            await load.more()
            desk = await broker._cluster._desk()
            (told,) = await desk.describe_topics([settings.namespace + TOPIC.name])
            assert all(len(one["replicas"]) == 3 for one in told["partitions"])
            leader = told["partitions"][0]["leader"]
            cluster.nodes[leader - 1].kill()
            await load.more()
            await load.more()
            acknowledged = await load.stop()
            assert set(acknowledged) <= set(await everything(broker))
    finally:
        await asyncio.to_thread(cluster.stop)


async def test_a_broker_keeps_none_of_the_subscriptions_that_are_closed(
    kafka_server: KafkaServer,
) -> None:
    """A program may subscribe, and close, for as long as it runs."""
    async with opened(KafkaBroker(member(kafka_server.bootstrap))) as broker:
        await broker.ensure([TOPIC])
        stays = await broker.subscribe("stays", [TOPIC.name])
        for _ in range(3):
            goes = await broker.subscribe("goes", [TOPIC.name])
            await goes.close()
            assert broker._subscriptions == [stays, goes]
