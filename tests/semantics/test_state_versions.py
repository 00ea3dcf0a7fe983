"""Two versions of a State over one file: nothing that one of them stored is lost by the other."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

from choreo import Context, Service, State
from choreo.errors import SchemaIncompatibleError
from tests.semantics.events import Paid, Placed
from tests.semantics.lab import Lab


def old() -> tuple[Service, type[State]]:
    """Version 1: it counts."""

    class Line(BaseModel):
        sku: str
        n: int = 1

    class Basket(State, key="k"):
        k: str
        n: int = 0
        lines: list[Line] = Field(default_factory=list)
        first: Line | None = None

    service = Service("desk")

    @service.on(Placed)
    async def count(placed: Placed, basket: Basket) -> None:
        basket.n += 1
        if placed.n == 1:
            basket.lines[0].n += 10
        if placed.n == 2:
            basket.lines = basket.lines[1:]
        if placed.n == 3:
            basket.first = None

    return service, Basket


def new() -> tuple[Service, type[State]]:
    """Version 2: it has learnt more, on every level."""

    class Line(BaseModel):
        sku: str
        n: int = 1
        note: str = ""

    class Basket(State, key="k"):
        k: str
        n: int = 0
        total: str = "0"
        lines: list[Line] = Field(default_factory=list)
        first: Line | None = None

    service = Service("desk")

    @service.on(Placed)
    async def count(placed: Placed, basket: Basket) -> None:
        basket.n += 1
        basket.total += "+"
        if not basket.lines:
            basket.lines = [Line(sku=sku, note=f"note {sku}") for sku in "ab"]
            basket.first = Line(sku="f", note="note f")

    return service, Basket


def stored(lab: Lab) -> Any:
    ((value,),) = lab.rows("SELECT value FROM state WHERE key = 'x'")
    return json.loads(value)


async def place(lab: Lab, version: Any, *numbers: int) -> Any:
    """Let one version handle some events; give what it reads."""
    service, basket = version()
    async with lab.open(service) as app:
        for n in numbers:
            await app.publish(Placed(n=n))
            await lab.clock.settle()
        return await app.load(basket, "x")


async def test_old_and_new_code_take_turns_and_neither_drops_what_it_does_not_know(
    lab: Lab,
) -> None:
    await place(lab, old, 0)
    assert stored(lab) == {"k": "x", "n": 1, "lines": [], "first": None}
    read = await place(lab, new, 0)
    assert (read.n, read.total) == (2, "0+")
    read = await place(lab, old, 0, 1)
    assert read.n == 4
    kept = stored(lab)
    assert kept["total"] == "0+"
    assert kept["lines"] == [
        {"sku": "a", "n": 11, "note": "note a"},
        {"sku": "b", "n": 1, "note": "note b"},
    ]
    assert kept["first"] == {"sku": "f", "n": 1, "note": "note f"}
    await place(lab, old, 2, 3)
    kept = stored(lab)
    assert kept["lines"] == [{"sku": "b", "n": 1, "note": "note b"}]
    assert kept["first"] is None
    read = await place(lab, new, 0)
    assert (read.n, read.total) == (7, "0++")
    assert lab.dead() == []


async def test_a_row_that_a_version_can_not_read_is_left_as_it_is_and_said(lab: Lab) -> None:
    service = Service("desk")

    class Basket(State, key="k"):
        k: str
        n: list[int] = Field(default_factory=list)

    tried = 0

    @service.on(Placed)
    async def count(placed: Placed, basket: Basket, ctx: Context) -> None:
        nonlocal tried
        tried += 1

    @service.on(Paid)
    async def paid(paid: Paid) -> None: ...

    await place(lab, old, 0)
    before = stored(lab)
    async with lab.open(service) as app:
        await app.publish(Placed())
        await app.publish(Placed(k="other"))
        await lab.clock.advance(100)
        with pytest.raises(SchemaIncompatibleError, match=r"CH2003.*n: .*Fix: "):
            await app.load(Basket, "x")
    assert tried == 1
    (letter,) = lab.dead()
    assert letter.headers["choreo-dead-error"] == "SchemaIncompatibleError"
    assert letter.headers["choreo-dead-message"].startswith("CH2003")
    assert stored(lab) == before
