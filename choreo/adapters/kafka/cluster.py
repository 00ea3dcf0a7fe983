"""What there is on the cluster: topics, their partitions and ends, groups and where they stand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from choreo.adapters.kafka.names import Names
from choreo.adapters.kafka.settings import KafkaSettings
from choreo.adapters.kafka.translating import missing, translated, translating
from choreo.errors import BrokerClosedError, BrokerError, BrokerUnavailableError
from choreo.events import Partition
from choreo.ports import Topic, TopicLook

__all__ = ["Cluster", "ended", "started", "stopped"]

T = TypeVar("T")
REPLICAS_MAX = 3
IN_SYNC_MIN = 2  # where there are three
STOP_S = 3.0
LEFT_RUNNING = (
    "_coordination_task",
    "_heartbeat_task",
    "_commit_refresh_task",
    "_reset_committed_task",
    "_fetch_task",
)
"""Tasks of a consumer's parts."""
SEEN_S = 10.0
LOOK_S = 0.05
ANSWER_S = 2.0
"""Who has not answered by then what it knows does not hold up those who have."""
EXISTS = 36
DENIED = frozenset((29, 31))
EMPTY = frozenset(("Empty", "Dead"))


class Cluster:
    """Asked, never guessed: one connection for questions, opened by the first."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Connect later."""
        self._settings = settings
        self.names = Names(settings.namespace)
        self._admin: AIOKafkaAdminClient | None = None
        self._reader: AIOKafkaConsumer | None = None
        self._opening = asyncio.Lock()
        self._doing: set[asyncio.Task[Any]] = set()
        self._closed = False

    def unbroken(self, call: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Finish a call, also when whoever waits for it is cancelled.

        The client loses connections that it was opening when it is cancelled.
        """
        return asyncio.shield(self._begun(call))

    def _begun(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(call)
        self._doing.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._doing.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits is told

    # ── topics ───────────────────────────────────────────────────────────────────────────

    async def partitions(self) -> dict[str, int]:
        """Give all our topics, with the number of their partitions."""
        desk = await self._desk()
        return self._counted(await self._asked("list the topics", desk.describe_topics))

    def _counted(self, topics: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for one in topics:
            name = self.names.here(one["topic"])
            if name is not None:
                counts[name] = len(one["partitions"])
        return counts

    async def _sought(self, topics: Collection[str]) -> dict[str, int]:
        """Give all our topics; a broker that knows nothing of one of these may only be behind."""
        counts = await self.partitions()
        if not counts.keys() >= {*topics}:
            for told in await self._everywhere():
                counts = self._counted(told["topics"]) | counts
        return counts

    async def known(self, topics: Collection[str]) -> dict[str, int]:
        """Give the partitions of these; raises BrokerError for those that no broker knows."""
        counts = await self._sought(topics)
        lost = [name for name in topics if name not in counts]
        if lost:
            raise await self._why_missing(lost)
        return {name: counts[name] for name in topics}

    async def _why_missing(self, topics: list[str]) -> BrokerError:
        """Tell a topic that is not there from one that we may not see."""
        names = [self.names.there(name) for name in topics]
        request = MetadataRequest(names, allow_auto_topic_creation=False)
        with translating("look for a topic"):
            desk = await self._desk()
            told = (await desk._send_request(request)).to_object()  # noqa: SLF001 - its own verb would create the topic
        for one in told["topics"]:
            if one["error_code"] in DENIED:
                error = translated(kafka.TopicAuthorizationFailedError(), "see a topic")
                error.fields["topic"] = self.names.here(one["topic"])
                assert isinstance(error, BrokerError)
                return error
        return missing(topics)

    async def create(self, topics: Sequence[Topic]) -> None:
        """Create those that are not there, and wait until they can be used."""
        counts = await self._sought([one.name for one in topics])
        new = {one.name: one for one in topics if one.name not in counts}
        if not new:
            return
        if not self._settings.create_topics:
            raise await self._why_missing(sorted(new))
        brokers = max(len(told["brokers"]) for told in await self._everywhere())
        wanted = [self._new(one, min(REPLICAS_MAX, brokers)) for one in new.values()]
        with translating("create topics"):
            desk = await self._desk()
            answer = await desk.create_topics(wanted)
        for name, code, why in answer.topic_errors:
            if code not in (0, EXISTS):
                error = kafka.for_code(code)(why or name)
                raise translated(error, f"create the topic {self.names.here(name)}")
        await self._seen(new)

    def _new(self, topic: Topic, replicas: int) -> NewTopic:
        configs = {"max.message.bytes": str(self._settings.record_bytes_max)}
        if replicas == REPLICAS_MAX:
            configs["min.insync.replicas"] = str(IN_SYNC_MIN)
        if topic.retention_s is not None:
            configs["retention.ms"] = str(round(topic.retention_s * 1000))
        if topic.compact:
            configs["cleanup.policy"] = "compact"
        name = self.names.there(topic.name)
        return NewTopic(name, topic.partitions, replicas, topic_configs=configs)

    async def configs(self, topics: Collection[str]) -> dict[str, Mapping[str, str]]:
        """Give the settings of each of these topics that is there and may be looked at."""
        desk = await self._desk()
        asked = [
            ConfigResource(ConfigResourceType.TOPIC, self.names.there(name))
            for name in sorted(topics)
        ]
        if not asked:
            return {}
        answers = await self._asked("look at topics", lambda: desk.describe_configs(asked))
        found: dict[str, Mapping[str, str]] = {}
        for answer in answers:
            for code, _, _, name, entries in answer.resources:
                here = self.names.here(name)
                if code == 0 and here is not None:
                    found[here] = {entry[0]: entry[1] for entry in entries}
        return found

    async def retention(self, topics: Collection[str]) -> dict[str, float]:
        """Give for how many seconds each topic keeps a record; not those that keep the last."""
        found = {name: _kept_s(configs) for name, configs in (await self.configs(topics)).items()}
        return {name: kept for name, kept in found.items() if kept is not None}

    async def look(self, topics: Collection[str]) -> dict[str, TopicLook]:
        """Look at those of these topics that are there."""
        desk = await self._desk()
        found = await self._asked("list the topics", desk.describe_topics)
        there = {
            here: one["partitions"]
            for one in found
            if (here := self.names.here(one["topic"])) in topics and here is not None
        }
        configs = await self.configs(there)
        return {name: _looked(parts, configs.get(name, {})) for name, parts in there.items()}

    async def brokers(self) -> int:
        """Tell how many brokers there are."""
        desk = await self._desk()
        return len((await self._asked("look at the cluster", desk.describe_cluster))["brokers"])

    async def grow(self, topics: Sequence[Topic]) -> None:
        """Add partitions to topics that have fewer."""
        with translating("add partitions"):
            desk = await self._desk()
            await desk.create_partitions(
                {self.names.there(one.name): NewPartitions(one.partitions) for one in topics}
            )

    async def _seen(self, topics: Collection[str]) -> None:
        """Wait until every partition has a leader that takes records, as every broker knows."""
        loop = asyncio.get_running_loop()
        last = loop.time() + SEEN_S
        while (left := last - loop.time()) > 0:
            look = self._begun(self._everywhere())
            await asyncio.wait([look], timeout=left)
            if look.done() and all(self._led(told).issuperset(topics) for told in look.result()):
                return
            await asyncio.sleep(LOOK_S)
        raise translated(kafka.LeaderNotAvailableError(), "wait for new topics")

    def _led(self, told: Mapping[str, Any]) -> set[str | None]:
        return {
            self.names.here(one["topic"])
            for one in told["topics"]
            if one["partitions"] and all(part["leader"] >= 0 for part in one["partitions"])
        }

    async def _everywhere(self) -> list[Mapping[str, Any]]:
        """Give what each broker knows of the cluster; who does not answer in time is left out.

        Each learns by itself what was created: one may not know what another has told already.
        There is an answer always: whoever tells where the brokers are is the first of them.
        """
        desk = await self._desk()
        told = await self._asked(
            "look at the cluster",
            desk._get_cluster_metadata,  # noqa: SLF001 - with where the brokers are
        )
        desk._client.cluster.update_metadata(told)  # noqa: SLF001 - so that each can be reached
        asked = [self._begun(self._told_by(desk, number)) for number, *_ in told.brokers]
        if asked:
            await asyncio.wait(asked, timeout=ANSWER_S)
        answers = [one.result() for one in asked if one.done()]
        return [told.to_object(), *(answer for answer in answers if answer is not None)]

    async def _told_by(self, desk: AIOKafkaAdminClient, number: int) -> Mapping[str, Any] | None:
        request = MetadataRequest(None, allow_auto_topic_creation=False)
        try:
            with translating("look at the cluster"):
                answer = await desk._send_request(request, number)  # noqa: SLF001 - no verb for it
        except BrokerUnavailableError:
            return None
        told: Mapping[str, Any] = answer.to_object()
        return told

    # ── offsets ──────────────────────────────────────────────────────────────────────────

    async def bounds(
        self, places: Iterable[TopicPartition]
    ) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
        """Give the first offset that is there, and the one after the last, per partition."""
        asked = list(places)
        if not asked:
            return {}, {}
        reader = await self._asking()
        topics = {place.topic for place in asked}
        reader._client.set_topics(topics)  # noqa: SLF001 - else it learns of one after the other, and rests between
        begins = await self._asked("ask for offsets", lambda: reader.beginning_offsets(asked))
        ends = await self._asked("ask for offsets", lambda: reader.end_offsets(asked))
        return begins, ends

    async def ends(self, topics: Collection[str] | None) -> dict[Partition, int]:
        """Give the offset after the last, per partition of these topics, or of all."""
        counts = await self.partitions()
        names = self.names
        places = [
            names.place(Partition(topic, number))
            for topic, count in counts.items()
            if topics is None or topic in topics
            for number in range(count)
        ]
        _, ends = await self.bounds(places)
        return {names.partition(place): offset for place, offset in ends.items()}

    # ── groups ───────────────────────────────────────────────────────────────────────────

    async def occupied(self, group: str) -> bool:
        """Tell whether the group has members."""
        name = self.names.there(group)
        desk = await self._desk()

        async def look() -> str:
            (answer,) = await desk.describe_consumer_groups([name])
            ((code, _, state, *_),) = answer.groups
            if code:  # it is not raised
                raise kafka.for_code(code)(name)
            return str(state)

        return await self._asked("look at the group", look) not in EMPTY

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        """Give where the group goes on, where it has ever committed."""
        name = self.names.there(group)
        desk = await self._desk()
        found = await self._asked(
            "ask where the group goes on", lambda: desk.list_consumer_group_offsets(name)
        )
        return {place: one.offset for place, one in found.items() if one.offset >= 0}

    async def positions(self) -> dict[tuple[str, Partition], int]:
        """Give where every group of ours goes on, in each partition that it has committed."""
        desk = await self._desk()
        groups = await self._asked("list the groups", desk.list_consumer_groups)
        found: dict[tuple[str, Partition], int] = {}
        for name, *_ in groups:
            group = self.names.here(name)
            if group is None:
                continue
            for place, offset in (await self.committed(group)).items():
                found[group, self.names.partition(place)] = offset
        return found

    async def _asked(self, doing: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask again while the cluster says that it is only just not ready."""
        loop = asyncio.get_running_loop()
        last = loop.time() + self._settings.request_timeout_s
        while True:
            try:
                with translating(doing):
                    return await ask()
            except BrokerUnavailableError as exc:
                again = isinstance(exc.__cause__, kafka.KafkaError) and exc.__cause__.retriable
                if not again or loop.time() > last:
                    raise
            await asyncio.sleep(LOOK_S)

    # ── connections ──────────────────────────────────────────────────────────────────────

    async def _desk(self) -> AIOKafkaAdminClient:
        async with self._opening:
            self._check_open()
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._settings.client())
                await started(admin, self._settings)
                self._admin = admin
        return self._admin

    async def _asking(self) -> AIOKafkaConsumer:
        async with self._opening:
            self._check_open()
            if self._reader is None:
                reader = AIOKafkaConsumer(**self._settings.reader())
                await started(reader, self._settings)
                self._reader = reader
        return self._reader

    def _check_open(self) -> None:
        """Open nothing that nobody would close any more."""
        if self._closed:
            raise BrokerClosedError("used after close", fix="make a new broker")

    async def close(self) -> None:
        """Hang up, once what was begun is done."""
        if self._doing:
            await asyncio.wait(self._doing, timeout=self._settings.request_timeout_s)
        async with self._opening:
            self._closed = True
            admin, self._admin = self._admin, None
            reader, self._reader = self._reader, None
        if admin is not None:
            await stopped(admin.close())
        if reader is not None:
            await ended(reader)


