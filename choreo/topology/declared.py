"""What services declare, read back from their manifests.

A manifest may come from another version of choreo, or from no choreo at all: what it lacks
is a default here, and what it has more is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = [
    "FlowDeclared",
    "HandlerDeclared",
    "ManifestDeclared",
    "RetryDeclared",
    "WayDeclared",
    "declared_in",
]


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RetryDeclared(_Declared):
    """How often a failed attempt is made again; times in seconds."""

    attempts_max: int = 0
    first_s: float = 0.0
    factor: float = 1.0
    jitter: float = 0.0
    longest_s: float = 0.0


class WayDeclared(_Declared):
    """One thing that a handler may return: events at once, events later, taking those back."""

    now: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    cancels: bool = False


class HandlerDeclared(_Declared):
    """One handler of a manifest; event types by their full names.

    `slots` are the parameters of a join: which types, and whether it may be missing. `at`
    is its module and line.
    """

    name: str
    kind: str
    at: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    ways: tuple[WayDeclared, ...] = ()
    later: frozenset[str] = frozenset()
    silent: bool = False
    on: tuple[str, ...] = ()
    nothing: str | None = None
    of: str | None = None
    unless: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    within_s: float | None = None
    timeout_s: float | None = None
    visits_max: int | None = None
    slots: tuple[tuple[tuple[str, ...], bool], ...] = ()
    retry: RetryDeclared = RetryDeclared()

    @property
    def gives(self) -> frozenset[str]:
        """Every type that it may publish."""
        return frozenset(self.outputs) | ({self.nothing} if self.nothing else frozenset())

    @property
    def takes(self) -> frozenset[str]:
        """Every type that it looks at."""
        slots = frozenset(kind for kinds, _ in self.slots for kind in kinds)
        return slots | frozenset((*self.inputs, *self.on, *self.unless))


class FlowDeclared(_Declared):
    """One flow of a manifest."""

    name: str
    starts: str
    ends: tuple[str, ...]
    deadline_s: float | None = None
    overdue: str | None = None


class ManifestDeclared(_Declared):
    """What a manifest says under `x-choreo`."""

    service: str
    flow_keep_s: float | None = None
    handlers: tuple[HandlerDeclared, ...] = ()
    flows: tuple[FlowDeclared, ...] = ()


def declared_in(document: Mapping[str, Any]) -> ManifestDeclared | None:
    """Read one manifest; None if it is not ours, or broken."""
    try:
        return ManifestDeclared.model_validate(document.get("x-choreo"))
    except (ValidationError, AttributeError):
        return None
