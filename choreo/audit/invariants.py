"""What may never happen, as far as a log and a store can show it: one function each.

Each takes the case and yields a sentence for every violation. Those under `AT_REST` hold
when nothing is on its way any more; all others hold at any moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from choreo.audit.case import Case, Declared, id_of, is_void, shown, time_of
from choreo.events import CAUSE, CAUSES, EDITED, FLOW, STEP, TYPE, UNDOES, Record
from choreo.plan import Status

__all__ = ["ALWAYS", "AT_REST", "Invariant"]

Invariant = Callable[[Case], Iterator[str]]
LATE_S = 1.0
STAMP_S = 0.001


# ── at any moment ────────────────────────────────────────────────────────────────────────


def manifests(case: Case) -> Iterator[str]:
    """Every service that published has said what it is: without, its steps can not be judged."""
    published = {record.headers[STEP].partition(".")[0] for _, record in steps(case)}
    for service in sorted(published - case.services.keys()):
        yield f"service {service} published events, and its manifest is not on the log"


def one_end(case: Case) -> Iterator[str]:
    """A flow has one terminal state at most: an end never changes into another."""
    for name, flow, ends in ended(case):
        if len(ends) > 1:
            listed = ", ".join(shown(end) for end in ends)
            yield f"flow {flow} ({name}) has {len(ends)} ends: {listed}"


def committed(case: Case) -> Iterator[str]:
    """No event is on a topic without the committed step that published it."""
    for _, record in steps(case):
        if record.headers[STEP].partition(".")[0] not in case.services:
            continue  # told by `manifests`
        found = [case.inbox.get(row) for row in case.steps_of(record)]
        if not any(status in (Status.DONE, Status.VOID) for status in found):
            is_now = next((status.name.lower() for status in found if status), "not in the inbox")
            yield f"{shown(record)}: its step {record.headers[STEP]} is {is_now}"


def contents(case: Case) -> Iterator[str]:
    """A step that ran again gave the same: no two records of one id differ in their value."""
    for _, record in steps(case):
        first = case.by_id[id_of(record)]
        if first is not record and first.value != record.value:
            yield f"{shown(record)} has another value than {shown(first)}"


def causes(case: Case) -> Iterator[str]:
    """The cause of each event, and what it undoes, are on the log, before it."""
    for index, record in steps(case):
        headers = record.headers
        named = [headers.get(CAUSE, ""), *headers.get(CAUSES, "").split(","),
                 headers.get(UNDOES, "")]  # fmt: skip
        for cause in dict.fromkeys(filter(None, named)):
            place = case.place.get(cause)
            if place is None:
                yield f"{shown(record)}: its cause {cause} is not on the log"
            elif place >= index and cause != id_of(record):
                yield f"{shown(record)}: its cause {shown(case.by_id[cause])} comes after it"
            elif cause == id_of(record):
                yield f"{shown(record)} names itself as its cause"


def order(case: Case) -> Iterator[str]:
    """What a handler published for a key stands in the order of what it was given.

    Not for what was put off, nor for dead letters: those are run again when somebody says so,
    and an edited one in the place of the original.
    """
    last: dict[tuple[object, ...], Record] = {}
    for _, record in steps(case):
        step, kind = record.headers[STEP], record.headers.get(TYPE, "")
        declared = case.handlers.get(step)
        cause = case.by_id.get(record.headers.get(CAUSE, ""))
        if declared is None or declared.kind != "on" or cause is None or cause.key is None:
            continue
        if kind in declared.later or (step, id_of(cause)) in case.dead or EDITED in cause.headers:
            continue
        chain = (step, cause.topic, cause.partition, cause.key)
        before = last.get(chain)
        if before is not None and case.place[id_of(before)] > case.place[id_of(cause)]:
            yield f"{shown(record)}: {step} took {shown(before)} before {shown(cause)}"
        else:
            last[chain] = cause


def void(case: Case) -> Iterator[str]:
    """A step that is void left no event that counts: what it published is marked."""
    for _, record in steps(case):
        if is_void(record):
            continue
        found = [case.inbox.get(row) for row in case.steps_of(record)]
        if Status.VOID in found and Status.DONE not in found:
            yield f"{shown(record)} counts, and its step {record.headers[STEP]} is void"


def undone_for_a_reason(case: Case) -> Iterator[str]:
    """Nothing is undone that did not happen, or whose scope nobody closed."""
    for one in case.handlers.values():
        if one.kind != "compensate":
            continue
        effects, closed = effects_of(case, one), closed_by(case, one)
        for (name, subject), status in case.inbox.items():
            if name != one.name or status is Status.VOID:
                continue
            effect = effects.get(subject)
            if effect is None:
                yield f"{name} undid {subject.hex()}, and no such effect is on the log"
            elif effect_scope(case, one, effect) not in closed:
                yield f"{name} undid {shown(effect)}, and nothing closed its scope"


def not_early(case: Case) -> Iterator[str]:
    """A time-out comes when its time is over, and not before."""
    for _, record in steps(case):
        declared = case.handlers.get(record.headers[STEP])
        cause = case.by_id.get(record.headers.get(CAUSE, ""))
        if declared is None or declared.kind != "expects" or cause is None:
            continue
        began, came = time_of(cause), time_of(record)
        if began and came and came + STAMP_S < began + (declared.within_s or 0.0):
            early = began + (declared.within_s or 0.0) - came
            yield f"{shown(record)}: {declared.name} ran {early:.3f} s too early"


def held(case: Case) -> Iterator[str]:
    """What waits for another delivery of its chain is behind one that will run, or is held."""
    for row in case.evidence.rows(
        "SELECT name.text AS handler, subject, chain FROM inbox AS behind"
        " JOIN name ON name.id = behind.handler WHERE status = 1 AND due IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM inbox AS ahead WHERE ahead.handler = behind.handler"
        " AND ahead.chain = behind.chain AND (ahead.status = 3 OR ahead.due IS NOT NULL))"
    ):
        subject = bytes(row["subject"]).hex()
        yield f"{row['handler']} {subject} is held in chain {row['chain']!r} behind nothing"


def offsets(case: Case) -> Iterator[str]:
    """No group has passed a record that it has not settled or parked, or the end of the log."""
    end = max((record.offset for record in case.evidence.history), default=0) + 1
    reached: dict[tuple[str, str, int], int] = {}
    for row in case.evidence.rows("SELECT grp, topic, partition, offset FROM position"):
        reached[row["grp"], row["topic"], row["partition"]] = row["offset"]
        if row["offset"] > end:
            place = f"{row['topic']}-{row['partition']}"
            yield f"group {row['grp']} is at {row['offset']} of {place}; the log ends before {end}"
    for record, taker, service in untaken(case):
        if record.offset < reached.get((service, record.topic, record.partition), 0):
            yield f"group {service} passed {shown(record)}, which {taker} has not settled"


# ── at rest ──────────────────────────────────────────────────────────────────────────────


def reached_an_end(case: Case) -> Iterator[str]:
    """Every flow that was begun, and has ends, came to one."""
    for name, flow, ends in ended(case):
        if not ends:
            yield f"flow {flow} ({name}) has no end"


def taken(case: Case) -> Iterator[str]:
    """Every event is in the inbox of each that takes it."""
    for record, taker, _ in untaken(case):
        yield f"{shown(record)} is not in the inbox of {taker}"


def undone(case: Case) -> Iterator[str]:
    """Every effect of a scope that was closed is undone."""
    for one in case.handlers.values():
        if one.kind != "compensate":
            continue
        closed = closed_by(case, one)
        for subject, effect in effects_of(case, one).items():
            scope = effect_scope(case, one, effect)
            status = case.inbox.get((one.name, subject))
            if scope in closed and status is not Status.DONE:
                state = "did not run" if status is None else f"is {status.name.lower()}"
                why = shown(closed[scope])
                yield f"{shown(effect)}: {why} closed its scope, and {one.name} {state}"


def fired(case: Case) -> Iterator[str]:
    """What was due while the log went on has run: timers, and what was parked."""
    last = case.newest - LATE_S
    for row in case.evidence.rows(
        "SELECT name.text AS handler, due FROM timer JOIN name ON name.id = timer.handler"
        " WHERE due < $1 UNION ALL SELECT name.text, due FROM inbox"
        " JOIN name ON name.id = inbox.handler WHERE status = 1 AND due < $1",
        last,
    ):
        yield f"{row['handler']} was due {case.newest - row['due']:.1f} s before the last event"


ALWAYS: tuple[Invariant, ...] = (
    manifests, one_end, committed, contents, causes, order, void, undone_for_a_reason, not_early,
    held, offsets,
)  # fmt: skip
AT_REST: tuple[Invariant, ...] = (reached_an_end, taken, undone, fired)


# ── what they share ──────────────────────────────────────────────────────────────────────


def steps(case: Case) -> Iterator[tuple[int, Record]]:
    """List what steps published, with its place in the log."""
    return ((index, record) for index, record in case.records if STEP in record.headers)


def ended(case: Case) -> Iterator[tuple[str, str, list[Record]]]:
    """List each flow that has ends: its name, its id, and the ends that it came to."""
    starts = {flow.starts: flow for flow in case.flows()}
    begun: dict[str, str] = {}
    ends: dict[str, dict[str, Record]] = defaultdict(dict)
    end_types = frozenset[str]().union(*(flow.ends for flow in starts.values()))
    for _, record in case.records:
        if is_void(record):
            continue
        kind = record.headers.get(TYPE, "")
        flow_id = record.headers.get(FLOW) or id_of(record)
        if kind in starts:
            begun.setdefault(flow_id, kind)
        if kind in end_types and EDITED not in record.headers:
            ends[flow_id].setdefault(id_of(record), record)
    for flow_id, kind in begun.items():
        flow = starts[kind]
        found = [end for end in ends[flow_id].values() if end.headers[TYPE] in flow.ends]
        yield flow.name, flow_id, found


def untaken(case: Case) -> Iterator[tuple[Record, str, str]]:
    """List records that a taker has no row for: record, taker, service."""
    for index, record in case.records:
        takers = case.takers.get(record.headers.get(TYPE, ""), ())
        if not takers or is_void(record) or EDITED in record.headers:
            continue
        subject = case.subject(id_of(record))
        for taker in takers:
            if index >= taker.since and (taker.name, subject) not in case.inbox:
                yield record, taker.name, taker.service


def effects_of(case: Case, undoer: Declared) -> dict[bytes, Record]:
    """Give the effects that a compensation undoes: published by its service, not by an undo."""
    service = undoer.name.partition(".")[0]
    found: dict[bytes, Record] = {}
    for _, record in steps(case):
        step = record.headers[STEP]
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


def closed_by(case: Case, undoer: Declared) -> dict[str, Record]:
    """Give the scopes that a compensation's triggers closed, each with its trigger."""
    found: dict[str, Record] = {}
    for _, record in case.records:
        if record.headers.get(TYPE) in undoer.on and not is_void(record):
            found.setdefault(case.scope(record, undoer.by), record)
    return found
