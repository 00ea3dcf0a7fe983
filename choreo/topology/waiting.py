"""What can wait for ever, and what lasts longer than its flow."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice

from choreo.topology.acts import DEAD, Act, Events, Way
from choreo.topology.declared import HandlerDeclared
from choreo.topology.findings import Finding
from choreo.topology.graph import FlowSeen, Topology, short
from choreo.topology.runs import Run, Runs, Scene

__all__ = ["waiting"]

STEPS_MAX = 50
DAY_S = 86_400.0


def waiting(topology: Topology, scenes: Sequence[Scene]) -> Iterator[Finding]:
    """Look at joins and at flows."""
    for join in topology.handlers_of("join"):
        for awaited in dict.fromkeys(
            frozenset(kinds) for kinds, missing in join.slots if not missing
        ):
            found = (_endless(one, join, awaited) for one in scenes)
            yield from islice(filter(None, found), 1)
    begun = {one.start: one for one in scenes}
    for flow in topology.flows:
        scene = begun[flow.flow.starts]
        yield from _late(topology, scene.runs, flow)
        yield from _unseen(topology, scene.runs, flow)
        yield from _long(topology, scene.runs, flow)
        yield from _forgotten(topology, scene.runs, flow)


def _endless(scene: Scene, join: HandlerDeclared, awaited: Events) -> Finding | None:
    """Find a run in which something has come to a join, what it needs never does, nor an end."""
    others = frozenset(kind for slot, _ in join.slots for kind in slot) - awaited
    avoid = awaited | scene.ends | frozenset(join.unless)
    goal = others - avoid
    if not goal & scene.runs.kinds:
        return None
    upstream = scene.runs.before(awaited)

    def allowed(act: Act, way: Way) -> bool:
        """Let what leads to the awaited event fail, and nothing else."""
        return way.how != DEAD or any(one.events & upstream for one in act.ways)

    run = scene.runs.find((goal,), avoid, allowed)
    if run is None:
        return None
    return Finding(
        "CH1109", join.name,
        f"it can wait for {short(awaited)} for ever{_because(run, upstream, scene.runs)}",
        f"publish {short(awaited)}, or another event that the join takes in its place, on every "
        "way there (otherwise, expects), end the flow there, or make the parameter `| None` with "
        "within_s=",
        at=join.at, example=run.told(),
    )  # fmt: skip


def _because(run: Run, upstream: set[str], runs: Runs) -> str:
    """Name the handlers that went another way."""
    for name, way in run.ways.items():
        if not any(one.events & upstream for one in runs.acts[name].ways) or not way.handler:
            continue
        if way.events & upstream:
            continue
        if way.how:
            return f": {way.handler} may end with: {way.how}"
        if way.events:
            return f": {way.handler} may publish {short(way.events)} instead"
        return f": {way.handler} may publish nothing"
    return ""


def _unseen(topology: Topology, runs: Runs, one: FlowSeen) -> Iterator[Finding]:
    """Find a dead letter that leaves a flow without an end, with no deadline to show it."""
    if one.flow.deadline_s is not None:
        return

    def allowed(act: Act, way: Way) -> bool:
        return not way.silent or way.how == DEAD or not any(one.events for one in act.ways)

    ends = frozenset(one.flow.ends)
    run = runs.find((frozenset({one.flow.starts}),), ends, allowed)
    dead = sorted(way.handler for way in run.ways.values() if way.how == DEAD) if run else []
    if dead and run is not None:
        handler = topology.handlers[dead[0]]
        yield Finding(
            "CH1111", one.name,
            f"a dead letter of {dead[0]} leaves it without an end, and no deadline shows that",
            "give the flow deadline_s=, or the handler an otherwise",
            at=handler.at,
        )  # fmt: skip


def _forgotten(topology: Topology, runs: Runs, one: FlowSeen) -> Iterator[Finding]:
    """Find services that forget a flow before it is over."""
    deadline = one.flow.deadline_s
    mine = {one.service, *(act.handler.partition(".")[0] for act in runs.acts.values())}
    for name in sorted(mine & topology.keeps_s.keys()):
        keeps = topology.keeps_s[name]
        if deadline is not None and deadline > keeps:
            yield Finding(
                "CH1113", one.name,
                f"its deadline of {_time(deadline)} is longer than {name} remembers a flow: "
                f"{_time(keeps)}",
                f"shorten deadline_s=, or give Service({name!r}) a longer flow_keep_s=",
            )  # fmt: skip


def _long(topology: Topology, runs: Runs, one: FlowSeen) -> Iterator[Finding]:
    acts = [act for kind in runs.after((one.flow.starts,)) for act in runs.taking(kind)]
    steps = {act.handler for act in acts} & topology.handlers.keys()
    if len(steps) > STEPS_MAX:
        yield Finding(
            "CH1112", one.name, f"{len(steps)} handlers may take part in it, at most {STEPS_MAX}",
            "cut it into flows of their own: nobody can see through so many steps",
        )  # fmt: skip


# ── time ─────────────────────────────────────────────────────────────────────────────────


def _late(topology: Topology, runs: Runs, one: FlowSeen) -> Iterator[Finding]:
    """Find times that end only after the flow's deadline, however quick all else is."""
    deadline = one.flow.deadline_s
    if deadline is None:
        return
    at = _earliest(topology, runs, one.flow.starts)
    mine = {act.handler for act in runs.acts.values()} & topology.handlers.keys()
    for handler in (topology.handlers[name] for name in sorted(mine)):
        begins = [at[kind] for kind in handler.inputs if kind in at]
        if not begins or handler.kind == "otherwise":
            continue
        for what, lasts_s in _times(topology, handler):
            if min(begins) + lasts_s >= deadline:
                begun = f" after the {_time(min(begins))} that come first" if min(begins) else ""
                yield Finding(
                    "CH1110", handler.name,
                    f"{what} of {_time(lasts_s)}{begun} does not fit the deadline of "
                    f"{one.name}: {_time(deadline)}",
                    "shorten it, or give the flow more time",
                    at=handler.at,
                )  # fmt: skip


