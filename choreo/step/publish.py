"""What a step publishes, as records with deterministic ids."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from choreo.codec import EVENT_BYTES_MAX, JSON_TYPE, too_large
from choreo.events import (
    ATTEMPT,
    BRANCH,
    CAUSE,
    CAUSES,
    CONTENT_TYPE,
    DEAD_TOPIC,
    FLOW,
    ID,
    SOURCE,
    SPEC_VERSION,
    STARTED,
    STEP,
    STEPS_TOPIC,
    SUBJECT,
    TIME,
    TOOK,
    TRACEPARENT,
    TRACESTATE,
    TYPE,
    UNDOES,
    VOID,
    Event,
    Record,
    derived_id,
    id_text,
    rfc3339,
)
from choreo.service import Kind
from choreo.step.delivery import Delivery, OutputSpec

__all__ = [
    "dead_letter",
    "event_record",
    "flow_of",
    "note",
    "nothing_record",
    "payload_hash",
]


@lru_cache(maxsize=64)
def _seconds(ms: int) -> str:
    return f"{ms // 1000}.{ms % 1000:03d}"


def flow_of(record: Record) -> str:
    """Give the flow that a record belongs to; one without starts its own."""
    headers = record.headers
    return headers.get(FLOW) or headers.get(ID, "")


def payload_hash(value: bytes) -> bytes:
    """Give what tells two events of one id apart."""
    return hashlib.blake2b(value, digest_size=8).digest()


def event_record(
    d: Delivery, spec: OutputSpec, event: Event, n: int, now: float, *, flow: str | None = None
) -> Record:
    """Make the record of one output. `n` tells outputs of one step apart."""
    cause = d.record.headers
    key = "" if spec.key is None else str(getattr(event, spec.key))
    salt = spec.salt + b"%d/" % n + key.encode("utf-8", "surrogatepass")
    headers = spec.headers.copy()
    raw_id = derived_id(d.subject, salt)
    headers[ID] = id_text(raw_id)
    headers[TIME] = rfc3339(now)
    if key:  # an attribute that has no text is none
        headers[SUBJECT] = key
    headers[FLOW] = flow or cause.get(FLOW) or cause.get(ID, "")
    headers[CAUSE] = cause.get(ID, "")
    headers[ATTEMPT] = "1" if d.attempt == 1 else str(d.attempt)
    headers[STARTED] = _seconds(int(d.started * 1000))
    headers[TOOK] = f"{d.took:.6f}"
    if BRANCH in cause:
        headers[BRANCH] = cause[BRANCH]
    if d.extras:
        _causes(d, headers)
    if d.carries is not None or TRACEPARENT in cause:
        _carry(d, headers)
    value = spec.dump(event)
    if len(value) > EVENT_BYTES_MAX:
        raise too_large(value, handler=d.route.name, event=headers[TYPE])
    record = Record(spec.topic, key.encode(), headers, value)
    record.trusted = record.fresh = True
    record.raw_id = raw_id
    return record


def _carry(d: Delivery, headers: dict[str, str]) -> None:
    """Let the trace go on: with the attempt's own span, else with what the cause came with."""
    source = d.carries
    if source is None:
        source = d.extras["why"].headers if "why" in d.extras else d.record.headers
    _pass_on(source, headers)


def _pass_on(source: dict[str, str], headers: dict[str, str]) -> None:
    for name in (TRACEPARENT, TRACESTATE):
        if name in source:
            headers[name] = source[name]
        else:
            headers.pop(name, None)


def _causes(d: Delivery, headers: dict[str, str]) -> None:
    if d.route.handler.kind is Kind.COMPENSATE:
        effect = d.record.headers[ID]
        headers[CAUSE] = d.extras["why"].headers.get(ID, "")
        headers[CAUSES] = effect
        headers[UNDOES] = effect
        return
    others = [r.headers.get(ID, "") for r in d.extras.values() if r is not d.record]
    if others:
        headers[CAUSES] = ",".join(dict.fromkeys(others))


