"""The evidence, indexed once: records by id, what manifests promise, what the inbox says."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

from choreo.audit.declared import Declaration, Declared, FlowEnds, Names, Taker, takes_of
from choreo.audit.evidence import Evidence
from choreo.codec import binary_mode
from choreo.errors import ChoreoError, DecodeError
from choreo.events import (
    CAUSE,
    CAUSES,
    DEAD_TOPIC,
    EDITED,
    FLOW,
    ID,
    MANIFESTS_TOPIC,
    SOURCE,
    STEP,
    STEPS_TOPIC,
    TIME,
    TYPE,
    UNDOES,
    VOID,
    Partition,
    Record,
    derived_id,
    id_bytes,
    scope_of,
)
from choreo.plan import GateKey
from choreo.ports import InboxRow, OwnerRow, TimerRow, Unsent
from choreo.step.gates import gate_subject

__all__ = [
    "Case",
    "causes_of",
    "closed_by",
    "effect_scope",
    "effects_of",
    "ended",
    "firsts",
    "flow_of",
    "id_of",
    "is_void",
    "scopes_closed",
    "shown",
    "steps",
    "time_of",
    "untaken",
]

INTERNAL = "choreo."


class Case:
    """One audit's view of the evidence."""

    def __init__(self, evidence: Evidence, manifests: Iterable[Mapping[str, Any]] = ()) -> None:
        """Read everything once. `manifests` add to those on the log, and go before them."""
        self.evidence = evidence
        self.records: list[tuple[int, Record]] = []
        self.later: list[tuple[int, Record]] = []  # known, not judged
        self.place: dict[str, int] = {}
        self.by_id: dict[str, Record] = {}
        self.dead: set[tuple[str, str]] = set()
        self.notes: list[Record] = []
        self.newest = 0.0
        self.services: dict[str, Declaration] = {}
        self.names = Names()
        self._steps_of: dict[int, tuple[tuple[str, bytes], ...]] = {}  # by id(): all are kept
        for manifest in manifests:
            self._learn(manifest, 0, 0.0)
        for index, record in enumerate(evidence.history):
            self._take(index, record)
        self.handlers = {
            name: declared
            for service in self.services.values()
            for name, declared in service.handlers.items()
        }
        self.takers: dict[str, list[Taker]] = defaultdict(list)
        for name, service in self.services.items():
            for (taker, kind), (since, at) in service.takes.items():
                self.takers[kind].append(Taker(taker, name, since, at))
        for record in evidence.meanwhile:
            if not record.topic.startswith(INTERNAL):
                self.later.append(
                    (len(evidence.history), self._know(len(evidence.history), record))
                )
        self.rows: list[InboxRow] = [
            row._replace(handler=self.present(row.handler))
            for store in evidence.stores
            for row in store.inbox
        ]
        self.inbox = {(row.handler, row.subject): row.status for row in self.rows}
        self.floors = {
            place: floor for store in evidence.stores for place, floor in store.floors.items()
        }

    @property
    def timers(self) -> Iterator[TimerRow]:
        """List the timers of all stores."""
        return (row for store in self.evidence.stores for row in store.timers)

    @property
    def owners(self) -> Iterator[OwnerRow]:
        """List who has which partition, in all stores."""
        return (row for store in self.evidence.stores for row in store.owners)

    @property
    def outbox(self) -> Iterator[Unsent]:
        """List what is not known to be on its topic, in all stores."""
        return (row for store in self.evidence.stores for row in store.outbox)

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
            elif record.topic == STEPS_TOPIC:
                self.notes.append(_told(record))
            return
        record = self._know(index, record)
        self.records.append((index, record))
        self.newest = max(self.newest, time_of(record))

    def _know(self, index: int, record: Record) -> Record:
        with suppress(DecodeError):  # then it is a dead letter, known by its place
            record = binary_mode(record)
        identity = id_of(record)
        self.place.setdefault(identity, index)
        self.by_id.setdefault(identity, record)
        return record

    def _manifest(self, record: Record, index: int) -> None:
        document = _document(record.value)
        if isinstance(document, dict):
            with suppress(KeyError, TypeError, AttributeError, ValueError):  # it says nothing
                self._learn(document, index, time_of(record))

    def _learn(self, document: Mapping[str, Any], index: int, at: float) -> None:
        about = document.get("x-choreo")
        if not isinstance(about, Mapping) or not isinstance(about.get("service"), str):
            return
        name = about["service"]
        known = self.services.get(name)
        made = Declaration()
        for one in about.get("handlers", ()):
            declared = Declared(
                one["name"], one.get("kind", "on"), tuple(one.get("inputs", ())),
                tuple(one.get("on", ())), tuple(one.get("unless", ())),
                frozenset(one.get("outputs", ())), frozenset(one.get("later", ())),
                tuple(one.get("by", ())), one.get("of"), one.get("within_s"), one.get("nothing"),
                tuple((frozenset(kinds), optional) for kinds, optional in one.get("slots", ())),
            )  # fmt: skip
            made.handlers[declared.name] = declared
            self.names.learn(declared.name, one.get("was", ()))
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
        since = (0, 0.0) if known is None else (index, at)
        before = {} if known is None else known.takes
        made.takes = {take: before.get(take, since) for take in takes_of(made.handlers)}
        self.services[name] = made

    # ── asking ───────────────────────────────────────────────────────────────────────────

    def present(self, name: str) -> str:
        """Give the name that a handler, or its mark, has now."""
        return self.names.present(name, self.handlers)

    def step_of(self, record: Record) -> str:
        """Name the handler that published a record, as it is called now."""
        return self.present(record.headers[STEP])

    def subject(self, identity: str) -> bytes:
        """Give the 16 bytes that an event's id is in the inbox."""
        record = self.by_id.get(identity)
        return id_bytes(identity, record.headers.get(SOURCE, "") if record is not None else "")

    def steps_of(self, record: Record) -> tuple[tuple[str, bytes], ...]:
        """Name the inbox rows that the step which published this may have.

        What a step is about is its cause, the effect that it undoes, a timer made from its
        cause, or the gate of a join; which one depends on the kind of its handler.
        """
        found = self._steps_of.get(id(record))
        if found is None:
            found = self._steps_of[id(record)] = tuple(self._find_steps(record))
        return found

    def _find_steps(self, record: Record) -> Iterator[tuple[str, bytes]]:
        headers = record.headers
        step, cause = self.step_of(record), headers.get(CAUSE, "")
        declared = self.handlers.get(step)
        about = self.handlers.get(declared.of) if declared and declared.of else declared
        kind = about.kind if about else "on"
        own = {step, *map(self.present, self.names.all(headers[STEP]))}
        if about is not None and kind == "expects":
            timers = (f"{name}/timer".encode() for name in self.names.all(about.name))
            subjects = [derived_id(self.subject(cause), timer) for timer in timers]
        elif about is not None and kind == "join":
            scopes = {self.scope(record), self.scope(self.by_id.get(cause, record))}
            keys = (
                GateKey("join", name, scope)
                for name in self.names.all(about.name)
                for scope in scopes
            )
            subjects = [gate_subject(key) for key in keys]
        else:
            subjects = []
        for name in own:
            yield name, self.subject(headers.get(UNDOES, cause))
            for subject in subjects:
                yield name, subject
            if kind == "compensate" and UNDOES not in headers:  # there was nothing to undo
                yield f"{name}!why", self.subject(cause)

    def takes(self, taker: Taker, index: int, record: Record) -> bool:
        """Tell whether a record came after the taker was declared."""
        if self.evidence.ordered or not taker.since:
            return index >= taker.since
        return time_of(record) >= taker.at + self.evidence.skew_s

    def forgotten(self, service: str, record: Record) -> bool:
        """Tell whether a service's rows about a record may be gone: it is below the floor."""
        floor = self.floors.get((service, Partition(record.topic, record.partition)))
        return floor is not None and record.offset <= floor

    @staticmethod
    def is_internal(record: Record) -> bool:
        """Tell whether a record is the framework's own."""
        return record.topic.startswith(INTERNAL)

    def came_by(self, identity: str, index: int, record: Record) -> bool:
        """Tell whether the event of an id came before a record at `index`, as far as is known."""
        first = self.by_id[identity]
        if self.evidence.ordered:
            return self.place[identity] < index
        return self.precedes(first, record) is not False

    def precedes(self, one: Record, other: Record) -> bool | None:
        """Tell whether `one` was published before `other`; None where nothing says so."""
        if one.topic == other.topic and one.partition == other.partition:
            return one.offset < other.offset
        if not self.evidence.ordered:
            return None
        return self.place[id_of(one)] < self.place[id_of(other)]

    def ancestors(self, record: Record) -> set[str]:
        """Give the ids of all that led to a record, its own included."""
        found: set[str] = set()
        waiting = [id_of(record)]
        while waiting:
            identity = waiting.pop()
            if identity in found:
                continue
            found.add(identity)
            if identity in self.by_id:
                waiting += causes_of(self.by_id[identity])
        return found

    def is_circular(self, record: Record) -> bool:
        """Tell whether a record led to what caused it."""
        causes = [self.by_id[one] for one in causes_of(record) if one in self.by_id]
        own = id_of(record)
        return any(own != id_of(one) and own in self.ancestors(one) for one in causes)

    def scope(self, record: Record, by: tuple[str, ...] = ()) -> str:
        """Name the scope of an event: fields of its value, or its flow and branch."""
        if not by:
            return scope_of(record.headers) or id_of(record)
        try:
            value = self.evidence.value(record)
        except (ChoreoError, ValueError, RecursionError):
            value = {}
        fields = value if isinstance(value, dict) else {}
        return "by:" + json.dumps([str(fields.get(name, "")) for name in by])


