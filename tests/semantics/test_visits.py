"""`visits_max`: a handler that a cycle leads back to runs so often in a scope, and no more."""

import pytest

from choreo import ConfigurationError, Context, Failure, NotDone, Retry, Service
from tests.semantics.events import Declined, Placed, Reserved
from tests.semantics.lab import HASTY, Lab, record_of


def cycle(ended: list[int], **declared: object) -> tuple[Service, object]:
    """Make a service in which Reserved leads back to the handler of Placed and Reserved."""
    service = Service("desk")

    @service.on(Placed, Reserved, **declared)  # type: ignore[arg-type]
    async def reserve(event: Placed | Reserved) -> Reserved:
        ended.append(event.n)
        return Reserved(k=event.k, n=event.n + 1)

    return service, reserve


async def test_the_visit_beyond_is_not_run_and_becomes_a_dead_letter(lab: Lab) -> None:
    ended: list[int] = []
    service, _ = cycle(ended, visits_max=3)
    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
    assert ended == [0, 1, 2]
    (letter,) = lab.dead()
    assert letter.headers["choreo-dead-reason"] == "visits used up"
    assert letter.headers["choreo-dead-message"].startswith("CH5014")
    assert lab.kinds() == ["Placed", *["Reserved"] * 3]


async def test_otherwise_takes_over_when_visits_are_used_up(lab: Lab) -> None:
    ended: list[int] = []
    failures: list[Failure] = []
    service, reserve = cycle(ended, visits_max=2)

    @service.otherwise(reserve)  # type: ignore[arg-type]
    async def enough(event: Placed | Reserved, why: Failure) -> Declined:
        failures.append(why)
        return Declined()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
    assert ended == [0, 1]
    assert [why.reason for why in failures] == ["visits used up"]
    assert lab.kinds()[-1] == "Declined"
    assert lab.dead() == []


async def test_scopes_count_for_themselves(lab: Lab) -> None:
    ended: list[int] = []
    service, _ = cycle(ended, visits_max=2)
    async with lab.open(service) as app:
        await app.publish(Placed(n=0))
        await app.publish(Placed(n=100))
        await lab.clock.settle()
    assert sorted(ended) == [0, 1, 100, 101]


async def test_a_scope_may_be_made_of_fields(lab: Lab) -> None:
    ended: list[int] = []
    service, _ = cycle(ended, visits_max=3, by="k")
    async with lab.open(service) as app:
        for k in ("x", "y"):
            await app.publish(Placed(k=k))
            await lab.clock.settle()
        await app.publish(Placed(k="x", n=50))
        await lab.clock.settle()
    assert ended == [0, 1, 2, 0, 1, 2]


async def test_retries_and_duplicates_count_once_also_over_restarts(lab: Lab) -> None:
    service = Service("desk")
    tried: list[tuple[int, int]] = []

    @service.on(Placed, retry=Retry(attempts_max=5, first_s=10, factor=1), visits_max=2, by="k")
    async def reserve(placed: Placed, ctx: Context) -> None:
        tried.append((placed.n, ctx.attempt))
        if placed.n == 1 and ctx.attempt < 4:
            raise ValueError("not yet")

    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(n=1), "one")])
        await lab.clock.advance(15)
        await app.broker.publish([record_of(Placed(n=1), "one")])
    async with lab.open(service, limits=HASTY) as app:
        await lab.clock.advance(40)
        await app.broker.publish([record_of(Placed(n=1), "one")])
        await app.publish(Placed(n=2))
        await app.publish(Placed(n=3))
        await lab.clock.settle()
    assert tried == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]
    assert len(lab.dead()) == 1


async def test_of_visits_at_the_same_time_as_many_count_as_may(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed, visits_max=2, by="n")
    async def reserve(placed: Placed) -> Reserved:
        await lab.clock.sleep(1)
        return Reserved(k=placed.k)

    async with lab.open(service) as app:
        for k in "abcde":
            await app.publish(Placed(k=k))
        await lab.clock.advance(10)
    assert len(lab.only(Reserved)) == 2
    assert len(lab.dead()) == 3


async def test_what_was_given_up_was_a_visit(lab: Lab) -> None:
    """Otherwise a cycle that leads over `otherwise` would not end."""
    service = Service("desk")

    @service.on(Placed, Declined, retry=Retry(attempts_max=1), visits_max=3)
    async def reserve(event: Placed | Declined) -> Reserved:
        raise ValueError("no room")

    @service.otherwise(reserve)
    async def again(event: Placed | Declined, why: Failure) -> Declined | None:
        return None if why.reason == "visits used up" else Declined()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
    assert len(lab.only(Declined)) == 3


async def test_a_redrive_is_one_visit_more_on_an_operators_word(lab: Lab) -> None:
    ended: list[int] = []
    service, _ = cycle(ended, visits_max=2)
    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
        await lab.ask(app, "redrive")
    assert ended == [0, 1, 2]
    assert len(lab.dead()) == 2


async def test_who_has_called_the_outside_goes_on(lab: Lab) -> None:
    service = Service("desk")
    calls: list[str] = []

    @service.on(Placed, visits_max=1, by="n")
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        await ctx.once("call", lambda: calls.append(placed.k))
        await lab.clock.sleep(1)
        return Reserved(k=placed.k)

    async with lab.open(service) as app:
        for k in "ab":
            await app.publish(Placed(k=k))
        await lab.clock.advance(10)
        await app.publish(Placed(k="c"))
        await lab.clock.advance(10)
    assert sorted(calls) == ["a", "b"]
    assert len(lab.only(Reserved)) == 2
    assert len(lab.dead()) == 1


def test_less_than_one_visit_is_refused() -> None:
    service = Service("desk")
    with pytest.raises(ConfigurationError, match="CH1011"):

        @service.on(Placed, visits_max=0)
        async def reserve(placed: Placed) -> None:
            raise NotDone
