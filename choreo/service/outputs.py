"""What a handler may return, read from its annotation, and what it did return.

`A | B` either, `tuple[A, B]` both, `list[A]` many, `None` nothing, `After[E]` later,
`Cancel` takes a later one back. Returning what the annotation does not name is an error.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from choreo.errors import ConfigurationError, HandlerError
from choreo.events import Event

__all__ = ["After", "Cancel", "Outputs", "Way", "outputs_of"]

WAYS_MAX = 64

E_co = TypeVar("E_co", bound=Event, covariant=True)


class After(Generic[E_co]):
    """Publish `event` later: `after_s` seconds from now, or `at` a time-zone aware moment.

    Another one of the same `name` in the same flow replaces it, `Cancel(name)` takes it
    back. Without a name it is one of its own.
    """

    __slots__ = ("after_s", "at", "event", "name")

    def __init__(
        self,
        event: E_co,
        *,
        after_s: float | None = None,
        at: datetime | None = None,
        name: str | None = None,
    ) -> None:
        """Give one of `after_s` and `at`; what lies in the past is published at once."""
        if (after_s is None) == (at is None):
            what = "After takes one of after_s= and at="
            raise ConfigurationError(what, code="CH1011", event=type(event).__name__)
        if after_s is not None and not 0 <= after_s < math.inf:
            what = "After(after_s=) takes seconds from 0 on"
            raise ConfigurationError(what, code="CH1011", event=type(event).__name__)
        if at is not None and at.tzinfo is None:
            what = "After(at=) must be time-zone aware"
            raise ConfigurationError(what, code="CH1011", event=type(event).__name__)
        self.event = event
        self.after_s = after_s
        self.at = at
        self.name = name

    def due(self, now: float) -> float:
        """Epoch seconds at which to publish."""
        return self.at.timestamp() if self.at is not None else now + (self.after_s or 0.0)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Take back what `After(…, name=name)` of the same service and flow would publish."""

    name: str


Output = Event | After[Event] | Cancel


@dataclass(frozen=True, slots=True)
class _Shape:
    """One alternative of an annotation."""

    form: str  # one, nothing, both, many, after, cancel
    event: type[Event] | None = None
    inner: tuple[tuple[_Shape, ...], ...] = ()


class Way(NamedTuple):
    """One of the things that a handler may do: what it publishes now, later, or takes back."""

    now: frozenset[type[Event]] = frozenset()
    later: frozenset[type[Event]] = frozenset()
    cancels: bool = False

    def __or__(self, other: object) -> Way:
        """Do both."""
        assert isinstance(other, Way)
        return Way(self.now | other.now, self.later | other.later, self.cancels or other.cancels)


class Outputs:
    """What one handler may return."""

    __slots__ = ("_name", "_shapes", "direct", "events", "later", "silent")

    def __init__(self, name: str, shapes: tuple[_Shape, ...]) -> None:
        """Keep the alternatives; list the event classes in them."""
        self._name = name
        self._shapes = shapes
        found = list(_events_in(shapes))
        self.events: tuple[type[Event], ...] = tuple(dict.fromkeys(e for e, _ in found))
        self.later: frozenset[type[Event]] = frozenset(e for e, form in found if form == "after")
        self.direct = frozenset(shape.event for shape in shapes if shape.form == "one")
        self.silent = any(shape.form == "nothing" for shape in shapes)

    def ways(self) -> tuple[Way, ...]:
        """List what may come of one step, each combination once.

        Of more than 64, only the least and the most: nothing, each event alone, all.
        """
        try:
            return tuple(dict.fromkeys(_ways(self._shapes)))
        except OverflowError:
            alone = [
                Way(later=frozenset({event})) if event in self.later else Way(frozenset({event}))
                for event in self.events
            ]
            return (Way(), *alone, functools.reduce(Way.__or__, alone))

    def take(self, value: object) -> list[Output]:
        """List what was returned; raises HandlerError when the annotation does not name it."""
        found: list[Output] = []
        if not _matches(value, self._shapes, found):
            allowed = ", ".join(event.__name__ for event in self.events) or "None"
            raise HandlerError(
                f"returned {_describe(value)}, which its annotation does not name",
                code="CH5002",
                fix="name it in the return annotation, or return what is named there",
                handler=self._name,
                annotation=allowed,
            )
        return found


