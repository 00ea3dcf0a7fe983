"""Attempts: when a handler is run again, what waits meanwhile, and how it is given up."""

import asyncio
import threading
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choreo import App, Context, Failure, Later, Retry, Service
from choreo.testing import ManualClock
from tests.semantics.events import Declined, Packed, Placed, Reserved
from tests.semantics.lab import HASTY, Lab, record_of

AT_ONCE = Retry(attempts_max=3, first_s=0.1, factor=1)
PARKED = Retry(attempts_max=3, first_s=10, factor=2)


async def test_a_short_delay_is_waited_for_inside_the_step(lab: Lab) -> None:
    service = Service("desk")
    tried: list[tuple[int, float]] = []

    @service.on(Placed, retry=AT_ONCE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        tried.append((ctx.attempt, round(lab.clock.elapsed(), 3)))
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(1)
    assert tried == [(1, 0.0), (2, 0.1), (3, 0.2)]
    (reserved,) = lab.only(Reserved)
    assert reserved.headers["choreo-attempt"] == "3"
    assert [note["attempt"] for note in lab.notes("retrying")] == [1, 2]


async def test_a_parked_delivery_holds_its_key_and_no_other(lab: Lab) -> None:
    service = Service("desk")
    tried: list[tuple[str, int, float]] = []

    @service.on(Placed, retry=PARKED)
    async def reserve(placed: Placed, ctx: Context) -> None:
        tried.append((placed.k, placed.n, lab.clock.elapsed()))
        if placed.n == 1 and ctx.attempt < 3:
            raise ValueError("not yet")

    async with lab.open(service) as app:
        for one in (Placed(k="x", n=1), Placed(k="x", n=2), Placed(k="y", n=7)):
            await app.publish(one)
        await lab.clock.advance(5)
        assert tried == [("x", 1, 0.0), ("y", 7, 0.0)]
        await app.publish(Placed(k="x", n=3))
        await lab.clock.advance(10)
        await app.publish(Placed(k="y", n=8))
        await lab.clock.advance(25)
    assert [one for one in tried if one[0] == "x"] == [
        ("x", 1, 0.0),
        ("x", 1, 10.0),
        ("x", 1, 30.0),
        ("x", 2, 30.0),
        ("x", 3, 30.0),
    ]
    assert [one for one in tried if one[0] == "y"] == [("y", 7, 0.0), ("y", 8, 15.0)]


async def test_what_is_held_stays_in_order_over_restarts(lab: Lab) -> None:
    service = Service("desk")
    ended: list[int] = []

    @service.on(Placed, retry=Retry(attempts_max=9, first_s=10, factor=1))
    async def reserve(placed: Placed, ctx: Context) -> None:
        if placed.n == 1 and ctx.attempt < 4:
            raise ValueError("not yet")
        ended.append(placed.n)

    async with lab.open(service) as app:
        await app.publish(Placed(n=1))
        await app.publish(Placed(n=2))
        await lab.clock.advance(1)
    async with lab.open() as app:
        await app.publish(Placed(n=3))
    async with lab.open(service) as app:
        await lab.clock.advance(12)
        await app.publish(Placed(n=4))
        await lab.clock.advance(1)
    assert ended == []
    async with lab.open(service):
        await lab.clock.advance(60)
    assert ended == [1, 2, 3, 4]


async def test_what_was_let_go_but_not_finished_before_a_stop_goes_on(lab: Lab) -> None:
    service = Service("desk")
    ended: list[int] = []
    slow = True

    @service.on(Placed, retry=PARKED)
    async def reserve(placed: Placed, ctx: Context) -> None:
        if placed.n == 1 and ctx.attempt == 1:
            raise ValueError("not yet")
        if placed.n == 2 and slow:
            await lab.clock.sleep(1000)
        ended.append(placed.n)

    async with lab.open(service, limits=HASTY) as app:
        for n in (1, 2, 3):
            await app.publish(Placed(n=n))
        await lab.clock.advance(11)
    assert ended == [1]
    slow = False
    async with lab.open(service) as app:
        await app.publish(Placed(n=4))
        await lab.clock.advance(1)
    assert ended == [1, 2, 3, 4]


@settings(max_examples=25)
@given(
    fails=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 3)), min_size=1, max_size=10),
    delay_s=st.sampled_from([0.05, 0.25, 0.3, 10.0]),
)
async def test_whatever_fails_each_key_ends_in_its_order(
    fails: list[tuple[str, int]], delay_s: float
) -> None:
    """`fails` lists keys in order of publishing, with how often the delivery fails first."""
    service = Service("desk")
    clock = ManualClock()
    ended: list[tuple[str, int]] = []
    tries: Counter[int] = Counter()

    @service.on(Placed, retry=Retry(attempts_max=4, first_s=delay_s, factor=1))
    async def reserve(placed: Placed) -> None:
        tries[placed.n] += 1
        if tries[placed.n] <= fails[placed.n][1]:
            raise ValueError("not yet")
        ended.append((placed.k, placed.n))

    async with App(service, folder=":memory:", clock=clock) as app:
        for n, (key, _) in enumerate(fails):
            await app.publish(Placed(k=key, n=n))
        await clock.advance(500)
    assert sorted(n for _, n in ended) == list(range(len(fails)))
    for key in "xyz":
        mine = [n for k, n in ended if k == key]
        assert mine == sorted(mine)


