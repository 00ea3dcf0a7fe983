"""What the decorators of a Service declare, as frozen values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from choreo.events import Event
from choreo.policies import Retry
from choreo.service.signature import Signature

__all__ = ["Flow", "Handler", "Kind"]


class Kind(Enum):
    """Which decorator declared a handler."""

    ON = "on"
    COMPENSATE = "compensate"
    OTHERWISE = "otherwise"
    EXPECTS = "expects"
    JOIN = "join"


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow that a service owns: from `starts` to one of `ends`, within `deadline_s` seconds.

    `overdue`, if given, is published when the deadline passes, built from the fields of
    the same names in the starting event.
    """

    name: str
    service: str
    starts: type[Event]
    ends: tuple[type[Event], ...]
    deadline_s: float | None = None
    overdue: type[Event] | None = None
    owner: str = ""
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler. `name` is qualified: service.handler.

    `inputs` are the events given as subject. For `compensate`, `on` are the triggers and
    `nothing` what tells that there was nothing to undo; for `expects`, `on` are the events
    waited for and `inputs` those after which; `of` is the handler that an `otherwise`
    stands in for. `by` narrows the scope to fields of the events. `was` are former names.
    With `hold` a dead letter keeps its key waiting; in one scope it runs `visits_max` times
    at most.
    """

    name: str
    kind: Kind
    fn: Callable[..., Any]
    signature: Signature
    inputs: tuple[type[Event], ...]
    on: tuple[type[Event], ...] = ()
    nothing: type[Event] | None = None
    of: Handler | None = None
    by: tuple[str, ...] = ()
    unless: tuple[type[Event], ...] = ()
    within_s: float | None = None
    retry: Retry = Retry()
    timeout_s: float | None = None
    was: tuple[str, ...] = ()
    hold: bool = False
    visits_max: int | None = None
