"""What a store promises of handlers that were renamed."""

from __future__ import annotations

from choreo.plan import Gate, GateKey, Memo, Remember, SetTimer, Status
from choreo.ports import Applied, Want
from choreo.testing.contracts.place import (
    GROUP,
    MakePlace,
    Place,
    opened,
    parked,
    reopenable,
    settle,
    source,
    subject,
)

__all__ = ["NamingContract"]

OLD, NEW = f"{GROUP}.old", f"{GROUP}.new"


async def named(place: Place, name: str, *former: str) -> None:
    """Say, as a worker does when it starts, what a handler is called and was called."""
    await place.store.load([Want(name, bytes(16), former=former)])


class NamingContract:
    """Part of the contract of a store."""

    async def test_what_a_former_name_has_is_found(self, make: MakePlace) -> None:
        """Settled, parked, gates, timers, memos; and by the former name again."""
        async with opened(make) as place:
            reopenable(place)
            await named(place, OLD)
            owned = await place.own()
            now = place.clock.now()
            await place.apply(
                owned,
                settle(1, handler=OLD),
                settle(2, Status.PARKED, parked=parked(now), handler=OLD),
                SetTimer(subject(3), now, OLD, b"", source(3)),
                Gate(GateKey("join", OLD, "flow"), 0, closed=False, members=b"m"),
                Remember(subject(2), f"{OLD}/call", Memo.INTENT, b""),
            )
        for name, former in ((NEW, (OLD,)), (OLD, ()), (NEW, (OLD,))):
            async with opened(make) as again:
                await named(again, name, *former)
                owned = await again.own()
                assert list(owned.held) == [(name, "chain")]
                assert await again.apply(owned, settle(1, handler=name)) is Applied.DUPLICATE
                key = GateKey("join", name, "flow")
                seen = await again.look(Want(name, subject(2), gates=(key,), memos=True))
                assert seen.status is Status.PARKED
                assert seen.gates[key].members == b"m"
                assert dict(seen.memos) == {"call": (Memo.INTENT, b"")}
                found, _ = await again.store.due(owned, skip=(), most=9)
                assert [one.handler for one in found] == [name, name]

    async def test_names_that_both_have_rows_become_one(self, make: MakePlace) -> None:
        """Where both have one of a subject, the heir's stands."""
        async with opened(make) as place:
            owned = await place.own()
            for number, handler, status in (
                (1, OLD, Status.VOID), (2, NEW, Status.DONE), (3, OLD, Status.VOID),
                (3, NEW, Status.DONE),
            ):  # fmt: skip
                await place.apply(owned, settle(number, status, handler=handler))
            heir = f"{GROUP}.heir"
            await named(place, heir, NEW, OLD)
            seen = [await place.status(n, handler=heir) for n in (1, 2, 3, 4)]
            assert seen == [Status.VOID, Status.DONE, Status.DONE, None]
