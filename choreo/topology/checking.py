"""All that is looked for where services meet."""

from __future__ import annotations

from choreo.topology.coverage import coverage
from choreo.topology.cycles import cycles
from choreo.topology.findings import Finding
from choreo.topology.graph import Topology
from choreo.topology.runs import Effort, scenes
from choreo.topology.waiting import waiting
from choreo.topology.wiring import wiring

__all__ = ["check"]


def check(topology: Topology) -> list[Finding]:
    """Find what does not fit; the same topology always gives the same findings, sorted."""
    effort = Effort()
    there = scenes(topology, effort)
    unread = [
        Finding(
            "CH1114", name, "its manifest can not be read, so it was left out",
            "publish it again: a service does when it starts",
        )
        for name in topology.unread
    ]  # fmt: skip
    found = {
        *unread,
        *wiring(topology),
        *cycles(topology),
        *coverage(topology, there),
        *waiting(topology, there),
    }
    if effort.spent:
        found.add(
            Finding(
                "CH1115", "all services",
                "they are too tangled for the proofs to be completed: undos, joins or times may "
                "be wrong that are not named here",
                "cut long flows into flows of their own, and check services in smaller groups",
            )
        )  # fmt: skip
    return sorted(found)
