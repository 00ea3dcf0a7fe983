"""The proof that every effect is undone when its flow fails, and that no chain of undos breaks.

For each effect a run is looked for in which it happened, none of the triggers of its undo
did, and the flow came to an end that is a failure; or in which something failed and the flow
came to no end at all. A failure after which the flow still comes to a good end is a failure
that is lived with. What a handler may do is what its annotation says, or its `otherwise`;
time-outs happen when nothing that they wait for does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from choreo.topology.acts import DEAD, Act, Events, Way
from choreo.topology.declared import HandlerDeclared
from choreo.topology.findings import Finding
from choreo.topology.graph import Topology, listed, short
from choreo.topology.runs import Allowed, Run, Scene

__all__ = ["coverage"]


def coverage(topology: Topology, scenes: Sequence[Scene]) -> Iterator[Finding]:
    """Prove each undo, or show a run without it."""
    for undo in topology.undos():
        there = [_Proof(topology, one, undo) for one in scenes if undo.inputs[0] in one.runs.kinds]
        if own := _triggered_by_itself(topology, undo, scenes):
            yield Finding(
                "CH1108", undo.name, own,
                "trigger it by what goes wrong, not by what it says itself", at=undo.at,
            )  # fmt: skip
        broken: dict[str, tuple[str, Finding]] = {}
        links = list(_links(topology, undo)) if there else []
        for proof in there:
            for name, trigger, finding in proof.broken(links):
                broken.setdefault(name, (trigger, finding))
        yield from (finding for _, finding in broken.values())
        known = frozenset(trigger for trigger, _ in broken.values())
        yield from islice(filter(None, (proof.uncovered(known) for proof in there)), 1)


class _Proof:
    """One undo, where flows begin with one type."""

    def __init__(self, topology: Topology, scene: Scene, undo: HandlerDeclared) -> None:
        self.topology = topology
        self.scene = scene
        self.undo = undo
        self.effect, self.triggers = frozenset(undo.inputs), frozenset(undo.on)

    # ── an effect that is not undone ─────────────────────────────────────────────────────

    def uncovered(self, known: Events) -> Finding | None:
        """Find a run that fails and leaves the effect standing; `known` is found already."""
        avoid = self.triggers | known
        bad = self.scene.ends & self.scene.failures
        found = self._find(bad, avoid, _alive)
        if found is None:
            after = self.scene.failing

            def moving(act: Act, way: Way) -> bool:
                """Let handlers be silent only where something failed, or if they always are."""
                silent = way.silent and any(one.events for one in act.ways)
                return _alive(act, way) and (
                    not silent or any(group & after for group in act.groups)
                )

            found = self._find(self.scene.failures - bad, avoid | self.scene.ends, moving)
        return None if found is None else self._standing(found)

    def _find(self, failure: Events, avoid: Events, allowed: Allowed) -> Run | None:
        failure = failure - avoid - self.effect
        if not failure or self.effect & avoid:
            return None
        return self.scene.runs.find((self.effect, failure), avoid, allowed)

    def _standing(self, run: Run) -> Finding:
        last = [kind for kind in run.events if kind in self.scene.failures]
        failure = last[-1] if last else next(reversed(run.events))
        undo = self.undo
        where = "ends with" if failure in self.scene.ends else "fails with"
        return Finding(
            "CH1106", undo.name,
            f"{short(undo.inputs)} is not undone when the flow {where} {short(failure)}: "
            f"{_neither(undo.on)} comes",
            f"add {short(failure)}, or an event that comes with it, to on= of {undo.name}",
            at=undo.at, example=run.told(),
        )  # fmt: skip

    # ── a chain that can break ───────────────────────────────────────────────────────────

    def broken(self, links: Sequence[HandlerDeclared]) -> Iterator[tuple[str, str, Finding]]:
        """Find undos that this one waits for, and that say nothing where they had nothing to do."""
        for first in links:
            avoid = self.triggers | {*first.inputs} | self.scene.good
            for trigger in sorted(frozenset(first.on) - avoid):
                run = self._find(frozenset({trigger}), avoid, _alive)
                if run is not None:
                    yield first.name, trigger, self._chain(first, trigger, run)
                    break

    def _chain(self, first: HandlerDeclared, trigger: str, run: Run) -> Finding:
        links = first.gives & self.triggers
        return Finding(
            "CH1107", first.name,
            f"{self.undo.name} waits for {short(links)}, which {first.name} does not publish when "
            f"{short(trigger)} comes and {short(first.inputs)} never did",
            f"give {first.name} nothing=, and name that event in on= of {self.undo.name}",
            at=first.at, example=run.told(),
        )  # fmt: skip


def _links(topology: Topology, undo: HandlerDeclared) -> Iterator[HandlerDeclared]:
    """Give the undos of other effects that this one waits for, and that may be silent."""
    triggers = frozenset(undo.on)
    for first in topology.undos():
        if first is undo or first.nothing in triggers or {*first.inputs} & {*undo.inputs}:
            continue
        if first.gives & triggers:
            yield first


def _triggered_by_itself(topology: Topology, undo: HandlerDeclared, scenes: Sequence[Scene]) -> str:
    """Say of an undo that waits for what only follows from it; empty for any other."""
    triggers = frozenset(undo.on)
    if own := undo.gives & triggers:
        return f"its own {short(own)} triggers it"
    if any(triggers & one.runs.kinds and triggers & one.runs.derivable for one in scenes):
        return ""
    if any(one.runs.effort.spent for one in scenes) or not triggers & _following(topology, undo):
        return ""
    return f"{short(triggers)}, which is to trigger it, only follows from it"


def _following(topology: Topology, undo: HandlerDeclared) -> set[str]:
    """Give all that may follow from an undo, whether or not it ever happens."""
    found = set(undo.gives)
    waiting = list(found)
    while waiting:
        for name in topology.takers.get(waiting.pop(), ()):
            new = topology.handlers[name].gives - found
            found |= new
            waiting += new
    return found


def _alive(_: Act, way: Way) -> bool:
    return way.how != DEAD


def _neither(kinds: tuple[str, ...]) -> str:
    names = sorted({short(kind) for kind in kinds})
    return f"no {names[0]}" if len(names) == 1 else f"neither {listed(names, 'nor')}"