def id_of(record: Record) -> str:
    """Give the event's id; one without is known by its place."""
    return record.headers.get(ID) or f"{record.topic}-{record.partition}-{record.offset}"


def causes_of(record: Record) -> list[str]:
    """Give the ids of what caused a record, and of what it undoes; each once."""
    headers = record.headers
    named = [headers.get(CAUSE, ""), *headers.get(CAUSES, "").split(","), headers.get(UNDOES, "")]
    return [*dict.fromkeys(filter(None, named))]


def flow_of(record: Record) -> str:
    """Give the flow that a record belongs to; one without begins its own."""
    return record.headers.get(FLOW) or id_of(record)


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


def _told(note: Record) -> Record:
    """Give a note the headers by which an event of the same step would name what it is about."""
    try:
        value = json.loads(note.value)
    except ValueError:
        value = None
    undoes = value.get("undoes") if isinstance(value, dict) else None
    if not isinstance(undoes, str):
        return note
    headers = {**note.headers, UNDOES: undoes}
    return Record(note.topic, note.key, headers, note.value, note.partition, note.offset)


# ── what invariants share ────────────────────────────────────────────────────────────────


def steps(case: Case) -> Iterator[tuple[int, Record]]:
    """List what steps published, with its place in the log."""
    return ((index, record) for index, record in case.records if STEP in record.headers)


