"""Records on their way out: a span each, the trace context in their headers, counts by topic."""

from __future__ import annotations

import time
from collections import Counter

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from choreo.errors import ChoreoError
from choreo.events import FLOW, ID, TRACE_ORIGIN, TRACEPARENT, Headers, Record
from choreo.telemetry.instruments import Instruments
from choreo.telemetry.names import (
    CODE,
    DURATION,
    ERROR,
    EVENT,
    OFFSET,
    OPERATION,
    OPERATION_TYPE,
    PARTITION,
    SEND,
    SENT,
    SYSTEM,
    TOPIC,
)
from choreo.telemetry.names import FLOW as FLOW_ATTRIBUTE
from choreo.telemetry.trace_context import headers_of, replace, sender_of

__all__ = ["Sending", "fail"]


def fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed, by class and code. Never by text: that may hold what is secret."""
    span.set_attribute(ERROR, type(error).__qualname__)
    if isinstance(error, ChoreoError):
        span.set_attribute(CODE, error.code)
    span.set_status(Status(StatusCode.ERROR))


class Sending:
    """One call that publishes. Each record is added before it is written, then settled."""

    def __init__(self, system: str, tracer: Tracer | None, instruments: Instruments | None) -> None:
        """Begin; either may be missing."""
        self._system = system
        self._tracer = tracer
        self._instruments = instruments
        self._began = time.perf_counter()
        self._open: list[tuple[Record, Span | None, Headers]] = []

    def add(self, record: Record, *, otherwise: Context | None = None) -> None:
        """Begin to send a record; its parent is what its headers say, or `otherwise`."""
        if self._tracer is None:
            self._open.append((record, None, record.headers))
            return
        headers = record.headers
        before = dict(headers)
        parent = sender_of(headers) if TRACEPARENT in headers or otherwise is None else otherwise
        span = self._tracer.start_span(
            f"{SEND} {record.topic}", parent, SpanKind.PRODUCER, self._attributes(record)
        )
        context = headers_of(span)
        headers.setdefault(TRACE_ORIGIN, before.get(TRACEPARENT) or context.get(TRACEPARENT, ""))
        replace(headers, context)
        self._open.append((record, span, before))

    def _attributes(self, record: Record) -> dict[str, str]:
        headers = record.headers
        return {
            SYSTEM: self._system,
            OPERATION: SEND,
            OPERATION_TYPE: SEND,
            TOPIC: record.topic,
            EVENT: headers.get(ID, ""),
            FLOW_ATTRIBUTE: headers.get(FLOW, ""),
        }

    def sent(self) -> None:
        """All are durable."""
        for record, span, _ in self._open:
            if span is not None:
                span.set_attribute(PARTITION, str(record.partition))
                span.set_attribute(OFFSET, record.offset)
                span.end()
        self._measure(None)

    def failed(self, error: BaseException) -> None:
        """None is: they are to be sent again, from where they came."""
        for record, span, before in self._open:
            if span is not None:
                fail(span, error)
                span.end()
            self._restore(record, before)
        self._measure(error)

    def dropped(self) -> None:
        """They were not to be sent after all. Spans that do not end are never told."""
        for record, _, before in self._open:
            self._restore(record, before)

    @staticmethod
    def _restore(record: Record, before: Headers) -> None:
        if before is not record.headers:
            record.headers.clear()
            record.headers.update(before)

    def _measure(self, error: BaseException | None) -> None:
        instruments = self._instruments
        if instruments is None:
            return
        took = time.perf_counter() - self._began
        for topic, n in Counter(record.topic for record, _, _ in self._open).items():
            labels = {SYSTEM: self._system, OPERATION: SEND, TOPIC: topic}
            if error is None:
                instruments.count(SENT, labels, n)
            else:
                labels[ERROR] = type(error).__qualname__
            instruments.measure(DURATION, took, labels)
