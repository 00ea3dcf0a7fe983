"""What a flow still expects, told from what its handlers declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from choreo.tracker.catalog import Catalog, HandlerDeclared
from choreo.tracker.steps import Key
from choreo.tracker.view import EventView, Missing, StepView

__all__ = ["missing_of", "undone_of"]

SETTLED = ("done", "void", "dead", "discarded")


def missing_of(
    events: Sequence[EventView], steps: Mapping[Key, StepView], catalog: Catalog
) -> tuple[Missing, ...]:
    """List what has not come, oldest first.

    Routes that leave no fact by design are not listed: arrivals at joins, expectations that
    opened or closed, triggers of compensations with nothing to undo, events that nobody takes.
    """
    if not catalog.handlers:
        return ()
    found = [*_handlers(events, steps, catalog)]
    events = [event for event in events if not event.edited]  # others had the original
    found += [
        *_joins(events, steps, catalog),
        *_expectations(events, steps, catalog),
        *_undos(events, steps, catalog),
        *_later(events, steps, catalog),
    ]
    return tuple(sorted(found, key=lambda one: (one.since, one.handler, one.subject, one.types)))


def is_given(event: EventView, handler: str) -> bool:
    """Tell whether a handler is given this event, which stands in the place of another."""
    service, aside, _ = event.edited.partition("!quarantine")
    return handler.startswith(f"{service}.") if aside else handler == event.edited


def undone_of(
    events: Sequence[EventView], steps: Mapping[Key, StepView]
) -> frozenset[tuple[str, str]]:
    """Name (handler, effect) of every effect that was undone, with or without an event."""
    published = {(event.step, event.undoes) for event in events if event.undoes}
    silent = {(one.handler, one.undoes) for one in steps.values()
              if one.undoes and one.state == "done"}  # fmt: skip
    return frozenset(published | silent)


def _handlers(
    events: Sequence[EventView], steps: Mapping[Key, StepView], catalog: Catalog
) -> Iterator[Missing]:
    """Handlers that were given an event and have not settled it, or whose stand-in has not."""
    for event in events:
        if event.void:
            continue
        for handler in catalog.takers.get(event.type, ()):
            if event.edited and not is_given(event, handler.name):
                continue
            step = steps.get((handler.name, event.id))
            at_work = handler
            if step is not None and step.state == "given_up":
                stand_in = catalog.stand_ins.get(handler.name)
                if stand_in is None:
                    continue
                at_work, step = stand_in, steps.get((stand_in.name, event.id))
            if step is None or step.state not in (*SETTLED, "given_up"):
                yield Missing(
                    "handler", at_work.name, at_work.outputs, event.at, event.id,
                    deadline=None, step=step,
                )  # fmt: skip


def _joins(
    events: Sequence[EventView], steps: Mapping[Key, StepView], catalog: Catalog
) -> Iterator[Missing]:
    for join in catalog.joins:
        if join.by:
            continue  # its scope is told by payloads, which are not read here
        for branch, there in _branches(events, join.inputs):
            worker, step = join, steps.get((join.name, branch))
            if step is not None and step.state == "given_up":
                stand_in = catalog.stand_ins.get(join.name)
                if stand_in is None:
                    continue
                worker, step = stand_in, steps.get((stand_in.name, branch))
            elif step is None or step.state in ("overdue", "duplicate"):
                if not any(e.type in join.unless and e.branch == branch for e in events):
                    yield from _slots(join, there, step)
                continue
            if step is None or step.state not in SETTLED:
                since = max(event.at for event in there)
                yield Missing("handler", worker.name, worker.outputs, since, step=step)


def _slots(
    join: HandlerDeclared, there: Sequence[EventView], step: StepView | None
) -> Iterator[Missing]:
    types = {event.type for event in there}
    since = there[0].at
    deadline = None if join.within_s is None else since + join.within_s
    empty = [(slot, optional) for slot, optional in join.slots if not types.intersection(slot)]
    for slot, optional in empty:
        yield Missing("join", join.name, slot, since, there[0].id, deadline, optional, step)
    if not empty:
        yield Missing("handler", join.name, join.outputs, max(one.at for one in there), step=step)


def _expectations(
    events: Sequence[EventView], steps: Mapping[Key, StepView], catalog: Catalog
) -> Iterator[Missing]:
    for expects in catalog.expects:
        if expects.by:
            continue
        for event in events:
            if event.void or event.type not in expects.inputs:
                continue
            step = steps.get((expects.name, event.id))
            if step is not None and step.state in (*SETTLED, "given_up"):
                continue
            if any(other.type in expects.on and other.branch == event.branch for other in events):
                continue
            deadline = None if expects.within_s is None else event.at + expects.within_s
            yield Missing(
                "expects", expects.name, expects.on, event.at, event.id, deadline, step=step
            )


def _undos(
    events: Sequence[EventView], steps: Mapping[Key, StepView], catalog: Catalog
) -> Iterator[Missing]:
    """Effects of a closed scope that are not undone, and word that there was none to undo."""
    undone = undone_of(events, steps)
    for handler in catalog.compensations:
        if handler.by:
            continue
        for branch, triggers in _branches(events, handler.on):
            since = triggers[0].at
            effects = [e for e in events if e.type in handler.inputs and e.branch == branch]
            for effect in effects:
                if (handler.name, effect.id) not in undone:
                    step = steps.get((handler.name, effect.id))
                    yield Missing(
                        "undo", handler.name, handler.outputs, since, effect.id, step=step
                    )
            said = any(e.type == handler.nothing and e.branch == branch for e in events)
            if handler.nothing is not None and not effects and not said:
                yield Missing("nothing", handler.name, (handler.nothing,), since, triggers[0].id)


def _later(
    events: Sequence[EventView], steps: Mapping[Key, StepView], catalog: Catalog
) -> Iterator[Missing]:
    """Events that a settled step may have scheduled: it published nothing itself."""
    at = {event.id: event.at for event in events}
    for step in steps.values():
        handler = catalog.handlers.get(step.handler)
        if handler is None or not handler.later or step.state != "done" or step.outputs:
            continue
        since = step.started if step.started is not None else at.get(step.subject, 0.0)
        yield Missing(
            "later", handler.name, tuple(sorted(handler.later)), since, step.subject,
            deadline=step.due, step=step,
        )  # fmt: skip


def _branches(
    events: Sequence[EventView], types: Sequence[str]
) -> Iterator[tuple[str, list[EventView]]]:
    """Group events of these types by branch, each group in order of time."""
    found: dict[str, list[EventView]] = {}
    for event in events:
        if event.type in types and not event.void:
            found.setdefault(event.branch, []).append(event)
    for branch, there in found.items():
        yield branch, sorted(there, key=lambda one: (one.at, one.id))
