"""The Service and its decorators. Each returns the function it was given."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from choreo.errors import ConfigurationError, HandlerConflictError
from choreo.events import Event
from choreo.policies import Keep, Retry
from choreo.service.checks import check_built, check_former, check_handler, check_seconds
from choreo.service.declared import Flow, Handler, Kind
from choreo.service.signature import ParamKind, events_of, signature_of

__all__ = ["Service"]

F = TypeVar("F", bound=Callable[..., Any])
Events = type[Event] | tuple[type[Event], ...]
ResourceMaker = Callable[[], AbstractAsyncContextManager[Any]]

DEFAULT_RETRY = Retry()
KEEP = Keep()


class Service:
    """Owns handlers, a store and a consumer group of its name.

    `migrations` is a folder of numbered SQL files, `0001_stock.sql` and so on, run at
    start; a relative one is looked up beside the module that makes the Service.
    That a delivery was settled is kept for `inbox_keep_s` seconds (a record that comes again
    later than that is a dead letter), what belongs to a whole flow for `flow_keep_s`.
    """

    def __init__(
        self,
        name: str,
        *,
        migrations: str | Path | None = None,
        inbox_keep_s: float = KEEP.inbox_s,
        flow_keep_s: float = KEEP.flow_s,
    ) -> None:
        """Name the service: lower case letters, digits, _ and -."""
        if not name.replace("-", "_").isidentifier() or name != name.lower():
            raise ConfigurationError(
                f"service name {name!r} is not lower case letters, digits, - and _",
                code="CH1012",
                fix="choose another name",
            )
        self.name = name
        self.keep = Keep(inbox_keep_s, flow_keep_s)
        self.handlers: dict[str, Handler] = {}
        self.flows: dict[str, Flow] = {}
        self.resources: dict[type, ResourceMaker] = {}
        self.migrations = _beside_caller(migrations)
        self._by_fn: dict[Callable[..., Any], Handler] = {}

    def __repr__(self) -> str:
        return f"<Service {self.name}: {', '.join(self.handlers) or 'no handlers'}>"

    # ── decorators ───────────────────────────────────────────────────────────────────────

    def on(
        self,
        *events: type[Event],
        retry: Retry = DEFAULT_RETRY,
        timeout_s: float | None = None,
        unless: Events = (),
        visits_max: int | None = None,
        hold: bool = False,
        by: str | tuple[str, ...] = (),
        name: str | None = None,
        was: str | tuple[str, ...] = (),
    ) -> Callable[[F], F]:
        """Handle any of these events. `unless=F`: not after F in this scope.

        `visits_max`: how often it may run in one scope (flow and branch, or `by`); what comes
        then is given up. `hold`: what comes later with its key waits behind a dead letter,
        until that is redriven or discarded.
        """
        if any(inspect.isfunction(event) for event in events):
            raise ConfigurationError(
                "on without its events, and without parentheses",
                code="CH1003",
                fix=f"write @{self.name}.on(Event)",
                service=self.name,
            )

        def declare(fn: F) -> F:
            full = self._full(fn, name)
            signature = signature_of(fn, name=full, scope=_caller_names(fn))
            inputs = events_of(events, what="input", name=full)
            return self._add(
                Handler(
                    full, Kind.ON, fn, signature, inputs,
                    by=_names(by), unless=_events(unless, "unless=", full),
                    retry=retry, timeout_s=timeout_s, was=self._former(was),
                    hold=hold, visits_max=visits_max,
                ),
                fn,
            )  # fmt: skip

        return declare

    def compensate(
        self,
        effect: type[Event],
        *,
        on: Events,
        nothing: type[Event] | None = None,
        by: str | tuple[str, ...] = (),
        timeout_s: float | None = None,
        name: str | None = None,
        was: str | tuple[str, ...] = (),
    ) -> Callable[[F], F]:
        """Undo each `effect` of the scope once, when one of `on` comes; void what comes later.

        `nothing` is published once, built from the trigger's fields of the same names, when
        the scope is closed and there never was an effect in it.
        """

        def declare(fn: F) -> F:
            full = self._full(fn, name)
            signature = signature_of(fn, name=full, scope=_caller_names(fn))
            effects = events_of(effect, what="effect", name=full)
            triggers = events_of(on, what="on=", name=full)
            return self._add(
                Handler(
                    full, Kind.COMPENSATE, fn, signature, effects,
                    on=triggers, nothing=nothing, by=_names(by),
                    timeout_s=timeout_s, was=self._former(was),
                ),
                fn,
            )  # fmt: skip

        return declare

    def otherwise(
        self,
        handler: Callable[..., Any],
        *,
        retry: Retry = DEFAULT_RETRY,
        timeout_s: float | None = None,
        name: str | None = None,
        was: str | tuple[str, ...] = (),
    ) -> Callable[[F], F]:
        """Stand in for `handler` when its attempts are used up or not retryable."""

        def declare(fn: F) -> F:
            full = self._full(fn, name)
            of = self._by_fn.get(handler)
            if of is None or of.kind in (Kind.OTHERWISE, Kind.COMPENSATE):
                shown = getattr(handler, "__name__", handler)
                raise ConfigurationError(
                    f"otherwise({shown}): that is no handler of this service that can be given up",
                    code="CH1006",
                    fix="name a handler declared above with on, expects or join",
                    handler=full,
                )
            signature = signature_of(fn, name=full, scope=_caller_names(fn))
            return self._add(
                Handler(
                    full, Kind.OTHERWISE, fn, signature, of.inputs,
                    of=of, retry=retry, timeout_s=timeout_s, was=self._former(was),
                ),
                fn,
            )  # fmt: skip

        return declare

    def expects(
        self,
        *events: type[Event],
        after: Events,
        within_s: float,
        by: str | tuple[str, ...] = (),
        retry: Retry = DEFAULT_RETRY,
        timeout_s: float | None = None,
        name: str | None = None,
        was: str | tuple[str, ...] = (),
    ) -> Callable[[F], F]:
        """Run when none of `events` came within `within_s` seconds after `after`."""

        def declare(fn: F) -> F:
            full = self._full(fn, name)
            signature = signature_of(fn, name=full, scope=_caller_names(fn))
            inputs = events_of(after, what="after=", name=full)
            return self._add(
                Handler(
                    full, Kind.EXPECTS, fn, signature, inputs,
                    on=events_of(events, what="expected", name=full), by=_names(by),
                    within_s=within_s, retry=retry, timeout_s=timeout_s, was=self._former(was),
                ),
                fn,
            )  # fmt: skip

        return declare

    def join(
        self,
        *,
        within_s: float | None = None,
        unless: Events = (),
        retry: Retry = DEFAULT_RETRY,
        timeout_s: float | None = None,
        name: str | None = None,
        was: str | tuple[str, ...] = (),
    ) -> Callable[[F], F]:
        """Run once when all that the parameters name has come in one scope.

        `A` or `A | B`: one of them; `A | None` may be missing, and is given as None once
        `within_s` seconds have passed since the first arrival.
        """

        def declare(fn: F) -> F:
            full = self._full(fn, name)
            signature = signature_of(fn, name=full, scope=_caller_names(fn))
            inputs = tuple(event for slot in signature.events() for event in slot.events)
            return self._add(
                Handler(
                    full, Kind.JOIN, fn, signature, inputs,
                    unless=_events(unless, "unless=", full), within_s=within_s,
                    retry=retry, timeout_s=timeout_s, was=self._former(was),
                ),
                fn,
            )  # fmt: skip

        return declare

    def resource(self, maker: Callable[[], AsyncIterator[Any]]) -> Callable[[], AsyncIterator[Any]]:
        """Say how a resource of this service is made: an async generator that yields it once.

        Its type is the one in the annotation. What `App(…, resources=…)` gives goes first.
        """
        try:
            (made,) = typing.get_args(typing.get_type_hints(maker).get("return"))[:1]
        except (NameError, TypeError, ValueError):
            made = None
        if not isinstance(made, type) or not inspect.isasyncgenfunction(maker):
            raise ConfigurationError(
                "a resource is an async generator annotated AsyncIterator[Type]",
                code="CH1008",
                fix="annotate the return type and yield the resource once",
                service=self.name,
                maker=getattr(maker, "__name__", maker),
            )
        self.resources[made] = asynccontextmanager(maker)
        return maker

    def flow(
        self,
        name: str,
        *,
        starts: type[Event],
        ends: Events,
        deadline_s: float | None = None,
        overdue: type[Event] | None = None,
        owner: str = "",
        purpose: str = "",
    ) -> Flow:
        """Name the flow that begins with `starts` and is over with any of `ends`."""
        full = f"{self.name}.{name}"
        if deadline_s is not None:
            check_seconds(deadline_s, "deadline_s", full)
        events_of(starts, what="starts=", name=full)
        if name in self.flows:
            raise HandlerConflictError("two flows of one name", fix="rename one", flow=full)
        if overdue is not None:
            check_built(overdue, (starts,), full)
        if not ends:
            raise ConfigurationError(
                "a flow that nothing ends", code="CH1004", fix="name its ends=", flow=full
            )
        flow = Flow(
            name, self.name, starts, events_of(ends, what="ends=", name=full),
            deadline_s, overdue, owner, purpose,
        )  # fmt: skip
        self.flows[name] = flow
        return flow

    # ── checks ───────────────────────────────────────────────────────────────────────────

    def seal(self) -> None:
        """Check what can only be checked when all is declared. May be called twice."""
        made = {
            event.__event__.type
            for h in self.handlers.values()
            for event in h.signature.outputs.events
        }
        later = {
            event.__event__.type
            for h in self.handlers.values()
            for event in h.signature.outputs.later
        }
        check_former(self.handlers.values())
        for handler in self.handlers.values():
            if handler.kind is Kind.COMPENSATE and handler.inputs[0].__event__.type in later:
                raise ConfigurationError(
                    f"After[{handler.inputs[0].__name__}]: what is put off can not be an effect",
                    code="CH1015",
                    fix="publish a plain event with After, and the effect from its handler",
                    handler=handler.name,
                )
            if handler.kind is Kind.COMPENSATE and handler.inputs[0].__event__.type not in made:
                raise ConfigurationError(
                    f"compensate({handler.inputs[0].__name__}): "
                    "no handler of this service publishes it",
                    code="CH1005",
                    fix="move the compensation to the service that publishes the effect",
                    handler=handler.name,
                )
            self._check_scope(handler)
            if handler.kind is Kind.COMPENSATE:
                self._check_yielders(handler)

    def _check_yielders(self, undo: Handler) -> None:
        """Who calls the outside for an effect must know its scope before."""
        effect = undo.inputs[0].__event__.type
        for handler in self.handlers.values():
            made = {event.__event__.type for event in handler.signature.outputs.events}
            if effect not in made or handler.signature.first(ParamKind.CONTEXT) is None:
                continue
            for event in handler.inputs:
                if missing := [field for field in undo.by if field not in event.model_fields]:
                    raise ConfigurationError(
                        f"by={missing[0]!r} of {undo.name} is no field of {event.__name__}",
                        code="CH1009",
                        fix="a handler with a Context has to know the scope of its effects",
                        handler=handler.name,
                    )

    @staticmethod
    def _check_scope(handler: Handler) -> None:
        for field in handler.by:
            for event in (*handler.inputs, *handler.on, *handler.unless):
                if field not in event.model_fields:
                    raise ConfigurationError(
                        f"by={field!r} is no field of {event.__name__}",
                        code="CH1009",
                        fix="name fields that all events of the scope have",
                        handler=handler.name,
                    )

    def _former(self, was: str | tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name if "." in name else f"{self.name}.{name}" for name in _names(was))

    def _full(self, fn: Callable[..., Any], name: str | None) -> str:
        return f"{self.name}.{name or fn.__name__}"

    def _add(self, handler: Handler, fn: F) -> F:
        if handler.name in self.handlers:
            raise HandlerConflictError(
                "two handlers of one name",
                fix="rename one of them, or give it name=",
                handler=handler.name,
            )
        check_handler(handler)
        self.handlers[handler.name] = handler
        self._by_fn[fn] = handler
        fn.__choreo__ = (self, handler.name)  # type: ignore[attr-defined]  # for `given`
        return fn

    def handler_of(self, fn: Callable[..., Any]) -> Handler | None:
        """Give the handler that was declared with this function."""
        return self._by_fn.get(fn)


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _events(events: Events, what: str, name: str) -> tuple[type[Event], ...]:
    return events_of(events, what=what, name=name) if events else ()


def _caller_names(fn: Callable[..., Any]) -> dict[str, Any]:
    """Give the names that the handler's annotations may use beside its module's.

    A handler declared inside a function (a test, say) may name classes of that function.
    """
    if "<locals>" not in fn.__qualname__:
        return {}
    frame = inspect.currentframe()
    found: dict[str, Any] = {}
    while frame is not None:
        if frame.f_code.co_filename == fn.__code__.co_filename:
            found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found


def _beside_caller(folder: str | Path | None) -> Path | None:
    if folder is None or Path(folder).is_absolute():
        return None if folder is None else Path(folder)
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return Path(frame.f_code.co_filename).parent / folder if frame else Path(folder)
