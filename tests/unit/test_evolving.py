"""Versions of a schema: which changes are refused, in which words; and Apache's reading of them."""

import copy
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse as apache
from hypothesis import given
from hypothesis import strategies as st

from choreo.errors import ConfigurationError
from choreo.events import Event
from choreo.schemas import SchemaFolder, check_schemas, derived, misread, written
from choreo.schemas.evolving import clashes
from tests.unit.avro_events import Everything, kept_in

Json = Any


def event(*fields: Json) -> Json:
    return {"type": "record", "name": "E", "namespace": "u", "fields": list(fields)}


def field(name: str, kind: Json, **more: Json) -> Json:
    return {"name": name, "type": kind, **more}


def choice(*symbols: str, **more: Json) -> Json:
    return {"type": "enum", "name": "C", "namespace": "u.E", "symbols": list(symbols), **more}


A = field("a", "string")
CENTS = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
MILLS = {**CENTS, "scale": 3}
TIME = {"type": "long", "logicalType": "timestamp-micros"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (event(A), event(A, field("b", "string")), "version 2 can not read version 1: b is"),
        (event(A, field("b", "string")), event(A), "version 1 can not read version 2: b is"),
        (event(A), event(field("a", "long")), "a is text, version 2 takes a whole number"),
        (event(field("a", ["null", "string"])), event(A), "a is null, version 2 takes text"),
        (event(field("a", "long")), event(field("a", "double")), "a is a number, version 1 takes"),
        (event(field("a", choice("x"))), event(field("a", choice("x", "y"))), "a may be 'y'"),
        (event(field("a", choice("x", "y"))), event(field("a", choice("x"))), "a may be 'y'"),
        (event(field("a", CENTS)), event(field("a", MILLS)), "decimal(12, 2), version 2 takes a"),
        (event(field("a", "long")), event(field("a", TIME)), "a is a whole number, version 2"),
        (event(A), event(field("a", choice("x"))), "a is text, version 2 takes only 'x'"),
        (event(field("a", choice("x"))), event(A), "version 2 takes text"),
        (
            event(field("a", {"type": "map", "values": "long"})),
            event(field("a", {"type": "record", "name": "R", "fields": []})),
            "a is a map",
        ),
        (
            event(field("a", {"type": "record", "name": "R", "fields": []})),
            event(field("a", {"type": "record", "name": "S", "fields": []})),
            "a is a R, version 2 takes a S",
        ),
        (
            event(field("a", {"type": "array", "items": event(A)["fields"][0]["type"]})),
            event(field("a", {"type": "array", "items": "bytes"})),
            "a[] is text, version 2 takes a byte string",
        ),
    ],
)  # fmt: skip
def test_a_change_that_somebody_can_not_read_is_told(old: Json, new: Json, said: str) -> None:
    found = list(clashes([("version 1", old), ("version 2", new)]))
    told = [f"{one.reader} can not read {one.writer}: {one.reason.text}" for one in found]
    assert any(said in one for one in told), told
    assert all(one.fix for one in found)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (event(A), event(A, field("b", ["null", "string"], default=None))),
        (event(A, field("b", "string", default="")), event(A)),
        (event(A, field("b", "long")), event(field("b", "long"), A)),
        (
            event(field("a", choice("x", default="x"))),
            event(field("a", choice("x", "y", default="x"))),
        ),
        (event(A), copy.deepcopy(event(A))),
    ],
)
def test_a_change_that_everybody_can_read_passes(old: Json, new: Json) -> None:
    assert not list(clashes([("1", old), ("2", new)]))


def test_every_version_is_held_against_every_other() -> None:
    """Removed with a default, and back as another type: the two in between get along."""
    versions = [
        ("1", event(A, field("b", "string", default=""))),
        ("2", event(A)),
        ("3", event(A, field("b", "long", default=0))),
    ]
    assert {(one.writer, one.reader) for one in clashes(versions)} == {("1", "3"), ("3", "1")}


