"""Can a reader read what a writer writes? Two JSON schemas, compared by structure.

Compared are fields, types, null, lists of values, and formats; lengths and bounds are not:
a value that exceeds them is a dead letter of its own, not of every record. Avro schemas are
compared here, too, written as JSON schemas (`choreo.schemas.evolving`) with a few words more:
`x-avro` is the type that a value has on the wire, `x-name` that of a named type, `x-map` tells a
map from a record, `x-else` is the symbol that a reader takes for one that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

__all__ = ["Reason", "Schema", "reasons_against", "unreadable"]

REFERENCE = "#/"
WIRE, MAP, ELSE, NAME = "x-avro", "x-map", "x-else", "x-name"
WIDENS = ("int", "long", "float", "double")
"""Each may be read as any that stands to its right. Source: Avro 1.12, "Schema Resolution"."""
DEPTH_MAX = 30
SIZED = {"int": "a number of 32 bits", "float": "a number of single precision"}
WORDS = {"string": "text", "integer": "a whole number", "number": "a number", "array": "a list",
         "boolean": "true or false", "object": "an object", "null": "null"}  # fmt: skip


@dataclass(frozen=True)
class Schema:
    """A payload's schema, the document that its references lead into, and whose it is."""

    root: Any
    document: Mapping[str, Any] = field(repr=False)
    of: str = ""

    def at(self, part: Any) -> Schema:
        """Give a part of it."""
        return Schema(part, self.document, self.of)


class Reason(NamedTuple):
    """One thing that can not be read: at which field, by which rule, in a sentence.

    Rules: `missing` (the reader needs it, the writer has it not, or not always), `values` (of
    an enum), `type`, `shape` (of a text, of a wire type), `places`, `forbidden`.
    """

    field: str
    rule: str
    text: str


def unreadable(owner: Schema, view: Schema) -> list[str]:
    """Say why the view can not read what the owner writes: a reason for each field; or nothing."""
    return [reason.text for reason in reasons_against(owner, view)]


def reasons_against(
    writer: Schema, reader: Schema, names: tuple[str, str] = ("the owner's", "the view")
) -> list[Reason]:
    """Say why the reader can not read what the writer writes; `names` call them that."""
    writer, reader = replace(writer, of=names[0]), replace(reader, of=names[1])
    return list(dict.fromkeys(_reasons(writer, reader, "", ())))


Pair = tuple[int, int]
THE_WHOLE = "the event"


def _reasons(owner: Schema, view: Schema, path: str, above: tuple[Pair, ...]) -> Iterator[Reason]:
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
        least: list[Reason] | None = None
        for read in reads:
            why = list(_alone(write, read, path, above))
            if least is None or len(why) < len(least):
                least = why
            if not why:
                break
        if least and len(reads) > 1:
            field = path or THE_WHOLE
            text = f"{field} may be {_named(write)}, {view.of} takes {_either(reads)}"
            yield Reason(path, "type", text)
        elif least:
            yield from least


def _alone(owner: Schema, view: Schema, path: str, above: tuple[Pair, ...]) -> Iterator[Reason]:
    """Compare two schemas that have no alternatives."""
    writes, reads = owner.root, view.root
    if _open(writes) or _open(reads):
        return
    field = path or THE_WHOLE
    if writes.get(NAME, "") != reads.get(NAME, "") and NAME in writes and NAME in reads:
        text = f"{field} is a {writes[NAME]}, {view.of} takes a {reads[NAME]}"
        yield Reason(path, "type", text)
        return
    values, taken = _values(writes), _values(reads)
    if taken is not None:
        yield from _symbols(owner, view, field)
        return
    kind, wanted = _kind(owner), _kind(view)
    if kind == "" or wanted == "":
        return
    differs = f"{field} is {_named(owner)}, {view.of} takes {_named(view)}"
    if kind != wanted and (kind, wanted) != ("integer", "number"):
        yield Reason(path, "type", differs)
    elif not _fits_on_the_wire(writes, reads):
        yield Reason(path, "shape", differs)
    elif wanted == "string":
        if _text(reads) and (values is not None or not _text_fits(writes, reads)):
            yield Reason(path, "shape", differs)
    elif wanted == "array":
        yield from _lists(owner, view, path, above)
    elif wanted == "object":
        yield from _objects(owner, view, path, above)


def _symbols(owner: Schema, view: Schema, field: str) -> Iterator[Reason]:
    values, taken = _values(owner.root), _values(view.root) or []
    path = "" if field == THE_WHOLE else field
    if values is None:
        text = f"{field} is {_named(owner)}, {view.of} takes only {_listed(taken)}"
        yield Reason(path, "values", text)
    elif (more := [one for one in values if one not in taken]) and not view.root.get(ELSE):
        text = f"{field} may be {_listed(more)}, {view.of} takes only {_listed(taken)}"
        yield Reason(path, "values", text)


def _fits_on_the_wire(writes: Mapping[str, Any], reads: Mapping[str, Any]) -> bool:
    """Tell whether Avro makes the one out of the other; of JSON alone there is nothing to say."""
    if writes.get(MAP) != reads.get(MAP):
        return False
    wrote, takes = writes.get(WIRE), reads.get(WIRE)
    if wrote == takes or wrote is None or takes is None:
        return True
    return wrote in WIDENS and takes in WIDENS and WIDENS.index(wrote) <= WIDENS.index(takes)


def _lists(owner: Schema, view: Schema, path: str, above: tuple[Pair, ...]) -> Iterator[Reason]:
    writes, reads = owner.root, view.root
    firsts, wanted = _list(writes.get("prefixItems")), _list(reads.get("prefixItems"))
    items = f"{path}[]"
    if wanted:
        if len(firsts) != len(wanted):
            written = f"has {len(firsts)} places" if firsts else "has any number of places"
            text = f"{path or THE_WHOLE} {written}, {view.of} takes {len(wanted)}"
            yield Reason(path, "places", text)
            return
        for number, (one, other) in enumerate(zip(firsts, wanted, strict=True)):
            yield from _reasons(owner.at(one), view.at(other), f"{path}[{number}]", above)
    elif "items" in reads:
        for one in firsts or ([writes["items"]] if "items" in writes else []):
            yield from _reasons(owner.at(one), view.at(reads["items"]), items, above)


def _objects(owner: Schema, view: Schema, path: str, above: tuple[Pair, ...]) -> Iterator[Reason]:
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
                text = f"{field} may be missing, {view.of} requires it"
                yield Reason(field, "missing", text)
            yield from _reasons(owner.at(written[name]), view.at(part), field, above)
        elif name in must:
            text = f"{field} is no field of {owner.of}, {view.of} requires it"
            yield Reason(field, "missing", text)
    others = reads.get("additionalProperties")
    if others is False:
        if more := sorted(written.keys() - wanted.keys()):
            text = f"{path or THE_WHOLE} has {', '.join(more)}, which {view.of} forbids"
            yield Reason(path, "forbidden", text)
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
            if part.get(WIRE) not in (None, "string"):
                return f"a {shape}"
            return f"a text that is a {shape}" if shape else "a text of a certain pattern"
        if part.get(MAP):
            return "a map"
        if part.get(WIRE) in SIZED:
            return SIZED[part[WIRE]]
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
