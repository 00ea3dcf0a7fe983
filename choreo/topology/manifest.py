"""What a service takes and gives, as data: its manifest.

A manifest is an AsyncAPI 3.0 document with `x-choreo` beside it, so it is read by tools
that know nothing of choreo, and by the tracker, which learns from it what to expect.
Source: AsyncAPI 3.0.0, "AsyncAPI Object", "Operation Object", "Correlation ID Object".
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import DEFAULT_REF_TEMPLATE, GenerateJsonSchema

from choreo.events import FLOW, Event, Secret
from choreo.service import Flow, Handler, Kind, Service

__all__ = ["classes_of", "events_of", "manifest", "manifest_json"]

VERSION = "1.0.0"
LEAKS = ("default", "examples", "example")
Json = Any
DEFINITION = DEFAULT_REF_TEMPLATE.removesuffix("{model}")


def manifest(service: Service, content_type: str = "application/json") -> dict[str, Any]:
    """Describe a service: what it receives and sends, with schemas, and its `x-choreo`.

    `content_type` is that of the values it writes; a schema says what they hold in any form.
    """
    events = events_of(service)
    channels: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for event in events:
        info = event.__event__
        payload, parts = _schemas(event)
        schemas.update(parts)
        messages[info.type] = {
            "name": info.type,
            "title": event.__name__,
            "contentType": content_type,
            "correlationId": {"location": f"$message.header#/{FLOW}"},
            "payload": payload,
            "x-choreo": {
                "owned": info.key is not None,
                "key": info.key,
                "failure": info.failure,
                "declared": f"{event.__module__}.{event.__qualname__}",
            },
        }
        if summary := _first_line(event):
            messages[info.type]["summary"] = summary
        channel = channels.setdefault(info.topic, {"address": info.topic, "messages": {}})
        channel["messages"][info.type] = {"$ref": f"#/components/messages/{_pointer(info.type)}"}
    views = _further_views(service, events, schemas)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": service.name, "version": VERSION},
        "defaultContentType": content_type,
        "channels": channels,
        "operations": _operations(service),
        "components": {"messages": messages, "schemas": schemas},
        "x-choreo": {
            "service": service.name,
            "flow_keep_s": service.keep.flow_s,
            "handlers": [_handler(handler) for handler in service.handlers.values()],
            "flows": [_flow(flow) for flow in service.flows.values()],
            "views": views,
        },
    }


def manifest_json(service: Service) -> bytes:
    """Write the manifest so that the same service always gives the same bytes."""
    return json.dumps(manifest(service), separators=(",", ":"), sort_keys=True).encode()


def events_of(service: Service) -> tuple[type[Event], ...]:
    """List the event classes that a service's handlers and flows name, each type once.

    Where a type has several classes, an owned one goes before a view of it.
    """
    found: dict[str, type[Event]] = {}
    for event in _named(service):
        info = event.__event__
        known = found.get(info.type)
        if known is None or (known.__event__.key is None and info.key is not None):
            found[info.type] = event
    return tuple(found.values())


def classes_of(service: Service) -> tuple[type[Event], ...]:
    """List all event classes that a service's handlers and flows name."""
    return tuple(dict.fromkeys(_named(service)))


def _named(service: Service) -> Iterable[type[Event]]:
    for handler in service.handlers.values():
        yield from handler.inputs
        yield from handler.on
        yield from handler.unless
        yield from handler.signature.outputs.events
        if handler.nothing is not None:
            yield handler.nothing
    for flow in service.flows.values():
        yield flow.starts
        yield from flow.ends
        if flow.overdue is not None:
            yield flow.overdue


def _further_views(
    service: Service, told: Iterable[type[Event]], schemas: dict[str, Any]
) -> dict[str, list[Any]]:
    """Give the schemas of classes that share their type with another one: each reads, too."""
    views: dict[str, list[Any]] = {}
    for event in dict.fromkeys(_named(service)):
        if event not in told:
            found = views.setdefault(event.__event__.type, [])
            payload, parts = _schemas(event, f"{event.__event__.type}.view{len(found) + 2}.")
            schemas.update(parts)
            found.append(payload)
    return views


