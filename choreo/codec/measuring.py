"""Avro bytes measured before they are read: how deep they nest, and that all of them are there.

Only bytes of a schema whose records contain themselves need it: by any other schema the depth
is that of the schema, and the library finds what is missing by itself. Reading them unmeasured
would let five thousand bytes end the process.
"""

from __future__ import annotations

from typing import Any

from choreo.errors import DecodeError
from choreo.schemas import DEPTH_MAX, AvroSchema, Json

__all__ = ["measured"]

FIXED_BYTES = {"null": 0, "boolean": 1, "float": 4, "double": 8}
VARINT_BYTES_MAX = 10


def measured(schema: AvroSchema, value: bytes, start: int) -> int:
    """Give where the value ends; raises DecodeError where it is too deep or breaks off."""
    return _Measure(value, schema.ready["__named_schemas"]).of(schema.ready, start, 0)


class _Measure:
    def __init__(self, value: bytes, names: Any) -> None:
        self._value = value
        self._names = names

    def of(self, schema: Json, at: int, depth: int) -> int:
        """Give where a value that begins at `at` ends."""
        if depth > DEPTH_MAX:
            raise DecodeError(f"value is nested deeper than {DEPTH_MAX}", code="CH2002")
        if isinstance(schema, str):
            if schema in self._names:
                schema = self._names[schema]
            else:
                return self._primitive(schema, at)
        if isinstance(schema, list):
            branch, at = self._long(at)
            if not 0 <= branch < len(schema):
                raise _broken()
            return self.of(schema[branch], at, depth + 1)
        kind = schema["type"]
        if kind == "record":
            for field in schema["fields"]:
                at = self.of(field["type"], at, depth + 1)
            return at
        if kind in ("array", "map"):
            return self._blocks(schema, kind, at, depth)
        if kind == "enum":
            return self._long(at)[1]
        if kind == "fixed":
            return self._skip(at, schema["size"])
        return self.of(kind, at, depth)

    def _blocks(self, schema: Json, kind: str, at: int, depth: int) -> int:
        item = schema["items" if kind == "array" else "values"]
        while True:
            count, at = self._long(at)
            if count == 0:
                return at
            if count < 0:
                count = -count
                _, at = self._long(at)
            if count > len(self._value) - at:
                raise _broken()
            for _ in range(count):
                if kind == "map":
                    at = self._primitive("string", at)
                at = self.of(item, at, depth + 1)

    def _primitive(self, kind: str, at: int) -> int:
        if kind in FIXED_BYTES:
            return self._skip(at, FIXED_BYTES[kind])
        number, at = self._long(at)
        return at if kind in ("int", "long") else self._skip(at, number)

    def _skip(self, at: int, length: int) -> int:
        if not 0 <= length <= len(self._value) - at:
            raise _broken()
        return at + length

    def _long(self, at: int) -> tuple[int, int]:
        number = shift = 0
        for byte in self._value[at : at + VARINT_BYTES_MAX]:
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 - the last byte of a number has no high bit
                return (number >> 1) ^ -(number & 1), at
            shift += 7
        raise _broken()


def _broken() -> DecodeError:
    return DecodeError("value is no Avro of its schema: its bytes break off", code="CH2002")
