"""What a store promises of plans: claimed once, whole or not at all, by their owner only."""
# ruff: noqa: PLR2004 - these are tests: expected values are literal

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from typing import Any

from choreo.errors import ChoreoError
from choreo.events import Partition
from choreo.plan import Gate, GateKey, Plan, SetTimer, Status
from choreo.ports import Applied, Want
from choreo.testing.contracts.cancelling import cancelled_at
from choreo.testing.contracts.place import (
    HANDLER,
    TOPIC,
    MakePlace,
    due,
    opened,
    publish,
    published,
    publishing,
    reopenable,
    settle,
    source,
    subject,
    unwritable,
    want,
)
from choreo.testing.contracts.written import refused

__all__ = ["ClaimContract"]

GATE = GateKey("join", HANDLER, "flow")


class ClaimContract:
    """Part of the contract of a store."""

    async def test_a_delivery_is_settled_once(self, make: MakePlace) -> None:
        """A second plan for it is a duplicate, and nothing of that plan is written."""
        async with opened(make) as place:
            owned = await place.own()
            assert await place.apply(owned, settle(1), publish("first")) is Applied.DONE
            second = (
                settle(1),
                publish("second"),
                Gate(GATE, 0, closed=True, members=b"x"),
                SetTimer(subject(9), place.clock.now(), HANDLER, b"", source(1)),
            )
            assert await place.apply(owned, *second) is Applied.DUPLICATE
            assert await published(place) == ["first"]
            seen = await place.look(Want(HANDLER, subject(1), gates=(GATE,)))
            assert (seen.status, seen.payload_hash) == (Status.DONE, b"hash")
            assert seen.source == source(1)
            assert not seen.gates[GATE].closed
            assert await due(place, owned) == []

    async def test_what_was_never_settled_has_no_row(self, make: MakePlace) -> None:
        """`load` answers each want in its place, and nothing for nothing."""
        async with opened(make) as place:
            owned = await place.own()
            assert not await place.store.load([])
            assert not await place.store.apply([])
            await place.apply(owned, settle(2))
            seen = await place.store.load([want(n) for n in (1, 2, 3, 2)])
            assert [one.status for one in seen] == [None, Status.DONE, None, Status.DONE]

    async def test_many_are_loaded_and_applied_at_once(self, make: MakePlace) -> None:
        """Hundreds of plans, and of wants, each with its own answer."""
        async with opened(make) as place:
            owned = await place.own()
            evens = [Plan(owned, (settle(n), publish(str(n)))) for n in range(0, 600, 2)]
            assert set(await place.store.apply(evens)) == {Applied.DONE}
            both = await place.store.apply([Plan(owned, (settle(n),)) for n in range(600)])
            assert both == [Applied.DUPLICATE, Applied.DONE] * 300
            seen = await place.store.load([want(n) for n in range(1200)])
            assert [one.status for one in seen] == [Status.DONE] * 600 + [None] * 600
            assert await published(place) == [str(n) for n in range(0, 600, 2)]

    async def test_handlers_and_subjects_are_told_apart(self, make: MakePlace) -> None:
        """A row is of one handler and one subject."""
        async with opened(make) as place:
            owned = await place.own()
            for handler in ("a.one", "a.two", "b.one", "b.one!why"):
                for number in (1, 2):
                    change = settle(number, handler=handler)
                    assert await place.apply(owned, change) is Applied.DONE

    async def test_every_end_is_an_end(self, make: MakePlace) -> None:
        """Void refuses a second plan as done does."""
        async with opened(make) as place:
            owned = await place.own()
            for number, status in enumerate((Status.DONE, Status.VOID)):
                assert await place.apply(owned, settle(number, status)) is Applied.DONE
                assert await place.apply(owned, settle(number)) is Applied.DUPLICATE
                assert await place.status(number) is status

    async def test_one_group_may_name_a_delivery_twice(self, make: MakePlace) -> None:
        """The first plan wins, the second is a duplicate."""
        async with opened(make) as place:
            owned = await place.own()
            plans = [Plan(owned, (settle(1), publish(text))) for text in "ab"]
            assert await place.store.apply(plans) == [Applied.DONE, Applied.DUPLICATE]
            assert await published(place) == ["a"]

    async def test_side_by_side_one_claims(self, make: MakePlace) -> None:
        """Of many that settle the same deliveries at once, one does, for each."""
        async with opened(make) as place:
            owned = await place.own()
            results = await asyncio.gather(
                *(place.apply(owned, settle(n % 20), publish(str(n % 20))) for n in range(200))
            )
            assert results.count(Applied.DONE) == 20
            assert results.count(Applied.DUPLICATE) == 180
            assert sorted(await published(place)) == sorted(str(n) for n in range(20))

    async def test_two_stores_of_one_place_claim_once(self, make: MakePlace) -> None:
        """As if it were one: the place decides, not what a store remembers."""
        async with opened(make) as one:
            reopenable(one)
            async with opened(make) as other:
                owned = await one.own()
                results = await asyncio.gather(
                    *(
                        place.apply(owned, settle(n), publish(str(n)))
                        for n in range(50)
                        for place in (one, other)
                    )
                )
                assert results.count(Applied.DONE) == 50
                assert results.count(Applied.DUPLICATE) == 50
                assert sorted(await published(one)) == sorted(str(n) for n in range(50))

    async def test_a_spawned_delivery_may_exist_already(self, make: MakePlace) -> None:
        """It makes no plan a duplicate, and leaves the row that is there."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(owned, settle(7, Status.VOID))
            spawns = [settle(n, Status.DONE)._replace(spawn=True) for n in (7, 8)]
            assert await place.apply(owned, settle(1), *spawns, publish("x")) is Applied.DONE
            assert await place.status(7) is Status.VOID
            assert await place.status(8) is Status.DONE
            assert await published(place) == ["x"]

    # ── whole or not at all ──────────────────────────────────────────────────────────────

    async def test_a_plan_that_fails_takes_no_other_with_it(self, make: MakePlace) -> None:
        """Its exception stands in its place; nothing of it is written, all others are."""
        async with opened(make) as place:
            owned = await place.own()
            for bad in range(5):
                group = [
                    Plan(owned, (settle(10 * bad + n), publish(f"{bad}.{n}"))) for n in range(5)
                ]
                group[bad] = Plan(owned, (*group[bad].changes, unwritable(place)))
                results = await place.store.apply(group)
                assert isinstance(results[bad], ChoreoError)
                assert [*results[:bad], *results[bad + 1 :]] == [Applied.DONE] * 4
                assert await place.status(10 * bad + bad) is None
                again = group[bad].changes[:-1]
                assert await place.apply(owned, *again) is Applied.DONE
            wanted = {f"{bad}.{n}" for bad in range(5) for n in range(5)}
            seen = await published(place)
            assert len(seen) == 25
            assert set(seen) == wanted

    async def test_records_are_published_in_the_order_of_plans(self, make: MakePlace) -> None:
        """Within a plan as listed, between plans as applied; each knows its place."""
        async with opened(make) as place:
            owned = await place.own()
            plans = [
                Plan(owned, (settle(n), *(publish(f"{n}.{i}") for i in range(3))))
                for n in range(20)
            ]
            await place.store.apply(plans)
            assert await published(place) == [f"{n}.{i}" for n in range(20) for i in range(3)]

    async def test_a_subscriber_sees_what_a_plan_published(self, make: MakePlace) -> None:
        """Once, in order, and woken by it."""
        async with opened(make) as place:
            publishing(place)
            owned = await place.own()
            subscription = await place.broker.subscribe("reader", [TOPIC.name])
            seen: list[str] = []
            async with asyncio.timeout(20):
                for n in range(10):
                    polling = asyncio.create_task(subscription.poll(100))
                    await asyncio.sleep(0)
                    await place.apply(owned, settle(n), publish(f"{n}.0"), publish(f"{n}.1"))
                    seen += [record.value.decode() for record in await polling]
                while len(seen) < 20:
                    seen += [record.value.decode() for record in await subscription.poll(100)]
            assert seen == [f"{n}.{i}" for n in range(10) for i in range(2)]

    async def test_a_cancelled_apply_is_whole_or_nothing(self, make: MakePlace) -> None:
        """Cancelled at any await; applied again, every delivery is settled once."""
        async with opened(make) as place:
            owned = await place.own()
            n = 0
            for late in (0, 1, 4):
                for await_ in count(1):
                    n += 1
                    plan = Plan(owned, (settle(n), publish(f"{n}.0"), publish(f"{n}.1")))
                    apply = partial(place.store.apply, [plan])
                    told = await cancelled_at(apply, await_, turns=late)
                    (again,) = await place.store.apply([plan])
                    assert again in (Applied.DONE, Applied.DUPLICATE)
                    if not told.reached:
                        break
            assert await published(place) == [f"{m}.{i}" for m in range(1, n + 1) for i in (0, 1)]

    async def test_whoever_is_cancelled_elsewhere_disturbs_nobody(self, make: MakePlace) -> None:
        """Loading, looking for what is due, taking over: given up at any await, and then done."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(owned, SetTimer(subject(9), 0.0, HANDLER, b"", source()))
            calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
                lambda: place.status(1),
                lambda: place.store.due(owned, skip=(), most=9),
                place.own,
            ]
            for call in calls:
                for await_ in count(1):
                    if not (await cancelled_at(call, await_)).reached:
                        break
            assert await place.apply(owned, settle(1)) is Applied.STALE
            owned = await place.own()
            assert await place.apply(owned, settle(1), publish("1")) is Applied.DONE
            assert await due(place, owned) == [9]
            assert await published(place) == ["1"]

    # ── owners ───────────────────────────────────────────────────────────────────────────

    async def test_a_former_owner_writes_nothing(self, make: MakePlace) -> None:
        """After another takeover its plans are stale, and the new owner's are written."""
        async with opened(make) as place:
            former = await place.own()
            owned = await place.own()
            assert set(former.epochs) == set(owned.epochs)
            assert all(owned.epochs[one] > former.epochs[one] for one in owned.epochs)
            results = await place.store.apply(
                [
                    Plan(former, (settle(1), publish("stale"))),
                    Plan(owned, (settle(2), publish("new"))),
                    Plan(former, (SetTimer(subject(3), 0.0, HANDLER, b"", source()),)),
                ]
            )
            assert list(results) == [Applied.STALE, Applied.DONE, Applied.STALE]
            assert await place.status(1) is None
            assert await due(place, owned) == []
            assert await published(place) == ["new"]

    async def test_a_takeover_of_one_partition_is_of_that_one(self, make: MakePlace) -> None:
        """Who lost a partition goes on with the others."""
        async with opened(make) as place:
            former = await place.own(0, 1)
            owned = await place.own(0)
            taken, kept = (former.only(Partition(TOPIC.name, number)) for number in (0, 1))
            results = await place.store.apply(
                [
                    Plan(taken, (settle(1), publish("stale"))),
                    Plan(owned, (settle(2), publish("new"))),
                    Plan(kept, (settle(3, at=source(3, partition=1)), publish("still"))),
                ]
            )
            assert list(results) == [Applied.STALE, Applied.DONE, Applied.DONE]

    async def test_groups_own_each_for_themselves(self, make: MakePlace) -> None:
        """A takeover by one group makes no plan of another stale."""
        async with opened(make) as place:
            one, other = await place.own(group="one"), await place.own(group="other")
            await place.own(group="one")
            assert await place.apply(other, settle(1)) is Applied.DONE
            assert await place.apply(one, settle(2)) is Applied.STALE

    async def test_a_plan_of_nobody_is_written(self, make: MakePlace) -> None:
        """What a caller publishes stands on no partition."""
        async with opened(make) as place:
            assert await place.apply(None, publish("root")) is Applied.DONE
            assert await published(place) == ["root"]

    # ── close, reopen ────────────────────────────────────────────────────────────────────

    async def test_a_reopened_store_knows_what_was_settled(self, make: MakePlace) -> None:
        """Rows, and epochs: who owned before is stale."""
        async with opened(make) as place:
            reopenable(place)
            former = await place.own()
            await place.apply(former, settle(1), publish("1"))
        again = await make()
        try:
            owned = await again.own()
            assert await again.apply(owned, settle(1), publish("again")) is Applied.DUPLICATE
            assert await again.apply(former, settle(2)) is Applied.STALE
            assert await published(again) == ["1"]
        finally:
            await again.close()

    async def test_closing_finishes_what_was_asked(self, make: MakePlace) -> None:
        """A plan given before `close` is written or refused, and told so; twice is fine."""
        async with opened(make) as place:
            reopenable(place)
            owned = await place.own()
            applying = [
                asyncio.create_task(place.apply(owned, settle(n), publish(str(n))))
                for n in range(20)
            ]
            await asyncio.sleep(0)
            await asyncio.gather(place.store.close(), place.store.close())
            await place.store.close()
            async with asyncio.timeout(20):
                results = await asyncio.gather(*applying, return_exceptions=True)
            await place.broker.ensure([TOPIC])  # the log has a close of its own
            with refused(ChoreoError):
                await place.apply(owned, settle(99))
            with refused(ChoreoError):
                await place.status(1)
        async with opened(make) as again:
            for n, result in enumerate(results):
                assert result is Applied.DONE or isinstance(result, ChoreoError)
                wanted = Status.DONE if result is Applied.DONE else None
                assert await again.status(n) is wanted
            done = [str(n) for n, result in enumerate(results) if result is Applied.DONE]
            assert await published(again) == done
