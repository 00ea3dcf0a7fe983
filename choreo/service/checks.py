"""What must hold of a declaration, checked where it is made: each says what, where, and the fix."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from choreo.errors import ConfigurationError, HandlerConflictError
from choreo.events import Event
from choreo.policies import Retry
from choreo.service.declared import Handler, Kind
from choreo.service.signature import Param, ParamKind, Signature, events_of

__all__ = ["check_built", "check_former", "check_handler", "check_seconds"]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
SUBJECTS = {Kind.COMPENSATE: 2}


def check_handler(handler: Handler) -> None:  # noqa: C901 - a list of checks, none nested
    """Refuse a handler that could not run."""
    signature, name = handler.signature, handler.name
    if not NAME.fullmatch(name.partition(".")[2]):
        raise ConfigurationError(
            "a handler's name is letters, digits, _ and -",
            code="CH1012",
            fix="choose another name=",
            handler=name,
        )
    _check_listed(handler)
    _check_owned(handler)
    if not isinstance(handler.retry, Retry):
        raise ConfigurationError(
            "retry= takes a Retry", code="CH1011", fix="write Retry(attempts_max=…)", handler=name
        )
    if handler.timeout_s is not None:
        check_seconds(handler.timeout_s, "timeout_s", name)
    if handler.within_s is not None:
        check_seconds(handler.within_s, "within_s", name)
    if signature.sync and signature.first(ParamKind.TX) is not None:
        raise ConfigurationError(
            "a handler that takes Tx must be async", code="CH1004", fix="async def", handler=name
        )
    if handler.visits_max is not None and handler.visits_max < 1:
        raise ConfigurationError(
            "visits_max must be at least 1", code="CH1011", fix="correct it", handler=name
        )
    for kind, most in ((ParamKind.STATE, 1), (ParamKind.TX, 1), (ParamKind.CONTEXT, 1)):
        if sum(param.kind is kind for param in signature.params) > most:
            raise _wrong(f"takes more than one {kind.value}", "take one", name)
    if handler.kind is not Kind.OTHERWISE and signature.first(ParamKind.FAILURE) is not None:
        raise _wrong(
            "takes Failure, which only an otherwise handler is given", "leave it out", name
        )
    if handler.kind is Kind.JOIN:
        _check_join(signature.events(), handler.within_s, name)
        return
    if handler.of is not None and handler.of.kind is Kind.JOIN:
        _check_gathered(signature.events(), handler.inputs, name)
        return
    _check_subject(signature, handler.inputs, name)
    if len(signature.events()) > SUBJECTS.get(handler.kind, 1):
        raise _wrong("takes more events than it is given", "use a join for several", name)
    if handler.kind is Kind.COMPENSATE:
        _check_why(signature.events(), handler.on, name)
        if handler.nothing is not None:
            check_built(handler.nothing, handler.on, name)


def check_former(handlers: Collection[Handler]) -> None:
    """Refuse a former name that is a handler's present one, or two handlers' former one."""
    heirs = {handler.name: handler.name for handler in handlers}
    for handler in handlers:
        for former in handler.was:
            if former in heirs:
                raise HandlerConflictError(
                    f"was={former!r}: {heirs[former]} goes by that name",
                    fix="a name has one heir: leave it out of one of them",
                    handler=handler.name,
                )
            heirs[former] = handler.name


def _wrong(what: str, fix: str, name: str) -> ConfigurationError:
    return ConfigurationError(what, code="CH1004", fix=fix, handler=name)


def _check_listed(handler: Handler) -> None:
    if handler.kind in (Kind.ON, Kind.EXPECTS, Kind.JOIN) and not handler.inputs:
        raise _wrong("names no event that it is given", "name at least one", handler.name)
    if handler.kind is Kind.EXPECTS and not handler.on:
        raise _wrong("expects no event", "name what is to come", handler.name)
    if handler.kind is Kind.COMPENSATE and not handler.on:
        raise _wrong("no event triggers it", "name at least one in on=", handler.name)


def _check_owned(handler: Handler) -> None:
    """A view has no key: what would be published of it lies anywhere, under another's type."""
    for event in handler.signature.outputs.events:
        _check_owned_event(event, handler.name)


def _check_owned_event(event: type[Event], name: str) -> None:
    if event.__event__.key is None:
        raise ConfigurationError(
            f"publishes {event.__name__}, which is a view here",
            code="CH1010",
            fix="only its owner publishes it; if that is this service, declare it with key=",
            handler=name,
        )


def _check_gathered(params: tuple[Param, ...], inputs: tuple[type[Event], ...], name: str) -> None:
    """Who stands in for a join is given what came, each parameter by its type."""
    taken = {event for param in params for event in param.events}
    if not taken or not taken <= set(inputs):
        wanted = ", ".join(event.__name__ for event in inputs)
        raise _wrong("its parameters must be among what the join awaits", f"take {wanted}", name)


def _check_why(params: tuple[Param, ...], triggers: tuple[type[Event], ...], name: str) -> None:
    for param in params[1:]:
        if not param.any_event and not set(triggers) <= set(param.events):
            wanted = " | ".join(event.__name__ for event in triggers)
            raise _wrong(f"{param.name!r} must take every trigger", f"annotate it {wanted}", name)


def check_seconds(value: float, what: str, name: str) -> None:
    """Refuse a duration that is none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ConfigurationError(
            f"{what} must be more than 0 seconds, and not for ever",
            code="CH1011",
            fix="correct it",
            where=name,
        )


def _check_subject(signature: Signature, events: tuple[type[Event], ...], name: str) -> None:
    first = signature.params[0] if signature.params else None
    taken = set() if first is None else set(first.events)
    if (
        first is None
        or first.kind is not ParamKind.EVENT
        or not (first.any_event or set(events) <= taken)
    ):
        wanted = " | ".join(event.__name__ for event in events)
        raise ConfigurationError(
            f"the first parameter must take {wanted}",
            code="CH1004",
            fix=f"annotate it {wanted}",
            handler=name,
        )


def check_built(made: type[Event], sources: tuple[type[Event], ...], name: str) -> None:
    """Refuse an event that can not be built from the fields of each source."""
    events_of(made, what="built event", name=name)
    _check_owned_event(made, name)
    for trigger in sources:
        missing = [
            field for field, about in made.model_fields.items()
            if about.is_required() and field not in trigger.model_fields
        ]  # fmt: skip
        if missing:
            raise ConfigurationError(
                f"{made.__name__} can not be built from {trigger.__name__}: "
                f"it has no {', '.join(missing)}",
                code="CH1009",
                fix="add the fields to the trigger's class, or a default here",
                handler=name,
            )


def _check_join(slots: tuple[Param, ...], within_s: float | None, name: str) -> None:
    events = [event for slot in slots for event in slot.events]
    wrong = ""
    if not any(not slot.optional for slot in slots):
        wrong = "a join needs a parameter that may not be missing"
    elif any(slot.any_event for slot in slots) or len(set(events)) != len(events):
        wrong = "each event of a join belongs to one parameter"
    elif within_s is None and any(slot.optional for slot in slots):
        wrong = "a join with a parameter that may be missing needs within_s="
    if wrong:
        raise ConfigurationError(wrong, code="CH1004", fix="correct the signature", handler=name)
