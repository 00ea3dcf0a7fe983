"""Attempts of handlers: a span each, current while user code runs, carried by what it publishes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from opentelemetry import context as current
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Tracer

from choreo.errors import Later
from choreo.events import ID, REPLAY, Headers
from choreo.plan import Change, Plan
from choreo.ports import Seen, Tx
from choreo.step import Delivery, MoreGates, StepVoid
from choreo.step.publish import flow_of
from choreo.telemetry.instruments import Instruments
from choreo.telemetry.names import (
    ATTEMPT,
    ERROR,
    EVENT,
    FLOW,
    GROUP,
    HANDLER,
    OFFSET,
    OPERATION,
    OPERATION_TYPE,
    PARTITION,
    PROCESS,
    PROCESSED,
    RETRIES,
    SYSTEM,
    TOPIC,
)
from choreo.telemetry.sending import fail
from choreo.telemetry.trace_context import headers_of, links_to, sender_of

__all__ = ["Attempts"]

Run = Callable[[Delivery, float], Awaitable[Plan]]
Attempt = Callable[[Delivery], Awaitable[None]]
STEERING = (Later, MoreGates, StepVoid)
"""Raised to steer a step; they are no failures."""
NOWHERE = Context()


class Attempts:
    """Goes around what a worker's runners do."""

    def __init__(self, system: str, tracer: Tracer | None, instruments: Instruments | None) -> None:
        """`system` names the log; either of the others may be missing."""
        self._system = system
        self._tracer = tracer
        self._instruments = instruments

    def around(self, attempt: Attempt) -> Attempt:
        """Tell of each attempt. One that goes on inside of a transaction ends there."""

        async def told(d: Delivery) -> None:
            if d.trace is not None:  # the transaction that it was to end in did not come
                d.trace.end(None)
            here = d.trace = self._begin(d)
            token = current.attach(here.context)
            error: BaseException | None = None
            try:
                await attempt(d)
            except BaseException as exc:
                error = exc
                raise
            finally:
                current.detach(token)
                if error is not None or d.error is not None or not here.in_section:
                    here.end(error or d.error)

        return told

    def running(self, run: Run) -> Run:
        """Let what runs inside of the store's transaction be told there."""

        async def told(d: Delivery, begun: float) -> Plan:
            plan = await run(d, begun)
            if plan.section is None:
                return plan
            d.trace.in_section = True
            return plan._replace(section=_told_section(d.trace, plan.section))

        return told

    def _begin(self, d: Delivery) -> _Told:
        labels = {
            SYSTEM: self._system,
            OPERATION: PROCESS,
            TOPIC: d.record.topic,
            GROUP: d.route.service,
            HANDLER: d.route.name,
        }
        span = None if self._tracer is None else self._span(self._tracer, d, labels)
        d.carries = None if span is None else headers_of(span)
        instruments = self._instruments
        if instruments is not None and d.attempt > 1:
            instruments.count(RETRIES, {HANDLER: d.route.name})
        return _Told(span, labels, instruments)

    @staticmethod
    def _span(tracer: Tracer, d: Delivery, labels: Headers) -> trace.Span:
        record = d.record
        parent = NOWHERE if REPLAY in record.headers else sender_of(_cause(d))
        causes = [record, *(extra for extra in d.extras.values() if extra is not record)]
        return tracer.start_span(
            f"{PROCESS} {record.topic}", parent, SpanKind.CONSUMER,
            {
                **labels,
                OPERATION_TYPE: PROCESS,
                PARTITION: str(record.partition),
                OFFSET: record.offset,
                EVENT: record.headers.get(ID, ""),
                FLOW: flow_of(record),
                ATTEMPT: d.attempt,
            },
            links_to(causes),
        )  # fmt: skip


def _cause(d: Delivery) -> Headers:
    """Give the headers of what an attempt follows from: an undo from its trigger."""
    return d.extras["why"].headers if "why" in d.extras else d.record.headers


class _Told:
    """One attempt."""

    def __init__(
        self, span: trace.Span | None, labels: Headers, instruments: Instruments | None
    ) -> None:
        self.context = NOWHERE if span is None else trace.set_span_in_context(span, NOWHERE)
        self.in_section = False
        self._span = span
        self._labels = labels
        self._instruments = instruments
        self._began = time.perf_counter()
        self._ended = False

    def end(self, error: BaseException | None) -> None:
        """End. May be called twice: the first one counts."""
        if self._ended:
            return
        self._ended = True
        failed = error is not None and not isinstance(error, STEERING)
        if self._span is not None:
            if failed and error is not None:
                fail(self._span, error)
            self._span.end()
        if self._instruments is not None:
            labels = self._labels
            if failed:
                labels = {**labels, ERROR: type(error).__qualname__}
            self._instruments.measure(PROCESSED, time.perf_counter() - self._began, labels)


def _told_section(told: _Told, section: Callable[..., Any]) -> Callable[..., Any]:
    async def inside(tx: Tx, seen: Seen) -> Sequence[Change]:
        token = current.attach(told.context)
        error: BaseException | None = None
        try:
            changes: Sequence[Change] = await section(tx, seen)
        except BaseException as exc:
            error = exc
            raise
        finally:
            current.detach(token)
            told.end(error)
        return changes

    return inside
