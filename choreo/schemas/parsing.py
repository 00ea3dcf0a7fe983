"""A schema that came from elsewhere, examined before anything is read by it.

Bytes cost what their schema makes of them: a record that contains itself nests as deep as the
bytes like (5,000 levels end the process), and a list of nulls takes no bytes for a million
items. So a schema is refused by which that could happen; by the others, what is read is bounded
by the bytes that are there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from choreo.errors import ConfigurationError, DecodeError
from choreo.schemas.forms import Json

__all__ = ["DEPTH_MAX", "AvroSchema", "avro_library", "parsed"]

DEPTH_MAX = 64
TEXT_BYTES_MAX = 1 << 20
VALUES_A_BYTE = 8
"""How many values one byte may stand for; what a schema has beyond that is counted."""
VALUES_SPARE = 1 << 16
PARTS_MAX = 100_000
"""Of a schema, each named type counted wherever it stands: 60 records of two each are 2^60."""
PRIMITIVE_BYTES = {
    "null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1,
}  # fmt: skip
FULL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def avro_library() -> Any:
    """Give `fastavro`; raises ConfigurationError when it is not installed."""
    try:
        import fastavro
    except ImportError:
        raise ConfigurationError(
            "Avro needs the library fastavro",
            code="CH1042",
            fix='install it: pip install "choreo[avro]"',
        ) from None
    return fastavro


@dataclass(frozen=True)
class AvroSchema:
    """An examined schema. `names` are its named types; `recursive`, whether one has itself."""

    root: Json
    names: Mapping[str, Json]
    recursive: bool

    @cached_property
    def fingerprint(self) -> bytes:
        """The CRC-64-AVRO of its parsing canonical form: 8 bytes, the lowest first."""
        schema = avro_library().schema
        canonical = schema.to_parsing_canonical_form(self.root)
        return bytes.fromhex(schema.fingerprint(canonical, "CRC-64-AVRO"))

    @cached_property
    def ready(self) -> Json:
        """The schema as the library takes it."""
        return avro_library().parse_schema(self.root)

    @property
    def text(self) -> str:
        """The schema as one line of JSON."""
        return json.dumps(self.root, separators=(",", ":"))


def parsed(text: str | bytes, *, recursive: bool = False, where: str = "") -> AvroSchema:
    """Read a schema; raises DecodeError for one that is none, or that is not acceptable.

    `recursive`: accept one whose records contain themselves. `where` names it in the error.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise refused(f"it is longer than {TEXT_BYTES_MAX} bytes", where)
    try:
        root = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise refused(f"it is no JSON: {exc}", where) from None
    return examined(root, recursive=recursive, where=where)


def examined(root: Json, *, recursive: bool = False, where: str = "") -> AvroSchema:
    """Examine a schema that is JSON already; raises DecodeError as `parsed` does."""
    look = _Look(where)
    waste = look.waste(root, "", 0)
    if look.recursive and not recursive:
        raise refused(
            "a record contains itself", where,
            "let it refer by an id instead; or allow it: CHOREO_AVRO_RECURSION=allow",
        )  # fmt: skip
    if waste > VALUES_SPARE:
        raise refused("few bytes would stand for a great many values", where)
    found = AvroSchema(root, look.names, look.recursive)
    try:
        _ = found.ready, found.fingerprint
    except ConfigurationError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever the library finds wrong with it
        raise refused(f"it is no schema: {type(exc).__name__}: {exc}", where) from None
    return found


def refused(what: str, where: str, fix: str = "") -> DecodeError:
    """Make the error for a schema that nothing is read by."""
    about = {"schema": where} if where else {}
    return DecodeError(
        f"a schema is not acceptable: {what}",
        code="CH2007",
        fix=fix or "correct it where it was registered, and redrive",
        **about,
    )


class _Look:
    """Walks a schema once. `waste` is the most values it can give beyond 8 for each byte."""

    def __init__(self, where: str) -> None:
        self.names: dict[str, Json] = {}
        self.recursive = False
        self._where = where
        self._known: dict[str, int] = {}
        self._open: set[str] = set()
        self._parts = 0
        self._parts_of: dict[str, int] = {}

    def waste(self, schema: Json, namespace: str, depth: int) -> int:
        """Give the waste of a part; raises DecodeError where it can not be accepted."""
        self._count(1)
        if depth > DEPTH_MAX:
            raise self._wrong(f"it is nested deeper than {DEPTH_MAX}")
        if isinstance(schema, str):
            return self._by_name(schema, namespace)
        if isinstance(schema, list):
            if not schema:
                raise self._wrong("a union has no branch")
            most = max(self.waste(one, namespace, depth + 1) for one in schema)
            return 1 - VALUES_A_BYTE + most
        if not isinstance(schema, dict) or "type" not in schema:
            raise self._wrong("a part is neither a name, nor a list, nor an object with a type")
        kind = schema["type"]
        if kind in ("record", "error", "enum", "fixed"):
            return self._named(schema, kind, namespace, depth)
        if kind in ("array", "map"):
            return self._many(schema, kind, namespace, depth)
        return self.waste(kind, namespace, depth + 1)

    def _by_name(self, name: str, namespace: str) -> int:
        if name in PRIMITIVE_BYTES:
            return 1 - VALUES_A_BYTE * PRIMITIVE_BYTES[name]
        full = _full(name, namespace)
        full = full if full in self.names else name
        if full in self._open:
            self.recursive = True  # how deep is counted in the bytes
            return 0
        if full not in self._known:
            raise self._wrong(f"{name!r} is not defined")
        self._count(self._parts_of[full])
        return self._known[full]

    def _named(self, schema: Mapping[str, Any], kind: str, namespace: str, depth: int) -> int:
        name = schema.get("name")
        if not isinstance(name, str) or not isinstance(schema.get("namespace", ""), str):
            raise self._wrong(f"a {kind} has no name")
        full = _full(name, schema.get("namespace", namespace))
        if not FULL_NAME.fullmatch(full) or full in self.names:
            raise self._wrong(f"{full!r} is no name, or stands twice")
        self.names[full] = schema
        self._open.add(full)
        before = self._parts
        found = 1
        if kind == "enum":
            found -= VALUES_A_BYTE
        elif kind == "fixed":
            size = schema.get("size")
            found -= VALUES_A_BYTE * size if isinstance(size, int) and size > 0 else 0
        else:
            fields = schema.get("fields")
            if not isinstance(fields, list) or not all(_is_field(one) for one in fields):
                raise self._wrong(f"{full} has no list of fields")
            inside = full.rpartition(".")[0]
            found += sum(self.waste(one["type"], inside, depth + 1) for one in fields)
        self._open.remove(full)
        self._known[full] = found
        self._parts_of[full] = self._parts - before
        return found

    def _many(self, schema: Mapping[str, Any], kind: str, namespace: str, depth: int) -> int:
        part = schema.get("items" if kind == "array" else "values")
        each = self.waste(part, namespace, depth + 1)
        if each - (VALUES_A_BYTE if kind == "map" else 0) > 0:
            raise self._wrong(f"an {kind} has items that take too few bytes")
        return 1 - VALUES_A_BYTE

    def _count(self, parts: int) -> None:
        self._parts += parts
        if self._parts > PARTS_MAX:
            raise self._wrong(f"it has more than {PARTS_MAX} parts")

    def _wrong(self, what: str) -> DecodeError:
        return refused(what, self._where)


def _full(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _is_field(field: object) -> bool:
    return isinstance(field, dict) and isinstance(field.get("name"), str) and "type" in field