def _looked(partitions: Sequence[Mapping[str, Any]], configs: Mapping[str, str]) -> TopicLook:
    """Say what a topic is like; without `configs` it may not be seen how it is set."""
    in_sync = configs.get("min.insync.replicas")
    return TopicLook(
        partitions=len(partitions),
        replicas=min((len(part["replicas"]) for part in partitions), default=0),
        in_sync_min=None if in_sync is None else int(in_sync),
        retention_s=_kept_s(configs),
        unclean=configs.get("unclean.leader.election.enable") == "true",
    )


def _kept_s(configs: Mapping[str, str]) -> float | None:
    if "delete" not in configs.get("cleanup.policy", ""):
        return None
    kept_ms = int(configs["retention.ms"])
    return math.inf if kept_ms < 0 else kept_ms / 1000


async def started(client: Any, settings: KafkaSettings) -> None:
    """Connect a client; raises in our words, and says why where the client does not."""
    with translating("connect"):
        try:
            await client.start()
        except kafka.KafkaConnectionError as exc:
            await _given_up(client)
            why: Exception = await _why_not(settings) or exc
            raise why from exc
        except BaseException:
            await _given_up(client)
            raise


async def _given_up(client: Any) -> None:
    if isinstance(client, AIOKafkaConsumer):
        await ended(client)
    else:
        await stopped(client.close() if hasattr(client, "close") else client.stop())


