"""Manifests, joined: who publishes, who takes, who owns each type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from choreo.schemas.comparing import Schema
from choreo.topology.declared import FlowDeclared, HandlerDeclared, declared_in

__all__ = ["EventSeen", "Topology", "listed", "short"]


@dataclass(frozen=True)
class EventSeen:
    """One type as one service declares it; `declared` is the class that does."""

    type: str
    service: str
    owned: bool
    failure: bool
    foreign: bool
    declared: str
    schemas: tuple[Schema, ...]


@dataclass(frozen=True)
class FlowSeen:
    """A flow and the service that declares it."""

    service: str
    flow: FlowDeclared

    @property
    def name(self) -> str:
        """Its qualified name."""
        return f"{self.service}.{self.flow.name}"


class Topology:
    """Services by name, as their manifests declare them. Their order does not matter."""

    def __init__(self, manifests: Mapping[str, Mapping[str, Any]]) -> None:
        """Join manifests by service name; one that can not be read is listed as unread."""
        self.handlers: dict[str, HandlerDeclared] = {}
        self.of_service: dict[str, list[HandlerDeclared]] = {}
        self.flows: list[FlowSeen] = []
        self.seen: dict[str, list[EventSeen]] = {}
        self.keeps_s: dict[str, float] = {}
        self.unread: list[str] = []
        for name in sorted(manifests):
            declared = declared_in(manifests[name])
            if declared is None:
                self.unread.append(name)
                continue
            mine = sorted(declared.handlers, key=lambda one: one.name)
            self.of_service[name] = mine
            if declared.flow_keep_s is not None:
                self.keeps_s[name] = declared.flow_keep_s
            self.handlers.update({one.name: one for one in mine})
            flows = sorted(declared.flows, key=lambda one: one.name)
            self.flows += [FlowSeen(name, flow) for flow in flows]
            for event in _events(name, manifests[name]):
                self.seen.setdefault(event.type, []).append(event)

    @cached_property
    def publishers(self) -> dict[str, list[str]]:
        """Who may publish each type: names of handlers, and of flows for `overdue`."""
        found: dict[str, list[str]] = {}
        for handler in self.handlers.values():
            for kind in sorted(handler.gives):
                found.setdefault(kind, []).append(handler.name)
        for one in self.flows:
            if one.flow.overdue:
                found.setdefault(one.flow.overdue, []).append(one.name)
        return found

    @cached_property
    def takers(self) -> dict[str, list[str]]:
        """Who looks at each type: names of handlers."""
        found: dict[str, list[str]] = {}
        for handler in self.handlers.values():
            if handler.kind != "otherwise":
                for kind in sorted(handler.takes):
                    found.setdefault(kind, []).append(handler.name)
        return found

    @cached_property
    def starts(self) -> frozenset[str]:
        """The types that begin flows."""
        return frozenset(one.flow.starts for one in self.flows)

    @cached_property
    def ends(self) -> frozenset[str]:
        """The types that end flows."""
        return frozenset(end for one in self.flows for end in one.flow.ends)

    @cached_property
    def failures(self) -> frozenset[str]:
        """The types that somebody marks as business failures: their owner goes first."""
        found = set()
        for kind, seen in self.seen.items():
            owners = [one for one in seen if one.owned]
            if any(one.failure for one in owners or seen):
                found.add(kind)
        return frozenset(found)

    @cached_property
    def foreign(self) -> frozenset[str]:
        """The types that come from systems that know nothing of choreo."""
        return frozenset(
            kind for kind, seen in self.seen.items() if any(one.foreign for one in seen)
        )

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """What flows begin with: declared starts and foreign types, else what nobody publishes."""
        orphans = [kind for kind in sorted(self.takers) if kind not in self.publishers]
        foreign = [kind for kind in orphans if kind in self.foreign and kind not in self.starts]
        return (*sorted(self.starts), *foreign) or tuple(orphans)

    @cached_property
    def stand_ins(self) -> dict[str, HandlerDeclared]:
        """The `otherwise` of each handler that has one."""
        return {one.of: one for one in self.handlers.values() if one.kind == "otherwise" and one.of}

    def undos(self) -> Iterator[HandlerDeclared]:
        """Give the compensations, each with an effect."""
        for handler in self.handlers.values():
            if handler.kind == "compensate" and handler.inputs:
                yield handler

    def handlers_of(self, kind: str) -> Iterator[HandlerDeclared]:
        """Give the handlers that one decorator declared."""
        return (one for one in self.handlers.values() if one.kind == kind)


def _events(service: str, document: Mapping[str, Any]) -> Iterable[EventSeen]:
    messages = _mapping(_mapping(document.get("components")).get("messages"))
    views = _mapping(_mapping(document.get("x-choreo")).get("views"))
    for kind, message in sorted(messages.items()):
        told = _mapping(message)
        ours = _mapping(told.get("x-choreo"))
        more = views.get(kind)
        payloads = [told.get("payload"), *(more if isinstance(more, list) else ())]
        yield EventSeen(
            kind, service, bool(ours.get("owned")), bool(ours.get("failure")),
            bool(ours.get("foreign")), str(ours.get("declared") or service),
            tuple(Schema(one, document) for one in payloads),
        )  # fmt: skip


def _mapping(thing: Any) -> Mapping[str, Any]:
    return thing if isinstance(thing, Mapping) else {}


def short(kinds: Iterable[str] | str) -> str:
    """Write types for people, without their topics, sorted: A, B or C."""
    if isinstance(kinds, str):
        return kinds.rsplit(".", 1)[-1]
    return listed(sorted({short(kind) for kind in kinds}), "or")


def listed(names: Sequence[str], word: str) -> str:
    """Write a list for people: A, B and C."""
    return f" {word} ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])
