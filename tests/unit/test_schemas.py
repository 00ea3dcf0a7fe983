"""Models to Avro: what each type becomes, what is refused, that nothing moves by itself."""

import enum
import json
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType
from uuid import UUID, uuid4

import pytest
from pydantic import (
    AwareDatetime,
    BaseModel,
    Field,
    HttpUrl,
    NaiveDatetime,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
)

from choreo.errors import ConfigurationError, DecodeError
from choreo.events import Event, Secret
from choreo.schemas import derived, examined, full_name, parsed

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
Sku = NewType("Sku", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Way(enum.StrEnum):
    IN = "in-transit"
    OUT = "out"


class Line(BaseModel):
    sku: str
    price: Money


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


class Tags(RootModel[list[str]]):
    pass


def field(annotation: Any, **default: Any) -> Any:
    """Give the Avro field that an event's field of this type becomes."""
    body = {"__annotations__": {"x": annotation}, "__module__": __name__, **default}
    made: type[Event] = types.new_class(
        "Tried", (Event,), {"topic": "unit.schemas", "key": "x"}, lambda space: space.update(body)
    )
    return derived(made).schema["fields"][0]


MICROS = {"type": "long", "logicalType": "timestamp-micros"}
LINE = {
    "type": "record",
    "name": "Line",
    "namespace": "unit.schemas.Tried",
    "fields": [
        {"name": "sku", "type": "string"},
        {
            "name": "price",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
        },
    ],
}


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, "string"),
        (Sku, "string"),
        (int, "long"),
        (bool, "boolean"),
        (float, "double"),
        (bytes, "bytes"),
        (datetime, MICROS),
        (AwareDatetime, MICROS),
        (NaiveDatetime, {"type": "long", "logicalType": "local-timestamp-micros"}),
        (date, {"type": "int", "logicalType": "date"}),
        (time, {"type": "long", "logicalType": "time-micros"}),
        (UUID, {"type": "string", "logicalType": "uuid"}),
        (Money, LINE["fields"][1]["type"]),  # type: ignore[index]
        (list[int], {"type": "array", "items": "long"}),
        (Sequence[int], {"type": "array", "items": "long"}),
        (set[str], {"type": "array", "items": "string"}),
        (tuple[str, ...], {"type": "array", "items": "string"}),
        (dict[str, int], {"type": "map", "values": "long"}),
        (
            Mapping[str, list[bool]],
            {"type": "map", "values": {"type": "array", "items": "boolean"}},
        ),
        (Line, LINE),
        (list[Line], {"type": "array", "items": LINE}),
        (Tags, {"type": "array", "items": "string"}),
        (Size, "long"),
        (Way, "string"),
        (Literal[1, 2], "long"),
        (HttpUrl, "string"),
        (timedelta, "string"),
        (SecretStr, "string"),
        (str | None, ["null", "string"]),
        (int | str | None, ["null", "long", "string"]),
    ],
)
def test_each_type_has_its_form(annotation: Any, schema: Any) -> None:
    assert field(annotation) == {"name": "x", "type": schema}


@pytest.mark.parametrize(
    ("annotation", "default", "type_", "written"),
    [
        (str | None, None, ["null", "string"], None),
        (float | None, 1.5, ["double", "null"], 1.5),
        (bytes, b"\xff", "bytes", "\xff"),
        (Money, Decimal("-1.5"), LINE["fields"][1]["type"], "\xff\x6a"),  # type: ignore[index]
        (Money, Decimal("1.28"), LINE["fields"][1]["type"], "\x00\x80"),  # type: ignore[index]
        (datetime, datetime(1970, 1, 2, tzinfo=UTC), MICROS, 86_400_000_000),
        (date, date(1969, 12, 31), {"type": "int", "logicalType": "date"}, -1),
        (time, time(0, 0, 1), {"type": "long", "logicalType": "time-micros"}, 1_000_000),
        (dict[str, int], {"a": 1}, {"type": "map", "values": "long"}, {"a": 1}),
        (UUID, UUID(int=7), {"type": "string", "logicalType": "uuid"}, str(UUID(int=7))),
    ],
)
def test_a_default_is_written_as_avro_has_it(
    annotation: Any, default: Any, type_: Any, written: Any
) -> None:
    found = field(annotation, x=default)
    assert found == {"name": "x", "type": type_, "default": written}
    examined({"type": "record", "name": "A", "fields": [found]})


def test_a_default_that_differs_each_time_is_none() -> None:
    assert "default" not in field(UUID, x=Field(default_factory=uuid4))
    assert field(list[int], x=Field(default_factory=list))["default"] == []


def test_an_enum_falls_back_to_its_fields_default_and_a_tag_to_nothing() -> None:
    found = field(Colour, x=Colour.RED)
    assert found["default"] == "red"
    assert found["type"]["symbols"] == ["red", "blue"]
    assert found["type"]["default"] == "red"
    assert "default" not in field(Colour)["type"]
    tags = field(Card | Cash)["type"]
    assert [one["name"] for one in tags] == ["Card", "Cash"]
    assert all("default" not in one["fields"][0]["type"] for one in tags)


