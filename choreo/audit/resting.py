"""What holds once nothing is on its way any more: one function each."""

from __future__ import annotations

from collections.abc import Iterator

from choreo.audit.case import (
    Case,
    closed_by,
    effect_scope,
    effects_of,
    ended,
    shown,
    steps,
    untaken,
)
from choreo.audit.invariants import Invariant
from choreo.events import CAUSE, STEP, Record
from choreo.plan import Status

__all__ = ["AT_REST"]

LATE_S = 1.0
TRACED = ("on", "compensate", "join")
"""Kinds of handlers each of whose deliveries leaves an event, or a note that it left none."""


def reached_an_end(case: Case) -> Iterator[str]:
    """Every flow that was begun, and has ends, came to one."""
    for name, flow, _, ends in ended(case):
        if not ends:
            yield f"flow {flow} ({name}) has no end"


def taken(case: Case) -> Iterator[str]:
    """Every event is in the inbox of each that takes it."""
    for record, taker, _ in untaken(case):
        yield f"{shown(record)} is not in the inbox of {taker}"


def published(case: Case) -> Iterator[str]:
    """What a step that is done has left is on its topic; of one that left nothing, a note is."""
    told = {row for _, record in steps(case) for row in case.steps_of(record)}
    notes = (note for note in case.notes if STEP in note.headers and CAUSE in note.headers)
    told.update(row for note in notes for row in case.steps_of(note))
    for row in case.rows:
        declared = case.handlers.get(row.handler)
        if declared is None or declared.kind not in TRACED or row.status is not Status.DONE:
            continue
        lost = not case.evidence.whole or _below(case, row.handler, row.source)
        if (row.handler, row.subject) not in told and not lost:
            yield f"{row.handler} {row.subject.hex()} is done, and nothing that it left is on a \
topic"


def sent(case: Case) -> Iterator[str]:
    """The outbox is empty."""
    for row in case.outbox:
        yield f"{shown(row.record)} is still in the outbox, as row {row.row}"


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
    parked = ((row.handler, row.due) for row in case.rows if row.status is Status.PARKED)
    for handler, due in (*((row.handler, row.due) for row in case.timers), *parked):
        if due is not None and due < case.newest - LATE_S - case.evidence.skew_s:
            yield f"{handler} was due {case.newest - due:.1f} s before the last event"


def _below(case: Case, handler: str, source: tuple[str, int, int]) -> bool:
    topic, partition, offset = source
    place = Record(topic, None, {}, b"", partition, offset)
    return case.forgotten(handler.partition(".")[0], place)


AT_REST: tuple[Invariant, ...] = (reached_an_end, taken, published, sent, undone, fired)
