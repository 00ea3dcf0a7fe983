"""Circles in which a flow can go round without an end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from choreo.topology.findings import Finding
from choreo.topology.graph import Topology, short

__all__ = ["cycles"]

Edges = dict[str, dict[str, str]]
"""From a type to the types that follow at once, each with a handler that publishes it."""


def cycles(topology: Topology) -> Iterator[Finding]:
    """Find each circle without a guard, the shortest of each knot.

    A guard is `visits_max`, a timer (`After`, the time-out of `expects`), or `unless` an
    event of the circle. A join, a compensation and a time-out happen once in a scope.
    """
    edges = _edges(topology)
    for knot in _knots(edges):
        while (circle := _shortest(edges, knot)) is not None:
            steps = list(zip(circle, (*circle[1:], circle[0]), strict=True))
            guarded = [
                (one, other) for one, other in steps
                if {*topology.handlers[edges[one][other]].unless} & {*circle}
            ]  # fmt: skip
            if not guarded:
                yield _finding(topology, edges, steps)
                break
            for one, other in guarded:
                del edges[one][other]


def _finding(topology: Topology, edges: Edges, steps: list[tuple[str, str]]) -> Finding:
    names = sorted({edges[one][other] for one, other in steps})
    handler = topology.handlers[names[0]]
    way = [short(steps[0][0])]
    way += [f"{short(other)}  {edges[one][other]}" for one, other in steps]
    return Finding(
        "CH1105", handler.name, f"a flow can go round without an end by way of {', '.join(names)}",
        "give one of them visits_max=, or let it go on by After or a time-out",
        at=handler.at, example=tuple(way),
    )  # fmt: skip


def _edges(topology: Topology) -> Edges:
    found: Edges = {}
    for handler in topology.handlers.values():
        by = topology.handlers.get(handler.of or "") if handler.kind == "otherwise" else handler
        if by is None or by.kind != "on" or by.visits_max is not None:
            continue
        now = {kind for way in handler.ways for kind in way.now}
        for kind in by.inputs:
            for other in sorted(now):
                found.setdefault(kind, {}).setdefault(other, handler.name)
    return found


def _knots(edges: Mapping[str, Mapping[str, str]]) -> list[set[str]]:
    """Give the strongly connected sets that hold a circle (Kosaraju's two walks)."""
    back: dict[str, list[str]] = {}
    for one, others in edges.items():
        for other in others:
            back.setdefault(other, []).append(one)
    order: list[str] = []
    seen: set[str] = set()
    for root in sorted(edges):
        order += _walk(root, edges, seen)
    found = []
    seen = set()
    for root in reversed(order):
        knot = set(_walk(root, back, seen))
        if len(knot) > 1 or root in knot & edges.get(root, {}).keys():
            found.append(knot)
    return sorted(found, key=min)


def _walk(root: str, edges: Mapping[str, Iterable[str]], seen: set[str]) -> list[str]:
    """Give what a walk from here leaves for good, in that order."""
    if root in seen:
        return []
    seen.add(root)
    left: list[str] = []
    path = [(root, iter(sorted(edges.get(root, ()))))]
    while path:
        node, rest = path[-1]
        child = next((one for one in rest if one not in seen), None)
        if child is None:
            left.append(node)
            path.pop()
        else:
            seen.add(child)
            path.append((child, iter(sorted(edges.get(child, ())))))
    return left


def _shortest(edges: Mapping[str, Mapping[str, str]], knot: set[str]) -> tuple[str, ...] | None:
    """Give the shortest circle inside a knot, beginning with its first type; None if none."""
    best: tuple[str, ...] | None = None
    for start in sorted(knot):
        before: dict[str, str] = {}
        waiting, length = [start], 0
        while waiting and start not in before and (best is None or length + 1 < len(best)):
            length += 1
            reached = []
            for one in waiting:
                for other in sorted(edges.get(one, ())):
                    if other in knot and other not in before:
                        before[other] = one
                        reached.append(other)
            waiting = reached
        if start in before:
            circle = [start]
            while before[circle[-1]] != start:
                circle.append(before[circle[-1]])
            best = (circle[0], *reversed(circle[1:]))
    return best