def nothing_record(
    spec_headers: dict[str, str], made: Event, value: bytes, why: Record, subject: bytes
) -> Record:
    """Make the record that says: the scope is closed and there was nothing to undo.

    `value` is `made`, written.
    """
    info = type(made).__event__
    key = "" if info.key is None else str(getattr(made, info.key))
    headers = {
        **spec_headers,
        ID: id_text(derived_id(subject, f"nothing/{info.type}".encode())),
        FLOW: flow_of(why),
        CAUSE: why.headers.get(ID, ""),
    }
    if key:
        headers[SUBJECT] = key
    if TIME in why.headers:
        headers.setdefault(TIME, why.headers[TIME])
    if BRANCH in why.headers:
        headers[BRANCH] = why.headers[BRANCH]
    _pass_on(why.headers, headers)
    record = Record(info.topic, key.encode(), headers, value)
    record.trusted = True
    return record


def as_void(record: Record) -> Record:
    """Mark an event whose scope was closed before it was published."""
    record.headers[VOID] = "1"
    return record


def as_stamped(record: Record, now: float) -> Record:
    """Give an event that was put off the time at which it is published."""
    record.headers[TIME] = rfc3339(now)
    return record


# ── what has no output ───────────────────────────────────────────────────────────────────


def note(d: Delivery, state: str, now: float, *, step: str = "", **about: Any) -> Record:
    """Make the record on `choreo.steps` that tells what became of a delivery.

    `step` is whose it is, if not the handler's.
    """
    handler = d.route.handler
    cause = d.record.headers
    salt = f"{d.route.name}/note/{state}/{d.run}/{d.attempt}".encode()
    flow = flow_of(d.record)
    headers = {
        SPEC_VERSION: "1.0",
        ID: id_text(derived_id(d.subject, salt)),
        SOURCE: d.route.service,
        TYPE: f"{STEPS_TOPIC}.StepNoted",
        TIME: rfc3339(now),
        SUBJECT: flow,
        CONTENT_TYPE: JSON_TYPE,
        FLOW: flow,
        CAUSE: cause.get(ID, ""),
        STEP: step or handler.name,
        ATTEMPT: str(d.attempt),
    }
    if d.started:  # otherwise nothing ran
        headers[STARTED] = f"{d.started:.3f}"
        headers[TOOK] = f"{d.took:.6f}"
    if BRANCH in cause:
        headers[BRANCH] = cause[BRANCH]
    value: dict[str, Any] = {
        "state": state,
        "run": d.run,
        "attempt": d.attempt,
        "attempts_max": handler.retry.attempts_max,
        "subject": cause.get(ID, ""),
        "unknown": d.unknown,
    }
    if handler.kind is Kind.COMPENSATE and "why" in d.extras:
        value["undoes"] = cause.get(ID, "")
        headers[CAUSE] = d.extras["why"].headers.get(ID, "")
    value.update(about)
    _carry(d, headers)
    data = json.dumps(value, separators=(",", ":")).encode()
    record = Record(STEPS_TOPIC, flow.encode("utf-8", "surrogateescape"), headers, data)
    record.trusted = True
    return record


def dead_letter(d: Delivery, now: float, failure: dict[str, Any]) -> Record:
    """Make the record on `choreo.dead`: the very bytes that failed, and why."""
    headers = dict(d.record.headers)
    salt = f"{d.name}/dead/{d.run}/{d.attempt}".encode()
    headers["choreo-dead-id"] = id_text(derived_id(d.subject, salt))
    headers["choreo-dead-step"] = d.name
    headers["choreo-dead-subject"] = d.subject.hex()
    headers["choreo-dead-run"] = str(d.run)
    headers["choreo-dead-attempt"] = str(d.attempt)
    headers["choreo-dead-reason"] = str(failure["reason"])
    headers["choreo-dead-time"] = rfc3339(now)
    headers["choreo-dead-source"] = f"{d.source.topic}-{d.source.partition}-{d.source.offset}"
    if "calls" in failure:
        headers["choreo-dead-calls"] = json.dumps(failure["calls"])
    headers["choreo-dead-error"] = str(failure["error"])
    headers["choreo-dead-message"] = str(failure["message"])
    _carry(d, headers)
    return Record(DEAD_TOPIC, d.record.key, headers, d.record.value)


def describe(error: BaseException) -> tuple[str, str]:
    """Give an exception's class name and text, at most 2,000 characters."""
    text = (str(error) or type(error).__name__)[:2000]
    return type(error).__name__, text.encode("utf-8", "replace").decode()
