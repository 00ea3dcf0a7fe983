"""Events that nobody takes or publishes, owners, and readers that can not read."""

# mypy: disable-error-code="empty-body"
# The handlers are declared and checked, and never run.

from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from choreo import Event, Service
from choreo.topology import Topology, check, manifest
from tests.unit.checked import Asked, Done, Gone, Told, asks, findings, found


def does() -> Service:
    does = Service("does")

    @does.on(Asked)
    async def work(asked: Asked) -> Done | Gone: ...

    return does


def test_what_fits_is_clean() -> None:
    assert found(asks(), does()) == []


# ── nobody takes, nobody publishes ───────────────────────────────────────────────────────


def test_an_event_that_nobody_takes() -> None:
    other = Service("other")

    @other.on(Asked)
    async def note(asked: Asked) -> Told: ...

    (one,) = findings(asks(), does(), other)
    assert (one.code, one.place) == ("CH1101", "c.told.Told")
    assert one.what == "other.note publishes it, and nobody takes it"
    assert one.at.startswith(f"{__name__}:")


def test_the_end_of_a_flow_is_taken() -> None:
    assert found(asks(Done), does()) == [("CH1101", "c.asked.Gone")]
    assert found(asks(Done, Gone), does()) == []


def test_a_start_that_nobody_takes() -> None:
    assert found(asks(Asked)) == []  # an end at once
    assert ("CH1101", "c.asked.Asked") in found(asks(Done, Gone))


def test_an_input_that_nobody_publishes() -> None:
    other = Service("other")

    @other.on(Told)
    async def note(told: Told) -> None: ...

    (one,) = findings(asks(), does(), other)
    assert (one.code, one.place) == ("CH1102", "c.told.Told")
    assert one.what == "other.note takes it, and nobody publishes it"
    assert one.at.startswith(f"{__name__}:")


def test_an_end_that_nobody_publishes() -> None:
    assert found(asks(Done, Gone, Told), does()) == [("CH1102", "c.told.Told")]


def test_the_start_of_a_flow_is_published() -> None:
    assert found(does()) == [
        ("CH1101", "c.asked.Done"), ("CH1101", "c.asked.Gone"), ("CH1102", "c.asked.Asked"),
    ]  # fmt: skip


def test_what_comes_from_elsewhere_is_published() -> None:
    document = manifest(does())
    document["components"]["messages"]["c.asked.Asked"]["x-choreo"]["foreign"] = True
    ends = asks()
    ends.flows.clear()
    ends.flow("other", starts=Told, ends=(Told, Done, Gone), deadline_s=9)
    assert check(Topology({"asks": manifest(ends), "does": document})) == []


def test_a_deadline_publishes() -> None:
    late = Service("asks")
    late.flow("ask", starts=Asked, ends=(Done, Gone, Told), deadline_s=60, overdue=Told)
    assert found(late, does()) == []


# ── owners ───────────────────────────────────────────────────────────────────────────────


def test_two_classes_with_a_key_are_two_owners() -> None:
    class Mine(Event, topic="c.asked", key="id", name="Asked"):
        id: str

    other = Service("other")

    @other.on(Mine)
    async def note(mine: Mine) -> None: ...

    (one,) = findings(asks(), does(), other)
    assert (one.code, one.place) == ("CH1103", "c.asked.Asked")
    assert "asks, does and other own it" in one.what


def test_one_class_published_by_two_services_has_two_owners() -> None:
    other = Service("other")

    @other.on(Asked)
    async def work(asked: Asked) -> Done | Gone: ...

    assert found(asks(), does(), other) == [("CH1103", "c.asked.Done"), ("CH1103", "c.asked.Gone")]


# ── readers ──────────────────────────────────────────────────────────────────────────────


class Part(BaseModel):
    sku: str
    units: int = 1


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sku: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    name: str
    below: list["Tree"] = []


class Bush(BaseModel):
    name: int
    below: list["Bush"] = []


