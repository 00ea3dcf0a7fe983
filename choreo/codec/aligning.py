"""A reader's schema, brought in line with a writer's: what is left is for the library to resolve.

A view is read as its model would read JSON. What the writer does not have is left out, so the
model gives its own default. What the view does not have is passed over, but for lists and maps:
the library counts to the end of one that it passes over, whether its bytes are there or not,
and would count for years; one that it reads ends with the bytes. What the view's author called
a nested class does not matter: records and enums take the writer's names where they stand in
the same place. And a plain text of the view's may be an enum or a UUID of the writer's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from choreo.schemas import AvroSchema, Json

__all__ = ["aligned"]


def aligned(writer: AvroSchema, reader: AvroSchema) -> tuple[Json, Json]:
    """Give the writer's and the reader's schema, as the library is to be given them."""
    write, read = _bare(writer.ready), _bare(reader.ready)
    return write, _Aligning(_named(write), _named(read)).of(write, read)


def _bare(ready: Json) -> Json:
    """Copy a schema with full names, without what the library has noted in it."""
    bare = {word: part for word, part in ready.items() if not word.startswith("__")}
    return copy.deepcopy(bare)


def _named(schema: Json) -> dict[str, Json]:
    found: dict[str, Json] = {}
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif isinstance(one, dict):
            if "name" in one:
                found[one["name"]] = one
            left += [field["type"] for field in one.get("fields", ())]
            left += [one[word] for word in ("type", "items", "values") if word in one]
    return found


class _Aligning:
    """Walks both schemas side by side; each pair of named types is written once."""

    def __init__(self, writes: Mapping[str, Json], reads: Mapping[str, Json]) -> None:
        self._writes = writes
        self._reads = reads
        self._made: dict[tuple[str, str], str] = {}
        self._names: set[str] = set()

    def of(self, write: Json, read: Json) -> Json:
        """Give what the reader is to have where these two stand."""
        write, read = _known(write, self._writes), _known(read, self._reads)
        if isinstance(read, list):
            options = write if isinstance(write, list) else [write]
            found = [self.of(self._partner(options, one), one) for one in read]
            return [one for n, one in enumerate(found) if one not in found[:n]]
        if isinstance(write, list):
            return self.of(self._partner(write, read), read)
        wrote, takes = _kind(write), _kind(read)
        if wrote == "record" == takes:
            return self._record(write, read)
        if wrote == "enum" == takes:
            return self._enum(write, read)
        if wrote == "array" == takes:
            return {**read, "items": self.of(write["items"], read["items"])}
        if wrote == "map" == takes:
            return {**read, "values": self.of(write["values"], read["values"])}
        if wrote == "enum" and read == "string":
            return self._enum(write, write)
        if takes in ("record", "enum"):  # no partner: it is only to have a name of its own
            return self._enum(read, read) if takes == "enum" else self._record(read, read)
        if wrote == takes and _is_any_decimal(read):
            return write
        if wrote == "string" == read and isinstance(write, dict):
            write.pop("logicalType", None)  # the library goes by the writer's: give the text
        return read

    def _partner(self, options: list[Json], read: Json) -> Json:
        """Find which of the writer's branches a branch of the reader's stands for."""
        read = _known(read, self._reads)
        kind = _kind(read)
        alike = [
            one for one in (_known(option, self._writes) for option in options)
            if _kind(one) == kind or (kind == "string" and _kind(one) == "enum")
        ]  # fmt: skip
        named = [one for one in alike if _short(one) == _short(read)]
        return (named or alike or [read])[0]

    def _record(self, write: Json, read: Json) -> Json:
        pair = (write["name"], read["name"])
        if pair in self._made:
            return self._made[pair]
        name = self._name(pair)
        there = {field["name"]: field["type"] for field in write["fields"]}
        made: dict[str, Any] = {"type": "record", **name, "fields": []}
        for field in read["fields"]:
            if (wrote := there.get(field["name"])) is not None:
                kind = self.of(wrote, field["type"])
                made["fields"].append({"name": field["name"], "type": kind})
        wanted = {field["name"] for field in read["fields"]}
        made["fields"] += [
            {"name": name, "type": self.of(kind, kind)}
            for name, kind in there.items()
            if name not in wanted and self._has_many(kind, frozenset())
        ]
        return made

    def _has_many(self, schema: Json, above: frozenset[str]) -> bool:
        """Tell whether a list or a map stands somewhere inside."""
        schema = _known(schema, self._writes)
        if isinstance(schema, list):
            return any(self._has_many(one, above) for one in schema)
        if not isinstance(schema, dict):
            return False
        if schema["type"] == "record":
            name = schema["name"]
            inside = above | {name}
            return name not in above and any(
                self._has_many(field["type"], inside) for field in schema["fields"]
            )
        return schema["type"] in ("array", "map")

    def _enum(self, write: Json, read: Json) -> Json:
        pair = (write["name"], read["name"])
        if pair in self._made:
            return self._made[pair]
        made = {"type": "enum", **self._name(pair), "symbols": read["symbols"]}
        if "default" in read:
            made["default"] = read["default"]
        return made

    def _name(self, pair: tuple[str, str]) -> dict[str, Any]:
        """Name it as the writer does; a second reader of one type is an alias of that name."""
        full = pair[0]
        number = 1
        while full in self._names:
            number += 1
            full = f"{pair[0]}_{number}"
        self._names.add(full)
        self._made[pair] = full
        return {"name": full} if number == 1 else {"name": full, "aliases": [pair[0]]}


def _known(schema: Json, names: Mapping[str, Json]) -> Json:
    return names.get(schema, schema) if isinstance(schema, str) else schema


def _kind(schema: Json) -> Any:
    return schema["type"] if isinstance(schema, dict) else schema


def _short(schema: Json) -> str:
    name = schema.get("name", "") if isinstance(schema, dict) else ""
    return str(name).rpartition(".")[2]


def _is_any_decimal(schema: Json) -> bool:
    return isinstance(schema, dict) and "logicalType" in schema and "scale" not in schema
