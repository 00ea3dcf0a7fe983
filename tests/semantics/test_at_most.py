"""`ctx.once(at_most=True)`: a call whose outcome nobody knows is never made again by itself."""

from functools import partial
from typing import Any

import pytest

from choreo import Context, Failure, NotDone, Retry, Service, Tx
from choreo.step.control import NOT_DONE
from tests.semantics.events import Cancelled, Declined, Placed, Released, Reserved
from tests.semantics.lab import HASTY, Lab

TWICE = Retry(attempts_max=2, first_s=0.1, factor=1)


class Desk:
    """A service that makes one call, at most once; `answers` are what the other side says."""

    def __init__(self, *answers: Any) -> None:
        self.service = Service("desk")
        self.answers = list(answers)
        self.calls = 0
        self.after: list[BaseException] = []

        @self.service.on(Placed, retry=TWICE)
        async def reserve(placed: Placed, ctx: Context) -> Reserved:
            number = await ctx.once("charge", self.call, returns=int, at_most=True)
            if self.after:
                raise self.after.pop()
            return Reserved(n=number)

        self.reserve = reserve

    def call(self) -> int:
        self.calls += 1
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[no-any-return]


async def test_an_exception_is_an_unknown_outcome_at_once_and_otherwise_is_not_asked(
    lab: Lab,
) -> None:
    desk = Desk(ConnectionError("no answer"))

    @desk.service.otherwise(desk.reserve)
    async def gave_up(placed: Placed, why: Failure) -> Declined:
        return Declined()

    async with lab.open(desk.service) as app:
        await app.publish(Placed())
        await lab.clock.advance(1000)
    assert desk.calls == 1
    assert lab.kinds() == ["Placed"]
    (letter,) = lab.dead()
    assert letter.headers["choreo-dead-error"] == "UnknownOutcomeError"
    assert letter.headers["choreo-dead-message"].startswith("CH5013")
    assert "charge" in letter.headers["choreo-dead-message"]
    assert letter.headers["choreo-dead-reason"] == "outcome unknown"
    (note,) = lab.notes("dead")
    assert (note["unknown"], note["calls"]) == (True, ["charge"])


async def test_a_call_that_a_stop_cut_off_is_not_made_again(lab: Lab) -> None:
    service = Service("desk")
    calls = 0

    @service.on(Placed)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        async def call() -> None:
            nonlocal calls
            calls += 1
            await lab.clock.sleep(1000)

        await ctx.once("charge", call, at_most=True)
        return Reserved()

    async with lab.open(service, limits=HASTY) as app:
        await app.publish(Placed())
        await lab.clock.settle()
    async with lab.open(service):
        await lab.clock.advance(100)
    assert calls == 1
    assert len(lab.dead()) == 1


async def test_a_call_that_ran_out_of_time_is_not_made_again(lab: Lab) -> None:
    service = Service("desk")
    calls = 0

    @service.on(Placed, timeout_s=5)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        async def call() -> None:
            nonlocal calls
            calls += 1
            await lab.clock.sleep(1000)

        await ctx.once("charge", call, at_most=True)
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert calls == 1
    assert [one.headers["choreo-dead-error"] for one in lab.dead()] == ["UnknownOutcomeError"]


async def test_not_done_is_an_attempt_that_failed(lab: Lab) -> None:
    desk = Desk(NotDone("closed"), 7)
    async with lab.open(desk.service) as app:
        await app.publish(Placed())
        await lab.clock.advance(10)
    assert desk.calls == 2
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":7}']


