"""`ctx.once`: an outside call is remembered, an unknown outcome is no failure, undo runs back."""

from functools import partial
from typing import Any

import pytest

from choreo import Context, Failure, NotDone, Retry, Service, Tx
from tests.semantics.events import Declined, Placed, Reserved
from tests.semantics.lab import HASTY, Lab

TWICE = Retry(attempts_max=2, first_s=0.1, factor=1)


async def test_a_result_is_remembered_over_attempts_and_restarts(lab: Lab) -> None:
    service = Service("desk")
    calls: list[str] = []
    given: list[int] = []

    @service.on(Placed, retry=Retry(attempts_max=5, first_s=10, factor=1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        def call() -> int:
            calls.append(ctx.idempotency_key)
            return 7

        given.append(await ctx.once("call", call, returns=int))
        if ctx.attempt < 4:
            raise ValueError("after the call")
        return Reserved(n=given[-1])

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(11)
    async with lab.open(service):
        await lab.clock.advance(100)
    assert len(calls) == 1
    assert given == [7, 7, 7, 7]
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_an_unknown_outcome_is_tried_for_ever_with_one_key_and_uses_no_attempt(
    lab: Lab,
) -> None:
    service = Service("desk")
    keys: list[str] = []

    @service.on(Placed, retry=TWICE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        async def call() -> None:
            keys.append(ctx.idempotency_key)
            if len(keys) < 12:
                raise ConnectionError("no answer")
            if len(keys) == 12:
                raise NotDone("now it is certain")

        await ctx.once("call", call)
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(30)
        assert lab.dead() == []
    async with lab.open(service):
        await lab.clock.advance(3000)
    assert len(keys) == 13
    assert len(set(keys)) == 1
    assert lab.kinds() == ["Placed", "Reserved"]
    unknown = [note["unknown"] for note in lab.notes("retrying")]
    assert unknown == [True] * 11 + [False]


async def test_not_done_is_a_failed_attempt_like_any_other(lab: Lab) -> None:
    service = Service("desk")
    calls = 0

    @service.on(Placed, retry=TWICE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        def call() -> None:
            nonlocal calls
            calls += 1
            raise NotDone("refused")

        await ctx.once("call", call)
        return Reserved()

    @service.otherwise(reserve)
    async def gave_up(placed: Placed, why: Failure) -> Declined:
        assert why.reason == "attempts used up"
        return Declined()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert calls == 2
    assert lab.kinds() == ["Placed", "Declined"]


async def test_a_call_that_a_stop_cut_off_is_made_again_with_the_same_key(lab: Lab) -> None:
    service = Service("desk")
    keys: list[str] = []

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        async def call() -> None:
            keys.append(ctx.idempotency_key)
            if len(keys) == 1:
                await lab.clock.sleep(1000)

        await ctx.once("call", call)
        return Reserved()

    async with lab.open(service, limits=HASTY) as app:
        await app.publish(Placed())
        await lab.clock.settle()
    async with lab.open(service):
        await lab.clock.advance(100)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert lab.kinds() == ["Placed", "Reserved"]


@pytest.mark.parametrize("last_fails_early", [False, True])
async def test_undo_runs_in_reverse_when_the_step_finally_fails(
    lab: Lab, *, last_fails_early: bool
) -> None:
    """Also what an earlier attempt called, if the last one fails before its calls."""
    service = Service("desk")
    done: list[str] = []

    @service.on(Placed, retry=TWICE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        if last_fails_early and ctx.attempt == 2 and "undo two" not in done and len(done) == 2:
            done.append("failed early")
            raise ValueError("before the calls")
        for name in ("one", "two"):
            await ctx.once(
                name,
                lambda name=name: done.append(name),
                undo=lambda _, name=name: done.append(f"undo {name}"),
            )
        raise ValueError("after the calls")

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(1000)
    done = [one for one in done if one != "failed early"]
    assert done == ["one", "two", "undo two", "undo one"]
    assert len(lab.dead()) == 1


async def test_nothing_is_undone_while_attempts_are_left_or_when_the_step_succeeds(
    lab: Lab,
) -> None:
    service = Service("desk")
    done: list[str] = []

    @service.on(Placed, retry=TWICE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        await ctx.once("one", lambda: done.append("one"), undo=lambda _: done.append("undo"))
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert done == ["one"]


async def test_an_undo_that_does_not_answer_is_tried_until_it_does_and_nothing_else_runs(
    lab: Lab,
) -> None:
    service = Service("desk")
    done: list[str] = []
    broken = True

    @service.on(Placed, retry=TWICE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        def undo(result: None) -> None:
            done.append("undo")
            if done.count("undo") < 5:
                raise ConnectionError("no answer")

        await ctx.once("one", lambda: done.append("one"), undo=undo)
        if broken:
            raise ValueError("after the call")
        return Reserved()

    @service.otherwise(reserve)
    async def gave_up(placed: Placed, why: Failure) -> Declined:
        done.append("otherwise")
        return Declined()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(0.15)
        assert done == ["one", "undo"]
        broken = False
        await lab.clock.advance(0.5)
    async with lab.open(service):
        await lab.clock.advance(500)
    assert done == ["one", *["undo"] * 5, "otherwise"]
    assert lab.kinds() == ["Placed", "Declined"]


async def test_a_result_that_returns_does_not_name_is_undeclared(lab: Lab) -> None:
    """The call was made, but what it gave is unknown: it is tried on, and never given up."""
    service = Service("desk")
    answers: list[Any] = ["seven", "eight", 7]

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        return Reserved(n=await ctx.once("call", partial(answers.pop, 0), returns=int))

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert [note["message"][:6] for note in lab.notes("retrying")] == ["CH5005"] * 2
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":7}']


async def test_an_outside_call_after_the_first_statement_of_a_tx_is_refused(lab: Lab) -> None:
    service = Service("desk")
    done: list[str] = []

    @service.on(Placed)
    async def reserve(placed: Placed, ctx: Context, tx: Tx) -> Reserved:
        await ctx.once("one", lambda: done.append("one"), undo=lambda _: done.append("undo"))
        await tx.fetchval("SELECT 1")
        await ctx.once("two", lambda: done.append("two"))
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert done == ["one", "undo"]
    assert [one.headers["choreo-dead-error"] for one in lab.dead()] == ["TxOpenError"]


@pytest.mark.parametrize("name", ["answer mail", "undo mail", "#1 mail"])
async def test_names_that_choreo_notes_calls_by_are_refused(lab: Lab, name: str) -> None:
    """Under such a name the call would be made again, or taken for undone."""
    service = Service("desk")
    calls: list[str] = []

    @service.on(Placed)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        await ctx.once(name, lambda: calls.append(name))
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert calls == []
    (letter,) = lab.dead()
    assert letter.headers["choreo-dead-message"].startswith("CH5015")
