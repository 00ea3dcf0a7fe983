"""Values as Avro: round trips, both framings, views, what can not be written or read."""

import asyncio
import base64
import io
import json
import struct
import tempfile
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal
from uuid import UUID

import fastavro
import pytest
from hypothesis import given
from pydantic import BaseModel, Field

from choreo.codec import Avro, Codec, Schemas, binary_mode, pack_record, unpack_record
from choreo.codec.avro import VALUE_SCHEMA_ID
from choreo.errors import CodecError, ConfigurationError, DecodeError, SchemaIncompatibleError
from choreo.events import CONTENT_TYPE, Event, Record
from choreo.schemas import AvroSchema, SchemaFolder, derived, examined
from tests.unit.avro_events import (
    EVENTS,
    Card,
    Colour,
    Everything,
    Line,
    Money,
    folder_codec,
    kept_in,
    opened,
    record,
)

CODEC = asyncio.run(opened(Path(tempfile.mkdtemp()) / "schemas", Everything))
SAMPLE = Everything.model_validate(
    {
        "id": "1", "number": 5, "yes": True, "ratio": 0.5, "raw": b"\0", "at": "2026-01-01T00:00Z",
        "day": "2026-01-02", "hour": "03:04:05", "uid": UUID(int=1), "colour": "red", "step": "a",
        "lines": [{"sku": "A", "price": "1.50"}], "more": {"x": [1]}, "tags": ["t"], "pair": ["p"],
        "paid": {"kind": "card", "number": "4"}, "either": "text",
    }
)  # fmt: skip


@given(EVENTS)
def test_an_event_comes_back_as_it_went(event: Everything) -> None:
    assert CODEC.decode(Everything, record(CODEC, event)) == event


@given(EVENTS)
def test_any_reader_of_avro_reads_it(event: Everything) -> None:
    """By fastavro alone, from the schema that stands in the folder."""
    schema = fastavro.parse_schema(derived(Everything).schema)
    value = CODEC.encode(event)
    assert value[:2] == b"\xc3\x01"
    assert value[2:10] == examined(derived(Everything).schema).fingerprint
    plain = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
    assert isinstance(plain, dict)
    assert Everything.model_validate(plain) == event


@given(EVENTS)
def test_a_record_with_avro_survives_being_parked(event: Everything) -> None:
    sent = record(CODEC, event)
    assert unpack_record(json.loads(json.dumps(pack_record(sent)))) == sent


def test_json_is_read_as_before_whatever_is_written() -> None:
    plain = Codec()
    told = record(plain, SAMPLE)
    assert told.headers[CONTENT_TYPE] == "application/json"
    assert CODEC.decode(Everything, told) == SAMPLE
    del told.headers[CONTENT_TYPE]
    assert CODEC.decode(Everything, told) == SAMPLE


def test_avro_in_a_structured_event_is_read() -> None:
    sent = record(CODEC, SAMPLE)
    document = {
        "specversion": "1.0", "id": "1", "source": "s", "type": "unit.avro.Everything",
        "datacontenttype": sent.headers[CONTENT_TYPE],
        "data_base64": base64.b64encode(sent.value).decode(),
    }  # fmt: skip
    headers = {CONTENT_TYPE: "application/cloudevents+json"}
    structured = Record("unit.avro", None, headers, json.dumps(document).encode(), 0, 1)
    assert CODEC.decode(Everything, binary_mode(structured)) == SAMPLE


def test_a_value_without_a_class_is_what_json_would_have() -> None:
    plain = CODEC.plain(record(CODEC, SAMPLE))
    assert plain["lines"] == [{"sku": "A", "price": "1.50"}]
    assert plain["at"] == "2026-01-01T00:00:00Z"
    json.dumps(plain)
    assert Codec().plain(record(Codec(), SAMPLE))["id"] == "1"


# ── views ────────────────────────────────────────────────────────────────────────────────


class OtherName(BaseModel):
    price: Decimal
    note: str = "none"


class Seen(Event, topic="unit.avro", name="Everything"):
    """What another service needs: fewer fields, other classes, other words."""

    id: str
    number: float
    uid: str
    colour: str
    step: Literal["a", "b", "c"]
    lines: list[OtherName]
    paid: Card | None = None
    line: OtherName | None = None
    added: list[str] = Field(default_factory=lambda: ["as the model says"])


