"""Time: what is expected and does not come, what is put off, and that restarts change neither."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from choreo import After, Cancel, Service
from tests.semantics.events import Cancelled, Paid, Placed, Sent, TimedOut
from tests.semantics.lab import Lab, record_of


def waiting_desk() -> Service:
    """A service that waits ten seconds for a payment after an order."""
    service = Service("desk")

    @service.expects(Paid, after=Placed, within_s=10)
    async def overdue(placed: Placed) -> TimedOut:
        return TimedOut(k=placed.k, n=placed.n)

    return service


async def test_a_time_out_comes_neither_early_nor_twice(lab: Lab) -> None:
    async with lab.open(waiting_desk()) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.advance(9.999)
        assert lab.only(TimedOut) == []
        await lab.clock.advance(0.002)
        assert len(lab.only(TimedOut)) == 1
        await app.broker.publish([record_of(Paid(), "b", flow="f")])
        await lab.clock.advance(100)
    assert len(lab.only(TimedOut)) == 1


async def test_a_result_from_outside_in_time_closes_the_expectation(lab: Lab) -> None:
    async with lab.open(waiting_desk()) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.advance(9.9)
        await app.broker.publish([record_of(Paid(), "b", flow="f")])
        await lab.clock.advance(100)
    assert lab.only(TimedOut) == []


async def test_a_result_that_comes_before_what_it_is_expected_after_counts(lab: Lab) -> None:
    async with lab.open(waiting_desk()) as app:
        await app.broker.publish([record_of(Paid(), "b", flow="f")])
        await lab.clock.settle()
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.advance(100)
    assert lab.only(TimedOut) == []


async def test_another_flows_result_does_not_count(lab: Lab) -> None:
    async with lab.open(waiting_desk()) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await app.broker.publish([record_of(Paid(), "b", flow="g")])
        await lab.clock.advance(100)
    assert len(lab.only(TimedOut)) == 1


async def test_a_timer_outlives_a_restart_and_is_late_at_worst(lab: Lab) -> None:
    service = waiting_desk()
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "a", flow="f")])
        await lab.clock.advance(4)
    async with lab.open(service):
        await lab.clock.advance(5)
        assert lab.only(TimedOut) == []
    await lab.clock.advance(50)
    async with lab.open(service):
        await lab.clock.settle()
    assert len(lab.only(TimedOut)) == 1


@pytest.mark.parametrize(("after_s", "in_time"), [(9.0, True), (11.0, False)])
@pytest.mark.parametrize("put_off", [False, True])
async def test_a_result_of_the_same_service_counts_when_it_is_published(
    lab: Lab, after_s: float, *, in_time: bool, put_off: bool
) -> None:
    service = waiting_desk()

    if put_off:

        @service.on(Placed)
        async def pay_later(placed: Placed) -> After[Paid]:
            return After(Paid(), after_s=after_s)

    else:

        @service.on(Placed)
        async def pay(placed: Placed) -> Paid:
            await lab.clock.sleep(after_s)
            return Paid()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert (lab.only(TimedOut) == []) == in_time
    assert len(lab.only(Paid)) == 1


async def test_by_expects_over_flows(lab: Lab) -> None:
    service = Service("desk")

    @service.expects(Paid, after=Placed, within_s=10, by="k")
    async def overdue(placed: Placed) -> TimedOut:
        return TimedOut(k=placed.k)

    async with lab.open(service) as app:
        await app.publish(Placed(k="x"))
        await app.publish(Placed(k="y"))
        await app.publish(Paid(k="x"))
        await lab.clock.advance(100)
    assert [one.key for one in lab.only(TimedOut)] == [b"y"]


@pytest.mark.parametrize("overdue", [None, TimedOut])
@pytest.mark.parametrize("ends_in_time", [False, True])
async def test_a_flow_has_a_deadline(
    lab: Lab, overdue: type[TimedOut] | None, *, ends_in_time: bool
) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def deliver(placed: Placed) -> After[Sent]:
        return After(Sent(), after_s=50 if ends_in_time else 70)

    service.flow("order", starts=Placed, ends=Sent, deadline_s=60, overdue=overdue)
    async with lab.open(service) as app:
        await app.publish(Placed(n=5))
        await lab.clock.advance(59.9)
        assert lab.only(TimedOut) == []
        await lab.clock.advance(60)
    told = [one.value for one in lab.only(TimedOut)]
    assert told == ([b'{"k":"x","n":5}'] if overdue and not ends_in_time else [])
    noted = [note for note in lab.notes("done") if note["step"] == "desk.order.deadline"]
    assert len(noted) == (1 if overdue is None and not ends_in_time else 0)


async def test_after_a_while_and_at_a_moment_of_any_zone(lab: Lab) -> None:
    service = Service("desk")
    start = datetime.fromtimestamp(lab.clock.now(), UTC)

    @service.on(Placed)
    async def remind(placed: Placed) -> list[After[Sent]]:
        there = timezone(timedelta(hours=-7))
        return [
            After(Sent(n=1), after_s=20),
            After(Sent(n=2), at=(start + timedelta(seconds=10)).astimezone(there)),
            After(Sent(n=3), at=start - timedelta(days=1)),
        ]

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(9.99)
        assert [one.value[-2:-1] for one in lab.only(Sent)] == [b"3"]
        await lab.clock.advance(0.02)
    async with lab.open(service):
        await lab.clock.advance(9.9)
        assert [one.value[-2:-1] for one in lab.only(Sent)] == [b"3", b"2"]
        await lab.clock.advance(0.2)
    assert [one.value[-2:-1] for one in lab.only(Sent)] == [b"3", b"2", b"1"]


async def test_the_same_name_replaces_and_cancel_takes_back_in_one_flow_only(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def remind(placed: Placed) -> After[Sent]:
        return After(Sent(k=placed.k, n=placed.n), after_s=10, name="reminder")

    @service.on(Cancelled)
    async def forget(cancelled: Cancelled) -> Cancel:
        return Cancel("reminder")

    async with lab.open(service) as app:
        for flow, n in (("f", 1), ("g", 2), ("h", 3)):
            await app.broker.publish([record_of(Placed(n=n), f"a{n}", flow=flow)])
        await lab.clock.advance(5)
        await app.broker.publish([record_of(Placed(n=4), "again", flow="f")])
        await app.broker.publish([record_of(Cancelled(), "stop", flow="g")])
        await lab.clock.advance(6)
        assert [one.value[-2:-1] for one in lab.only(Sent)] == [b"3"]
        await lab.clock.advance(100)
    assert [one.value[-2:-1] for one in lab.only(Sent)] == [b"3", b"4"]