async def test_a_result_is_remembered_over_attempts(lab: Lab) -> None:
    desk = Desk(7)
    desk.after = [ValueError("after the call")]
    async with lab.open(desk.service) as app:
        await app.publish(Placed())
        await lab.clock.advance(10)
    assert desk.calls == 1
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_it_is_kept_until_an_operator_says_what_came_of_it(lab: Lab) -> None:
    desk = Desk(ConnectionError("no answer"))
    async with lab.open(desk.service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
        await lab.ask(app, "redrive")
        await lab.ask(app, "discard")
        await lab.ask(app, "redrive", answers={"another": 1})
        await lab.ask(app, "redrive", value=b"{}")
        reasons = [note["reason"] for note in lab.notes("refused")]
        assert len(reasons) == 4
        assert all("the outcome of charge is unknown" in reason for reason in reasons)
    async with lab.open(desk.service) as app:
        await lab.ask(app, "redrive", answers={"charge": 7})
    assert desk.calls == 1
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":7}']
    (note,) = lab.notes("redriven")
    assert (note["by"], note["answers"]) == ("tester", ["charge"])


async def test_a_call_of_which_is_said_that_it_had_no_effect_is_made_again(lab: Lab) -> None:
    desk = Desk(ConnectionError("no answer"), 8)
    async with lab.open(desk.service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
        await lab.ask(app, "redrive", answers={"charge": NOT_DONE})
    assert desk.calls == 2
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":8}']


async def test_an_answer_that_returns_does_not_name_may_be_given_again(lab: Lab) -> None:
    desk = Desk(ConnectionError("no answer"))
    async with lab.open(desk.service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
        await lab.ask(app, "redrive", answers={"charge": "seven"})
        _, second = lab.dead()
        assert "not what returns= names" in second.headers["choreo-dead-message"]
        assert second.headers["choreo-dead-calls"] == '["charge"]'
        await lab.ask(app, "discard", second)  # a word that does not fit is no word
        await lab.ask(app, "redrive", second)
        assert len(lab.notes("refused")) == 2
        await lab.ask(app, "redrive", second, answers={"charge": 7})
    assert desk.calls == 1
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":7}']


async def test_the_answer_may_be_nothing(lab: Lab) -> None:
    service = Service("desk")
    calls = 0

    @service.on(Placed)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        def call() -> None:
            nonlocal calls
            calls += 1
            raise OSError("no answer")

        await ctx.once("charge", call, at_most=True)
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
        await lab.ask(app, "redrive", answers={"charge": None})
    assert calls == 1
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_what_the_call_gave_beside_its_type_is_unknown_too(lab: Lab) -> None:
    desk = Desk("seven")
    async with lab.open(desk.service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert desk.calls == 1
    assert len(lab.dead()) == 1


@pytest.mark.parametrize("with_tx", [False, True])
async def test_a_handler_that_catches_everything_can_not_go_on(lab: Lab, *, with_tx: bool) -> None:
    service = Service("desk")
    tried = 0

    async def held(ctx: Context) -> None:
        def call() -> None:
            raise OSError("no answer")

        try:
            await ctx.once("charge", call, at_most=True)
        except BaseException:  # noqa: BLE001 - what such a handler does
            nonlocal tried
            tried += 1

    if with_tx:

        @service.on(Placed)
        async def reserve(placed: Placed, ctx: Context, tx: Tx) -> Reserved:
            await held(ctx)
            await tx.fetchval("SELECT 1")
            return Reserved()

    else:

        @service.on(Placed, name="reserve")
        async def reserve_plainly(placed: Placed, ctx: Context) -> Reserved:
            await held(ctx)
            return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert tried == 1
    assert lab.kinds() == ["Placed"]
    assert len(lab.dead()) == 1


async def test_an_effect_that_an_answer_brings_is_undone_when_its_scope_was_closed(
    lab: Lab,
) -> None:
    """An intent without an answer keeps `nothing` from being said."""
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        def call() -> None:
            raise OSError("no answer")

        await ctx.once("charge", call, at_most=True)
        return Reserved()

    @service.compensate(Reserved, on=Cancelled, nothing=Declined)
    async def release(reserved: Reserved, why: Cancelled) -> Released:
        return Released()

    @service.on(Placed)
    async def cancel(placed: Placed) -> Cancelled:
        return Cancelled()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(10)
        assert sorted(lab.kinds()) == ["Cancelled", "Placed"]
        await lab.ask(app, "redrive", answers={"charge": None})
    assert lab.voids() == ["Reserved"]
    assert sorted(lab.kinds()) == ["Cancelled", "Placed", "Released"]


async def test_of_an_undo_too_an_operator_is_asked(lab: Lab) -> None:
    service = Service("desk")
    calls: list[str] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved()

    @service.on(Reserved)
    async def cancel(reserved: Reserved) -> Cancelled:
        return Cancelled()

    @service.compensate(Reserved, on=Cancelled)
    async def release(reserved: Reserved, why: Cancelled, ctx: Context) -> Released:
        def call() -> None:
            calls.append("refund")
            raise OSError("no answer")

        await ctx.once("refund", partial(call), at_most=True)
        return Released()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(1000)
        assert len(calls) == 1
        await lab.ask(app, "redrive", answers={"refund": None})
    assert calls == ["refund"]
    assert lab.kinds()[-1] == "Released"