@given(EVENTS)
def test_a_view_reads_what_it_declares_and_nothing_else(event: Everything) -> None:
    if not isinstance(event.paid, Card):
        event = event.model_copy(update={"paid": Card(number="1")})
    seen = CODEC.decode(Seen, record(CODEC, event))
    assert (seen.id, seen.uid, seen.colour) == (event.id, str(event.uid), event.colour.value)
    assert seen.number == float(event.number)
    assert [one.price for one in seen.lines] == [one.price for one in event.lines]
    assert (seen.line is None) == (event.line is None)
    assert seen.added == ["as the model says"]
    assert all(one.note == "none" for one in seen.lines)


class Lacking(Event, topic="unit.avro", name="Everything"):
    id: str
    invented: str


class Changed(Event, topic="unit.avro", name="Everything"):
    number: datetime


@pytest.mark.parametrize(
    ("view", "field"), [(Lacking, "invented is no field"), (Changed, "number is a whole number")]
)
def test_a_view_that_can_not_read_it_says_which_field(view: type[Event], field: str) -> None:
    sent = record(CODEC, SAMPLE.model_copy(update={"number": 1 << 60}))
    with pytest.raises(SchemaIncompatibleError, match=field) as told:
        CODEC.decode(view, sent)
    assert not told.value.transient


class Renamed(BaseModel):
    sku: str


class Twice(Event, topic="unit.avro", key="a"):
    a: str
    first: Line
    second: Line | None = None


class TwiceSeen(Event, topic="unit.avro", name="Twice"):
    first: OtherName
    second: Renamed | None = None


async def test_one_class_may_be_seen_as_two(tmp_path: Path) -> None:
    codec = await opened(tmp_path / "s", Twice)
    line = Line(sku="x", price=Decimal("1.00"))
    seen = codec.decode(TwiceSeen, record(codec, Twice(a="1", first=line, second=line)))
    assert seen.first.price == Decimal(1)
    assert seen.second == Renamed(sku="x")


class Version2(Event, topic="unit.avro", key="id", name="Everything"):
    id: str
    number: int
    colour: Literal["red", "blue", "green"] = "red"
    fresh: Money = Decimal("0.00")


async def test_old_and_new_versions_read_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    old = await opened(folder, Everything)
    text = json.dumps(derived(Version2).schema)
    (folder / "unit.avro.Everything.v2.avsc").write_text(text)
    new = folder_codec(folder)
    await new.open([Version2])
    from_old = record(old, SAMPLE)
    await new.learn([from_old])
    read = new.decode(Version2, from_old)
    assert (read.number, read.colour, read.fresh) == (5, "red", Decimal("0.00"))
    assert old.decode(Seen, from_old).id == "1"

    class Oldest(Event, topic="unit.avro", name="Everything"):
        id: str
        colour: Literal["red", "blue"] = "blue"

    from_new = record(new, Version2(id="2", number=1, colour="green"))
    await old.learn([from_new])
    assert old.decode(Oldest, from_new).colour == "blue"  # the default stands for the unknown


# ── framing ──────────────────────────────────────────────────────────────────────────────


@dataclass
class Fixed:
    """A registry that knows one schema, by one id and one GUID."""

    text: str
    asked: int = 0

    async def schema(self, ref: int | str) -> str | None:
        self.asked += 1
        return self.text if ref in (7, str(UUID(int=9))) else None

    async def find(self, subject: str, schema: str) -> int | None:
        assert subject == "unit.avro-unit.avro.Everything"
        return 7 if json.loads(schema) == json.loads(self.text) else None

    async def register(self, subject: str, schema: str) -> int:
        raise AssertionError

    async def close(self) -> None: ...


def by_registry() -> tuple[Codec, Fixed]:
    registry = Fixed(json.dumps(derived(Everything).schema))
    schemas = Schemas(None, registry, elapsed=lambda: 0.0)
    return Codec(Avro(schemas), writes_avro=True), registry


