"""Who publishes what nobody takes, who waits for what nobody publishes, who owns what twice."""

from __future__ import annotations

from collections.abc import Iterator

from choreo.schemas.comparing import unreadable
from choreo.topology.findings import Finding
from choreo.topology.graph import Topology, listed, short

__all__ = ["wiring"]


def wiring(topology: Topology) -> Iterator[Finding]:
    """Look at each event by itself."""
    yield from _unconsumed(topology)
    yield from _unpublished(topology)
    yield from _owners(topology)
    yield from _readers(topology)


def _unconsumed(topology: Topology) -> Iterator[Finding]:
    for kind in sorted({*topology.publishers, *topology.starts}):
        if kind in topology.takers or kind in topology.ends:
            continue
        by = topology.publishers.get(kind, [])
        first = by[0] if by else ""
        verb = "publishes" if len(by) == 1 else "publish"
        who = f"{listed(by, 'and')} {verb} it" if by else "a flow starts with it"
        yield Finding(
            "CH1101", kind, f"{who}, and nobody takes it",
            "handle it, name it among the ends= of a flow, or publish it no more",
            at=_at(topology, first),
        )  # fmt: skip


def _unpublished(topology: Topology) -> Iterator[Finding]:
    for kind in sorted({*topology.takers, *topology.ends}):
        if kind in topology.publishers or kind in topology.starts or kind in topology.foreign:
            continue
        takers = topology.takers.get(kind, [])
        flows = [one.name for one in topology.flows if kind in one.flow.ends]
        one = len(takers or flows) == 1
        verb = f"take{'s' * one} it" if takers else f"{'is' if one else 'are'} to end with it"
        yield Finding(
            "CH1102", kind, f"{listed(takers or flows, 'and')} {verb}, and nobody publishes it",
            "publish it, load the service that does, or take it no more; a type has to be "
            "spelled the same in both places",
            at=_at(topology, takers[0] if takers else ""),
        )  # fmt: skip


def _owners(topology: Topology) -> Iterator[Finding]:
    """Two classes with key= are two owners; one class is, where two services publish it."""
    for kind, seen in sorted(topology.seen.items()):
        owners = [one for one in seen if one.owned]
        if len({one.declared for one in owners}) == 1:
            services = {name.partition(".")[0] for name in topology.publishers.get(kind, ())}
            names, why = sorted(services), "each publishes it"
        else:
            names, why = [one.service for one in owners], "each declares it with key="
        if len(names) > 1 and owners:
            yield Finding(
                "CH1103", kind, f"{listed(names, 'and')} own it: {why}",
                "let one of them publish it, and declare it with key=; the others take a view",
            )  # fmt: skip


def _readers(topology: Topology) -> Iterator[Finding]:
    for kind, seen in sorted(topology.seen.items()):
        owners = [one for one in seen if one.owned]
        if not owners:
            continue
        owner = owners[0]
        for reader in seen:
            # Two owners are a finding of their own; what is read by the owner's class is read.
            views = reader.schemas[1:] if reader.owned else reader.schemas
            reasons = [why for view in views for why in unreadable(owner.schemas[0], view)]
            if not reasons:
                continue
            taker = next(
                (name for name in topology.takers.get(kind, [])
                 if name.partition(".")[0] == reader.service), "",
            )  # fmt: skip
            yield Finding(
                "CH1104", taker or f"{reader.service} {kind}",
                f"it can not read the {short(kind)} of {owner.service}: "
                + "; ".join(dict.fromkeys(reasons)),
                "change the view to what the owner publishes, or give the field a default",
                at=_at(topology, taker),
            )  # fmt: skip


def _at(topology: Topology, name: str) -> str:
    handler = topology.handlers.get(name)
    return handler.at if handler else ""
