"""What may never happen, as far as a log and a store can show it: one function each.

Each takes the case and yields a sentence for every violation. These hold at any moment; what
holds only once nothing is on its way any more is in `resting`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from choreo.audit.case import (
    Case,
    causes_of,
    closed_by,
    effect_scope,
    effects_of,
    ended,
    firsts,
    id_of,
    is_void,
    scopes_closed,
    shown,
    steps,
    time_of,
    untaken,
)
from choreo.events import ATTEMPT, CAUSE, EDITED, STARTED, STEP, TYPE, UNDOES, Partition, Record
from choreo.plan import Memo, Status

__all__ = ["ALWAYS", "Invariant"]

Invariant = Callable[[Case], Iterator[str]]
STAMP_S = 0.001


def manifests(case: Case) -> Iterator[str]:
    """Every service that published has said what it is: without, its steps can not be judged."""
    published = {record.headers[STEP].partition(".")[0] for _, record in steps(case)}
    for service in sorted(published - case.services.keys()):
        yield f"service {service} published events, and its manifest is not on the log"


def one_end(case: Case) -> Iterator[str]:
    """A flow has one terminal state at most: an end never changes into another."""
    for name, flow, _, ends in ended(case):
        if len(ends) > 1:
            listed = ", ".join(shown(end) for end in ends)
            yield f"flow {flow} ({name}) has {len(ends)} ends: {listed}"


def committed(case: Case) -> Iterator[str]:
    """No event is on a topic, or on its way there, without the step that published it."""
    unsent = (
        row.record
        for row in case.outbox
        if STEP in row.record.headers and not case.is_internal(row.record)
    )
    for record in (*(record for _, record in steps(case)), *unsent):
        service = record.headers[STEP].partition(".")[0]
        cause = case.by_id.get(record.headers.get(CAUSE, ""))
        if service not in case.services:
            continue  # told by `manifests`
        if case.forgotten(service, cause) if cause is not None else not case.evidence.whole:
            continue
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


def once(case: Case) -> Iterator[str]:
    """What a step left comes of one run of it: no second one left anything."""
    first: dict[frozenset[tuple[str, bytes]], Record] = {}
    for _, record in steps(case):
        if EDITED in record.headers:
            continue
        before = first.setdefault(frozenset(case.steps_of(record)), record)
        if _run(before) != _run(record):
            step = record.headers[STEP]
            yield f"{shown(record)} and {shown(before)} come of two runs of one step of {step}"


def causes(case: Case) -> Iterator[str]:
    """The causes of each event, and what it undoes, are on the log, before it."""
    for index, record in steps(case):
        for cause in causes_of(record):
            place = case.place.get(cause)
            if place is None:
                if case.evidence.whole:
                    yield f"{shown(record)}: its cause {cause} is not on the log"
            elif cause == id_of(record):
                yield f"{shown(record)} names itself as its cause"
            elif not case.came_by(cause, index, record):
                yield f"{shown(record)}: its cause {shown(case.by_id[cause])} comes after it"
        if not case.evidence.ordered and case.is_circular(record):
            yield f"{shown(record)} is among the causes of its own causes"


def order(case: Case) -> Iterator[str]:
    """What a handler published for a key stands in the order of what it was given.

    Not for what was put off, nor for dead letters: those are run again when somebody says so,
    and an edited one in the place of the original.
    """
    last: dict[tuple[object, ...], Record] = {}
    for record in firsts(case):
        step, kind = case.step_of(record), record.headers.get(TYPE, "")
        declared = case.handlers.get(step)
        cause = case.by_id.get(record.headers.get(CAUSE, ""))
        if declared is None or declared.kind != "on" or cause is None or cause.key is None:
            continue
        if kind in declared.later or (step, id_of(cause)) in case.dead or EDITED in cause.headers:
            continue
        chain: tuple[object, ...] = (step, cause.topic, cause.partition, cause.key)
        if not case.evidence.ordered:  # nothing tells the order of two partitions
            chain = (*chain, record.topic, record.partition)
        before = last.get(chain)
        if before is not None and before.offset > cause.offset:
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


def known(case: Case) -> Iterator[str]:
    """A delivery is not void while nobody knows what became of its outside call."""
    for store in case.evidence.stores:
        for memo in store.memos:
            status = case.inbox.get((memo.handler, memo.subject))
            if memo.state is Memo.INTENT and status is Status.VOID:
                yield f"{memo.handler} {memo.subject.hex()} is void, and {memo.name!r} is unknown"


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
            if effect is None and not case.evidence.whole:
                continue
            if effect is None:
                yield f"{name} undid {subject.hex()}, and no such effect is on the log"
            elif effect_scope(case, one, effect) not in closed:
                yield f"{name} undid {shown(effect)}, and nothing closed its scope"


def completed(case: Case) -> Iterator[str]:
    """No end rests on an effect that was undone, unless it knows of the failure."""
    undone: dict[str, set[str]] = {}
    for one in case.handlers.values():
        if one.kind != "compensate":
            continue
        triggers = scopes_closed(case, one)
        for subject, effect in effects_of(case, one).items():
            if case.inbox.get((one.name, subject)) is Status.DONE:
                why = triggers.get(effect_scope(case, one, effect), [])
                if why:  # without, `undone_for_a_reason` tells it
                    undone.setdefault(id_of(effect), set()).update(map(id_of, why))
    if not undone:
        return
    for name, flow, _, ends in ended(case):
        for end in ends:
            led = case.ancestors(end)
            for effect_id in sorted(led & undone.keys()):
                if not led & undone[effect_id]:
                    lost = shown(case.by_id[effect_id])
                    yield f"flow {flow} ({name}): {shown(end)} rests on {lost}, which was undone"


def undone_in_reverse(case: Case) -> Iterator[str]:
    """Where one undo triggers another, what came later is undone before what it rests on."""
    undoers = [one for one in case.handlers.values() if one.kind == "compensate"]
    undos: dict[tuple[str, str], Record] = {}
    for _, record in steps(case):
        if UNDOES in record.headers:
            undos.setdefault((case.step_of(record), record.headers[UNDOES]), record)
    for earlier in undoers:
        for later in undoers:
            if earlier is later or not later.outputs.intersection(earlier.on):
                continue
            followers: dict[str, list[Record]] = defaultdict(list)
            for effect in effects_of(case, later).values():
                followers[case.scope(effect)].append(effect)
            for effect in effects_of(case, earlier).values():
                undo = undos.get((earlier.name, id_of(effect)))
                if undo is None or _trigger(case, undo) in later.on:
                    continue  # one trigger closed both scopes: nothing chains them
                led = case.ancestors(undo)
                for follower in followers[case.scope(effect)]:
                    before = undos.get((later.name, id_of(follower)))
                    if before is None or id_of(before) in led:
                        continue
                    if id_of(effect) in case.ancestors(follower):
                        yield f"{shown(undo)} does not follow {shown(before)}"


def not_early(case: Case) -> Iterator[str]:
    """A time-out comes when its time is over, and not before."""
    for _, record in steps(case):
        declared = case.handlers.get(case.step_of(record))
        cause = case.by_id.get(record.headers.get(CAUSE, ""))
        if declared is None or declared.kind != "expects" or cause is None:
            continue
        began, came = time_of(cause), time_of(record)
        due = began + (declared.within_s or 0.0) - case.evidence.skew_s
        if began and came and came + STAMP_S < due:
            yield f"{shown(record)}: {declared.name} ran {due - came:.3f} s too early"


def answered(case: Case) -> Iterator[str]:
    """No time-out comes after its own service has published what it waited for."""
    came: dict[tuple[str, str], list[Record]] = defaultdict(list)
    expecting = [one for one in case.handlers.values() if one.kind == "expects"]
    if not expecting:
        return
    for record in firsts(case):
        step, kind = case.step_of(record), record.headers.get(TYPE, "")
        publisher = case.handlers.get(step)
        if is_void(record) or publisher is None or kind in publisher.later:
            continue
        for one in expecting:
            if kind in one.on and step.partition(".")[0] == one.name.partition(".")[0]:
                came[one.name, case.scope(record, one.by)].append(record)
    for record in firsts(case):
        declared = case.handlers.get(case.step_of(record))
        cause = case.by_id.get(record.headers.get(CAUSE, ""))
        if declared is None or declared.kind != "expects" or cause is None:
            continue
        for answer in came[declared.name, case.scope(cause, declared.by)]:
            if case.precedes(answer, record):
                yield f"{shown(record)}: {declared.name} ran, and {shown(answer)} was there"


def joined(case: Case) -> Iterator[str]:
    """A join has all that it requires; what may be missing it has waited for."""
    there: dict[str, list[Record]] = defaultdict(list)
    joins = [one for one in case.handlers.values() if one.kind == "join" and one.slots]
    inputs = {kind for one in joins for kind in one.inputs}
    for _, record in case.records:
        if record.headers.get(TYPE) in inputs and not is_void(record):
            there[record.headers[TYPE]].append(record)
    for one in joins:
        scopes: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
        for kind in one.inputs:
            for record in there[kind]:
                scopes[case.scope(record, one.by)][kind].append(record)
        for _, record in steps(case):
            cause = case.by_id.get(record.headers.get(CAUSE, ""))
            if case.step_of(record) != one.name or cause is None:
                continue
            arrived = {
                kind: [it for it in found if case.precedes(it, record) is not False]
                for kind, found in scopes[case.scope(cause, one.by)].items()
            }
            first = min((time_of(it) for found in arrived.values() for it in found), default=0.0)
            waited = time_of(record) - first + STAMP_S + case.evidence.skew_s
            for slot, optional in one.slots:
                if any(arrived.get(kind) for kind in slot):
                    continue
                named = " or ".join(sorted(slot))
                if not optional:
                    yield f"{shown(record)}: {one.name} ran, and {named} was not there"
                elif one.within_s is not None and waited < one.within_s:
                    yield f"{shown(record)}: {one.name} did not wait for {named}"


def held(case: Case) -> Iterator[str]:
    """What waits for another delivery of its chain is behind one that will run, or is held."""
    ahead = {
        (row.handler, row.chain)
        for row in case.rows
        if row.status is Status.DEAD or (row.status is Status.PARKED and row.due is not None)
    }
    for row in case.rows:
        waits = row.status is Status.PARKED and row.due is None
        if waits and (row.handler, row.chain) not in ahead:
            subject = row.subject.hex()
            yield f"{row.handler} {subject} is held in chain {row.chain!r} behind nothing"


def offsets(case: Case) -> Iterator[str]:
    """No group has passed a record that it has not settled or parked, or the end of the log."""
    positions = case.evidence.positions or {}
    ends: dict[Partition, int] = defaultdict(int)
    for record in (*case.evidence.history, *case.evidence.meanwhile):
        place = Partition(record.topic, record.partition)
        ends[place] = max(ends[place], record.offset + 1)
    whole = max(ends.values(), default=1)
    for (group, partition), offset in positions.items():
        end = whole if case.evidence.ordered else ends[partition]
        if offset > end:
            place_name = f"{partition.topic}-{partition.number}"
            yield f"group {group} is at {offset} of {place_name}; the log ends before {end}"
    for record, taker, service in untaken(case):
        partition = Partition(record.topic, record.partition)
        if record.offset < positions.get((service, partition), 0):
            yield f"group {service} passed {shown(record)}, which {taker} has not settled"


def _trigger(case: Case, undo: Record) -> str:
    why = case.by_id.get(undo.headers.get(CAUSE, ""))
    return why.headers.get(TYPE, "") if why is not None else ""


def _run(record: Record) -> tuple[str | None, str | None]:
    return record.headers.get(ATTEMPT), record.headers.get(STARTED)


ALWAYS: tuple[Invariant, ...] = (
    manifests, one_end, committed, contents, once, causes, order, void, known,
    undone_for_a_reason, completed, undone_in_reverse, not_early, answered, joined, held, offsets,
)  # fmt: skip
