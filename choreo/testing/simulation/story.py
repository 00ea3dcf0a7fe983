"""What went wrong, told so that a person sees it: the chain of events, and the fault in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from choreo.audit import Violation
from choreo.events import CAUSE, FLOW, ID, STEP, STEPS_TOPIC, TYPE, VOID, Record

if TYPE_CHECKING:
    from choreo.testing.simulation.world import World

__all__ = ["told"]

INTERNAL = "choreo."
FAULTS_MAX = 12
SHIFTS = ("delayed", "repeated")
"""Faults that move things about; there are many of them, and they are told as a number."""


class _Line(NamedTuple):
    at: float
    order: int
    text: str


def told(world: World, found: Sequence[Violation], *, replay: str = "") -> str:
    """Tell the first violation: its flow, what happened in it, and what went wrong on the way."""
    first = found[0]
    lines = [f"✘ {first.invariant}: {first.text}"]
    if len(found) > 1:
        lines.append(f"  and {len(found) - 1} more")
    lines.append(f"  seed {world.seed}, {_counted(world)}")
    flow = _flow_of(world, first)
    if flow:
        lines.append(f"  flow {flow}")
        events = list(_events(world, flow))
        end = max((line.at for line in events), default=0.0)
        lines += [
            f"  {line.at:>12.3f} s  {line.text}"
            for line in sorted([*events, *_troubles(world, end)])
        ]
    if replay:
        lines.append(f"  replay: {replay}")
    return "\n".join(lines)


def _counted(world: World) -> str:
    counts = world.counted()
    if not counts:
        return "and no fault was needed"
    return "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _flow_of(world: World, violation: Violation) -> str:
    """Find the flow that a sentence is about: it names its id, an event's, or its key."""
    words = {word.strip(".,:;()'\"") for word in violation.text.split()}
    by_key = ""
    for _, record in world.history:
        if record.topic.startswith(INTERNAL):
            continue
        flow = record.headers.get(FLOW, "")
        if flow in words or record.headers.get(ID) in words:
            return flow
        if not by_key and record.key is not None and record.key.decode(errors="replace") in words:
            by_key = flow
    return by_key


def _events(world: World, flow: str) -> Iterator[_Line]:
    """List what a flow consists of, each indented under what caused it."""
    depth: dict[str, int] = {}
    for order, (at, record) in enumerate(world.history):
        headers = record.headers
        if headers.get(FLOW) != flow:
            continue
        below = depth.get(headers.get(CAUSE, ""), -1) + 1
        if record.topic == STEPS_TOPIC:
            text = _note(record)
            if text:
                yield _Line(at, order, f"{'  ' * below}{headers.get(STEP, '?')}: {text}")
        elif not record.topic.startswith(INTERNAL):
            again = headers.get(ID, "") in depth
            depth.setdefault(headers.get(ID, ""), below)
            kind = headers.get(TYPE, "?").rsplit(".", 1)[-1]
            by = headers.get(STEP, "published")
            marks = (" (void)" if VOID in headers else "") + (" (again)" if again else "")
            yield _Line(at, order, f"{'  ' * below}{by} → {kind}{marks}")
        else:
            yield _Line(at, order, f"{'  ' * below}dead letter of {headers.get(STEP, '?')}")


def _note(record: Record) -> str:
    try:
        said = json.loads(record.value)
    except ValueError:
        return ""
    state = str(said.get("state", ""))
    error = said.get("error")
    return "" if state == "done" else f"{state} ({error})" if error else state


def _troubles(world: World, end: float) -> Iterator[_Line]:
    """List faults and what became of processes, up to the flow's last event."""
    fired = [one for one in world.fired if one.fault not in SHIFTS]
    if len(fired) <= FAULTS_MAX:
        for number, one in enumerate(fired):
            yield _Line(one.at, -len(fired) + number, f"⚡ {one}")
    for number, (at, what) in enumerate(world.happenings):
        if at <= end:
            yield _Line(at, number, f"⚡ {what}")
