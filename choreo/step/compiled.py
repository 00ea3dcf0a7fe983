"""A service, compiled: routes by event type, everything that does not change made once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from choreo.codec import Codec
from choreo.errors import ConfigurationError
from choreo.events import (
    CONTENT_TYPE,
    CONTROL_TOPIC,
    CONTROL_TYPE,
    FAILURE,
    SOURCE,
    SPEC_VERSION,
    STEP,
    TYPE,
    Event,
)
from choreo.policies import Retry
from choreo.service import Flow, Handler, Kind, Outputs, Param, ParamKind, Service, Signature
from choreo.service.outputs import outputs_of
from choreo.step.control import control_name
from choreo.step.delivery import OutputSpec, Role, Route
from choreo.step.failing import quarantine_name

__all__ = ["Compiled", "compiled", "route_of"]


class Compiled:
    """A service ready to run: `by_type` for records polled, `by_name` for what was parked.

    `unreadable` takes what is no event at all.
    """

    def __init__(self, service: Service, codec: Codec) -> None:
        """Start empty."""
        self.service = service
        self.codec = codec
        self.by_type: dict[str, tuple[Route, ...]] = {}
        self.by_name: dict[str, Route] = {}
        self.topics: tuple[str, ...] = ()
        self.former: dict[str, str] = {}
        self.unreadable = _unreadable(service.name, codec)
        self.by_name[self.unreadable.name] = self.unreadable

    @property
    def names(self) -> frozenset[str]:
        """All names under which the store may keep something of it, present and former ones."""
        routes = self.by_name.values()
        return frozenset(name for route in routes for name in (route.name, *route.former))


def compiled(
    service: Service, resources: Mapping[type, Any], codec: Codec | None = None
) -> Compiled:
    """Compile; raises ConfigurationError when the service can not run with these resources.

    `codec` was opened with the service's events; without one, values are JSON.
    """
    service.seal()
    codec = codec or Codec()
    made = Compiled(service, codec)
    handlers = [*service.handlers.values(), *filter(None, map(_deadline, service.flows.values()))]
    listed: dict[str, list[Route]] = {}
    topics: dict[str, None] = {}

    def lead(events: Iterable[type[Event]], route: Route) -> None:
        for event in events:
            kind = event.__event__.type
            route.views.setdefault(kind, event)
            listed.setdefault(kind, []).append(route)
            topics.setdefault(event.__event__.topic)

    for handler in handlers:
        route = _handle_route(handler, made, handlers, resources)
        made.by_name[route.name] = route
        made.former.update(dict.fromkeys(handler.was, handler.name))
        for event in handler.inputs:
            route.views[event.__event__.type] = event
        if handler.kind is Kind.ON:
            lead(handler.inputs, route)
        for role, events in _marks(handler):
            mark = _mark_route(route, role)
            made.by_name[mark.name] = mark
            lead(events, mark)
    for handler in handlers:
        if handler.of is not None:
            made.by_name[handler.of.name].otherwise = made.by_name[handler.name]
    for handler in _asides(service):
        route = Route(handler.name, Role.CONTROL, handler, service.name, codec)
        route.find = lambda name: route_of(made.by_name, name, made.former)
        route.takers = lambda kind: made.by_type.get(kind, ())
        made.by_name[route.name] = route
    listed[CONTROL_TYPE] = [made.by_name[control_name(service.name)]]
    topics[CONTROL_TOPIC] = None
    made.by_type = {kind: tuple(routes) for kind, routes in listed.items()}
    made.topics = tuple(topics)
    return made


def route_of(routes: Mapping[str, Route], name: str, former: Mapping[str, str]) -> Route | None:
    """Find the route of a row in the inbox or a timer, by its present or a former name."""
    if name in routes:
        return routes[name]
    base, mark, role = name.partition("!")
    return routes.get(f"{former.get(base, base)}{mark}{role}")


def _asides(service: Service) -> Iterable[Handler]:
    """Stand for what a service does itself: what operators ask for, and what it sets aside."""

    async def nothing(event: Event) -> None:
        del event

    for name in (control_name(service.name), quarantine_name(service.name)):
        signature = Signature((), outputs_of(None, name=name), sync=False)
        yield Handler(name, Kind.ON, nothing, signature, ())


def _marks(handler: Handler) -> Iterable[tuple[Role, tuple[type[Event], ...]]]:
    if handler.kind is Kind.COMPENSATE:
        yield Role.WHY, handler.on
    if handler.kind is Kind.JOIN:
        yield Role.ARRIVE, handler.inputs
        yield Role.LATE, ()
    if handler.kind is Kind.EXPECTS:
        yield Role.OPEN, handler.inputs
        # What a step of this service publishes closes the gate in its transaction already.
        yield Role.CLOSE, handler.on
    if handler.unless:
        yield Role.UNLESS, handler.unless
    if handler.signature.outputs.later:
        yield Role.AFTER, ()


def _handle_route(
    handler: Handler, made: Compiled, handlers: list[Handler], resources: Mapping[type, Any]
) -> Route:
    route = Route(handler.name, Role.HANDLE, handler, made.service.name, made.codec)
    route.former = handler.was
    signature = handler.signature
    for event in signature.outputs.events:
        route.outputs[event] = _spec(event, handler, made, handlers)
    direct = signature.outputs.direct
    route.direct = {event: spec for event, spec in route.outputs.items() if event in direct}
    route.effects = _flat(spec.effects for spec in route.outputs.values())
    route.triggers = _flat(spec.triggers for spec in route.outputs.values())
    route.closes = _flat(spec.closes for spec in route.outputs.values())
    state = signature.first(ParamKind.STATE)
    route.state = state.of if state else None
    route.tx = signature.first(ParamKind.TX) is not None
    route.context = signature.first(ParamKind.CONTEXT) is not None
    route.memos = route.context
    route.slots = signature.events() if handler.kind is Kind.JOIN else ()
    gates = (*route.effects, *route.triggers, *route.closes, *handler.unless)
    route.gated = (
        bool(gates)
        or handler.visits_max is not None
        or (handler.of or handler).kind is Kind.EXPECTS
    )
    route.unseen = (
        handler.kind is Kind.ON and not route.gated and route.state is None and not route.context
    )
    route.plain = (
        route.unseen and len(signature.params) == 1 and not signature.sync
        and handler.timeout_s is None
    )  # fmt: skip
    kinds = [param.kind for param in signature.params]
    route.pair = kinds == [ParamKind.EVENT, ParamKind.TX]
    _bind_resources(route, resources)
    return route


def _mark_route(route: Route, role: Role) -> Route:
    name = f"{route.name}!{role.value}"
    mark = Route(name, role, route.handler, route.service, route.codec)
    mark.former = tuple(f"{name}!{role.value}" for name in route.former)
    mark.gated = role is not Role.AFTER
    mark.slots = route.slots
    mark.chained_by_scope = role is Role.ARRIVE
    mark.outputs = route.outputs
    mark.otherwise = None
    return mark


def _spec(
    event: type[Event], handler: Handler, made: Compiled, handlers: list[Handler]
) -> OutputSpec:
    info = event.__event__
    headers = {
        SPEC_VERSION: "1.0",
        SOURCE: made.service.name,
        TYPE: info.type,
        CONTENT_TYPE: made.codec.content_type,
        STEP: handler.name,
    }
    if info.failure:
        headers[FAILURE] = "1"
    spec = OutputSpec(event, handler, headers, made.codec)
    if handler.kind is not Kind.COMPENSATE:
        spec.effects = tuple(
            h for h in handlers
            if h.kind is Kind.COMPENSATE and h.inputs[0].__event__.type == info.type
        )  # fmt: skip
    spec.triggers = tuple(
        h for h in handlers
        if h.kind is Kind.COMPENSATE and info.type in {e.__event__.type for e in h.on}
    )  # fmt: skip
    spec.closes = tuple(
        h for h in handlers
        if h.kind is Kind.EXPECTS and info.type in {e.__event__.type for e in h.on}
        and h.name != handler.name
    )  # fmt: skip
    return spec


def _flat(groups: Iterable[tuple[Handler, ...]]) -> tuple[Handler, ...]:
    found = {handler.name: handler for group in groups for handler in group}
    return tuple(found.values())


def _bind_resources(route: Route, resources: Mapping[type, Any]) -> None:
    for param in route.handler.signature.params:
        if param.kind is not ParamKind.RESOURCE or param.of is None:
            continue
        if param.of not in resources:
            raise ConfigurationError(
                f"no resource of type {param.of.__name__}",
                code="CH1008",
                fix=f"give App(…, resources={{{param.of.__name__}: …}}), or declare it with "
                f"@{route.service}.resource",
                handler=route.name,
                parameter=param.name,
            )
        route.resources[param.of] = resources[param.of]


def _unreadable(service: str, codec: Codec) -> Route:
    """Take, in a service's name, the records of its topics that are no events at all."""

    async def never() -> None:
        """Nothing is run: it is decided before."""

    name = f"{service}!{Role.UNREADABLE.value}"
    signature = Signature((), outputs_of(None, name=name), sync=False)
    handler = Handler(name, Kind.ON, never, signature, ())
    return Route(name, Role.UNREADABLE, handler, service, codec)


def _deadline(flow: Flow) -> Handler | None:
    """Watch a flow's deadline: it is an `expects` of its ends after its start."""
    if flow.deadline_s is None:
        return None
    overdue = flow.overdue

    async def passed(start: Event) -> Event | None:
        if overdue is None:
            return None
        return overdue.model_validate(
            {name: getattr(start, name) for name in overdue.model_fields if hasattr(start, name)}
        )

    outputs: Outputs = outputs_of(overdue, name=f"{flow.service}.{flow.name}")
    name = f"{flow.service}.{flow.name}.deadline"
    signature = Signature((Param("start", ParamKind.EVENT, (flow.starts,)),), outputs, sync=False)
    fn: Callable[..., Any] = passed
    return Handler(
        name, Kind.EXPECTS, fn, signature, (flow.starts,),
        on=flow.ends, within_s=flow.deadline_s, retry=Retry(),
    )  # fmt: skip