def firsts(case: Case) -> Iterator[Record]:
    """List what steps published, each event once: a copy may stand anywhere."""
    return (record for _, record in steps(case) if case.by_id[id_of(record)] is record)


def ended(case: Case) -> Iterator[tuple[str, str, Record, list[Record]]]:
    """List each flow that has ends: its name and id, what began it, and the ends it came to."""
    starts = {flow.starts: flow for flow in case.flows()}
    begun: dict[str, Record] = {}
    ends: dict[str, dict[str, Record]] = defaultdict(dict)
    end_types = frozenset[str]().union(*(flow.ends for flow in starts.values()))
    for _, record in case.records:
        if is_void(record):
            continue
        kind = record.headers.get(TYPE, "")
        flow_id = flow_of(record)
        if kind in starts:
            begun.setdefault(flow_id, record)
        if kind in end_types and EDITED not in record.headers:
            ends[flow_id].setdefault(id_of(record), record)
    for flow_id, start in begun.items():
        flow = starts[start.headers[TYPE]]
        found = [end for end in ends[flow_id].values() if end.headers[TYPE] in flow.ends]
        yield flow.name, flow_id, start, found


def untaken(case: Case) -> Iterator[tuple[Record, str, str]]:
    """List records that a taker has no row for: record, taker, service."""
    for index, record in case.records:
        takers = case.takers.get(record.headers.get(TYPE, ""), ())
        if not takers or is_void(record) or EDITED in record.headers:
            continue
        subject = case.subject(id_of(record))
        for taker in takers:
            if (taker.name, subject) in case.inbox or case.forgotten(taker.service, record):
                continue
            if case.takes(taker, index, record):
                yield record, taker.name, taker.service


def effects_of(case: Case, undoer: Declared) -> dict[bytes, Record]:
    """Give the effects that a compensation undoes: published by its service, not by an undo."""
    service = undoer.name.partition(".")[0]
    found: dict[bytes, Record] = {}
    for _, record in (*case.records, *case.later):
        if STEP not in record.headers:
            continue
        step = case.step_of(record)
        if record.headers.get(TYPE) not in undoer.inputs or step.partition(".")[0] != service:
            continue
        declared = case.handlers.get(step)
        if declared is None or declared.kind != "compensate":
            found.setdefault(case.subject(id_of(record)), record)
    return found


def effect_scope(case: Case, undoer: Declared, effect: Record) -> str:
    """Name an effect's scope: its own fields, or the flow and branch of what caused it."""
    if undoer.by:
        return case.scope(effect, undoer.by)
    return case.scope(case.by_id.get(effect.headers.get(CAUSE, ""), effect))


def scopes_closed(case: Case, undoer: Declared) -> dict[str, list[Record]]:
    """Give the scopes that a compensation's triggers closed, each with all of its triggers."""
    found: dict[str, list[Record]] = defaultdict(list)
    for _, record in (*case.records, *case.later):
        if record.headers.get(TYPE) in undoer.on and not is_void(record):
            found[case.scope(record, undoer.by)].append(record)
    return found


def closed_by(case: Case, undoer: Declared) -> dict[str, Record]:
    """Give the scopes that a compensation's triggers closed, each with its first trigger."""
    return {scope: triggers[0] for scope, triggers in scopes_closed(case, undoer).items()}


@lru_cache(maxsize=64)
def _document(value: bytes) -> object:
    """Read a manifest, None where it is none. A service says the same at each of its starts."""
    try:
        document: object = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return document