async def test_time_goes_on_while_a_key_waits_behind_a_retry_inside_the_step(lab: Lab) -> None:
    service = Service("desk")
    ended: list[int] = []

    @service.on(Placed, retry=AT_ONCE)
    async def reserve(placed: Placed, ctx: Context) -> None:
        if placed.n == 1 and ctx.attempt < 3:
            raise ValueError("not yet")
        ended.append(placed.n)

    async with lab.open(service, limits=HASTY) as app, asyncio.timeout(20):
        await app.publish(Placed(n=1))
        await app.publish(Placed(n=2))
        await lab.clock.advance(5)
    assert ended == [1, 2]


async def test_a_class_in_never_is_not_tried_again(lab: Lab) -> None:
    service = Service("desk")
    tried = 0

    @service.on(Placed, retry=Retry(never=(LookupError,)))
    async def reserve(placed: Placed) -> None:
        nonlocal tried
        tried += 1
        raise KeyError("a subclass counts")

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert tried == 1
    assert [note["reason"] for note in lab.notes("dead")] == ["not retryable"]


async def test_an_async_handler_is_cancelled_at_its_time_out(lab: Lab) -> None:
    service = Service("desk")
    cancelled: list[float] = []

    @service.on(Placed, timeout_s=5, retry=Retry(attempts_max=2, first_s=0.1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        if ctx.attempt == 1:
            try:
                await lab.clock.sleep(60)
            finally:
                cancelled.append(lab.clock.elapsed())
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(10)
    assert cancelled == [5.0]
    assert [note["error"] for note in lab.notes("retrying")] == ["HandlerTimeoutError"]
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_a_sync_handler_that_is_too_slow_keeps_its_chain_until_its_thread_ends(
    lab: Lab,
) -> None:
    service = Service("desk")
    go_on, begun = threading.Event(), threading.Event()
    ran: list[int] = []

    @service.on(Placed, timeout_s=5, retry=Retry(attempts_max=1))
    def reserve(placed: Placed) -> Reserved:
        ran.append(placed.n)
        if placed.n == 1:
            begun.set()
            assert go_on.wait(20)
        return Reserved(n=placed.n)

    async with lab.open(service) as app:
        with lab.waiting():
            await app.publish(Placed(n=1))
            await asyncio.to_thread(begun.wait, 20)
            await lab.clock.advance(10)
            assert lab.dead() == []
        go_on.set()
        await app.publish(Placed(n=2))
        await lab.until(lambda: lab.only(Reserved))
    assert ran == [1, 2]
    assert [one.headers["choreo-dead-error"] for one in lab.dead()] == ["HandlerTimeoutError"]
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":2}']


async def test_later_uses_no_attempt(lab: Lab) -> None:
    service = Service("desk")
    tried: list[tuple[int, float]] = []

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        tried.append((ctx.attempt, lab.clock.elapsed()))
        if len(tried) <= 3:
            raise Later(after_s=30)
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(50)
    async with lab.open(service):
        await lab.clock.advance(100)
    assert tried == [(1, 0.0), (1, 30.0), (1, 60.0), (1, 90.0)]
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_later_at_a_moment_is_run_then_and_at_once_if_it_has_passed(lab: Lab) -> None:
    service = Service("desk")
    tried: list[float] = []
    start = lab.clock.now()

    @service.on(Placed)
    async def reserve(placed: Placed) -> None:
        tried.append(lab.clock.elapsed())
        if len(tried) <= 2:
            due = start + (100 if len(tried) == 1 else 50)
            raise Later(at=datetime.fromtimestamp(due, UTC))

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(99)
        assert tried == [0.0]
        await lab.clock.advance(2)
    assert tried == [0.0, 100.0, 100.0]


async def test_when_attempts_are_used_up_a_dead_letter_keeps_the_very_bytes(lab: Lab) -> None:
    service = Service("desk")
    tried = 0

    @service.on(Placed, retry=AT_ONCE)
    async def reserve(placed: Placed) -> None:
        nonlocal tried
        tried += 1
        raise ValueError("no room")

    value = b'{"k": "x", "n": 1, "unknown": [1, 2]}'
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one", flow="f", value=value)])
        await lab.clock.advance(10)
    assert tried == 3
    (letter,) = lab.dead()
    assert (letter.key, letter.value) == (b"x", value)
    assert letter.headers["ce_id"] == "one"
    assert letter.headers["choreo-dead-step"] == "desk.reserve"
    assert letter.headers["choreo-dead-error"] == "ValueError"
    assert letter.headers["choreo-dead-message"] == "no room"
    (note,) = lab.notes("dead")
    assert (note["reason"], note["attempt"], note["error"]) == (
        "attempts used up",
        3,
        "ValueError",
    )


async def test_a_dead_letter_lets_its_key_go_on(lab: Lab) -> None:
    service = Service("desk")
    ended: list[int] = []

    @service.on(Placed, retry=Retry(attempts_max=2, first_s=10))
    async def reserve(placed: Placed) -> None:
        if placed.n == 1:
            raise ValueError("no room")
        ended.append(placed.n)

    async with lab.open(service) as app:
        for n in (1, 2, 3):
            await app.publish(Placed(n=n))
        await lab.clock.advance(60)
    assert ended == [2, 3]
    assert len(lab.dead()) == 1


async def test_otherwise_stands_in_once_with_the_same_idempotency_key(lab: Lab) -> None:
    service = Service("desk")
    keys: list[str] = []
    failures: list[Failure] = []

    @service.on(Placed, retry=AT_ONCE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        keys.append(ctx.idempotency_key)
        raise ValueError("no room")

    @service.otherwise(reserve)
    async def gave_up(placed: Placed, why: Failure, ctx: Context) -> Declined:
        keys.append(ctx.idempotency_key)
        failures.append(why)
        return Declined()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(10)
    async with lab.open(service):
        await lab.clock.advance(100)
    assert failures == [Failure("attempts used up", "ValueError", "no room", 3)]
    assert len(keys) == 4
    assert len(set(keys)) == 1
    assert lab.kinds() == ["Placed", "Declined"]
    assert lab.dead() == []


async def test_an_otherwise_that_fails_is_tried_again_and_then_a_dead_letter(lab: Lab) -> None:
    service = Service("desk")
    tried: list[str] = []

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def reserve(placed: Placed) -> Reserved:
        tried.append("reserve")
        raise ValueError("no room")

    @service.otherwise(reserve, retry=Retry(attempts_max=2, first_s=10))
    async def gave_up(placed: Placed, why: Failure) -> Declined:
        tried.append("gave_up")
        raise ValueError("no paper")

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert tried == ["reserve", "gave_up", "gave_up"]
    assert [one.headers["choreo-dead-step"] for one in lab.dead()] == ["desk.gave_up"]


@pytest.mark.parametrize("value", [b"{", b"\xff", b'{"n": "many"}', b'{"k":"x","k":"y"}'])
async def test_bytes_that_can_not_be_read_are_a_dead_letter_at_once(lab: Lab, value: bytes) -> None:
    service = Service("desk")
    ended: list[int] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> None:
        ended.append(placed.n)

    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "one", value=value)])
        await app.publish(Placed(n=2))
        await lab.clock.settle()
    (letter,) = lab.dead()
    assert letter.value == value
    assert letter.headers["choreo-dead-error"] == "DecodeError"
    assert ended == [2]


