"""Can a reader's view read what an owner writes? Two JSON schemas, compared by structure.

Compared are fields, types, null, lists of values, and formats; lengths and bounds are not:
a value that exceeds them is a dead letter of its own, not of every record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from choreo.topology.graph import Schema

__all__ = ["unreadable"]

REFERENCE = "#/"
DEPTH_MAX = 30
WORDS = {"string": "text", "integer": "a whole number", "number": "a number", "array": "a list",
         "boolean": "true or false", "object": "an object", "null": "null"}  # fmt: skip


def unreadable(owner: Schema, view: Schema) -> list[str]:
    """Say why the view can not read what the owner writes: a reason for each field; or nothing."""
    return list(dict.fromkeys(_reasons(owner, view, "", ())))


Pair = tuple[int, int]


def _reasons(owner: Schema, view: Schema, path: str, above: tuple[Pair, ...]) -> Iterator[str]:
    owner, view = _resolved(owner), _resolved(view)
    pair = (id(owner.root), id(view.root))
    if pair in above or len(above) > DEPTH_MAX or _open(owner.root) or _open(view.root):
        return
    above = (*above, pair)
    writes, reads = list(_choices(owner)), list(_choices(view))
    if len(writes) == len(reads) == 1:
        yield from _alone(writes[0], reads[0], path, above)
        return
    for write in writes:
        least: list[str] | None = None
        for read in reads:
            why = list(_alone(write, read, path, above))
            if least is None or len(why) < len(least):
                least = why
            if not why:
                break
        if least and len(reads) > 1:
            field = path or "the event"
            yield f"{field} may be {_named(write)}, the view takes {_either(reads)}"
        elif least:
            yield from least


def _alone(owner: Schema, view: Schema, path: str, above: tuple[Pair, ...]) -> Iterator[str]:
    """Compare two schemas that have no alternatives."""
    writes, reads = owner.root, view.root
    if _open(writes) or _open(reads):
        return
    field = path or "the event"
    values, taken = _values(writes), _values(reads)
    if taken is not None:
        if values is None:
            yield f"{field} is {_named(owner)}, the view takes only {_listed(taken)}"
        elif more := [value for value in values if value not in taken]:
            yield f"{field} may be {_listed(more)}, the view takes only {_listed(taken)}"
        return
    kind, wanted = _kind(owner), _kind(view)
    if kind == "" or wanted == "":
        return
    if kind != wanted and (kind, wanted) != ("integer", "number"):
        yield f"{field} is {_named(owner)}, the view takes {_named(view)}"
    elif wanted == "string":
        if _text(reads) and (values is not None or not _text_fits(writes, reads)):
            yield f"{field} is {_named(owner)}, the view takes {_named(view)}"
    elif wanted == "array":
        yield from _lists(owner, view, path, above)
    elif wanted == "object":
        yield from _objects(owner, view, path, above)


def _lists(owner: Schema, view: Schema, path: str, above: tuple[Pair, ...]) -> Iterator[str]:
    writes, reads = owner.root, view.root
    firsts, wanted = _list(writes.get("prefixItems")), _list(reads.get("prefixItems"))
    items = f"{path}[]"
    if wanted:
        if len(firsts) != len(wanted):
            written = f"has {len(firsts)} places" if firsts else "has any number of places"
            yield f"{path or 'the event'} {written}, the view takes {len(wanted)}"
            return
        for number, (one, other) in enumerate(zip(firsts, wanted, strict=True)):
            yield from _reasons(owner.at(one), view.at(other), f"{path}[{number}]", above)
    elif "items" in reads:
        for one in firsts or ([writes["items"]] if "items" in writes else []):
            yield from _reasons(owner.at(one), view.at(reads["items"]), items, above)


def _objects(owner: Schema, view: Schema, path: str, above: tuple[Pair, ...]) -> Iterator[str]:
    writes, reads = owner.root, view.root
    written, wanted = _map(writes.get("properties")), _map(reads.get("properties"))
    rest = writes.get("additionalProperties")
    if not written and not rest and "properties" not in writes:
        return  # some object, of which no more is known
    front = f"{path}." if path else ""
    must = _list(reads.get("required"))
    always = _list(writes.get("required"))
    for name, part in wanted.items():
        field = f"{front}{name}"
        if name in written:
            if name in must and name not in always:
                yield f"{field} may be missing, the view requires it"
            yield from _reasons(owner.at(written[name]), view.at(part), field, above)
        elif name in must:
            yield f"{field} is no field of the owner's, the view requires it"
    others = reads.get("additionalProperties")
    if others is False:
        if more := sorted(written.keys() - wanted.keys()):
            yield f"{path or 'the event'} has {', '.join(more)}, which the view forbids"
    elif isinstance(others, Mapping):
        for part in [rest, *(written[name] for name in written if name not in wanted)]:
            if isinstance(part, Mapping):
                yield from _reasons(owner.at(part), view.at(others), f"{front}*", above)


# ── schemas, read ────────────────────────────────────────────────────────────────────────


def _resolved(schema: Schema) -> Schema:
    """Follow references; one that leads nowhere says nothing of its value."""
    part = schema.root
    for _ in range(DEPTH_MAX):
        if isinstance(part, Mapping) and len(_list(part.get("allOf"))) == 1:
            part = part["allOf"][0]
        reference = part.get("$ref") if isinstance(part, Mapping) else None
        if not isinstance(reference, str):
            return schema.at(part)
        part = schema.document
        for name in reference.removeprefix(REFERENCE).split("/"):
            part = _map(part).get(name.replace("~1", "/").replace("~0", "~"), {})
    return schema.at({})


def _choices(schema: Schema) -> Iterator[Schema]:
    part = schema.root
    for word in ("anyOf", "oneOf"):
        if _list(part.get(word)):
            for one in part[word]:
                inner = _resolved(schema.at(one))
                if isinstance(inner.root, Mapping):
                    yield from _choices(inner)
                else:
                    yield inner
            return
    if isinstance(part.get("type"), list):
        for kind in part["type"]:
            yield schema.at({**part, "type": kind})
        return
    yield schema


def _open(part: Any) -> bool:
    """Tell whether nothing is said of the value."""
    words = ("type", "anyOf", "oneOf", "allOf", "$ref", "enum", "const", "properties")
    return not isinstance(part, Mapping) or not any(word in part for word in words)


def _kind(schema: Schema) -> str:
    kind = schema.root.get("type", "object" if "properties" in schema.root else "")
    return kind if isinstance(kind, str) else ""


def _values(part: Mapping[str, Any]) -> list[Any] | None:
    if "const" in part:
        return [part["const"]]
    return list(part["enum"]) if isinstance(part.get("enum"), list) else None


def _text(part: Mapping[str, Any]) -> str:
    """Name what a text has to look like; empty if it may be any."""
    shape = part.get("format") or ("decimal" if "pattern" in part else "")
    return shape if isinstance(shape, str) else ""


def _text_fits(writes: Mapping[str, Any], reads: Mapping[str, Any]) -> bool:
    return _text(writes) == _text(reads)


def _named(schema: Schema) -> str:
    part = schema.root
    if isinstance(part, Mapping):
        values = _values(part)
        if values is not None:
            return _listed(values)
        kind = _kind(schema)
        if kind == "string" and _text(part):
            shape = part.get("format")
            return f"a text that is a {shape}" if shape else "a text of a certain pattern"
        return WORDS.get(kind, kind or "anything")
    return "anything"


def _either(reads: list[Schema]) -> str:
    return " or ".join(dict.fromkeys(_named(one) for one in reads))


def _listed(values: list[Any]) -> str:
    shown = [repr(value) for value in values[:5]]
    return ", ".join(shown) + (" …" if len(values) > len(shown) else "")


def _map(thing: Any) -> Mapping[str, Any]:
    return thing if isinstance(thing, Mapping) else {}


def _list(thing: Any) -> list[Any]:
    return thing if isinstance(thing, list) else []
