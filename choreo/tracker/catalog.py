"""What services declare, as the tracker needs it: read from their manifests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from choreo.topology import FlowDeclared, HandlerDeclared, ManifestDeclared, declared_in

__all__ = ["Catalog", "FlowDeclared", "HandlerDeclared"]


class Catalog:
    """All handlers and flows that are known. The order of the manifests does not matter."""

    def __init__(self, manifests: Iterable[ManifestDeclared] = ()) -> None:
        """Index what the manifests declare."""
        ordered = sorted(manifests, key=lambda one: one.service)
        self.handlers: dict[str, HandlerDeclared] = {
            handler.name: handler for one in ordered for handler in one.handlers
        }
        self.takers: dict[str, list[HandlerDeclared]] = {}
        self.undoers: dict[str, list[HandlerDeclared]] = {}
        self.flows: dict[str, FlowDeclared] = {}
        for one in ordered:
            for flow in one.flows:
                self.flows.setdefault(flow.starts, flow)
        for handler in self.handlers.values():
            if handler.kind == "on":
                for kind in handler.inputs:
                    self.takers.setdefault(kind, []).append(handler)
        self.joins = self._of_kind("join")
        self.expects = self._of_kind("expects")
        self.compensations = self._of_kind("compensate")
        self.stand_ins = {one.of: one for one in self._of_kind("otherwise") if one.of}
        self.gathering = frozenset(
            one.name for one in self.handlers.values()
            if "join" in (one.kind, getattr(self.handlers.get(one.of or ""), "kind", None))
        )  # fmt: skip
        self.triggers = frozenset(kind for one in self.compensations for kind in one.on)
        self.later = frozenset(one.name for one in self.handlers.values() if one.later)
        self.ends = frozenset(
            (flow.starts, end) for flow in self.flows.values() for end in flow.ends
        )
        self.end_types = frozenset(end for _, end in self.ends)

    @classmethod
    def of(cls, manifests: Mapping[str, Mapping[str, Any]]) -> Catalog:
        """Read manifests by service name. One that is not ours, or broken, says nothing."""
        found = filter(None, map(declared_in, manifests.values()))
        return cls(found)

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Catalog:
        """Read manifests as they are kept. What says nothing new is read once."""
        return cls(filter(None, map(_declared, texts)))

    def _of_kind(self, kind: str) -> tuple[HandlerDeclared, ...]:
        return tuple(one for one in self.handlers.values() if one.kind == kind)

    def changed(self, other: Catalog) -> frozenset[str]:
        """Name event types and handlers: flows that have one may now be listed differently."""
        words = {kind for kind in self.flows.keys() | other.flows.keys()
                 if self.flows.get(kind) != other.flows.get(kind)}  # fmt: skip
        words |= other.end_types - self.end_types  # of flows whose root is still to come
        words |= self.later ^ other.later
        words |= self.gathering ^ other.gathering
        mine = {one.name: one for one in self.compensations}
        theirs = {one.name: one for one in other.compensations}
        for name in mine.keys() | theirs.keys():
            if mine.get(name) != theirs.get(name):
                for one in (mine.get(name), theirs.get(name)):
                    if one is not None:
                        words.update((name, *one.inputs, *one.on))
        return frozenset(words)


@lru_cache(maxsize=256)
def _declared(text: str) -> ManifestDeclared | None:
    return declared_in(json.loads(text))