async def test_an_output_that_the_annotation_does_not_name_is_not_published(lab: Lab) -> None:
    service = Service("desk")
    tried = 0

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved | None:
        nonlocal tried
        tried += 1
        return Packed()  # type: ignore[return-value]

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert tried == 1
    assert lab.kinds() == ["Placed"]
    assert [one.headers["choreo-dead-error"] for one in lab.dead()] == ["HandlerError"]


async def cancelled_inside() -> None:
    """Await a task that somebody has cancelled."""
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("error", [asyncio.CancelledError, StopIteration, StopAsyncIteration])
async def test_odd_exceptions_are_failed_attempts_like_others(
    lab: Lab, error: type[BaseException], *, sync: bool
) -> None:
    service = Service("desk")
    ended: list[int] = []

    def work(placed: Placed) -> None:
        if placed.n == 1:
            raise error
        ended.append(placed.n)

    async def waits(placed: Placed) -> None:
        if placed.n == 1 and error is asyncio.CancelledError:
            await cancelled_inside()
        work(placed)

    declared = service.on(Placed, retry=AT_ONCE, name="reserve")
    if sync:
        declared(work)
    else:
        declared(waits)
    async with lab.open(service) as app:
        await app.publish(Placed(n=1))
        await lab.clock.advance(5)
        await app.publish(Placed(n=2))
        await lab.clock.advance(5)
    assert ended == [2]
    assert [note["attempt"] for note in lab.notes("dead")] == [3]


async def test_two_handlers_of_one_event_do_not_wait_for_each_other(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed, retry=PARKED)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return Reserved(n=placed.n)

    @service.on(Placed)
    async def pack(placed: Placed) -> Packed:
        return Packed(n=placed.n)

    async with lab.open(service) as app:
        await app.publish(Placed(n=1))
        await app.publish(Placed(n=2))
        await lab.clock.advance(1)
        assert lab.kinds() == ["Placed", "Placed", "Packed", "Packed"]
        await lab.clock.advance(30)
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":1}', b'{"k":"x","n":2}']


async def test_an_event_that_comes_twice_is_handled_once(lab: Lab) -> None:
    service = Service("desk")
    ran = 0

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        nonlocal ran
        ran += 1
        return Reserved()

    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "one"), record_of(Placed(), "one")])
        await lab.clock.settle()
        await app.broker.publish([record_of(Placed(), "one")])
        await lab.clock.settle()
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "one")])
        await lab.clock.settle()
    assert ran == 1
    assert len(lab.only(Reserved)) == 1
    assert len(lab.notes("duplicate")) == 3
