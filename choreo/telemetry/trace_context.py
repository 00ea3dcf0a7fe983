"""Trace context in the headers of records, as W3C Trace Context writes it.

Baggage is left out on purpose: what an application carries there is not ours to put on a topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from choreo.events import TRACE_ORIGIN, TRACEPARENT, TRACESTATE, Headers, Record

__all__ = ["LINKS_MAX", "headers_of", "links_to", "replace", "sender_of"]

LINKS_MAX = 128
"""Of one span: what an SDK keeps unless it is told otherwise."""

_W3C = TraceContextTextMapPropagator()
_EMPTY = Context()


def sender_of(headers: Mapping[str, str]) -> Context:
    """Give the context in which a record was sent; an empty one if nothing says."""
    if TRACEPARENT in headers:
        return _W3C.extract(headers, _EMPTY)
    if TRACE_ORIGIN in headers:
        return _W3C.extract({TRACEPARENT: headers[TRACE_ORIGIN]}, _EMPTY)
    return _EMPTY


def links_to(records: Iterable[Record]) -> list[Link]:
    """Link with who sent these records; those of whom nothing is known are left out."""
    found = []
    for record in records:
        sent_in = trace.get_current_span(sender_of(record.headers)).get_span_context()
        if sent_in.is_valid:
            found.append(Link(sent_in))
            if len(found) == LINKS_MAX:
                break
    return found


def headers_of(span: trace.Span) -> Headers:
    """Give the headers that lead back to a span."""
    headers: Headers = {}
    _W3C.inject(headers, trace.set_span_in_context(span, _EMPTY))
    return headers


def replace(headers: Headers, context: Headers) -> None:
    """Put a trace context in the place of the one that is there: a record has one."""
    for name in (TRACEPARENT, TRACESTATE):
        headers.pop(name, None)
    headers.update(context)
