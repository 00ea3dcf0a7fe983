"""What services' manifests declare, as far as an audit needs it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Declaration", "Declared", "FlowEnds", "Names", "Taker", "takes_of"]


@dataclass(frozen=True, slots=True)
class Declared:
    """One handler of a manifest, as far as an audit needs it; event types by full name."""

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    outputs: frozenset[str] = frozenset()
    later: frozenset[str] = frozenset()
    by: tuple[str, ...] = ()
    of: str | None = None
    within_s: float | None = None
    nothing: str | None = None
    slots: tuple[tuple[frozenset[str], bool], ...] = ()


class Names:
    """Handlers that were renamed: whichever name a row or a record has, it means the same."""

    def __init__(self) -> None:
        """Nobody has been renamed yet."""
        self._related: dict[str, set[str]] = {}
        self._present: dict[str, str] = {}

    def learn(self, name: str, former: Iterable[str]) -> None:
        """Say that a handler had these names before."""
        for one in former:
            both = self._related.get(name, {name}) | self._related.get(one, {one})
            for each in both:
                self._related[each] = both
            self._present.clear()

    def present(self, name: str, declared: Collection[str]) -> str:
        """Give the name that a handler, or its mark, has now: the one that is declared."""
        found = self._present.get(name)
        if found is None:
            own, mark, what = name.partition("!")
            heirs = sorted(self._related.get(own, {own}).intersection(declared))
            found = (own if own in declared or not heirs else heirs[0]) + mark + what
            self._present[name] = found
        return found

    def all(self, name: str) -> Collection[str]:
        """Give every name that the handler has or had."""
        return self._related.get(name, {name})


@dataclass(frozen=True, slots=True)
class FlowEnds:
    """A flow of a manifest: the type that starts it, and those that end it."""

    name: str
    starts: str
    ends: frozenset[str]


@dataclass(frozen=True, slots=True)
class Taker:
    """Who has a row in the inbox for each event of a type, from one record of the log on.

    `since` is that record's place in the history, `at` its time in epoch seconds.
    """

    name: str
    service: str
    since: int
    at: float


@dataclass(slots=True)
class Declaration:
    """What a service's newest manifest says; `takes` has when each taker was declared."""

    handlers: dict[str, Declared] = field(default_factory=dict)
    flows: list[FlowEnds] = field(default_factory=list)
    takes: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)


def takes_of(handlers: Mapping[str, Declared]) -> Iterator[tuple[str, str]]:
    """List, for each inbox name, the event types that it has rows for."""
    own = frozenset[str]().union(*(one.outputs for one in handlers.values()))
    for name, one in handlers.items():
        marked = {
            "on": [(name, one.inputs)],
            "compensate": [(f"{name}!why", one.on)],
            "join": [(f"{name}!arrive", one.inputs)],
            "expects": [
                (f"{name}!open", one.inputs),
                # What the service publishes itself closes the gate without a delivery.
                (f"{name}!close", tuple(kind for kind in one.on if kind not in own)),
            ],
        }.get(one.kind, [])
        for taker, kinds in [*marked, (f"{name}!unless", one.unless)]:
            for kind in kinds:
                yield taker, kind
