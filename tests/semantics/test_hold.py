"""`hold`: what comes later with the key of a dead letter waits behind it, in order."""

import pytest

from choreo import App, Context, Retry, Service
from tests.semantics.events import Placed
from tests.semantics.lab import Lab, record_of

ONCE = Retry(attempts_max=1)
PARKED = Retry(attempts_max=2, first_s=10)


class Desk:
    """A service whose handler fails on the event number 1 for as long as it is broken."""

    def __init__(self, *, hold: bool = True, retry: Retry = ONCE) -> None:
        self.service = Service("desk")
        self.ended: list[tuple[str, int]] = []
        self.broken = True

        @self.service.on(Placed, retry=retry, hold=hold)
        async def reserve(placed: Placed, ctx: Context) -> None:
            if placed.n == 1 and self.broken:
                raise ValueError("no room")
            self.ended.append((placed.k, placed.n))


async def publish(app: App, *numbers: int, k: str = "x") -> None:
    for n in numbers:
        await app.publish(Placed(k=k, n=n))


@pytest.mark.parametrize("retry", [ONCE, PARKED])
@pytest.mark.parametrize("action", ["redrive", "discard"])
async def test_what_is_held_goes_on_in_order_once_an_operator_has_decided(
    lab: Lab, action: str, retry: Retry
) -> None:
    desk = Desk(retry=retry)
    async with lab.open(desk.service) as app:
        await publish(app, 1, 2, 3)
        await publish(app, 7, k="y")
        await lab.clock.advance(100)
        assert desk.ended == [("y", 7)]
        await publish(app, 4)
        await lab.clock.advance(100)
        assert desk.ended == [("y", 7)]
        desk.broken = False
        await lab.ask(app, action)
        await publish(app, 5)
        await lab.clock.advance(1)
    first = [1] if action == "redrive" else []
    assert [n for k, n in desk.ended if k == "x"] == [*first, 2, 3, 4, 5]


@pytest.mark.parametrize("action", ["redrive", "discard"])
async def test_it_holds_over_restarts(lab: Lab, action: str) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await publish(app, 1, 2)
        await lab.clock.settle()
    async with lab.open(desk.service) as app:
        await publish(app, 3)
        await lab.clock.advance(1000)
        assert desk.ended == []
    async with lab.open(desk.service) as app:
        desk.broken = False
        await publish(app, 4)
        await lab.ask(app, action)
    async with lab.open(desk.service) as app:
        await publish(app, 5)
        await lab.clock.advance(1)
    first = [1] if action == "redrive" else []
    assert [n for _, n in desk.ended] == [*first, 2, 3, 4, 5]


async def test_a_redrive_that_fails_again_holds_again(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await publish(app, 1, 2)
        await lab.clock.settle()
        await lab.ask(app, "redrive")
        assert desk.ended == []
        first, second = lab.dead()
        assert first.headers["choreo-dead-id"] != second.headers["choreo-dead-id"]
    async with lab.open(desk.service) as app:
        await publish(app, 3)
        desk.broken = False
        await lab.ask(app, "redrive", second)
    assert [n for _, n in desk.ended] == [1, 2, 3]


async def test_one_after_another_may_be_dead(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await app.broker.publish([record_of(Placed(n=n), f"id-{n}", value=b"{") for n in (1, 2)])
        await publish(app, 3)
        await lab.clock.settle()
        (letter,) = lab.dead()
        await lab.ask(app, "discard", letter)
        assert desk.ended == []
        await lab.ask(app, "discard", lab.dead()[1])
    assert [n for _, n in desk.ended] == [3]


async def test_an_edited_one_runs_in_its_old_place(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await publish(app, 1, 2, 3)
        await lab.clock.settle()
        await lab.ask(app, "redrive", value=b'{"k": "x", "n": 11}')
        await publish(app, 4)
        await lab.clock.settle()
    assert [n for _, n in desk.ended] == [11, 2, 3, 4]


async def test_without_it_the_key_goes_on_and_a_redrive_keeps_nobody_waiting(lab: Lab) -> None:
    desk = Desk(hold=False, retry=Retry(attempts_max=9, first_s=0.3))
    async with lab.open(desk.service) as app:
        await app.broker.publish([record_of(Placed(), "one", value=b"{")])
        await publish(app, 2)
        await lab.clock.settle()
        await lab.ask(app, "redrive", value=b'{"k": "x", "n": 1}')
        await publish(app, 3)
        await lab.clock.settle()
        assert [n for _, n in desk.ended] == [2, 3]
        desk.broken = False
        await lab.clock.advance(10)
    assert [n for _, n in desk.ended] == [2, 3, 1]
