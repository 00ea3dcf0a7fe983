"""A broker, and its subscriptions, that tell what goes through them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from opentelemetry import context as current
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Tracer

from choreo.events import Partition, Record
from choreo.ports import Assignee, Broker, BrokerTraits, Subscription
from choreo.telemetry.instruments import Instruments
from choreo.telemetry.names import (
    COMMIT,
    CONSUMED,
    COUNT,
    DURATION,
    ERROR,
    GROUP,
    OPERATION,
    OPERATION_TYPE,
    POLL,
    SYSTEM,
    TOPIC,
)
from choreo.telemetry.sending import Sending, fail
from choreo.telemetry.trace_context import links_to

__all__ = ["ToldBroker", "ToldSubscription"]

NOWHERE = Context()
OPERATION_TYPES = {POLL: "receive", COMMIT: "settle"}


class ToldBroker:
    """Another broker, with a span for each record that it publishes."""

    def __init__(
        self, inner: Broker, tracer: Tracer | None, instruments: Instruments | None
    ) -> None:
        """Stand before `inner`; what it can do beside the port, it can do still."""
        self._inner = inner
        self._tracer = tracer
        self._instruments = instruments
        self.read = inner.read
        self.ends = inner.ends
        self.ensure = inner.ensure
        self.close = inner.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def traits(self) -> BrokerTraits:
        return self._inner.traits

    async def publish(self, records: Sequence[Record]) -> None:
        sending = Sending(self.traits.system, self._tracer, self._instruments)
        caller = current.get_current()
        for record in records:
            sending.add(record, otherwise=caller)
        try:
            await self._inner.publish(records)
        except BaseException as exc:
            sending.failed(exc)
            raise
        sending.sent()

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> Subscription:
        inner = await self._inner.subscribe(group, topics, assignee=assignee)
        labels = {SYSTEM: self.traits.system, GROUP: group}
        return ToldSubscription(inner, labels, self._tracer, self._instruments)


class ToldSubscription:
    """Another subscription, with a span for each topic polled or committed at once."""

    def __init__(
        self,
        inner: Subscription,
        labels: Mapping[str, str],
        tracer: Tracer | None,
        instruments: Instruments | None,
    ) -> None:
        """Stand before `inner`; `labels` name the log and the group."""
        self._inner = inner
        self._tracer = tracer
        self._instruments = instruments
        self._labels = labels
        self.assigned = inner.assigned
        self.close = inner.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def shared(self) -> bool:
        return self._inner.shared

    def _named(self, operation: str, topic: str) -> dict[str, str]:
        return {**self._labels, OPERATION: operation, TOPIC: topic}

    async def poll(self, records_max: int) -> Sequence[Record]:
        began = time.perf_counter()
        began_ns = time.time_ns()
        records = await self._inner.poll(records_max)
        if records:
            self._polled(records, began_ns, time.perf_counter() - began)
        return records

    def _polled(self, records: Sequence[Record], began_ns: int, took: float) -> None:
        for topic, n in Counter(record.topic for record in records).items():
            labels = self._named(POLL, topic)
            if self._instruments is not None:
                self._instruments.count(CONSUMED, labels, n)
                self._instruments.measure(DURATION, took, labels)
            if self._tracer is not None:
                self._tracer.start_span(
                    f"{POLL} {topic}", NOWHERE, SpanKind.CLIENT,
                    {**labels, OPERATION_TYPE: OPERATION_TYPES[POLL], COUNT: n},
                    links_to(record for record in records if record.topic == topic),
                    start_time=began_ns,
                ).end()  # fmt: skip

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        began = time.perf_counter()
        topics = _topics(offsets)
        tracer = self._tracer
        spans = [] if tracer is None else [
            tracer.start_span(
                f"{COMMIT} {topic}", NOWHERE, SpanKind.CLIENT,
                {**self._named(COMMIT, topic), OPERATION_TYPE: OPERATION_TYPES[COMMIT]},
            )
            for topic in topics
        ]  # fmt: skip
        error: BaseException | None = None
        try:
            await self._inner.commit(offsets)
        except BaseException as exc:
            error = exc
            raise
        finally:
            for span in spans:
                if error is not None:
                    fail(span, error)
                span.end()
            self._committed(topics, time.perf_counter() - began, error)

    def _committed(self, topics: Collection[str], took: float, error: BaseException | None) -> None:
        if self._instruments is None:
            return
        for topic in topics:
            labels = self._named(COMMIT, topic)
            if error is not None:
                labels[ERROR] = type(error).__qualname__
            self._instruments.measure(DURATION, took, labels)


def _topics(offsets: Mapping[Partition, int]) -> list[str]:
    return sorted({partition.topic for partition in offsets})
