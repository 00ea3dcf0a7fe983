"""What may come of a flow: a search for one run in which something happens and something never.

A run is a set of events, and for each handler that one of them activates the way it went. It is
found by three steps, each linear in the topology: leave out all that can not end without what
is to be avoided (a loop ends by one of its exits); derive what is to happen, and stick to the
ways taken; let everything else that is activated go some allowed way, and look at the
conditions. A run that is found can happen. Where the last step has to guess for too long it
gives up, so a fault may stay unseen in very tangled flows, and no fault is ever invented.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from choreo.topology.acts import (
    DEAD,
    NOT_AFTER,
    NOTHING,
    TAKEN_BACK,
    VOID,
    Act,
    Events,
    Way,
    acts_of,
)
from choreo.topology.graph import Topology, short

__all__ = ["Effort", "Run", "Runs", "Scene", "scenes"]

GUESSES_MAX = 2_000
EFFORT_MAX = 60_000
"""Enough for some hundreds of flows; about a second."""
ROOT = ""
TOLD = (DEAD, NOT_AFTER, NOTHING, TAKEN_BACK, VOID)
"""Ways without events that are to be seen in a run."""


Allowed = Callable[[Act, Way], bool]


@dataclass(slots=True)
class Run:
    """Events that happened, in order, each with the way that it came by; acts and their ways."""

    events: dict[str, Way] = field(default_factory=dict)
    ways: dict[str, Way] = field(default_factory=dict)

    def told(self) -> tuple[str, ...]:
        """Write it for people, a line for each event."""
        lines = []
        for kind, way in self.events.items():
            if kind.startswith(TAKEN_BACK):
                continue
            by = f"  {way.handler}" if way.handler else ""
            lines.append(f"{short(kind)}{by}{f' ({way.how})' if way.how else ''}")
        odd = (way for way in self.ways.values() if way.how in TOLD)
        lines += [f"–  {way.handler} ({way.how})" for way in odd]
        return tuple(dict.fromkeys(lines))


@dataclass(slots=True)
class Effort:
    """How much may still be looked at: acts. What is left out for its sake is said."""

    left: int = EFFORT_MAX

    @property
    def spent(self) -> bool:
        """Whether something was not looked at any more."""
        return self.left < 0

    def take(self, acts: int) -> bool:
        """Take some of it; false if there is no more."""
        if self.left >= 0:
            self.left -= acts
        return self.left >= 0


class Runs:
    """The acts of flows that begin with one type, and the search among them."""

    def __init__(self, acts: Iterable[Act], start: str, effort: Effort) -> None:
        """Take the acts; a run begins with `start`."""
        root = Act(ROOT, "", (), (Way("", "", frozenset({start})),))
        self.acts: dict[str, Act] = {act.name: act for act in (root, *acts)}
        self.effort = effort
        self._by_event: dict[str, list[Act]] = {}
        for act in self.acts.values():
            for kind in {kind for group in act.groups for kind in group}:
                self._by_event.setdefault(kind, []).append(act)
        self._givers: dict[str, list[Act]] = {}
        for act in self.acts.values():
            for kind in {kind for way in act.ways for kind in way.events}:
                self._givers.setdefault(kind, []).append(act)
        self.kinds = self._by_event.keys() | self._givers.keys()

    def taking(self, kind: str) -> Sequence[Act]:
        """Give the acts that an event takes part in."""
        return self._by_event.get(kind, ())

    def after(self, kinds: Iterable[str]) -> set[str]:
        """Give all that may follow from these, themselves included."""
        found = set(kinds)
        waiting = list(found) if self.effort.take(len(self.acts) // 2) else []
        while waiting:
            for act in self.taking(waiting.pop()):
                for way in act.ways:
                    new = way.events - found
                    found |= new
                    waiting += new
        return found

    def before(self, kinds: Iterable[str]) -> set[str]:
        """Give all that these may follow from, themselves included."""
        found = set(kinds)
        waiting = list(found) if self.effort.take(len(self.acts) // 2) else []
        while waiting:
            for act in self._givers.get(waiting.pop(), ()):
                new = {kind for group in act.groups for kind in group} - found
                found |= new
                waiting += new
        return found

    @cached_property
    def derivable(self) -> frozenset[str]:
        """All that may ever happen."""
        ways = {act.name: act.ways for act in self.acts.values()}
        there = self.effort.take(len(self.acts))
        return frozenset(_Derivation(self, Run(), ways).made() if there else ())

    def find(self, goals: Sequence[Events], avoid: Collection[str], allowed: Allowed) -> Run | None:
        """Find a run with one event of each goal and none to avoid; or None.

        `allowed` says which ways an act may go.
        """
        if not all(goal & self.kinds for goal in goals):
            return None
        if not self.effort.take(len(self.acts)):
            return None
        search = _Search(self, frozenset(avoid), allowed)
        found = search.derive()
        if not all(goal & found.keys() for goal in goals):
            return None
        for order in dict.fromkeys((tuple(goals), tuple(reversed(goals)))):
            if search.follows(order):
                return search.run
        return None


@dataclass(frozen=True)
class Scene:
    """All that may come of one beginning, as far as the good ends of its flows."""

    start: str
    ends: Events
    failures: Events
    runs: Runs

    @property
    def good(self) -> Events:
        """The ends that are no failures."""
        return self.ends - self.failures

    @cached_property
    def failing(self) -> frozenset[str]:
        """All that may follow from a failure."""
        return frozenset(self.runs.after(self.failures & self.runs.kinds))


def scenes(topology: Topology, effort: Effort) -> list[Scene]:
    """Make the scene of each type that flows begin with."""
    acts = list(acts_of(topology))
    taking: dict[str, list[Act]] = {}
    for act in acts:
        for kind in {kind for group in act.groups for kind in group}:
            taking.setdefault(kind, []).append(act)
    found = []
    for start in topology.roots:
        ends = frozenset(
            end for one in topology.flows if one.flow.starts == start for end in one.flow.ends
        )
        mine = [] if effort.spent else _within(start, ends - topology.failures, taking)
        effort.take(len(mine) // 2)
        runs = Runs(mine, start, effort)
        found.append(Scene(start, ends, topology.failures, runs))
    return found


def _within(start: str, stops: Events, taking: Mapping[str, Sequence[Act]]) -> list[Act]:
    """Give the acts that may happen before any of the stops."""
    seen = {start}
    waiting = [start]
    groups: dict[str, set[int]] = {}
    found = []
    while waiting:
        kind = waiting.pop()
        for act in taking.get(kind, ()) if kind not in stops or kind == start else ():
            there = groups.setdefault(act.name, set())
            whole = len(there) == len(act.groups)
            there.update(number for number, group in enumerate(act.groups) if kind in group)
            if whole or len(there) < len(act.groups):
                continue
            found.append(act)
            for new in {kind for way in act.ways for kind in way.events} - seen:
                seen.add(new)
                waiting.append(new)
    return sorted(found, key=lambda act: act.name)


# ── the search ───────────────────────────────────────────────────────────────────────────


Derived = dict[str, tuple[Act, Way, tuple[str, ...]]]


@dataclass(slots=True)
class _Left:
    """An act, and how many events of one of its ways are still to be settled."""

    act: Act
    events: int


class _Derivation:
    """All that can follow, breadth first, from what has happened and the ways already gone."""

    def __init__(self, runs: Runs, run: Run, ways: Mapping[str, Sequence[Way]]) -> None:
        self.runs = runs
        self.run = run
        self.ways = ways
        self.found: Derived = {}
        self.waiting: deque[str] = deque(run.events)
        self.hit: dict[str, dict[int, str]] = {}
        self.needing: dict[str, list[tuple[Act, Way]]] = {}

    def made(self) -> Derived:
        self._activate(self.runs.acts[ROOT])
        while self.waiting:
            kind = self.waiting.popleft()
            for act in self.runs.taking(kind):
                groups = self.hit.setdefault(act.name, {})
                before = len(groups)
                for number, group in enumerate(act.groups):
                    if kind in group:
                        groups.setdefault(number, kind)
                if before < len(groups) == len(act.groups):
                    self._activate(act)
            for act, way in self.needing.pop(kind, ()):
                self._reach(act, way, kind)
        return self.found

    def _activate(self, act: Act) -> None:
        chosen = self.run.ways.get(act.name)
        for way in self.ways[act.name] if chosen is None else (chosen,):
            there = [kind for kind in way.needs if kind in self.found or kind in self.run.events]
            if there or not way.needs or way.how == TAKEN_BACK:
                self._reach(act, way, *sorted(there)[:1])
            else:
                for kind in way.needs:
                    self.needing.setdefault(kind, []).append((act, way))

    def _reach(self, act: Act, way: Way, *needed: str) -> None:
        by = (*self.hit.get(act.name, {}).values(), *needed)
        for kind in sorted(way.events):
            if kind not in self.found and kind not in self.run.events:
                self.found[kind] = (act, way, by)
                self.waiting.append(kind)


class _Search:
    def __init__(self, runs: Runs, avoid: Events, allowed: Allowed) -> None:
        self.runs = runs
        self.avoid = avoid
        self.run = Run()
        self.ways: dict[str, tuple[Way, ...]] = {
            act.name: tuple(
                way for way in act.ways
                if not way.events & avoid
                and not (way.needs and way.needs <= avoid)
                and allowed(act, way)
            )
            for act in runs.acts.values()
        }  # fmt: skip
        self._settle()

    def _settle(self) -> None:
        """Leave out ways with events from which no end is to be had without what is avoided.

        An event is settled when each act that it alone activates has a way whose events are
        all settled: the least such set, so that what only leads in a circle is none of it.
        """
        single = [act for act in self.runs.acts.values() if len(act.groups) == 1]
        acts_left = Counter(kind for act in single for kind in act.groups[0])
        waits: dict[str, list[_Left]] = {}
        ready: list[Act] = []
        for act in single:
            for way in self.ways[act.name]:
                left = _Left(act, len(way.events))
                for kind in way.events:
                    waits.setdefault(kind, []).append(left)
                if not way.events:
                    ready.append(act)
        settled = {kind for kind in self.runs.kinds if kind not in acts_left} - self.avoid
        fresh, done = list(settled), set()
        while ready or fresh:
            if fresh:
                for left in waits.get(fresh.pop(), ()):
                    left.events -= 1
                    if not left.events:
                        ready.append(left.act)
                continue
            act = ready.pop()
            for kind in () if act.name in done else act.groups[0]:
                acts_left[kind] -= 1
                if not acts_left[kind] and kind not in self.avoid:
                    settled.add(kind)
                    fresh.append(kind)
            done.add(act.name)
        for name, ways in self.ways.items():
            self.ways[name] = tuple(way for way in ways if way.events <= settled)

    # ── derive ───────────────────────────────────────────────────────────────────────────

    def derive(self) -> Derived:
        """Give all that may happen beside what has, each with the shortest way there."""
        return _Derivation(self.runs, self.run, self.ways).made()

    def follows(self, goals: Sequence[Events]) -> bool:
        """Look for a run to the goals, one after the other, and on to its end."""
        self.run = Run()
        return all(self.commit(goal) for goal in goals) and self.completes()

    def commit(self, goal: Events) -> bool:
        """Let one event of the goal happen, the nearest, with all that leads there."""
        if goal & self.run.events.keys():
            return True
        found = self.derive()
        kind = next((kind for kind in found if kind in goal), None)
        return kind is not None and self._take(kind, found)

    def _take(self, kind: str, found: Derived) -> bool:
        """Go the ways that lead to an event. Where several have to meet, one after the other."""
        todo = [kind]
        for _ in range(4 * len(found) + 4):
            if not todo:
                return True
            kind = todo[-1]
            if kind in self.run.events:
                todo.pop()
                continue
            if kind not in found:
                return False
            act, way, by = found[kind]
            open_ones = [one for one in by if one not in self.run.events]
            if open_ones:
                if len(by) > 1 and len(open_ones) < len(by):
                    found = self.derive()  # what was gone for the others may have changed it
                    if open_ones[0] not in found:
                        return False
                todo.append(open_ones[0])
                continue
            if self.run.ways.setdefault(act.name, way) != way:
                return False
            for one in sorted(way.events, key=lambda one: one != kind):
                self.run.events.setdefault(one, way)
            todo.pop()
        return False

    # ── complete ─────────────────────────────────────────────────────────────────────────

    def completes(self) -> bool:
        """Let all that is activated go some way; false if a condition can not be met."""
        trail: list[tuple[str, int]] = []
        committed = dict(self.run.ways)
        for _ in range(GUESSES_MAX):
            chosen = {**committed, **{name: self.ways[name][number] for name, number in trail}}
            events, pending = self._closed(chosen)
            if not self.runs.effort.take(len(events) // 4):
                return False
            if pending and all(self.ways[act.name] for act in pending):
                trail += [(act.name, 0) for act in self._next(pending)]
                continue
            if not pending:
                broken = next((name for name, one in chosen.items() if not _holds(one, events)), "")
                if not broken:
                    self.run.ways = chosen
                    return True
                while trail and trail[-1][0] != broken:
                    trail.pop()
            if not _advanced(trail, self.ways):
                return False
        return False

    def _next(self, pending: list[Act]) -> list[Act]:
        """Choose the acts to decide next: all that need no condition; else one."""
        plain = [act for act in pending if _plain(self.ways[act.name])]
        return plain or pending[:1]

    def _closed(self, chosen: Mapping[str, Way]) -> tuple[set[str], list[Act]]:
        """Give all events that follow from the ways chosen, and the acts not decided yet."""
        events: set[str] = set()
        pending: list[Act] = []
        groups: dict[str, set[int]] = {}
        waiting = list(chosen[ROOT].events) if ROOT in chosen else []
        while waiting:
            kind = waiting.pop()
            if kind in events:
                continue
            events.add(kind)
            for act in self.runs.taking(kind):
                if len(act.groups) > 1:
                    there = groups.setdefault(act.name, set())
                    before = len(there)
                    there.update(n for n, group in enumerate(act.groups) if kind in group)
                    if len(there) == before or len(there) < len(act.groups):
                        continue
                elif groups.setdefault(act.name, set()):
                    continue
                else:
                    groups[act.name].add(0)
                way = chosen.get(act.name)
                if way is None:
                    pending.append(act)
                else:
                    waiting += way.events
        pending.sort(key=lambda act: act.name)
        return events, pending


def _holds(way: Way, events: Collection[str]) -> bool:
    return (not way.needs or any(kind in events for kind in way.needs)) and not any(
        kind in events for kind in way.lacks
    )


def _plain(ways: Sequence[Way]) -> bool:
    return bool(ways) and not ways[0].needs and not ways[0].lacks


def _advanced(trail: list[tuple[str, int]], ways: Mapping[str, Sequence[Way]]) -> bool:
    """Let the last act that has another way left go that one; false if none has."""
    while trail:
        name, number = trail.pop()
        if number + 1 < len(ways[name]):
            trail.append((name, number + 1))
            return True
    return False
