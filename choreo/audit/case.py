"""The evidence, indexed once: records by id, what manifests promise, what the inbox says."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from choreo.audit.evidence import Evidence
from choreo.codec import binary_mode
from choreo.errors import DecodeError
from choreo.events import (
    CAUSE,
    DEAD_TOPIC,
    ID,
    MANIFESTS_TOPIC,
    SOURCE,
    STEP,
    TIME,
    TYPE,
    UNDOES,
    VOID,
    Record,
    derived_id,
    id_bytes,
    scope_of,
)
from choreo.plan import GateKey, Status
from choreo.step.gates import gate_subject

__all__ = ["Case", "Declared", "Taker"]

INTERNAL = "choreo."


@dataclass(frozen=True, slots=True)
class Declared:
    """One handler of a manifest, as far as an audit needs it; event types by full name."""

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    outputs: frozenset[str] = frozenset()
    later: frozenset[str] = frozenset()
    by: tuple[str, ...] = ()
    of: str | None = None
    within_s: float | None = None


@dataclass(frozen=True, slots=True)
class FlowEnds:
    """A flow of a manifest: the type that starts it, and those that end it."""

    name: str
    starts: str
    ends: frozenset[str]


@dataclass(frozen=True, slots=True)
class Taker:
    """Who has a row in the inbox for each event of a type, from one record of the log on."""

    name: str
    service: str
    since: int


@dataclass(slots=True)
class _Service:
    handlers: dict[str, Declared] = field(default_factory=dict)
    flows: list[FlowEnds] = field(default_factory=list)
    takes: dict[tuple[str, str], int] = field(default_factory=dict)


class Case:
    """One audit's view of the evidence."""

    def __init__(self, evidence: Evidence, manifests: Iterable[Mapping[str, Any]] = ()) -> None:
        """Read everything once. `manifests` add to those on the log, and go before them."""
        self.evidence = evidence
        self.records: list[tuple[int, Record]] = []
        self.place: dict[str, int] = {}
        self.by_id: dict[str, Record] = {}
        self.dead: set[tuple[str, str]] = set()
        self.newest = 0.0
        self.services: dict[str, _Service] = {}
        for manifest in manifests:
            self._learn(manifest, 0)
        for index, record in enumerate(evidence.history):
            self._take(index, record)
        self.handlers = {
            name: declared
            for service in self.services.values()
            for name, declared in service.handlers.items()
        }
        self.takers: dict[str, list[Taker]] = defaultdict(list)
        for name, service in self.services.items():
            for (taker, kind), since in service.takes.items():
                self.takers[kind].append(Taker(taker, name, since))
        self.inbox = {
            (row["handler"], bytes(row["subject"])): Status(row["status"])
            for row in evidence.rows(
                "SELECT name.text AS handler, subject, status FROM inbox"
                " JOIN name ON name.id = inbox.handler"
            )
        }

    def flows(self) -> Iterator[FlowEnds]:
        """List the flows of all services."""
        for service in self.services.values():
            yield from service.flows

    # ── reading ──────────────────────────────────────────────────────────────────────────

    def _take(self, index: int, record: Record) -> None:
        headers = record.headers
        if record.topic.startswith(INTERNAL):
            if record.topic == MANIFESTS_TOPIC:
                self._manifest(record, index)
            elif record.topic == DEAD_TOPIC:
                self.dead.add((headers.get("choreo-dead-step", ""), headers.get(ID, "")))
            return
        with suppress(DecodeError):  # then it is a dead letter, known by its place
            record = binary_mode(record)
        identity = id_of(record)
        self.place.setdefault(identity, index)
        self.by_id.setdefault(identity, record)
        self.records.append((index, record))
        self.newest = max(self.newest, time_of(record))

    def _manifest(self, record: Record, index: int) -> None:
        try:
            document = json.loads(record.value)
        except (ValueError, RecursionError):
            return
        if isinstance(document, dict):
            self._learn(document, index)

    def _learn(self, document: Mapping[str, Any], index: int) -> None:
        about = document.get("x-choreo")
        if not isinstance(about, Mapping) or not isinstance(about.get("service"), str):
            return
        name = about["service"]
        known = self.services.get(name)
        made = _Service()
        for one in about.get("handlers", ()):
            declared = Declared(
                one["name"], one.get("kind", "on"), tuple(one.get("inputs", ())),
                tuple(one.get("on", ())), tuple(one.get("unless", ())),
                frozenset(one.get("outputs", ())), frozenset(one.get("later", ())),
                tuple(one.get("by", ())), one.get("of"), one.get("within_s"),
            )  # fmt: skip
            made.handlers[declared.name] = declared
        for one in about.get("flows", ()):
            made.flows.append(FlowEnds(one["name"], one["starts"], frozenset(one["ends"])))
            if one.get("deadline_s") is not None:
                deadline = f"{name}.{one['name']}.deadline"
                made.handlers[deadline] = Declared(
                    deadline, "expects", (one["starts"],), tuple(one["ends"]),
                    outputs=frozenset(filter(None, [one.get("overdue")])),
                    within_s=one["deadline_s"],
                )  # fmt: skip
        # A group that is new begins with the earliest record; a handler that is new in a
        # group that goes on sees what comes after it was declared.
        since = 0 if known is None else index
        before = {} if known is None else known.takes
        made.takes = {take: before.get(take, since) for take in _takes(made.handlers)}
        self.services[name] = made

    # ── asking ───────────────────────────────────────────────────────────────────────────

    def subject(self, identity: str) -> bytes:
        """Give the 16 bytes that an event's id is in the inbox."""
        record = self.by_id.get(identity)
        return id_bytes(identity, record.headers.get(SOURCE, "") if record is not None else "")

    def steps_of(self, record: Record) -> Iterator[tuple[str, bytes]]:
        """Name the inbox rows that the step which published this may have.

        What a step is about is its cause, the effect that it undoes, a timer made from its
        cause, or the gate of a join; which one depends on the kind of its handler.
        """
        headers = record.headers
        step, cause = headers[STEP], headers.get(CAUSE, "")
        declared = self.handlers.get(step)
        about = self.handlers.get(declared.of) if declared and declared.of else declared
        kind = about.kind if about else "on"
        yield step, self.subject(headers.get(UNDOES, cause))
        if about is not None and kind == "expects":
            yield step, derived_id(self.subject(cause), f"{about.name}/timer".encode())
        elif about is not None and kind == "join":
            scopes = {self.scope(record), self.scope(self.by_id.get(cause, record))}
            for scope in scopes:
                yield step, gate_subject(GateKey("join", about.name, scope))
        elif kind == "compensate" and UNDOES not in headers:  # there was nothing to undo
            yield f"{step}!why", self.subject(cause)

    def scope(self, record: Record, by: tuple[str, ...] = ()) -> str:
        """Name the scope of an event: fields of its value, or its flow and branch."""
        if not by:
            return scope_of(record.headers) or id_of(record)
        try:
            value = json.loads(record.value)
        except (ValueError, RecursionError):
            value = {}
        fields = value if isinstance(value, dict) else {}
        return "by:" + json.dumps([str(fields.get(name, "")) for name in by])


