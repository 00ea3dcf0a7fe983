"""The fold: all facts of a flow, in any order and number, to what people see of it.

A view is a function of the set of facts and of the manifests. It knows no clock: what
depends on the time of reading is asked of the view (`FlowView.at`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from choreo.ports import Fact, FlowSummary
from choreo.ports.merging import STUCK_AFTER_S
from choreo.tracker.catalog import Catalog, FlowDeclared
from choreo.tracker.missing import missing_of, undone_of
from choreo.tracker.steps import Key, is_aside, more_of, steps_of
from choreo.tracker.view import Anomaly, EventView, FlowView, Missing, StepView

__all__ = ["fold", "summarize"]

Manifests = Catalog | Mapping[str, Mapping[str, Any]]
HARD_ATTEMPTS = 3
"""An undo that has failed so often is shown as stuck, though it goes on."""


def fold(facts: Iterable[Fact], manifests: Manifests) -> FlowView:
    """Fold the facts of one flow. Repeated ones, and their order, make no difference."""
    catalog = manifests if isinstance(manifests, Catalog) else Catalog.of(manifests)
    known = {(fact.topic, fact.partition, fact.offset): fact for fact in facts}
    ordered = [known[place] for place in sorted(known)]
    steps = steps_of(ordered, catalog)
    published = [fact for fact in ordered if not fact.state]
    copies = [_event(fact) for fact in published]
    first: dict[str, EventView] = {}
    for copy in copies:
        first.setdefault(copy.id, copy)
    events = _arranged([*first.values()])
    missing = missing_of(events, steps, catalog)
    summary = _summary(ordered, copies, steps, missing, catalog)
    return FlowView(
        summary=summary,
        events=events,
        steps=tuple(sorted(steps.values(), key=lambda one: (
            one.started if one.started is not None else float("inf"), one.handler, one.subject
        ))),
        missing=tuple(one for one in missing if one.kind != "join" or summary.ended is None),
        anomalies=(*_anomalies(published, events, summary, catalog), *_set_aside(ordered)),
    )  # fmt: skip


def summarize(facts: Sequence[Fact], catalog: Catalog) -> FlowSummary:
    """Give a flow's row for the list."""
    return fold(facts, catalog).summary


def _event(fact: Fact) -> EventView:
    said = more_of(fact)
    return EventView(
        id=fact.id, type=fact.type, key=fact.key, at=fact.at, topic=fact.topic,
        partition=fact.partition, offset=fact.offset, source=fact.source, step=fact.step,
        causes=tuple(dict.fromkeys(
            cause for cause in (fact.cause, *said.get("causes", ())) if cause)),
        branch=said.get("branch", ""), undoes=said.get("undoes", ""),
        void=bool(said.get("void")), failure=bool(said.get("failure")),
        edited=said.get("edited", ""),
    )  # fmt: skip


# ── order ────────────────────────────────────────────────────────────────────────────────


def _arranged(events: list[EventView]) -> tuple[EventView, ...]:
    """Order events: causes first, then offsets within a partition, then time, as a guess."""
    by_id = {event.id: event for event in events}
    after: dict[str, list[str]] = {}
    waits = dict.fromkeys(by_id, 0)
    pairs = {(cause, event.id) for event in events for cause in event.causes if cause in by_id}
    last: dict[tuple[str, int], str] = {}
    for event in events:  # they come sorted by topic, partition and offset
        place = (event.topic, event.partition)
        if place in last and (event.id, last[place]) not in pairs:
            pairs.add((last[place], event.id))
        last[place] = event.id
    for before, later in pairs:
        after.setdefault(before, []).append(later)
        waits[later] += 1
    ready = [_place(by_id[one]) for one, count in waits.items() if not count]
    heapq.heapify(ready)
    found: list[EventView] = []
    while ready:
        best = heapq.heappop(ready)
        event = by_id.pop(best[-1])
        guessed = any(other[1:3] != best[1:3] for other in ready)
        found.append(_guessed(event) if guessed else event)
        for later in after.get(event.id, ()):
            waits[later] -= 1
            if not waits[later]:
                heapq.heappush(ready, _place(by_id[later]))
    circular = sorted(by_id.values(), key=_place)  # no order can be told from their causes
    return (*found, *(_guessed(event) for event in circular))


def _place(event: EventView) -> tuple[float, str, int, int, str]:
    return event.at, event.topic, event.partition, event.offset, event.id


def _guessed(event: EventView) -> EventView:
    return EventView(**{**{name: getattr(event, name) for name in _FIELDS}, "guessed": True})


_FIELDS = tuple(EventView.__dataclass_fields__)


# ── summary ──────────────────────────────────────────────────────────────────────────────


def _root(events: Sequence[EventView], flow: str) -> EventView | None:
    roots = [event for event in events if not event.causes]
    return min(roots, key=lambda one: (one.id != flow, _place(one)), default=None)


def _end(events: Sequence[EventView], declared: FlowDeclared | None) -> EventView | None:
    if declared is None:
        return None
    ends = [
        event
        for event in events
        if event.type in declared.ends and not event.void and not event.edited
    ]
    return min(ends, key=_place, default=None)


