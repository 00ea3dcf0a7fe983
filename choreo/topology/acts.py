"""What handlers do, as acts: once these events have come, one of these ways is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from choreo.topology.declared import HandlerDeclared, WayDeclared
from choreo.topology.graph import Topology

__all__ = [
    "DEAD",
    "NONE",
    "NOTHING",
    "NOT_AFTER",
    "TAKEN_BACK",
    "VOID",
    "Act",
    "Events",
    "Way",
    "acts_of",
]

Events = frozenset[str]
NONE: Events = frozenset()
DEAD = "dead letter"
NOT_AFTER = "not after"
NOTHING = "nothing to undo"
TAKEN_BACK = "taken back"
VOID = "void"


@dataclass(frozen=True, slots=True)
class Way:
    """One outcome of an act: who publishes what, and how it came to that.

    `needs`: one of these has happened before (what was to come later is taken back after);
    `lacks`: none of these ever happens.
    """

    handler: str
    how: str = ""
    events: Events = NONE
    needs: Events = NONE
    lacks: Events = NONE

    @property
    def silent(self) -> bool:
        """Whether nothing comes of it, by nobody's leave."""
        return not self.events and not self.needs and not self.lacks


@dataclass(frozen=True, slots=True)
class Act:
    """What a handler does once one event of each group has come."""

    name: str
    handler: str
    groups: tuple[Events, ...]
    ways: tuple[Way, ...]


def acts_of(topology: Topology) -> Iterator[Act]:
    """Make the acts of all handlers, and of the deadlines that publish."""
    effects: dict[str, dict[str, Events]] = {}
    for undo in topology.undos():
        service = undo.name.partition(".")[0]
        triggers = effects.setdefault(service, {})
        effect = undo.inputs[0]
        triggers[effect] = triggers.get(effect, NONE) | frozenset(undo.on)
    takes_back = {
        handler.name.partition(".")[0]
        for handler in topology.handlers.values()
        if any(way.cancels for way in handler.ways)
    }
    for handler in topology.handlers.values():
        service = handler.name.partition(".")[0]
        made = _Made(topology, handler, effects.get(service, {}), service in takes_back)
        yield from made.acts()
    for one in topology.flows:
        if one.flow.overdue and one.flow.deadline_s is not None:
            ends = frozenset(one.flow.ends)
            ways = (
                Way(one.name, "ended", NONE, needs=ends),
                Way(one.name, "deadline", frozenset({one.flow.overdue}), lacks=ends),
            )
            yield Act(f"flow {one.name}", one.name, (frozenset({one.flow.starts}),), ways)


@dataclass
class _Made:
    """The acts of one handler."""

    topology: Topology
    handler: HandlerDeclared
    effects: Mapping[str, Events]
    takes_back: bool

    def acts(self) -> Iterator[Act]:
        one = self.handler
        if one.kind == "on":
            ways = self._ways()
            for kind in dict.fromkeys(one.inputs):
                yield Act(f"{one.name} {kind}", one.name, (frozenset({kind}),), ways)
        elif one.kind == "expects":
            ways = (Way(one.name, "it came", NONE, needs=frozenset(one.on)), *self._ways())
            yield Act(one.name, one.name, (frozenset(one.inputs),), ways)
        elif one.kind == "join":
            groups = tuple(frozenset(kinds) for kinds, optional in one.slots if not optional)
            if groups:
                yield Act(one.name, one.name, groups, self._ways())
        elif one.kind == "compensate" and one.inputs:
            effect = frozenset({one.inputs[0]})
            said = frozenset({one.nothing} if one.nothing else ())
            ways = (
                *self._of(one, "undo", needs=effect),
                Way(one.name, NOTHING, said, lacks=effect),
            )
            yield Act(one.name, one.name, (frozenset(one.on),), ways)

    def _ways(self) -> tuple[Way, ...]:
        one = self.handler
        how = "time-out" if one.kind == "expects" else ""
        found = list(self._of(one, how))
        stand_in = self.topology.stand_ins.get(one.name)
        if stand_in is not None:
            found += self._of(stand_in, "otherwise")
        elif one.kind != "expects":  # what stands in for others is trusted to end well
            found.append(Way(one.name, DEAD))
        if one.unless:
            found.append(Way(one.name, NOT_AFTER, NONE, needs=frozenset(one.unless)))
        void = [self.effects[kind] for way in found for kind in way.events if kind in self.effects]
        if void:
            found.append(Way(one.name, VOID, NONE, needs=frozenset().union(*void)))
        return tuple(dict.fromkeys(found))

    def _of(self, handler: HandlerDeclared, how: str, needs: Events = NONE) -> Iterator[Way]:
        declared = handler.ways or tuple(WayDeclared(now=(kind,)) for kind in handler.outputs)
        cancelled = frozenset({f"{TAKEN_BACK} {handler.name.partition('.')[0]}"})
        for way in declared or (WayDeclared(),):
            now = frozenset(way.now) | (cancelled if way.cancels else NONE)
            yield Way(handler.name, how, now | frozenset(way.later), needs)
            if way.later and self.takes_back and not needs:
                yield Way(handler.name, TAKEN_BACK, now, needs=cancelled)
