"""What a store promises of what waits: parked deliveries, their chains, and timers."""

from __future__ import annotations

from choreo.plan import CancelTimer, Owned, Plan, SaveState, SetTimer, Status
from choreo.ports import Applied, Want
from choreo.testing.contracts.place import (
    HANDLER,
    MakePlace,
    Place,
    due,
    opened,
    parked,
    publish,
    published,
    reopenable,
    row,
    settle,
    source,
    subject,
    unwritable,
    want,
)

__all__ = ["WaitingContract"]

OTHER = "contract.other"
P, DONE, DEAD, VOID = Status.PARKED, Status.DONE, Status.DEAD, Status.VOID


class WaitingContract:
    """Part of the contract of a store."""

    # ── parked deliveries ────────────────────────────────────────────────────────────────

    async def test_a_parked_delivery_comes_when_it_is_due(self, make: MakePlace) -> None:
        """Not early by the store's clock, and with all that it keeps."""
        async with opened(make) as place:
            owned = await place.own()
            kept = parked(place.clock.now() + 10, attempt=3, run=2)
            change = settle(1, P, parked=kept, at=source(17, partition=2))
            assert await place.apply(owned, change) is Applied.DONE
            assert await place.store.due(owned, skip=(), most=9) == ([], kept.due)
            await place.clock.advance(9.999)
            assert await due(place, owned) == []
            await place.clock.advance(0.001)
            found, after = await place.store.due(owned, skip=(), most=9)
            assert after is None
            (one,) = found
            assert (one.handler, one.subject, one.due) == (HANDLER, subject(1), kept.due)
            assert (one.source, one.payload_hash) == (source(17, partition=2), b"hash")
            assert (one.parked, one.payload) == (kept, kept.record)
            seen = await place.look(want(1))
            assert (seen.status, seen.run, seen.attempt) == (P, 2, 3)
            assert (seen.source, seen.payload_hash) == (source(17, partition=2), b"hash")

    async def test_a_parked_delivery_is_a_claim(self, make: MakePlace) -> None:
        """Who did not see it as it is makes a duplicate."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(owned, settle(1, P, parked=parked(place.clock.now(), attempt=2)))
            for seen in (None, (0, 1), (0, 3), (1, 2)):
                change = settle(1, seen=seen)
                assert await place.apply(owned, change, publish("x")) is Applied.DUPLICATE
            assert await place.status(1) is P
            for seen in ((0, 2), (0, 1)):
                assert await place.apply(owned, settle(2, seen=seen)) is Applied.DUPLICATE
            assert await place.status(2) is None
            assert await place.apply(owned, settle(1, seen=(0, 2)), publish("y")) is Applied.DONE
            assert await place.apply(owned, settle(1, seen=(0, 2))) is Applied.DUPLICATE
            assert await place.status(1) is DONE
            assert await published(place) == ["y"]

    async def test_a_delivery_is_parked_again(self, make: MakePlace) -> None:
        """Another attempt, another time: the row as it was is no claim any more."""
        async with opened(make) as place:
            owned = await place.own()
            now = place.clock.now()
            await place.apply(owned, settle(1, P, parked=parked(now, attempt=1)))
            again = settle(1, P, seen=(0, 1), parked=parked(now + 5, attempt=2))
            assert await place.apply(owned, again) is Applied.DONE
            assert await due(place, owned) == []
            assert await place.apply(owned, settle(1, seen=(0, 1))) is Applied.DUPLICATE
            await place.clock.advance(5)
            found, _ = await place.store.due(owned, skip=(), most=9)
            assert row(found, 1).parked == parked(now + 5, attempt=2)
            await place.apply(owned, settle(1, seen=(0, 2)))
            assert await due(place, owned) == []

    async def test_a_dead_delivery_is_not_due_and_not_lost(self, make: MakePlace) -> None:
        """It refuses a plan as any settled one; its (run, attempt) redrives it."""
        async with opened(make) as place:
            owned = await place.own()
            kept = parked(None, attempt=5)
            assert await place.apply(owned, settle(1, DEAD, parked=kept)) is Applied.DONE
            await place.clock.advance(1e6)
            assert await due(place, owned) == []
            assert await place.apply(owned, settle(1)) is Applied.DUPLICATE
            seen = await place.look(want(1))
            assert (seen.status, seen.run, seen.attempt) == (DEAD, 0, 5)

    async def test_the_earliest_come_first_and_no_more_than_asked(self, make: MakePlace) -> None:
        """`most` bounds them, `skip` leaves some out; the next time is that of what is left."""
        async with opened(make) as place:
            owned = await place.own()
            now = place.clock.now()
            for number, delay in ((1, 4), (2, 1), (3, 3), (4, 2), (5, 100)):
                kept = parked(now + delay, chain=str(number))
                await place.apply(owned, settle(number, P, parked=kept))
            await place.apply(owned, SetTimer(subject(6), now + 2.5, HANDLER, b"", source(6)))
            assert (await place.store.due(owned, skip=(), most=9))[1] == now + 1
            await place.clock.advance(10)
            assert await due(place, owned, most=3) == [2, 4, 6]
            assert await due(place, owned) == [2, 4, 6, 3, 1]
            skip = {(HANDLER, subject(4)), (HANDLER, subject(6)), ("contract.x", subject(2))}
            assert await due(place, owned, skip=skip, most=2) == [2, 3]
            _, after = await place.store.due(owned, skip=(), most=9)
            assert after == now + 100

    async def test_only_the_owner_of_a_partition_is_given_its_rows(self, make: MakePlace) -> None:
        """Parked rows, held chains, timers go with the partition that they came in by."""
        async with opened(make) as place:
            one, other = await place.own(0), await place.own(1, 2)
            now = place.clock.now()
            for number in (0, 1, 2):
                at = source(number, partition=number)
                owned = other if number else one
                kept = parked(now, chain=str(number))
                await place.apply(owned, settle(number, P, parked=kept, at=at))
                await place.apply(owned, SetTimer(subject(10 + number), now, HANDLER, b"", at))
            assert sorted(await due(place, one)) == [0, 10]
            assert sorted(await due(place, other)) == [1, 2, 11, 12]
            assert set((await place.own(0)).held) == {(HANDLER, "0")}

    async def test_only_the_group_is_given_its_rows(self, make: MakePlace) -> None:
        """Handlers are named "group.handler": what waits for one of another group is not ours."""
        async with opened(make) as place:
            one, other = await place.own(), await place.own(group="contract2")
            now = place.clock.now()
            for number, handler in ((1, HANDLER), (2, "contract2.take"), (3, f"{HANDLER}!why")):
                owned = other if handler.startswith("contract2") else one
                kept = parked(now, chain=str(number))
                await place.apply(owned, settle(number, P, parked=kept, handler=handler))
                timer = SetTimer(subject(10 + number), now, handler, b"", source())
                await place.apply(owned, timer)
            assert sorted(await due(place, one)) == [1, 3, 11, 13]
            assert sorted(await due(place, other)) == [2, 12]
            assert set((await place.own(group="contract2")).held) == {("contract2.take", "2")}

    # ── chains ───────────────────────────────────────────────────────────────────────────

    async def test_a_held_delivery_waits_for_the_one_before_it(self, make: MakePlace) -> None:
        """In input order, one at a time, however they were written, and however they end."""
        async with opened(make) as place:
            owned = await place.own()
            await park_chain(place, owned, first=1, held=(4, 2, 5, 3))
            owned = await place.own()
            assert list(owned.held) == [(HANDLER, "chain")] * 5  # each is counted down
            for number, status in ((1, DONE), (2, VOID), (3, DEAD), (4, DONE), (5, DONE)):
                await place.clock.advance(1000)
                assert await due(place, owned) == [number]
                kept = parked(None, chain="") if status is DEAD else None
                change = settle(number, status, seen=(0, 1), parked=kept)
                assert await place.apply(owned, change) is Applied.DONE
            assert await due(place, owned) == []

    async def test_a_dead_letter_with_a_chain_holds_it(self, make: MakePlace) -> None:
        """Until somebody runs it again, or discards it: that is a compare-and-set, too."""
        async with opened(make) as place:
            owned = await place.own()
            for first, status in ((10, P), (20, VOID)):
                chain = str(first)
                await park_chain(place, owned, first=first, held=(first + 1,), chain=chain)
                dead = settle(first, DEAD, seen=(0, 1), parked=parked(None, chain=chain))
                assert await place.apply(owned, dead) is Applied.DONE
                waits = settle(first + 2, P, parked=parked(None, chain=chain))
                await place.apply(owned, waits)
                assert await due(place, owned) == []
                owned = await place.own()
                assert (HANDLER, chain) in owned.held
                kept = parked(place.clock.now(), run=1, chain=chain) if status is P else None
                other = settle(first, status, seen=(0, 7), parked=kept)._replace(dead=True)
                assert await place.apply(owned, other) is Applied.CONFLICT
                again = settle(first, status, seen=(0, 1), parked=kept)._replace(dead=True)
                assert await place.apply(owned, again) is Applied.DONE
                assert await place.apply(owned, again) is Applied.CONFLICT
                if status is P:
                    assert await due(place, owned) == [first]
                    ended = settle(first, seen=(1, 1))
                    assert await place.apply(owned, ended) is Applied.DONE
                for number in (first + 1, first + 2):
                    assert await due(place, owned) == [number]
                    ended = settle(number, seen=(0, 1))
                    assert await place.apply(owned, ended) is Applied.DONE

    async def test_one_delivery_may_look_at_another(self, make: MakePlace) -> None:
        """What a parked or dead row keeps is seen with it."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(owned, settle(1, DEAD, parked=parked(None, run=3, attempt=2)))
            wants = [
                Want(HANDLER, subject(7), target=Want(HANDLER, subject(1), memos=True)),
                Want(HANDLER, subject(8)),
                Want(HANDLER, subject(9), target=Want(OTHER, subject(1))),
            ]
            about, plain, nothing = await place.store.load(wants)
            assert (about.status, plain.status, plain.target) == (None, None, None)
            assert about.target is not None
            assert (about.target.status, about.target.run, about.target.attempt) == (DEAD, 3, 2)
            assert about.target.kept == parked(None, run=3, attempt=2)
            assert nothing.target is not None
            assert nothing.target.status is None

    async def test_parking_again_lets_nobody_pass(self, make: MakePlace) -> None:
        """The chain goes on when its first is settled, not when it is put off once more."""
        async with opened(make) as place:
            owned = await place.own()
            await park_chain(place, owned, first=1, held=(2,))
            again = parked(place.clock.now() + 50, attempt=2)
            await place.apply(owned, settle(1, P, seen=(0, 1), parked=again))
            await place.clock.advance(49)
            assert await due(place, owned) == []
            await place.clock.advance(1)
            assert await due(place, owned) == [1]
            await place.apply(owned, settle(1, seen=(0, 2)))
            assert await due(place, owned) == [2]

    async def test_a_plan_that_loses_releases_nobody(self, make: MakePlace) -> None:
        """Who holds is still parked, so who is held stays held."""
        async with opened(make) as place:
            owned = await place.own()
            await park_chain(place, owned, first=1, held=(2,))
            assert await place.apply(owned, settle(1, seen=(0, 7))) is Applied.DUPLICATE
            missing = unwritable(place)
            assert isinstance(await place.apply(owned, settle(1, seen=(0, 1)), missing), Exception)
            assert await due(place, owned) == [1]

    async def test_chains_do_not_feel_each_other(self, make: MakePlace) -> None:
        """Another key, or another handler with the same key, waits for itself alone."""
        async with opened(make) as place:
            owned = await place.own()
            now = place.clock.now()
            for number, chain, handler in ((1, "a", HANDLER), (2, "b", HANDLER), (3, "a", OTHER)):
                kept = parked(now, chain=chain)
                await place.apply(owned, settle(number, P, parked=kept, handler=handler))
                held = settle(number + 10, P, parked=parked(None, chain=chain), handler=handler)
                await place.apply(owned, held)
            await place.apply(owned, settle(1, seen=(0, 1)))
            assert sorted(await due(place, owned)) == [2, 3, 11]

    async def test_several_chains_go_on_in_one_group(self, make: MakePlace) -> None:
        """Each settled row of a group releases its own next one, and only that."""
        async with opened(make) as place:
            owned = await place.own()
            for chain in range(10):
                await park_chain(
                    place, owned, first=10 * chain, held=(10 * chain + 2, 10 * chain + 1),
                    chain=str(chain),
                )  # fmt: skip
            firsts = [Plan(owned, (settle(10 * chain, seen=(0, 1)),)) for chain in range(10)]
            assert set(await place.store.apply(firsts)) == {Applied.DONE}
            assert sorted(await due(place, owned)) == [10 * chain + 1 for chain in range(10)]

    async def test_a_takeover_names_the_chains_that_wait(self, make: MakePlace) -> None:
        """Who owns next holds what comes later in them; and runs what was left."""
        async with opened(make) as place:
            owned = await place.own()
            assert not owned.held
            now = place.clock.now()
            await park_chain(place, owned, first=1, held=(2,), chain="a")
            kept = parked(now, chain="b")
            await place.apply(owned, settle(3, P, parked=kept, at=source(3, partition=1)))
            await place.apply(owned, settle(4, P, parked=parked(now, chain="done")))
            await place.apply(owned, settle(4, seen=(0, 1)))
            await place.apply(owned, settle(5, DEAD, parked=parked(None, chain="")))
            owned = await place.own()
            assert set(owned.held) == {(HANDLER, "a"), (HANDLER, "b")}
            assert sorted(await due(place, owned)) == [1, 3]
            assert await place.apply(owned, settle(1, seen=(0, 1))) is Applied.DONE
            assert sorted(await due(place, owned)) == [2, 3]

    # ── timers ───────────────────────────────────────────────────────────────────────────

    async def test_a_timer_fires_in_time_and_once(self, make: MakePlace) -> None:
        """Not early; and again, until a plan that takes it away was written."""
        async with opened(make) as place:
            owned = await place.own()
            at = place.clock.now() + 1800
            timer = SetTimer(subject(1), at, "contract.late", b"\x00what\xff", source(3))
            assert await place.apply(owned, settle(9), timer) is Applied.DONE
            await place.clock.advance(1799.999)
            assert await place.store.due(owned, skip=(), most=9) == ([], at)
            await place.clock.advance(0.001)
            for _ in range(2):
                found, after = await place.store.due(owned, skip=(), most=9)
                assert after is None
                (one,) = found
                assert (one.handler, one.subject, one.due) == ("contract.late", subject(1), at)
                assert (one.source, one.payload, one.parked) == (source(3), timer.payload, None)
            fired = (CancelTimer(subject(1), at, timer.payload), publish("fired"))
            assert await place.apply(owned, settle(1), *fired) is Applied.DONE
            assert await due(place, owned) == []
            assert await published(place) == ["fired"]

    async def test_a_timer_of_the_same_id_replaces(self, make: MakePlace) -> None:
        """Later or earlier: the last one set is the one that fires."""
        async with opened(make) as place:
            owned = await place.own()
            now = place.clock.now()
            for number, delays in ((1, (5, 50)), (2, (50, 5))):
                for delay in delays:
                    payload = str(delay).encode()
                    timer = SetTimer(subject(number), now + delay, HANDLER, payload, source())
                    await place.apply(owned, timer)
            await place.clock.advance(5)
            found, after = await place.store.due(owned, skip=(), most=9)
            assert [(one.subject, one.payload) for one in found] == [(subject(2), b"5")]
            assert after == now + 50

    async def test_a_timer_that_fired_and_was_replaced_is_not_handled(
        self, make: MakePlace
    ) -> None:
        """Its plan names what it saw; another, were it for the same moment, makes a duplicate."""
        async with opened(make) as place:
            owned = await place.own()
            now = place.clock.now()
            await place.apply(owned, SetTimer(subject(1), now, HANDLER, b"old", source()))
            assert await due(place, owned) == [1]
            await place.apply(owned, SetTimer(subject(1), now + 9, HANDLER, b"new", source()))
            late = (CancelTimer(subject(1), now, b"old"), publish("late"))
            assert await place.apply(owned, settle(5), *late) is Applied.DUPLICATE
            await place.apply(owned, SetTimer(subject(1), now, HANDLER, b"newest", source()))
            assert await place.apply(owned, settle(5), *late) is Applied.DUPLICATE
            assert await due(place, owned) == [1]
            await place.apply(owned, CancelTimer(subject(1)))
            gone = (CancelTimer(subject(1), now, b"newest"), publish("gone"))
            assert await place.apply(owned, settle(6), *gone) is Applied.DUPLICATE
            assert await published(place) == []

    async def test_a_timer_is_taken_back(self, make: MakePlace) -> None:
        """Once or twice; one that never was is fine."""
        async with opened(make) as place:
            owned = await place.own()
            now = place.clock.now()
            for number in (1, 2):
                await place.apply(owned, SetTimer(subject(number), now, HANDLER, b"", source()))
            for _ in range(2):
                assert await place.apply(owned, CancelTimer(subject(1))) is Applied.DONE
            assert await due(place, owned) == [2]

    async def test_a_timer_of_a_plan_that_lost_is_none(self, make: MakePlace) -> None:
        """A duplicate neither sets nor takes back."""
        async with opened(make) as place:
            owned = await place.own()
            now = place.clock.now()
            await place.apply(
                owned, settle(1), SetTimer(subject(8), now, HANDLER, b"first", source())
            )
            changes = (
                SetTimer(subject(8), now, HANDLER, b"second", source()),
                SetTimer(subject(9), now, HANDLER, b"", source()),
            )
            assert await place.apply(owned, settle(1), *changes) is Applied.DUPLICATE
            assert await place.apply(owned, settle(1), CancelTimer(subject(8))) is Applied.DUPLICATE
            found, _ = await place.store.due(owned, skip=(), most=9)
            assert [(one.subject, one.payload) for one in found] == [(subject(8), b"first")]

    async def test_a_plan_that_lost_leaves_a_timer_as_it_was(self, make: MakePlace) -> None:
        """Whether it would have set it anew, or taken it back."""
        async with opened(make) as place:
            owned = await place.own()
            now = place.clock.now()
            await place.apply(owned, SetTimer(subject(1), now, HANDLER, b"kept", source()))
            for change in (
                SetTimer(subject(1), now + 9, HANDLER, b"lost", source()),
                CancelTimer(subject(1)),
            ):
                lost = SaveState("contract.Basket", "k", 7, b"")  # no such version
                assert await place.apply(owned, change, lost) is Applied.CONFLICT
                found, _ = await place.store.due(owned, skip=(), most=9)
                assert [(one.due, one.payload) for one in found] == [(now, b"kept")]

    async def test_what_waits_is_still_there_after_reopening(self, make: MakePlace) -> None:
        """Parked, held, timers: late after a stop at worst, never gone."""
        async with opened(make) as place:
            reopenable(place)
            owned = await place.own()
            await park_chain(place, owned, first=1, held=(2,))
            timer = SetTimer(subject(3), place.clock.now() + 1, HANDLER, b"t", source())
            await place.apply(owned, timer)
        async with opened(make) as again:
            await again.clock.advance(500)
            owned = await again.own()
            assert set(owned.held) == {(HANDLER, "chain")}
            assert sorted(await due(again, owned)) == [1, 3]
            await again.apply(owned, settle(1, seen=(0, 1)), CancelTimer(subject(3)))
            assert await due(again, owned) == [2]


async def park_chain(
    place: Place, owned: Owned, *, first: int, held: tuple[int, ...], chain: str = "chain"
) -> None:
    """Park the first of a chain until now, and others behind it."""
    now = place.clock.now()
    await place.apply(owned, settle(first, P, parked=parked(now, chain=chain)))
    for number in held:
        await place.apply(owned, settle(number, P, parked=parked(None, chain=chain)))
