"""Requests of operators that meet each other, or a newer version of the service."""

from typing import Any

import pytest

from choreo import Service
from choreo.step.control import request
from tests.auditing import judged
from tests.semantics.events import Placed, Reserved
from tests.semantics.lab import Lab
from tests.semantics.test_redrive import ONCE, Desk


async def test_of_requests_at_once_one_is_done(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await app.publish(Placed(n=1))
        await lab.clock.settle()
        desk.broken = False
        (letter,) = lab.dead()
        about: dict[str, Any] = {"reason": "at once", "now": lab.clock.now()}
        edited = b'{"k": "x", "n": 2}'
        await app.broker.publish([
            request(letter, "redrive", by="ana", **about),
            request(letter, "redrive", by="ben", **about),
            request(letter, "discard", by="eve", **about),
            request(letter, "redrive", by="kim", value=edited, **about),
        ])  # fmt: skip
        await lab.clock.advance(1)
    assert len(desk.tried) == 2
    assert len(lab.notes("redriven", "discarded")) == 1
    assert len(lab.notes("refused")) == 3
    assert lab.kinds() in (["Placed", "Reserved"], ["Placed", "Placed", "Reserved"])
    assert await judged(lab.folder) == []


@pytest.mark.parametrize("action", ["redrive", "discard", "edit"])
async def test_a_dead_letter_of_a_renamed_handler_is_its_heirs(lab: Lab, action: str) -> None:
    desk, heir = Desk(), Service("desk")
    async with lab.open(desk.service) as app:
        await app.publish(Placed(n=1))
        await lab.clock.settle()
    given: list[int] = []

    @heir.on(Placed, name="book", was="reserve")
    async def book(placed: Placed) -> Reserved:
        given.append(placed.n)
        return Reserved()

    value = b'{"k": "x", "n": 2}' if action == "edit" else None
    async with lab.open(heir) as app:
        await lab.ask(app, "discard" if action == "discard" else "redrive", value=value)
    assert given == {"redrive": [1], "discard": [], "edit": [2]}[action]


async def test_an_edited_one_that_others_were_held_behind_is_in_order_for_the_audit(
    lab: Lab,
) -> None:
    service = Service("desk")
    given: list[int] = []

    @service.on(Placed, retry=ONCE, hold=True)
    async def reserve(placed: Placed) -> Reserved:
        if placed.n == 1:
            raise ValueError("no room")
        given.append(placed.n)
        return Reserved(n=placed.n)

    async with lab.open(service) as app:
        for n in (1, 2):
            await app.publish(Placed(n=n))
        await lab.clock.settle()
        await lab.ask(app, "redrive", value=b'{"k": "x", "n": 5}')
    assert given == [5, 2]
    assert await judged(lab.folder) == []