async def test_confluents_framing_is_written_and_read() -> None:
    codec, registry = by_registry()
    await codec.open([Everything])
    sent = record(codec, SAMPLE)
    assert sent.value[:5] == struct.pack(">bI", 0, 7)
    assert sent.headers[CONTENT_TYPE] == "application/avro;framing=confluent"
    assert codec.decode(Everything, sent) == SAMPLE
    assert registry.asked == 0  # what we wrote ourselves is known


@pytest.mark.parametrize("content_type", ["application/avro", "Avro/Binary"])
@pytest.mark.parametrize("header", [b"\x01" + UUID(int=9).bytes, b"\x00\x00\x00\x00\x07", None])
async def test_every_framing_of_other_producers_is_read(
    header: bytes | None, content_type: str
) -> None:
    codec, registry = by_registry()
    datum = CODEC.encode(SAMPLE)[10:]
    headers = {CONTENT_TYPE: content_type}
    if header is None:
        datum = struct.pack(">bI", 0, 7) + datum
    else:
        headers[VALUE_SCHEMA_ID] = header.decode("utf-8", "surrogateescape")
    foreign = Record("unit.avro", None, headers, datum, 0, 1)
    for _ in range(3):
        await codec.learn([foreign])
    assert codec.decode(Everything, foreign) == SAMPLE
    assert registry.asked == 1


async def test_an_own_schema_has_to_be_where_readers_look(tmp_path: Path) -> None:
    codec = folder_codec(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="choreo schemas generate") as told:
        await codec.open([Everything])
    assert told.value.code == "CH1041"
    registered, registry = by_registry()
    registry.text = '"string"'
    with pytest.raises(ConfigurationError, match="choreo schemas register"):
        await registered.open([Everything])


async def test_a_folder_is_looked_through_once_a_second_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [0.0], []

    def looked(self: SchemaFolder) -> dict[bytes, AvroSchema]:
        looks.append(now[0])
        return {}

    monkeypatch.setattr(SchemaFolder, "by_fingerprint", looked)
    codec = Codec(Avro(Schemas(SchemaFolder(tmp_path), None, elapsed=lambda: now[0])))
    for number in range(100):
        now[0] = number / 20
        headers = {CONTENT_TYPE: "application/avro"}
        value = b"\xc3\x01" + number.to_bytes(8, "big")
        await codec.learn([Record("unit.avro", None, headers, value)])
    assert len(looks) == 5


async def test_who_has_no_schemas_says_what_to_set() -> None:
    with pytest.raises(DecodeError, match="SCHEMA_REGISTRY_URL") as told:
        Codec().decode(Everything, record(CODEC, SAMPLE))
    assert told.value.code == "CH2006"


# ── what can not be written ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", datetime(2026, 1, 1)),  # noqa: DTZ001 - that is the mistake
        ("number", 1 << 63),
        ("lines", [Line.model_construct(sku="s", price=Decimal("1.001"))]),
        ("colour", "purple"),
        ("raw", "secret text"),
    ],
)
def test_a_value_without_a_form_names_its_field_only(field: str, value: object) -> None:
    with pytest.raises(CodecError) as told:
        CODEC.encode(SAMPLE.model_copy(update={field: value}))
    assert told.value.code == "CH2005"
    assert str(told.value.fields["field"]).partition(".")[0] == field
    assert "secret" not in str(told.value)
    assert not told.value.transient


def test_what_is_too_large_is_not_written() -> None:
    with pytest.raises(DecodeError, match="exceeds"):
        CODEC.encode(SAMPLE.model_copy(update={"raw": bytes(1 << 20)}))


def test_colours_are_what_the_other_side_would_call_them() -> None:
    assert CODEC.plain(record(CODEC, SAMPLE))["colour"] == Colour.RED.value


class Node(Event, topic="unit.avro", key="id"):
    id: str
    under: "list[Node]" = []  # noqa: RUF012 - pydantic copies it


async def test_recursion_has_to_be_allowed(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    kept_in(folder, Node)
    with pytest.raises(ConfigurationError, match="CHOREO_AVRO_RECURSION"):
        await folder_codec(folder).open([Node])
    codec = await opened(folder, Node, recursive=True)
    node = Node(id="1", under=[Node(id="2", under=[Node(id="3")])])
    assert codec.decode(Node, record(codec, node)) == node
