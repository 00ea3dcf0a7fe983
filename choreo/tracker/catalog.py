"""What services declare, as the tracker needs it: read from their manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Catalog", "FlowDeclared", "HandlerDeclared"]


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Retry(_Declared):
    attempts_max: int = 0


class HandlerDeclared(_Declared):
    """One handler of a manifest; event types by their full names.

    `slots` are the parameters of a join: which types, and whether it may be missing.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    later: frozenset[str] = frozenset()
    silent: bool = False
    on: tuple[str, ...] = ()
    nothing: str | None = None
    of: str | None = None
    unless: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    within_s: float | None = None
    slots: tuple[tuple[tuple[str, ...], bool], ...] = ()
    retry: _Retry = _Retry()

    @property
    def gives(self) -> frozenset[str]:
        """Every type that it may publish."""
        return frozenset(self.outputs) | ({self.nothing} if self.nothing else frozenset())


class FlowDeclared(_Declared):
    """One flow of a manifest."""

    name: str
    starts: str
    ends: tuple[str, ...]
    deadline_s: float | None = None
    overdue: str | None = None


class _Manifest(_Declared):
    service: str
    handlers: tuple[HandlerDeclared, ...] = ()
    flows: tuple[FlowDeclared, ...] = ()


class Catalog:
    """All handlers and flows that are known. The order of the manifests does not matter."""

    def __init__(self, manifests: Iterable[_Manifest] = ()) -> None:
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
        found = []
        for document in manifests.values():
            try:
                found.append(_Manifest.model_validate(document.get("x-choreo")))
            except (ValidationError, AttributeError):
                continue
        return cls(found)

    def _of_kind(self, kind: str) -> tuple[HandlerDeclared, ...]:
        return tuple(one for one in self.handlers.values() if one.kind == kind)

    def changed(self, other: Catalog) -> frozenset[str]:
        """Name event types and handlers: flows that have one may now be listed differently."""
        words = {kind for kind in self.flows.keys() | other.flows.keys()
                 if self.flows.get(kind) != other.flows.get(kind)}  # fmt: skip
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
