"""Join: run once in a scope, when all has come that the parameters name."""

import itertools

import pytest

from choreo import Event, Failure, Retry, Service
from tests.semantics.events import Declined, Packed, Paid, Placed, Sent, Weighed
from tests.semantics.lab import Lab, record_of


def dispatch(seen: list[tuple[int | None, ...]]) -> Service:
    """A service that sends what is paid and packed; weighing may be missing after a minute."""
    service = Service("desk")

    @service.join(within_s=60)
    async def send(paid: Paid, packed: Packed | Placed, weighed: Weighed | None) -> Sent:
        seen.append((paid.n, packed.n, weighed.n if weighed else None))
        return Sent(n=paid.n)

    return service


PARTS: dict[str, Event] = {"a": Paid(n=1), "b": Packed(n=2), "c": Weighed(n=3)}


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
@pytest.mark.parametrize("at_once", [False, True])
async def test_any_order_of_arrival_runs_it_once(
    lab: Lab, order: tuple[str, ...], *, at_once: bool
) -> None:
    seen: list[tuple[int | None, ...]] = []
    records = [record_of(PARTS[one], one, flow="f") for one in order]
    async with lab.open(dispatch(seen)) as app:
        for group in [records] if at_once else [[one] for one in records]:
            await app.broker.publish(group)
            await lab.clock.advance(1)
        await lab.clock.advance(100)
    assert seen == [(1, 2, 3)]
    assert len(lab.only(Sent)) == 1


@pytest.mark.parametrize("missing", ["c", "b"])
async def test_within_s_counts_from_the_first_arrival_also_over_a_restart(
    lab: Lab, missing: str
) -> None:
    """What may be missing is then given as None; what may not is waited for, and noted."""
    seen: list[tuple[int | None, ...]] = []
    service = dispatch(seen)
    first, second = (one for one in "abc" if one != missing)
    async with lab.open(service) as app:
        await app.broker.publish([record_of(PARTS[first], first, flow="f")])
        await lab.clock.advance(40)
        await app.broker.publish([record_of(PARTS[second], second, flow="f")])
        await lab.clock.advance(19.9)
        assert seen == []
    async with lab.open(service) as app:
        await lab.clock.advance(0.2)
        assert seen == ([(1, 2, None)] if missing == "c" else [])
        assert len(lab.notes("overdue")) == (0 if missing == "c" else 1)
        await app.broker.publish([record_of(PARTS[missing], missing, flow="f")])
        await lab.clock.advance(100)
    assert seen == ([(1, 2, None)] if missing == "c" else [(1, 2, 3)])


async def test_two_scopes_do_not_mix(lab: Lab) -> None:
    seen: list[tuple[int | None, ...]] = []
    async with lab.open(dispatch(seen)) as app:
        for n, kind in enumerate((Paid, Packed, Weighed)):
            await app.broker.publish(
                [record_of(kind(n=10 * s), f"{n}/{s}", flow=f"f{s}") for s in (1, 2)]
            )
        await lab.clock.advance(1)
    assert sorted(seen) == [(10, 10, 10), (20, 20, 20)]


async def test_either_of_two_is_enough_and_the_first_is_given(lab: Lab) -> None:
    seen: list[tuple[int | None, ...]] = []
    async with lab.open(dispatch(seen)) as app:
        await app.broker.publish([record_of(Placed(n=7), "p", flow="f")])
        await lab.clock.settle()
        for one in "bac":
            await app.broker.publish([record_of(PARTS[one], one, flow="f")])
            await lab.clock.settle()
    assert seen == [(1, 7, 3)]


async def test_otherwise_of_a_join_stands_in_once_a_scope(lab: Lab) -> None:
    service = Service("desk")
    seen: list[tuple[str, int, Failure]] = []

    @service.join(within_s=60, retry=Retry(attempts_max=2, first_s=10))
    async def send(paid: Paid, weighed: Weighed | None) -> Sent:
        raise ValueError("no van")

    @service.otherwise(send)
    async def gave_up(came: Paid | Weighed, why: Failure) -> Declined:
        seen.append((type(came).__name__, came.n, why))
        return Declined()

    async with lab.open(service) as app:
        await app.broker.publish([record_of(Paid(n=1), "a", flow="f")])
        await app.broker.publish([record_of(Weighed(n=3), "c", flow="f")])
        await app.broker.publish([record_of(Paid(n=5), "d", flow="g")])
        await lab.clock.advance(200)
    failure = Failure("attempts used up", "ValueError", "no van", 2)
    assert seen == [("Paid", 1, failure), ("Paid", 5, failure)]
    assert len(lab.only(Declined)) == 2
    assert lab.dead() == []