def id_of(record: Record) -> str:
    """Give the event's id; one without is known by its place."""
    return record.headers.get(ID) or f"{record.topic}-{record.partition}-{record.offset}"


def time_of(record: Record) -> float:
    """Give the event's time in epoch seconds; 0.0 for none."""
    try:
        return datetime.fromisoformat(record.headers.get(TIME, "")).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def shown(record: Record) -> str:
    """Name a record in a sentence."""
    kind = record.headers.get(TYPE, "record").rsplit(".", 1)[-1]
    return f"{kind} {id_of(record)} at {record.topic}-{record.partition}-{record.offset}"


def is_void(record: Record) -> bool:
    """Tell whether handlers skip this record."""
    return VOID in record.headers


def _takes(handlers: Mapping[str, Declared]) -> Iterator[tuple[str, str]]:
    """List, for each inbox name, the event types that it has rows for."""
    own = frozenset[str]().union(*(one.outputs for one in handlers.values()))
    for name, one in handlers.items():
        marked = {
            "on": [(name, one.inputs)],
            "compensate": [(f"{name}!why", one.on)],
            "join": [(f"{name}!arrive", one.inputs)],
            "expects": [
                (f"{name}!open", one.inputs),
                # What the service publishes itself closes the gate without a delivery.
                (f"{name}!close", tuple(kind for kind in one.on if kind not in own)),
            ],
        }.get(one.kind, [])
        for taker, kinds in [*marked, (f"{name}!unless", one.unless)]:
            for kind in kinds:
                yield taker, kind
