"""Publishing: what is asked for at once goes out at once, and the next when that is there.

Rounds do not overlap. A record that failed and is published again would otherwise come after
later ones of its key, which were already on their way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from choreo.adapters.kafka.cluster import Cluster, started, stopped
from choreo.adapters.kafka.names import partition_of
from choreo.adapters.kafka.settings import KafkaSettings
from choreo.adapters.kafka.translating import translated
from choreo.codec import headers_to_pairs
from choreo.errors import BrokerClosedError, BrokerError
from choreo.events import Record

__all__ = ["Producing"]

log = logging.getLogger("choreo.kafka")
Waiting = tuple[Sequence[Record], "asyncio.Future[None]"]


class Producing:
    """One producer, made anew after whatever it can not recover from."""

    def __init__(self, settings: KafkaSettings, cluster: Cluster) -> None:
        """Connect with the first records."""
        self._settings = settings
        self._cluster = cluster
        self._partitions: dict[str, int] = {}
        self._asking: asyncio.Task[dict[str, int]] | None = None
        self._ask_at = 0.0
        self._producer: AIOKafkaProducer | None = None
        self._waiting: list[Waiting] = []
        self._round: asyncio.Task[None] | None = None
        self._turn = 0  # where records without a key go
        self._closed = False
        self.made = 0
        """How many producers there have been."""

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish; whoever is cancelled meanwhile does not tear the batch apart."""
        if self._closed:
            raise BrokerClosedError("used after close", fix="make a new broker")
        if not records:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, done))
        if self._round is None:
            self._round = asyncio.create_task(self._rounds(), name="choreo-kafka-publish")
        await done

    async def close(self) -> None:
        """Finish what was asked for, and hang up."""
        self._closed = True
        if self._round is not None:
            await asyncio.wait([self._round], timeout=self._settings.request_timeout_s)
            if self._round is not None:
                self._round.cancel()
                await asyncio.gather(self._round, return_exceptions=True)
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._drop()

    async def _rounds(self) -> None:
        taken: list[Waiting] = []
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                try:
                    await self._publish(taken)
                except Exception as exc:  # noqa: BLE001 - whoever waits is told, whatever it is
                    _tell_all(taken, exc)
        finally:
            self._round = None
            closed = BrokerClosedError("closed while it published", fix="publish it again")
            _tell_all([*taken, *self._waiting], closed)
            self._waiting.clear()

    async def _publish(self, taken: list[Waiting]) -> None:
        """Send what is good; tell each caller what became of its own."""
        good: list[Waiting] = []
        try:
            await self._learn({one.topic for records, _ in taken for one in records})
        except BrokerError as exc:
            _tell_all(taken, exc)
            return
        for records, done in taken:
            try:
                await self._check(records)
            except BrokerError as exc:
                _tell(done, exc)
            else:
                good.append((records, done))
        try:
            # An idempotent producer tries for ever by itself.
            async with asyncio.timeout(self._settings.request_timeout_s):
                results = await self._send(good)
        except Exception as exc:  # noqa: BLE001 - whoever waits is told, whatever it is
            results = [exc] * len(good)
        failed = False
        for (_, done), error in zip(good, results, strict=True):
            failed = failed or error is not None
            _tell(done, _ours(error))
        if failed:
            await self._drop()

    async def _learn(self, topics: set[str]) -> None:
        """Know how many partitions topics have, from the cluster's own list.

        It is asked again now and then, beside what is published: all who write a topic have to
        agree where its keys are. A round goes by one answer; the client by none that is older.
        """
        now = asyncio.get_running_loop().time()
        if not topics <= self._partitions.keys():
            self._partitions = await self._cluster.partitions()
            self._ask_at = now + self._settings.metadata_age_s
        elif self._asking is not None and self._asking.done():
            asked, self._asking = self._asking, None
            self._ask_at = now + self._settings.metadata_age_s
            if not asked.cancelled() and asked.exception() is None:
                counts = asked.result()
                if any(counts.get(topic, 0) > count for topic, count in self._partitions.items()):
                    await self._drop()
                self._partitions = counts
        elif self._asking is None and now >= self._ask_at:
            self._asking = asyncio.create_task(
                self._cluster.partitions(), name="choreo-kafka-partitions"
            )

    async def _check(self, records: Sequence[Record]) -> None:
        """Raise for what can not be published, before anything of it is."""
        unknown = sorted({one.topic for one in records} - self._partitions.keys())
        if unknown:
            self._partitions |= await self._cluster.known(unknown)
        most = self._settings.record_bytes_max
        for one in records:
            size = len(one.value) + len(one.key or b"")
            if size + 1024 < most and len(one.headers) < 100:  # noqa: PLR2004 - far from it
                continue
            size = DefaultRecordBatchBuilder.estimate_size_in_bytes(
                one.key, one.value, headers_to_pairs(one.headers)
            )
            if size > most:
                raise BrokerError(
                    "a record is larger than its topic takes",
                    code="CH3020",
                    fix="put large things elsewhere and a reference into the event",
                    topic=one.topic,
                    bytes=size,
                    bytes_max=most,
                )

    async def _send(self, good: list[Waiting]) -> list[BaseException | None]:
        if not good:
            return []
        producer = await self._started()
        sent: list[tuple[int, Record, Any]] = []
        for number, (records, _) in enumerate(good):
            for record in records:
                answer = await self._begin(producer, record)
                sent.append((number, record, answer))
        results: list[BaseException | None] = [None] * len(good)
        try:
            for number, record, answer in sent:
                error = await _answered(record, answer)
                results[number] = results[number] or error
        except asyncio.CancelledError:
            for _, _, answer in sent:
                answer.cancel()
            raise
        return results

    async def _begin(self, producer: AIOKafkaProducer, record: Record) -> Any:
        count = self._partitions[record.topic]
        if record.key is None:
            self._turn += 1
            partition = self._turn % count
        else:
            partition = partition_of(record.key, count)
        return await producer.send(
            self._cluster.names.there(record.topic),
            record.value,
            record.key,
            partition,
            headers=headers_to_pairs(record.headers),
        )

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(**self._settings.producer())
            await started(producer, self._settings)
            self._producer = producer
            self.made += 1
        return self._producer

    async def _drop(self) -> None:
        """Throw the producer away, with all it still had on its way."""
        producer, self._producer = self._producer, None
        self._partitions = {}
        if producer is None:
            return
        await stopped(producer.stop())
        # What a broker that is gone left open; both may be called twice.
        await stopped(producer._sender.close())  # noqa: SLF001 - stop() waits for it for ever
        await stopped(producer.client.close())


async def _answered(record: Record, answer: asyncio.Future[Any]) -> BaseException | None:
    """Note where the record is, or give why it is not there.

    One after the other: most are done by then, and cost neither a callback nor a switch.
    """
    try:
        told = await answer
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return exc
    except Exception as exc:  # noqa: BLE001 - whoever waits is told, whatever it is
        return exc
    record.partition, record.offset = told.partition, told.offset
    return None


def _ours(error: BaseException | None) -> BaseException | None:
    foreign = isinstance(error, kafka.KafkaError | OSError | TimeoutError)
    return translated(error, "publish") if error is not None and foreign else error


def _tell_all(waiting: Sequence[Waiting], error: Exception) -> None:
    for _, done in waiting:
        _tell(done, error)


def _tell(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
