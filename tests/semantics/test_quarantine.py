"""Same id, other bytes: never run as new, never silent, set aside once."""

import json

import pytest

from choreo import Context, Retry, Service, Tx
from choreo.events import Record
from tests.semantics.events import Cancelled, Packed, Placed, Reserved
from tests.semantics.lab import HASTY, Lab, record_of


def other(value: bytes = b'{"k": "x", "n": 2}', id: str = "one") -> Record:
    return record_of(Placed(), id, value=value)


class Desk:
    """A service that keeps what it was given."""

    def __init__(self, retry: Retry | None = None) -> None:
        self.service = Service("desk")
        self.given: list[int] = []
        self.broken = retry is not None

        @self.service.on(Placed, retry=retry or Retry())
        async def reserve(placed: Placed) -> Reserved:
            if self.broken:
                raise ValueError("not yet")
            self.given.append(placed.n)
            return Reserved(n=placed.n)


async def test_after_one_that_is_settled(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one")])
        await lab.clock.settle()
        await app.broker.publish([other()])
        await lab.clock.settle()
    assert desk.given == [1]
    (letter,) = lab.dead()
    assert letter.value == b'{"k": "x", "n": 2}'
    first, second = (one.offset for one in lab.only(Placed))
    message = letter.headers["choreo-dead-message"]
    assert f"-{first}" in message
    assert f"-{second}" in message
    assert letter.headers["choreo-dead-reason"] == "quarantined"
    (note,) = lab.notes("quarantined")
    assert note["step"] == "desk!quarantine"
    assert note["subject"] == "one"


async def test_it_is_said_once_over_restarts_and_copies(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one"), other()])
        await lab.clock.settle()
    async with lab.open(desk.service, limits=HASTY) as app:
        await app.broker.publish([other(), other()])
        await lab.clock.settle()
    assert desk.given == [1]
    assert len(lab.dead()) == 1
    assert lab.rows("SELECT count(*) FROM inbox JOIN name ON name.id = handler"
                    " WHERE text = 'desk!quarantine'") == [(1,)]  # fmt: skip


async def test_after_one_that_is_parked(lab: Lab) -> None:
    desk = Desk(retry=Retry(attempts_max=3, first_s=10, factor=1))
    async with lab.open(desk.service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one")])
        await lab.clock.advance(1)
    async with lab.open(desk.service) as app:
        await app.broker.publish([other()])
        await lab.clock.advance(1)
        assert len(lab.dead()) == 1
        desk.broken = False
        await lab.clock.advance(30)
    assert desk.given == [1]
    assert len(lab.dead()) == 1


async def test_after_one_that_is_dead(lab: Lab) -> None:
    desk = Desk(retry=Retry(attempts_max=1))
    async with lab.open(desk.service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one"), other()])
        await lab.clock.settle()
    reasons = [one.headers["choreo-dead-reason"] for one in lab.dead()]
    assert reasons == ["attempts used up", "quarantined"]


@pytest.mark.parametrize("key", [b"x", b"y", None])
async def test_two_at_work_at_the_same_time(lab: Lab, key: bytes | None) -> None:
    """With one key they wait for each other, with two, or none, the transaction decides."""
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        await lab.clock.sleep(1)
        return Reserved(n=placed.n)

    second = other()
    second.key = key
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one"), second])
        await lab.clock.advance(10)
    assert len(lab.only(Reserved)) == 1
    assert len(lab.dead()) == 1


async def test_two_at_work_in_transactions_at_the_same_time(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed, tx: Tx) -> Reserved:
        await tx.fetchval("SELECT 1")
        return Reserved(n=placed.n)

    second = other()
    second.key = b"y"
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one"), second])
        await lab.clock.settle()
    assert len(lab.only(Reserved)) == 1
    assert len(lab.dead()) == 1


async def test_the_same_bytes_are_a_duplicate_also_at_the_same_time(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        await lab.clock.sleep(1)
        return Reserved(n=placed.n)

    copies = [record_of(Placed(n=1), "one") for _ in range(3)]
    for number, copy in enumerate(copies):
        copy.key = b"%d" % number
    async with lab.open(service) as app:
        await app.broker.publish(copies)
        await lab.clock.advance(10)
    assert len(lab.only(Reserved)) == 1
    assert lab.dead() == []
    assert len(lab.notes("duplicate")) == 2


async def test_several_handlers_of_a_service_say_it_once_and_marks_say_it_too(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved()

    @service.on(Placed)
    async def look(placed: Placed, ctx: Context) -> None:
        del ctx

    @service.join()
    async def pack(placed: Placed, reserved: Reserved) -> Packed:
        return Packed()

    marks = Service("marks")

    @marks.join()
    async def both(placed: Placed, cancelled: Cancelled) -> None:
        return None

    async with lab.open(service, marks) as app:
        await app.broker.publish([record_of(Placed(n=1), "one"), other()])
        await lab.clock.settle()
    steps = sorted(one.headers["choreo-dead-step"] for one in lab.dead())
    assert steps == ["desk!quarantine", "marks!quarantine"]


async def test_it_can_not_be_run_under_its_id_but_edited_or_discarded(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one"), other()])
        await app.broker.publish([other(b'{"k": "x", "n": 3}')])
        await lab.clock.settle()
        first, second = lab.dead()
        await lab.ask(app, "redrive", first)
        (refused,) = lab.notes("refused")
        assert "under its id" in refused["reason"]
        await lab.ask(app, "discard", first)
        await lab.ask(app, "redrive", second, value=second.value)
    assert desk.given == [1, 3]
    edited = lab.only(Placed)[-1]
    assert edited.headers["ce_id"] != "one"
    assert edited.headers["ce_causationid"] == "one"
    assert json.loads(edited.value) == {"k": "x", "n": 3}