def _operations(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for handler in service.handlers.values():
        takes = dict.fromkeys((*handler.inputs, *handler.on, *handler.unless))
        gives = dict.fromkeys(handler.signature.outputs.events)
        if handler.nothing is not None:
            gives[handler.nothing] = None
        for action, events in (("receive", takes), ("send", gives)):
            for event in events:
                topic, kind = event.__event__.topic, event.__event__.type
                operation = found.setdefault(
                    f"{handler.name}.{action}.{topic}",
                    {
                        "action": action,
                        "channel": {"$ref": f"#/channels/{_pointer(topic)}"},
                        "summary": _first_line(handler.fn)
                        or f"{handler.name}: {handler.kind.value}",
                        "messages": [],
                    },
                )
                reference = f"#/channels/{_pointer(topic)}/messages/{_pointer(kind)}"
                if {"$ref": reference} not in operation["messages"]:
                    operation["messages"].append({"$ref": reference})
    return found


def _handler(handler: Handler) -> dict[str, Any]:
    outputs = handler.signature.outputs
    about: dict[str, Any] = {
        "name": handler.name,
        "kind": handler.kind.value,
        "at": f"{handler.fn.__module__}:{handler.fn.__code__.co_firstlineno}",
        "inputs": _types(handler.inputs),
        "outputs": _types(outputs.events),
        "later": sorted(_types(outputs.later)),
        "silent": outputs.silent,
        "ways": [
            {
                "now": sorted(_types(way.now)),
                "later": sorted(_types(way.later)),
                "cancels": way.cancels,
            }
            for way in outputs.ways()
        ],
        "on": _types(handler.on),
        "nothing": handler.nothing.__event__.type if handler.nothing else None,
        "of": handler.of.name if handler.of else None,
        "unless": _types(handler.unless),
        "by": list(handler.by),
        "within_s": handler.within_s,
        "timeout_s": handler.timeout_s,
        "visits_max": handler.visits_max,
        "hold": handler.hold,
        "was": list(handler.was),
        "retry": {
            "attempts_max": handler.retry.attempts_max,
            "first_s": handler.retry.first_s,
            "factor": handler.retry.factor,
            "jitter": handler.retry.jitter,
            "longest_s": handler.retry.longest_s,
            "never": [error.__qualname__ for error in handler.retry.never],
        },
    }
    if handler.kind is Kind.JOIN:
        about["slots"] = [
            [_types(slot.events), slot.optional] for slot in handler.signature.events()
        ]
    return about


def _flow(flow: Flow) -> dict[str, Any]:
    return {
        "name": flow.name,
        "starts": flow.starts.__event__.type,
        "ends": _types(flow.ends),
        "deadline_s": flow.deadline_s,
        "overdue": flow.overdue.__event__.type if flow.overdue else None,
        "owner": flow.owner,
        "purpose": flow.purpose,
    }


def _types(events: Iterable[type[Event]]) -> list[str]:
    return [event.__event__.type for event in events]


def _pointer(name: str) -> str:
    """Escape a name for a JSON pointer (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


def _first_line(thing: object) -> str:
    own = thing.__dict__.get("__doc__") if isinstance(thing, type) else thing.__doc__
    return inspect.cleandoc(own).split("\n", 1)[0] if own else ""


# ── schemas ──────────────────────────────────────────────────────────────────────────────


def _schemas(event: type[Event], prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the payload's schema, and those it refers to under names of their own."""
    prefix = prefix or f"{event.__event__.type}."
    mode: typing.Literal["serialization", "validation"] = (
        "serialization" if event.__event__.key is not None else "validation"
    )
    try:
        schema = event.model_json_schema(mode=mode, schema_generator=_Written)
    except PydanticInvalidForJsonSchema:
        return {"type": "object"}, {}
    parts = schema.pop("$defs", {})
    if _is_secret(event, set()):
        schema, parts = _redacted(schema), _redacted(parts, names=True)
        for name in event.__event__.secrets & schema.get("properties", {}).keys():
            schema["properties"][name]["x-secret"] = True
    moved = {f"{prefix}{name}": _moved(part, prefix) for name, part in parts.items()}
    return _moved(schema, prefix), moved


class _Written(GenerateJsonSchema):
    """What is written has every field of a model, those with defaults too."""

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: FBT001 - as pydantic has it
        """Say so in the schema."""
        if self.mode == "serialization" and field["type"] != "typed-dict-field":
            return field.get("serialization_exclude_if") is None
        return super().field_is_required(field, total)


def _moved(schema: Json, prefix: str) -> Json:
    """Point references at `#/components/schemas`."""
    if isinstance(schema, list):
        return [_moved(one, prefix) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(part, prefix) for name, part in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith(DEFINITION):
        moved["$ref"] = f"#/components/schemas/{prefix}{reference.removeprefix(DEFINITION)}"
    return moved


def _redacted(schema: Json, *, names: bool = False) -> Json:
    """Take every default and example out of a schema that has a secret somewhere.

    A default of the whole can hold a secret of a part, and an example of a model any field.
    `names`: the keys are names of fields or parts, not words of JSON Schema.
    """
    if isinstance(schema, list):
        return [_redacted(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        word: _redacted(part, names=not names and word == "properties")
        for word, part in schema.items()
        if names or word not in LEAKS
    }


def _is_secret(model: type[BaseModel], seen: set[type]) -> bool:
    """Tell whether a model has a secret field, itself or in a part."""
    seen.add(model)
    for field in model.model_fields.values():
        if any(mark is Secret or isinstance(mark, Secret) for mark in field.metadata):
            return True
        if any(part not in seen and _is_secret(part, seen) for part in _models(field.annotation)):
            return True
    return False


def _models(annotation: object) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    if annotation is Secret:
        yield _Marked
    for inner in typing.get_args(annotation):
        yield from _models(inner)


class _Marked(BaseModel):
    """Stands for a Secret that marks a part of a field's type, as in list[Annotated[…]]."""

    secret: typing.Annotated[str, Secret] = ""