def _describe(value: object) -> str:
    if isinstance(value, tuple | list):
        inner = ", ".join(_describe(one) for one in value)
        return f"{type(value).__name__}({inner})"
    return "None" if value is None else type(value).__name__


def _events_in(shapes: tuple[_Shape, ...]) -> Iterator[tuple[type[Event], str]]:
    for shape in shapes:
        if shape.event is not None:
            yield shape.event, shape.form
        for inner in shape.inner:
            yield from _events_in(inner)


def _ways(shapes: tuple[_Shape, ...]) -> list[Way]:
    """Raises OverflowError when there are too many to list."""
    found: list[Way] = []
    for shape in shapes:
        found += _ways_of(shape)
    found = list(dict.fromkeys(found))
    if len(found) > WAYS_MAX:
        raise OverflowError
    return found


def _ways_of(shape: _Shape) -> list[Way]:
    if shape.form == "one":
        assert shape.event is not None
        return [Way(frozenset({shape.event}))]
    if shape.form == "after":
        assert shape.event is not None
        return [Way(later=frozenset({shape.event}))]
    if shape.form == "cancel":
        return [Way(cancels=True)]
    made = [Way()]
    if shape.form == "both":
        for inner in shape.inner:
            made = list(dict.fromkeys(one | other for one in made for other in _ways(inner)))
            if len(made) > WAYS_MAX:
                raise OverflowError
    elif shape.form == "many":  # none, or any of them in any company
        for way in _ways(shape.inner[0]):
            made = list(dict.fromkeys((*made, *(one | way for one in made))))
            if len(made) > WAYS_MAX:
                raise OverflowError
    return made


def _matches(value: object, shapes: tuple[_Shape, ...], found: list[Output]) -> bool:
    for shape in shapes:
        mark = len(found)
        if _fits(value, shape, found):
            return True
        del found[mark:]
    return False


def _fits(value: object, shape: _Shape, found: list[Output]) -> bool:
    form = shape.form
    if form == "nothing":
        return value is None
    if form == "one":
        if type(value) is not shape.event:
            return False
        found.append(value)
        return True
    if form == "both":
        return (
            isinstance(value, tuple)
            and len(value) == len(shape.inner)
            and all(
                _matches(one, inner, found) for one, inner in zip(value, shape.inner, strict=True)
            )
        )
    if form == "many":
        return isinstance(value, list) and all(
            _matches(one, shape.inner[0], found) for one in value
        )
    if form == "after":
        if not isinstance(value, After) or type(value.event) is not shape.event:
            return False
    elif not isinstance(value, Cancel):
        return False
    found.append(value)
    return True


def outputs_of(annotation: Any, *, name: str) -> Outputs:
    """Read a return annotation; raises ConfigurationError when it is no such thing."""
    return Outputs(name, _alternatives(annotation, name))


def _alternatives(annotation: Any, name: str) -> tuple[_Shape, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(
            shape for one in typing.get_args(annotation) for shape in _alternatives(one, name)
        )
    return (_shape(annotation, name),)


def _shape(annotation: Any, name: str) -> _Shape:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return _Shape("nothing")
    if annotation is Cancel:
        return _Shape("cancel")
    if origin is tuple and args and Ellipsis not in args:
        return _Shape("both", inner=tuple(_alternatives(one, name) for one in args))
    if origin is list and args:
        return _Shape("many", inner=(_alternatives(args[0], name),))
    if origin is After and args and is_event(args[0]):
        return _Shape("after", event=args[0])
    if is_event(annotation):
        return _Shape("one", event=annotation)
    shown = getattr(annotation, "__name__", None) or str(annotation)
    raise ConfigurationError(
        f"return annotation {shown} is no event",
        code="CH1003",
        fix="annotate events: A, A | B, tuple[A, B], list[A], After[A], Cancel or None",
        handler=name,
    )


def is_event(annotation: Any) -> bool:
    """Tell whether this is an event class with a topic."""
    return (
        isinstance(annotation, type)
        and issubclass(annotation, Event)
        and hasattr(annotation, "__event__")
    )
