"""Compensation: a trigger undoes each effect of its scope once, and voids what comes later."""

import itertools

import pytest

from choreo import Context, Event, NotDone, Retry, Service
from tests.semantics.events import (
    Cancelled,
    Declined,
    NothingToDo,
    Packed,
    Placed,
    Released,
    Reserved,
    TimedOut,
)
from tests.semantics.lab import HASTY, Lab, record_of


def desk(undone: list[int], *, failures: int = 0, effects: int = 1) -> Service:
    """A service whose effects can be undone by two triggers; the undo first fails so often."""
    service = Service("desk")
    tried = itertools.count(1)

    @service.on(Placed)
    async def reserve(placed: Placed) -> list[Reserved]:
        return [Reserved(k=placed.k, n=n) for n in range(effects)]

    @service.compensate(Reserved, on=(Cancelled, Declined), nothing=NothingToDo)
    async def release(reserved: Reserved, why: Cancelled | Declined) -> Released:
        if next(tried) <= failures:
            raise ValueError("not yet")
        undone.append(reserved.n)
        return Released(k=reserved.k, n=reserved.n)

    return service


async def test_one_trigger_undoes_three_effects_once_each(lab: Lab) -> None:
    undone: list[int] = []
    async with lab.open(desk(undone, effects=3)) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.settle()
        await app.broker.publish([record_of(Cancelled(), "b", flow="f")])
        await lab.clock.advance(10)
    assert sorted(undone) == [0, 1, 2]
    assert len(lab.only(Released)) == 3
    causes = {one.headers["choreo-undoes"] for one in lab.only(Released)}
    assert causes == {one.headers["ce_id"] for one in lab.only(Reserved)}
    assert lab.only(NothingToDo) == []


async def test_two_triggers_at_once_undo_once(lab: Lab) -> None:
    undone: list[int] = []
    async with lab.open(desk(undone, effects=3)) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.settle()
        await app.broker.publish(
            [record_of(Cancelled(), "b", flow="f"), record_of(Declined(), "c", flow="f")]
        )
        await lab.clock.advance(10)
    assert sorted(undone) == [0, 1, 2]


@pytest.mark.parametrize("order", list(itertools.permutations(["a", "b", "c"])))
async def test_whatever_comes_first_nothing_stays(lab: Lab, order: tuple[str, ...]) -> None:
    undone: list[int] = []
    events: dict[str, Event] = {"a": Placed(), "b": Cancelled(), "c": Declined()}
    async with lab.open(desk(undone)) as app:
        await app.broker.publish([record_of(events[one], one, flow="f") for one in order])
        await lab.clock.advance(10)
    assert len(undone) == len(lab.only(Reserved))
    assert len(lab.only(Released)) + len(lab.only(NothingToDo)) >= 1
    assert len(lab.only(NothingToDo)) <= 1


async def test_a_step_whose_scope_is_closed_does_not_run(lab: Lab) -> None:
    undone: list[int] = []
    async with lab.open(desk(undone)) as app:
        await app.broker.publish([record_of(Cancelled(), "b", flow="f")])
        await lab.clock.settle()
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await app.broker.publish([record_of(Placed(k="other"), "z", flow="g")])
        await lab.clock.advance(10)
    assert lab.kinds() == ["Cancelled", "NothingToDo", "Placed", "Placed", "Reserved"]
    assert [one.key for one in lab.only(Reserved)] == [b"other"]
    assert len(lab.notes("void")) == 1


async def test_nothing_is_published_once_however_many_triggers_come(lab: Lab) -> None:
    async with lab.open(desk([])) as app:
        for n in range(4):
            event = Cancelled() if n % 2 else Declined()
            await app.broker.publish([record_of(event, f"t{n}", flow="f")])
            await lab.clock.settle()
    (nothing,) = lab.only(NothingToDo)
    assert nothing.value == b'{"k":"x"}'
    assert nothing.headers["ce_correlationid"] == "f"


async def test_a_trigger_while_a_plain_action_runs_voids_what_it_publishes(lab: Lab) -> None:
    service = Service("desk")
    undone: list[int] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        await lab.clock.sleep(10)
        return Reserved()

    @service.compensate(Reserved, on=Cancelled, nothing=NothingToDo)
    async def release(reserved: Reserved, why: Cancelled) -> Released:
        undone.append(reserved.n)
        return Released()

    @service.on(Reserved)
    async def pack(reserved: Reserved) -> Packed:
        return Packed()

    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.advance(1)
        await app.broker.publish([record_of(Cancelled(), "b", flow="f")])
        await lab.clock.advance(60)
    # Nothing was done outside, nothing is written: either way no effect may stay.
    assert lab.only(Packed) == []
    assert lab.only(NothingToDo) != [] or undone == [0]
    assert "Reserved" not in lab.kinds()


