"""Single values as Avro: what a Python type is written as, and what stands for it in a default.

Source: Avro 1.12 specification, "Primitive Types", "Logical Types", "Complex Types".
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from pydantic import AwareDatetime, NaiveDatetime
from pydantic.fields import FieldInfo

__all__ = [
    "ANY_DECIMAL",
    "LEAVES",
    "Form",
    "Json",
    "NotWritableError",
    "decimal_form",
    "default_of",
    "kind_of",
]

Json = Any
"""What `json` reads and writes: an Avro schema is such a value."""
Convert = Callable[[Any], Any]


class NotWritableError(Exception):
    """A value that its field's Avro type can not hold; the text is never the value's."""

    def __init__(self, field: str) -> None:
        """Name the field."""
        super().__init__(field)
        self.field = field


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ANY_DECIMAL: Json = {"type": "bytes", "logicalType": "decimal"}
"""Stands in a view for a decimal whose digits the owner says."""


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one type are written.

    `convert` makes what an Avro library takes of a value; None: the value itself will do.
    `types` are the Python types that the value may have, where a union has to choose.
    """

    schema: Json
    convert: Convert | None = None
    types: tuple[type, ...] = ()


def _in_a_zone(value: datetime) -> datetime:
    if value.tzinfo is None:
        msg = "a point in time needs a time zone"
        raise ValueError(msg)
    return value


def _in_no_zone(value: time) -> time:
    if value.tzinfo is not None:
        msg = "a time of day is written without a zone"
        raise ValueError(msg)
    return value


LEAVES: Mapping[Any, Form] = {
    type(None): Form("null", None, (type(None),)),
    bool: Form("boolean", None, (bool,)),
    int: Form("long", None, (int,)),
    float: Form("double", None, (float,)),
    str: Form("string", None, (str,)),
    bytes: Form("bytes", None, (bytes,)),
    uuid.UUID: Form({"type": "string", "logicalType": "uuid"}, None, (uuid.UUID,)),
    date: Form({"type": "int", "logicalType": "date"}, None, (date,)),
    datetime: Form({"type": "long", "logicalType": "timestamp-micros"}, _in_a_zone, (datetime,)),
    AwareDatetime: Form({"type": "long", "logicalType": "timestamp-micros"}, None, (datetime,)),
    NaiveDatetime: Form(
        {"type": "long", "logicalType": "local-timestamp-micros"}, None, (datetime,)
    ),
    time: Form({"type": "long", "logicalType": "time-micros"}, _in_no_zone, (time,)),
}
"""Types that are written by themselves. A `datetime` is an instant: its offset is not kept."""


def decimal_form(metadata: Iterable[object]) -> Form | None:
    """Give the form of a Decimal with these marks; None if they do not say its digits."""
    digits = places = None
    for mark in _flat(metadata):
        digits = getattr(mark, "max_digits", digits)
        places = getattr(mark, "decimal_places", places)
    if digits is None or places is None:
        return None
    schema = {**ANY_DECIMAL, "precision": digits, "scale": places}
    return Form(schema, None, (Decimal,))


def _flat(metadata: Iterable[object]) -> Iterable[object]:
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            yield from _flat(mark.metadata)
        else:
            yield mark


# ── defaults ─────────────────────────────────────────────────────────────────────────────


def kind_of(schema: Json) -> str:
    """Name the type of a schema: a primitive, `union`, or what its "type" says."""
    if isinstance(schema, list):
        return "union"
    kind = schema["type"] if isinstance(schema, dict) else schema
    return kind if isinstance(kind, str) else kind_of(kind)


def default_of(schema: Json, datum: Any, names: Mapping[str, Json]) -> Json:
    """Write a value as the default of a field; raises ValueError for one that has no JSON."""
    if isinstance(schema, str):
        schema = names.get(schema, schema)
    if isinstance(schema, list):  # a union's default belongs to its first branch
        return default_of(schema[0], datum, names)
    if isinstance(datum, tuple) and len(datum) == 2:  # noqa: PLR2004 - (name of the branch, datum)
        datum = datum[1]
    if not isinstance(schema, dict):
        return _primitive(datum)
    if "logicalType" in schema:
        return _logical(schema, datum)
    kind = schema["type"]
    if kind == "record":
        return {
            field["name"]: default_of(field["type"], datum[field["name"]], names)
            for field in schema["fields"]
        }
    if kind == "array":
        return [default_of(schema["items"], one, names) for one in datum]
    if kind == "map":
        return {key: default_of(schema["values"], one, names) for key, one in datum.items()}
    return _primitive(datum)


def _primitive(datum: Any) -> Json:
    if isinstance(datum, bytes):
        return datum.decode("latin-1")
    if isinstance(datum, float) and not math.isfinite(datum):
        msg = "no JSON has this number"
        raise ValueError(msg)
    return datum


def _logical(schema: Json, datum: Any) -> Json:
    kind = schema["logicalType"]
    if kind == "decimal":
        unscaled = int(datum.scaleb(schema["scale"]))
        length = (unscaled + (unscaled < 0)).bit_length() // 8 + 1
        return unscaled.to_bytes(length, "big", signed=True).decode("latin-1")
    if kind == "uuid":
        return str(datum)
    if kind == "date":
        return (datum - EPOCH.date()).days
    if kind == "time-micros":
        datum = datetime.combine(EPOCH.date(), datum)
    since = datum.replace(tzinfo=UTC) if datum.tzinfo is None else datum
    delta = since - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
