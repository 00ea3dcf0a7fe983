"""Events with everything that Avro has a form for, and codecs to write them with."""

import enum
import itertools
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, Field, HttpUrl, TypeAdapter

from choreo.codec import Avro, Codec, Schemas
from choreo.events import CONTENT_TYPE, TYPE, Event, Record
from choreo.schemas import SchemaFolder, derived, examined, written

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    sku: str
    price: Money


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    handed: Money = Decimal(0)


class Everything(Event, topic="unit.avro", key="id"):
    id: str
    number: int
    yes: bool
    ratio: float
    raw: bytes
    at: datetime
    day: date
    hour: time
    uid: UUID
    colour: Colour
    step: Literal["a", "b"]
    lines: list[Line]
    more: dict[str, list[int]]
    tags: frozenset[str]
    pair: tuple[str, ...]
    paid: Annotated[Card | Cash, Field(discriminator="kind")]
    either: int | str | None
    where: HttpUrl | None = None
    line: Line | None = None


AMOUNTS = st.decimals(-9_999_999_999, 9_999_999_999, places=2)
LINES = st.builds(Line, sku=TEXT, price=AMOUNTS)
EVENTS = st.builds(
    Everything,
    id=TEXT,
    number=INT64,
    yes=st.booleans(),
    ratio=st.floats(allow_nan=False),
    raw=st.binary(max_size=40),
    at=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    hour=st.times(),
    uid=st.uuids(),
    colour=st.sampled_from(Colour),
    step=st.sampled_from(["a", "b"]),
    lines=st.lists(LINES, max_size=3),
    more=st.dictionaries(TEXT, st.lists(INT64, max_size=3), max_size=3),
    tags=st.frozensets(TEXT, max_size=3),
    pair=st.lists(TEXT, max_size=3).map(tuple),
    paid=st.builds(Card, number=TEXT) | st.builds(Cash, handed=AMOUNTS),
    either=st.none() | INT64 | TEXT,
    where=st.none() | st.just(TypeAdapter(HttpUrl).validate_python("https://a.example/x")),
    line=st.none() | LINES,
)


def kept_in(folder: Path, *events: type[Event]) -> None:
    """Write the schemas of these classes into a folder, as version 1."""
    folder.mkdir(exist_ok=True)
    for event in events:
        text = written(examined(derived(event).schema, recursive=True).root)
        (folder / f"{event.__event__.type}.v1.avsc").write_text(text)


def folder_codec(folder: Path, *, recursive: bool = False) -> Codec:
    """Give a codec that writes Avro by a folder."""
    hours = map(float, itertools.count(0, 3600))  # between any two looks
    schemas = Schemas(
        SchemaFolder(folder, recursive), None, elapsed=hours.__next__, recursive=recursive
    )
    return Codec(Avro(schemas), writes_avro=True)


async def opened(folder: Path, *events: type[Event], recursive: bool = False) -> Codec:
    """Give a codec that writes these classes, whose schemas are in the folder."""
    kept_in(folder, *events)
    codec = folder_codec(folder, recursive=recursive)
    await codec.open(events)
    return codec


def record(codec: Codec, event: Event, **headers: str) -> Record:
    """Write an event as a record that came from elsewhere."""
    info = type(event).__event__
    told = {TYPE: info.type, CONTENT_TYPE: codec.content_type, **headers}
    return Record(info.topic, b"1", told, codec.encode(event), 0, 7)
