"""A handler's parameters, told apart by type."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from choreo.context import Context, Failure, State
from choreo.errors import ConfigurationError
from choreo.events import Event
from choreo.ports import Tx
from choreo.service.outputs import Outputs, is_event, outputs_of

__all__ = ["Param", "ParamKind", "Signature", "events_of", "signature_of"]


class ParamKind(Enum):
    """What a parameter is given."""

    EVENT = "event"
    FAILURE = "failure"
    CONTEXT = "context"
    TX = "tx"
    STATE = "state"
    RESOURCE = "resource"


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. `events` for EVENT (`optional`: may be None), `of` for STATE and RESOURCE."""

    name: str
    kind: ParamKind
    events: tuple[type[Event], ...] = ()
    any_event: bool = False
    optional: bool = False
    of: type | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Parameters in order, and what may be returned."""

    params: tuple[Param, ...]
    outputs: Outputs
    sync: bool

    def first(self, kind: ParamKind) -> Param | None:
        """Give the first parameter of a kind."""
        return next((param for param in self.params if param.kind is kind), None)

    def events(self) -> tuple[Param, ...]:
        """Give the parameters that take events."""
        return tuple(param for param in self.params if param.kind is ParamKind.EVENT)


def signature_of(
    fn: Callable[..., Any], *, name: str, scope: Mapping[str, Any] | None = None
) -> Signature:
    """Read a handler's annotations; raises ConfigurationError naming the one that is wrong."""
    try:
        hints = typing.get_type_hints(fn, localns=dict(scope or {}))
    except (NameError, TypeError) as exc:
        raise ConfigurationError(
            f"an annotation can not be resolved: {exc}",
            code="CH1003",
            fix="import the name at run time, above the handler",
            handler=name,
        ) from None
    params = []
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise _unfit(name, parameter.name, "may not be *args or **kwargs")
        if parameter.name not in hints:
            raise _unfit(name, parameter.name, "has no annotation")
        params.append(_param(parameter.name, hints[parameter.name], name))
    if "return" not in hints:
        raise ConfigurationError(
            "the return annotation is missing",
            code="CH1003",
            fix="name what it publishes: A, A | B, tuple[A, B], list[A], After[A], Cancel or None",
            handler=name,
        )
    outputs = outputs_of(hints["return"], name=name)
    return Signature(tuple(params), outputs, not inspect.iscoroutinefunction(fn))


def _unfit(handler: str, parameter: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"parameter {parameter!r} {what}",
        code="CH1003",
        fix="annotate it with an event, Context, Tx, a State, Failure, or a resource's type",
        handler=handler,
    )


def _param(name: str, hint: Any, handler: str) -> Param:
    if hint is Context:
        return Param(name, ParamKind.CONTEXT)
    if hint is Tx:
        return Param(name, ParamKind.TX)
    if hint is Failure:
        return Param(name, ParamKind.FAILURE)
    if hint is Event:
        return Param(name, ParamKind.EVENT, any_event=True)
    if isinstance(hint, type) and issubclass(hint, State):
        return Param(name, ParamKind.STATE, of=hint)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if union else (hint,)
    optional = union and type(None) in members
    real = tuple(member for member in members if member is not type(None))
    if real and all(is_event(member) for member in real):
        return Param(name, ParamKind.EVENT, events=real, optional=optional)
    if isinstance(hint, type) and not issubclass(hint, Event):
        if hint.__module__ == "builtins":
            raise _unfit(handler, name, f"of type {hint.__name__} is no event")
        return Param(name, ParamKind.RESOURCE, of=hint)
    raise _unfit(handler, name, f"of type {hint} is no event")


def events_of(events: tuple[Any, ...] | Any, *, what: str, name: str) -> tuple[type[Event], ...]:
    """Check that these are event classes with topics."""
    listed = events if isinstance(events, tuple) else (events,)
    for one in listed:
        if not is_event(one):
            shown = getattr(one, "__name__", repr(one))
            raise ConfigurationError(
                f"{what} {shown} is no event class with a topic",
                code="CH1003",
                fix="declare it as class E(Event, topic=…)",
                handler=name,
            )
    return listed