def _summary(
    facts: Sequence[Fact],
    events: Sequence[EventView],
    steps: Mapping[Key, StepView],
    missing: Sequence[Missing],
    catalog: Catalog,
) -> FlowSummary:
    flow = facts[0].flow if facts else ""
    root = _root(events, flow)
    declared = catalog.flows.get(root.type) if root is not None else None
    end = _end(events, declared)
    updated = max((fact.at for fact in facts), default=0.0)
    status = _status(end, undone_of(events, steps), steps, missing)
    failing = [
        one
        for one in steps.values()
        if one.error and one.state not in ("done", "void", "discarded")
    ]
    worst = max(failing, key=lambda one: (one.started or 0.0, one.handler), default=None)
    return FlowSummary(
        flow=flow,
        root=root.type if root is not None else "",
        name=declared.name if declared is not None else "",
        status=status,
        key=root.key if root is not None else "",
        end=end.type if end is not None else "",
        started=root.at if root is not None and root.at
        else min((fact.at for fact in facts if fact.at), default=0.0),
        updated=updated,
        ended=end.at if end is not None else None,
        deadline=_deadline(facts, root, end, declared, steps),
        stuck_at=_stuck_at(status, updated, steps, missing, named=declared is not None),
        retries=sum(one.retries for one in steps.values()),
        compensations=len(undone_of(events, steps)),
        dead=sum(one.state == "dead" for one in steps.values()),
        voids=sum(one.state == "void" for one in steps.values())
        + len({event.id for event in events if event.void}),
        steps=len(steps),
        error=f"{worst.handler} {worst.error}: {worst.message}" if worst is not None else "",
    )  # fmt: skip


def _status(
    end: EventView | None,
    undone: frozenset[tuple[str, str]],
    steps: Mapping[Key, StepView],
    missing: Sequence[Missing],
) -> str:
    undoing = any(one.kind in ("undo", "nothing") for one in missing)
    states = {one.state for one in steps.values()}
    if undoing or any(one.undoes and one.state in _AT_WORK for one in steps.values()):
        return "compensating"
    if end is not None:
        return "compensated" if undone else "completed"
    for state, status in (("dead", "failed"), ("retrying", "retrying"), ("parked", "parked"),
                          ("waiting", "waiting")):  # fmt: skip
        if state in states:
            return status
    return "waiting" if any(one.kind == "later" for one in missing) else "running"


_AT_WORK = ("retrying", "waiting", "parked")


def _deadline(
    facts: Sequence[Fact],
    root: EventView | None,
    end: EventView | None,
    declared: FlowDeclared | None,
    steps: Mapping[Key, StepView],
) -> float | None:
    """When the flow is overdue: by its own deadline, or by a time-out that has been noted."""
    if end is not None:
        return None
    found = []
    if root is not None and declared is not None and declared.deadline_s is not None:
        found.append(root.at + declared.deadline_s)
    passed = {one.handler for one in steps.values() if one.state == "overdue"}
    for fact in facts:
        if fact.state == "overdue" and fact.step in passed:
            due = more_of(fact).get("due")
            found.append(float(due) if isinstance(due, int | float) else fact.at)
    return min(found, default=None)


def _stuck_at(
    status: str,
    updated: float,
    steps: Mapping[Key, StepView],
    missing: Sequence[Missing],
    *,
    named: bool,
) -> float | None:
    if status in ("completed", "compensated", "failed"):
        return None
    at_work = [one for one in steps.values() if one.state in _AT_WORK]
    if any((one.unknown or one.undoes) and one.attempt >= HARD_ATTEMPTS for one in at_work):
        return updated
    if not named or any(one.kind == "later" for one in missing):
        return None  # nobody said that it ends, or when it goes on
    return max([updated, *(one.due or 0.0 for one in at_work)]) + STUCK_AFTER_S


# ── anomalies ────────────────────────────────────────────────────────────────────────────


def _anomalies(
    published: Sequence[Fact],
    events: Sequence[EventView],
    flow: FlowSummary,
    catalog: Catalog,
) -> tuple[Anomaly, ...]:
    found = []
    places: dict[str, list[str]] = {}
    for fact in published:
        places.setdefault(fact.id, []).append(f"{fact.topic}-{fact.partition}-{fact.offset}")
    ids = places.keys()
    for event in events:
        if len(places[event.id]) > 1:
            where = ", ".join(places[event.id])
            found.append(Anomaly("duplicate", event.id, f"the same event lies at {where}"))
        for cause in event.causes:
            if cause not in ids:
                text = f"its cause {cause} is no event of this flow"
                found.append(Anomaly("unknown_cause", event.id, text))
        if event.void:
            text = "published although its scope was closed, since its outcome was unknown then"
            found.append(Anomaly("void", event.id, text))
        if flow.ended is not None and event.at > flow.ended and not _declared(event, catalog):
            text = f"came after the end, from {event.step or event.source or 'an unknown source'}"
            found.append(Anomaly("undeclared", event.id, f"{text}, which does not declare it"))
    return tuple(found)


def _set_aside(facts: Sequence[Fact]) -> Iterator[Anomaly]:
    """Tell of events that came under the id of another; what an operator did about them."""
    decided = {fact.subject for fact in facts if is_aside(fact) and fact.state == "discarded"}
    for fact in facts:
        if fact.state == "quarantined":
            done = "; decided by an operator" if fact.subject in decided else ""
            yield Anomaly("quarantined", fact.subject, f"{more_of(fact).get('reason')}{done}")


def _declared(event: EventView, catalog: Catalog) -> bool:
    handler = catalog.handlers.get(event.step)
    if handler is not None:
        return event.type in handler.gives
    return any(flow.overdue == event.type for flow in catalog.flows.values())