# ── against Apache's checker ─────────────────────────────────────────────────────────────

LEAF = st.sampled_from(
    ["string", "long", "int", "double", "boolean", "bytes", "null", choice("x", "y"),
     choice("x", default="x"), choice("x", "y", "z", default="x")]
)  # fmt: skip
KIND = st.recursive(
    LEAF,
    lambda inner: (
        st.builds(lambda i: {"type": "array", "items": i}, inner)
        | st.builds(lambda i: {"type": "map", "values": i}, inner)
        | st.lists(LEAF, min_size=1, max_size=3, unique_by=lambda one: json.dumps(one)[:12])
    ),
    max_leaves=3,
)
FIELDS = st.dictionaries(st.sampled_from("abc"), st.tuples(KIND, st.booleans()), max_size=3)


def with_fields(fields: dict[str, tuple[Json, bool]]) -> Json | None:
    """Make an event of these fields; None where Avro does not have it so."""
    made = []
    for name, (kind, optional) in fields.items():
        if optional and kind not in ("string", "null"):
            continue
        default = {"default": "" if kind == "string" else None} if optional else {}
        made.append(field(name, kind, **default))
    text = json.dumps(event(*made))
    if text.count('"enum"') > 1:  # a named type is defined once
        return None
    return json.loads(text)


@given(FIELDS, FIELDS)
def test_what_passes_here_passes_there(
    old: dict[str, tuple[Json, bool]], new: dict[str, tuple[Json, bool]]
) -> None:
    writer, reader = with_fields(old), with_fields(new)
    if writer is None or reader is None:
        return
    if not misread(writer, reader, ("w", "r")):
        checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
        found = checker.get_compatibility(
            reader=apache(json.dumps(reader)), writer=apache(json.dumps(writer))
        )
        assert found.compatibility is SchemaCompatibilityType.compatible, found.messages


# ── classes, versions, views ─────────────────────────────────────────────────────────────


class Placed(Event, topic="unit.evolving", key="id"):
    id: str
    state: Literal["new", "old"] = "new"


class Seen(Event, topic="unit.evolving", name="Placed"):
    id: str
    total: int


class Fine(Event, topic="unit.evolving", name="Placed"):
    state: str
    gone: list[str] = []  # noqa: RUF012 - pydantic copies it


def test_code_is_held_against_the_folder_and_views_against_their_owner(tmp_path: Path) -> None:
    folder = SchemaFolder(tmp_path)
    events: list[tuple[str, type[Event]]] = [
        ("shop", Placed),
        ("desk", Seen),
        ("desk", Fine),
        ("desk", Everything),
    ]
    assert [one.code for one in check_schemas(events[:1], folder.versions())] == ["CH1120"]
    kept_in(tmp_path, Placed, Everything)
    found = check_schemas(events, folder.versions())
    assert [(one.code, one.field) for one in found] == [("CH1104", "total")]
    assert "the view of desk can not read version 1" in found[0].what
    old = derived(Placed).schema
    old["fields"].append({"name": "lost", "type": "string"})
    (tmp_path / "unit.evolving.Placed.v1.avsc").write_text(written(old))
    found = check_schemas(events[:1], folder.versions())
    assert [(one.code, one.field, one.reader) for one in found] == [
        ("CH1120", "", ""),
        ("CH1121", "lost", "version 1"),
    ]


@pytest.mark.parametrize("name", ["unit.avsc", "unit.v0.avsc", "unit.vx.avsc"])
def test_a_file_without_a_version_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('"string"')
    with pytest.raises(ConfigurationError) as told:
        SchemaFolder(tmp_path).versions()
    assert told.value.code == "CH1043"


@pytest.mark.parametrize("text", ["", "{", "\0", '{"type": "record"}', "[" * 5000])
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "unit.v1.avsc").write_text(text)
    with pytest.raises(ConfigurationError, match=r"unit\.v1\.avsc") as told:
        SchemaFolder(tmp_path).versions()
    assert told.value.code == "CH1043"
