"""May an event's schema become this one? All versions against all others, in words.

FULL_TRANSITIVE: every version reads every other one, since topics are replayed with new code
and an old process still runs while a new one writes. The rules are Avro's and a little
stricter: what Avro would read as something else (an instant as a number, a text as bytes) is a
change of type here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from choreo.schemas.comparing import ELSE, MAP, NAME, WIRE, Reason, Schema, reasons_against
from choreo.schemas.forms import Json

__all__ = ["Clash", "clashes", "misread"]

DEFINED = "#/named/"
PLAIN: Mapping[str, Json] = {
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "int": {"type": "integer", WIRE: "int"},
    "long": {"type": "integer", WIRE: "long"},
    "float": {"type": "number", WIRE: "float"},
    "double": {"type": "number", WIRE: "double"},
    "bytes": {"type": "string", "format": "byte string", WIRE: "bytes"},
    "string": {"type": "string", WIRE: "string"},
}
SHAPES = {
    "uuid": "uuid",
    "date": "date",
    "time-millis": "time",
    "time-micros": "time",
    "timestamp-millis": "date-time in ms",
    "timestamp-micros": "date-time",
    "local-timestamp-millis": "date-time without zone in ms",
    "local-timestamp-micros": "date-time without zone",
    "duration": "duration",
}
FIX = {
    ("missing", "new"): "give the new field a default",
    ("missing", "old"): "put the field back: old code needs it, for it had no default",
    ("values", "new"): "take the value back into the list: old events have it",
    ("values", "old"): "give the field a default, which old code takes for values that it does "
    "not know; it has to be there before the new value is",
    ("type", ""): "leave the field as it is, and add one of another name, with a default",
}
RENAMED = "or give the event another name: class OrderPlaced2, a type of its own"


class Clash(NamedTuple):
    """Two versions of which one can not read the other, and what to do."""

    writer: str
    reader: str
    reason: Reason
    fix: str


def clashes(versions: Sequence[tuple[str, Json]]) -> Iterator[Clash]:
    """Give what stands between these versions, oldest first, each under its name.

    Only what the newest adds is told of a pair that clashes already without it.
    """
    for late, (newer, new) in enumerate(versions):
        for older, old in versions[:late]:
            for reason in misread(old, new, (older, newer)):
                yield Clash(older, newer, reason, _fix(reason, "new"))
            for reason in misread(new, old, (newer, older)):
                yield Clash(newer, older, reason, _fix(reason, "old"))


def misread(
    writer: Json, reader: Json, names: tuple[str, str], *, view: bool = False
) -> list[Reason]:
    """Say why data of the writer's schema can not be read by the reader's.

    A `view` reads as its model would: it may take an enum as a text, and a decimal of any digits,
    and what its classes are called does not matter.
    """
    writes = _Written(writer, reader=False, view=view).schema()
    reads = _Written(reader, reader=True, view=view).schema()
    return reasons_against(writes, reads, names)


def _fix(reason: Reason, reader: str) -> str:
    words = FIX.get((reason.rule, reader)) or FIX["type", ""]
    return f"{words}; {RENAMED}"


class _Written:
    """An Avro schema, written as a JSON schema of the values that it has."""

    def __init__(self, root: Json, *, reader: bool, view: bool) -> None:
        self._root = root
        self._reader = reader
        self._view = view
        self._named: dict[str, Json] = {}

    def schema(self) -> Schema:
        root = self._of(self._root, "")
        return Schema(root, {"named": self._named})

    def _of(self, schema: Json, namespace: str) -> Json:
        if isinstance(schema, list):
            return {"anyOf": [self._of(one, namespace) for one in schema]}
        if isinstance(schema, str):
            if schema in PLAIN:
                return PLAIN[schema]
            full = schema if "." in schema or not namespace else f"{namespace}.{schema}"
            return {"$ref": DEFINED + (full if full in self._named else schema)}
        kind = schema["type"]
        if not isinstance(kind, str) or kind not in (*KINDS, *PLAIN):
            return self._of(kind, namespace)
        if kind in ("record", "error", "enum", "fixed"):
            return self._define(schema, kind, namespace)
        if kind == "array":
            return {"type": "array", "items": self._of(schema["items"], namespace)}
        if kind == "map":
            return {
                "type": "object", MAP: True,
                "additionalProperties": self._of(schema["values"], namespace),
            }  # fmt: skip
        return self._logical(schema, PLAIN[kind])

    def _logical(self, schema: Json, plain: Json) -> Json:
        kind = schema.get("logicalType")
        if kind == "decimal":
            if self._view and "scale" not in schema:
                return {}
            digits = f"decimal({schema.get('precision')}, {schema.get('scale', 0)})"
            return {**plain, "type": "string", "format": digits}
        if kind in SHAPES:
            return {**plain, "type": "string", "format": SHAPES[kind]}
        return plain

    def _define(self, schema: Json, kind: str, namespace: str) -> Json:
        full = schema["name"]
        if "." not in full:
            full = ".".join(filter(None, (schema.get("namespace", namespace), full)))
        self._named[full] = made = dict[str, Any]()
        if not self._view:
            made[NAME] = full.rpartition(".")[2]
        if kind == "enum":
            made |= {"enum": schema["symbols"], "type": "string"}
            made[WIRE] = "string" if self._view and not self._reader else "enum"
            if self._reader and "default" in schema:
                made[ELSE] = schema["default"]
        elif kind == "fixed":
            size = f"fixed({schema['size']})"
            made |= self._logical(schema, {"type": "string", "format": size, WIRE: "fixed"})
        else:
            inside = full.rpartition(".")[0]
            made |= {"type": "object", "properties": {}, "required": []}
            for field in schema["fields"]:
                made["properties"][field["name"]] = self._of(field["type"], inside)
                if not self._reader or not field.keys() & {"default", "x-optional"}:
                    made["required"].append(field["name"])
        return {"$ref": DEFINED + full}


KINDS = ("record", "error", "enum", "fixed", "array", "map")