def _times(topology: Topology, handler: HandlerDeclared) -> Iterator[tuple[str, float]]:
    if handler.within_s is not None:
        yield "its within_s", handler.within_s
    if handler.timeout_s is not None:
        yield "its timeout_s", handler.timeout_s
    if handler.name in topology.stand_ins:
        retry = handler.retry
        lasts, delay = 0.0, min(retry.first_s, retry.longest_s)
        for _ in range(min(retry.attempts_max, 10_000) - 1):
            lasts += delay
            delay = min(delay * retry.factor, retry.longest_s)
        yield "the time until its otherwise", lasts


def _earliest(topology: Topology, runs: Runs, start: str) -> dict[str, float]:
    """Give the least seconds after which each event may come, counting time-outs only."""
    found: dict[str, float] = {}
    queue = [(0.0, start)] if runs.effort.take(len(runs.acts)) else []
    there: dict[str, dict[int, float]] = {}
    while queue:
        at, kind = heapq.heappop(queue)
        if kind in found:
            continue
        found[kind] = at
        for act in runs.taking(kind):
            groups = there.setdefault(act.name, {})
            for number, group in enumerate(act.groups):
                if kind in group:
                    groups.setdefault(number, at)
            if len(groups) < len(act.groups):
                continue
            handler = topology.handlers.get(act.handler)
            for way in act.ways:
                waits = handler.within_s or 0.0 if handler and way.how == "time-out" else 0.0
                for other in way.events:
                    if other not in found:
                        heapq.heappush(queue, (max(groups.values()) + waits, other))
    return found


def _time(seconds: float) -> str:
    for size, unit in ((DAY_S, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