def reads(owner: Any, view: Any) -> list[str]:
    """Check a view with this field of an event that its owner declares so; `...` is no field."""

    def fields(kind: Any) -> dict[str, Any]:
        return {} if kind is ... else {"field": kind}

    owned = create_model(
        "Asked", __base__=Event, __cls_kwargs__={"topic": "c.asked", "key": "id"},
        id=str, **fields(owner),
    )  # fmt: skip
    viewed = create_model(
        "Asked", __base__=Event, __cls_kwargs__={"topic": "c.asked"}, id=str, **fields(view)
    )
    service, reader = Service("asks"), Service("reader")
    service.flow("ask", starts=owned, ends=owned, deadline_s=9)

    async def note(asked: Any) -> None: ...

    note.__annotations__["asked"] = viewed
    reader.on(viewed)(note)
    said = findings(service, reader)
    assert {(one.code, one.place) for one in said} <= {("CH1104", "reader.note")}
    front = "it can not read the Asked of asks: "
    return [why for one in said for why in one.what.removeprefix(front).split("; ")]


@pytest.mark.parametrize(
    ("owner", "view", "why"),
    [
        (..., str, "field is no field of the owner's, the view requires it"),
        (str, int, "field is text, the view takes a whole number"),
        (float, int, "field is a number, the view takes a whole number"),
        (str | None, str, "field is null, the view takes text"),
        (str | int, str, "field is a whole number, the view takes text"),
        (str | int | None, str | None, "field may be a whole number, the view takes text or null"),
        (str, datetime, "field is text, the view takes a text that is a date-time"),
        (str, Annotated[str, Field(pattern="^a")],
         "field is text, the view takes a text of a certain pattern"),
        (bool, Decimal, "field may be true or false, the view takes a number or text"),
        (UUID, datetime,
         "field is a text that is a uuid, the view takes a text that is a date-time"),
        (list[str], list[int], "field[] is text, the view takes a whole number"),
        (list[str], str, "field is a list, the view takes text"),
        (tuple[str, str], tuple[str, int], "field[1] is text, the view takes a whole number"),
        (tuple[str, str], tuple[str], "field has 2 places, the view takes 1"),
        (list[str], tuple[str, str], "field has any number of places, the view takes 2"),
        (dict[str, str], dict[str, int], "field.* is text, the view takes a whole number"),
        (Strict, Part | None, ""),
        (Part, Strict, "field has units, which the view forbids"),
        (list[Strict], list[Tree],
         "field[].name is no field of the owner's, the view requires it"),
        (Tree, Bush, "field.name is text, the view takes a whole number"),
        (Literal["a", "b"], Literal["a"], "field may be 'b', the view takes only 'a'"),
        (str, Literal["a", "b"], "field is text, the view takes only 'a', 'b'"),
        (str, Colour, "field is text, the view takes only 'red', 'blue'"),
        (bool, str, "field is true or false, the view takes text"),
    ],
)  # fmt: skip
def test_a_reader_that_can_not_read(owner: Any, view: Any, why: str) -> None:
    assert reads(owner, view) == ([why] if why else [])


@pytest.mark.parametrize(
    ("owner", "view"),
    [
        (str, ...),
        (str, str),
        (..., (str, "none")),
        (..., (str | None, None)),
        (str, str | None),
        (int, float),
        (Decimal, Decimal),
        (Decimal, str | Decimal),
        (datetime, str),
        (datetime, datetime),
        ((str, "x"), str),
        (list[Part], list[Strict | Part]),
        (Part, Part),
        (Part, dict[str, str | int]),
        (Tree, Tree),
        (Literal["a"], Literal["a", "b"]),
        (Literal["red"], Colour),
        (Colour, str),
        (Any, str),
        (str, Any),
        (dict[str, Any], dict[str, Any]),
        (set[str], list[str]),
        (tuple[str, str], list[str]),
    ],
)
def test_a_reader_that_can(owner: Any, view: Any) -> None:
    assert reads(owner, view) == []


def test_a_second_view_of_the_same_service_has_to_read_too() -> None:
    class View(Event, topic="c.asked", name="Asked"):
        id: str

    class Worse(Event, topic="c.asked", name="Asked"):
        id: int

    reader = Service("reader")

    @reader.on(View)
    async def right(view: View) -> None: ...

    @reader.on(Worse)
    async def wrong(worse: Worse) -> None: ...

    (one,) = findings(asks(), does(), reader)
    assert one.code == "CH1104"
    assert "id is text, the view takes a whole number" in one.what