def test_a_literal_is_named_by_its_record_and_field() -> None:
    found = field(Literal["a"] | Literal["b"])["type"]  # noqa: PYI030 - as aliases give it
    assert (found["namespace"], found["name"]) == ("unit.schemas.Tried", "Tried_x")
    assert found["symbols"] == ["a", "b"]


def test_names_come_from_topics_and_classes() -> None:
    assert full_name("shop-2.2fa.Placed") == "shop_2._2fa.Placed"
    schema = derived(Placed).schema
    assert (schema["namespace"], schema["name"]) == ("unit.schemas", "Placed")
    assert __name__ not in json.dumps(schema)


class Placed(Event, topic="unit.schemas", key="id"):
    id: str
    lines: list[Line] = []  # noqa: RUF012 - pydantic copies it
    more: Line | None = None
    card: Annotated[str, Secret] = ""

    @computed_field
    def count(self) -> int:
        return len(self.lines)


def test_secrets_are_fields_like_others_and_what_is_computed_is_written() -> None:
    names = [one["name"] for one in derived(Placed).schema["fields"]]
    assert names == ["id", "lines", "more", "card", "count"]


def test_the_same_class_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "from choreo.schemas import derived, written\n"
        "from tests.unit.test_schemas import Placed\n"
        "import sys; sys.stdout.write(written(derived(Placed).schema))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(texts) == 1
    assert json.loads(texts.pop()) == derived(Placed).schema


# ── what has no form ─────────────────────────────────────────────────────────────────────


class Pair(NamedTuple):
    a: int


class Loose(BaseModel, extra="allow"):
    a: str


class Written(BaseModel):
    a: datetime

    @field_serializer("a")
    def as_year(self, value: datetime) -> int:
        return value.year


class Nested(BaseModel):
    inner: list[dict[str, Decimal]]


def other_line() -> type[BaseModel]:
    class Line(BaseModel):
        other: str

    return Line


@pytest.mark.parametrize(
    ("annotation", "where"),
    [
        (Decimal, "x"),
        (Any, "x"),
        (Pair, "x"),
        (list, "x"),
        (dict[int, str], "x"),
        (tuple[int, str], "x"),
        (Literal["a", 1], "x"),
        (datetime | int, "x"),
        (Loose, "x"),
        (Written, "x"),
        (Nested, "x.inner[]{}"),
        (tuple[Line, ...] | other_line(), "x"),
    ],
)
def test_what_has_no_form_is_named_with_what_to_do(annotation: Any, where: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        field(annotation)
    assert told.value.code == "CH1040"
    assert told.value.fields["field"] == where
    assert told.value.fix


def test_a_view_may_leave_the_digits_to_the_owner() -> None:
    class Seen(Event, topic="unit.schemas", name="Placed"):
        total: Decimal

    assert derived(Seen).schema["fields"][0]["type"] == {"type": "bytes", "logicalType": "decimal"}


# ── schemas that come from elsewhere ─────────────────────────────────────────────────────

DEEP: Any = "long"
for _ in range(80):
    DEEP = {"type": "array", "items": DEEP}
DOUBLING: Any = [
    {"type": "record", "name": "R0", "fields": []},
    *(
        {
            "type": "record",
            "name": f"R{n}",
            "fields": [{"name": "a", "type": f"R{n - 1}"}, {"name": "b", "type": f"R{n - 1}"}],
        }
        for n in range(1, 60)
    ),
]


def record(*types: Any) -> Any:
    fields = [{"name": f"f{n}", "type": one} for n, one in enumerate(types)]
    return {"type": "record", "name": "R", "fields": fields}


@pytest.mark.parametrize(
    "schema",
    [
        record({"type": "array", "items": "R"}),
        record(["null", "R"]),
        record({"type": "array", "items": "null"}),
        record({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}),
        record({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}),
        record(["null", {"type": "array", "items": ["null", record(*["null"] * 60)]}]),
        record(DEEP),
        record(*DOUBLING),
        record(
            {"type": "record", "name": "R0", "fields": [{"name": "a", "type": "long"}]},
            *DOUBLING[1:],
        ),
        record("Unknown"),
        record([]),
        record(7),
        {"type": "record", "name": "no name", "fields": []},
        {"type": "record", "name": "A"},
        {"type": "enum", "name": "A", "symbols": ["a", "a"]},
        [],
        None,
    ],
)
def test_a_schema_that_few_bytes_could_abuse_is_refused(schema: Any) -> None:
    with pytest.raises(DecodeError) as told:
        parsed(json.dumps(schema))
    assert told.value.code == "CH2007"


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "x" * (1 << 21), '"' + "a" * 9])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parsed(text)


def test_plain_schemas_pass_and_recursion_where_it_is_allowed() -> None:
    parsed(json.dumps(record(["null", record_of_texts(200)], {"type": "array", "items": "long"})))
    assert parsed(json.dumps(record(["null", "R"])), recursive=True).recursive


def record_of_texts(count: int) -> Any:
    fields = [{"name": f"f{n}", "type": ["null", "string"]} for n in range(count)]
    return {"type": "record", "name": "Wide", "fields": fields}


def test_the_fingerprint_is_the_specification_s() -> None:
    """The first of Avro's own test vectors: "int", 0x7275d51a3f395c8f."""
    assert examined("int").fingerprint.hex() == "8f5c393f1ad57572"