async def _why_not(settings: KafkaSettings) -> Exception | None:
    """Try one broker by hand: the client drops the reason, a wrong password too."""
    words = settings.client()
    servers = words.pop("bootstrap_servers").split(",")
    words.pop("retry_backoff_ms")
    words.pop("metadata_max_age_ms")
    found: Exception | None = None
    for server in servers:
        host, _, port = server.strip().rpartition(":")
        try:
            connection = await create_conn(host.strip("[]"), int(port), **words)
        except (kafka.KafkaError, OSError, TimeoutError) as exc:
            found = exc
            if not isinstance(exc, kafka.KafkaConnectionError | OSError):
                break
        else:
            connection.close()
    return found


async def stopped(closing: Coroutine[Any, Any, None]) -> None:
    """Let a client say goodbye, for a moment; one whose broker is gone can not.

    It may wait for tasks that it has cancelled: that is none of our own being cancelled.
    """
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.wait([task], timeout=STOP_S)
    finally:
        task.cancel()
    await asyncio.wait([task], timeout=STOP_S)
    if task.done() and not task.cancelled():
        with suppress(kafka.KafkaError, OSError, TimeoutError):
            task.result()


async def ended(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, and all that it leaves running where its broker is gone.

    A heart that went on beating would hold partitions for a member that is none any more.
    """
    await stopped(consumer.stop())
    parts = (consumer._coordinator, consumer._fetcher)  # noqa: SLF001 - stop() has left them
    tasks: set[asyncio.Task[Any]] = set()
    for part in parts:
        tasks.update(getattr(part, "_pending_tasks", ()))
        tasks.update(filter(None, (getattr(part, name, None) for name in LEFT_RUNNING)))
    for task in tasks:
        task.cancel()
    await stopped(_all_of(tasks))
    await stopped(consumer._client.close())  # noqa: SLF001 - as above; may be called twice


async def _all_of(tasks: Collection[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