@pytest.mark.parametrize("fate", ["done", "not done", "restart"])
async def test_a_trigger_while_the_outcome_of_a_call_is_unknown_waits_for_it(
    lab: Lab, fate: str
) -> None:
    """`nothing` is not said while an intent is open; a late effect is void, and undone."""
    service = Service("desk")
    calls = 0
    undone: list[int] = []

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        def call() -> None:
            nonlocal calls
            calls += 1
            if calls < 6:
                raise ConnectionError("no answer")
            if fate == "not done":
                raise NotDone

        await ctx.once("call", call)
        return Reserved()

    @service.compensate(Reserved, on=Cancelled, nothing=NothingToDo)
    async def release(reserved: Reserved, why: Cancelled) -> Released:
        undone.append(reserved.n)
        return Released()

    @service.on(Reserved)
    async def pack(reserved: Reserved) -> Packed:
        return Packed()

    async with lab.open(service, limits=HASTY) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.advance(0.5)
        await app.broker.publish([record_of(Cancelled(), "b", flow="f")])
        await lab.clock.advance(0.2)
        assert lab.kinds() == ["Placed", "Cancelled"]
        if fate != "restart":
            await lab.clock.advance(100)
    if fate == "restart":
        async with lab.open(service):
            await lab.clock.advance(100)
    if fate == "not done":
        assert lab.kinds() == ["Placed", "Cancelled", "NothingToDo"]
        assert (lab.voids(), undone) == ([], [])
    else:
        assert lab.kinds() == ["Placed", "Cancelled", "Released"]
        assert (lab.voids(), undone) == (["Reserved"], [0])


async def test_an_undo_is_tried_for_ever_and_over_restarts(lab: Lab) -> None:
    undone: list[int] = []
    service = desk(undone, failures=20)
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.settle()
        await app.broker.publish([record_of(Cancelled(), "b", flow="f")])
        await lab.clock.advance(100)
        assert undone == []
    async with lab.open(service):
        await lab.clock.advance(3000)
    assert undone == [0]
    assert lab.dead() == []
    assert len(lab.notes("retrying")) == 20


async def test_by_narrows_the_scope_to_fields_and_widens_it_over_flows(lab: Lab) -> None:
    service = Service("desk")
    undone: list[tuple[str, int]] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved(k=placed.k, n=placed.n)

    @service.compensate(Reserved, on=Cancelled, by=("k", "n"))
    async def release(reserved: Reserved, why: Cancelled) -> Released:
        undone.append((reserved.k, reserved.n))
        return Released()

    async with lab.open(service) as app:
        for k, n in (("x", 1), ("x", 2), ("y", 1)):
            await app.publish(Placed(k=k, n=n))
        await lab.clock.settle()
        await app.publish(Cancelled(k="x", n=2))
        await lab.clock.advance(10)
        assert undone == [("x", 2)]
        await app.publish(Cancelled(k="y", n=1))
        await lab.clock.advance(10)
    assert undone == [("x", 2), ("y", 1)]


async def test_effects_of_two_scopes_in_one_step(lab: Lab) -> None:
    service = Service("desk")
    undone: list[tuple[str, int]] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> list[Reserved]:
        return [Reserved(k=placed.k, n=n) for n in (1, 2)]

    @service.compensate(Reserved, on=Cancelled, by=("k", "n"))
    async def release(reserved: Reserved, why: Cancelled) -> Released:
        undone.append((reserved.k, reserved.n))
        return Released()

    async with lab.open(service) as app:
        await app.publish(Placed(k="x"))
        await app.publish(Placed(k="y"))
        await lab.clock.settle()
        await app.publish(Cancelled(k="x", n=2))
        await lab.clock.advance(10)
        assert undone == [("x", 2)]
        await app.publish(Cancelled(k="y", n=1))
        await lab.clock.advance(10)
    assert undone == [("x", 2), ("y", 1)]


@pytest.mark.parametrize("once", [False, True])
async def test_a_time_out_of_the_same_service_closes_the_scope_at_once(
    lab: Lab, *, once: bool
) -> None:
    """The late result carries choreo-void, whether or not it called the outside."""
    service = Service("desk")
    undone: list[int] = []

    @service.on(Placed)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        async def call() -> None:
            await lab.clock.sleep(10)

        if once:
            await ctx.once("call", call)
        else:
            await call()
        return Reserved()

    @service.expects(Reserved, after=Placed, within_s=10)
    async def overdue(placed: Placed) -> TimedOut:
        return TimedOut()

    @service.compensate(Reserved, on=TimedOut, nothing=NothingToDo)
    async def release(reserved: Reserved, why: TimedOut) -> Released:
        undone.append(reserved.n)
        return Released()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(60)
    kinds = lab.kinds()
    assert ("Reserved" in kinds) != ("TimedOut" in kinds)
    if "TimedOut" in kinds:
        assert ("Released" in kinds) != ("NothingToDo" in kinds)
        assert len(undone) == len(lab.voids())
