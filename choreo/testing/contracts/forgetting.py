"""What a store promises of rows that are old: which go, which stay, and what is known then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

from choreo.events import Partition, id_text
from choreo.plan import (
    Gate,
    GateKey,
    Memo,
    Owned,
    Passed,
    Plan,
    Remember,
    SetTimer,
    Source,
    Status,
)
from choreo.policies import Keep
from choreo.ports import Applied, Floor, Seen, Want
from choreo.testing.contracts.place import (
    GROUP,
    HANDLER,
    TOPIC,
    MakePlace,
    Place,
    opened,
    parked,
    publish,
    published,
    publishing,
    settle,
)

__all__ = ["ForgettingContract"]

KEEP = Keep(inbox_s=100.0, flow_s=1000.0, every_s=10.0)


def timed(number: int) -> bytes:
    """Make a subject that begins with a time, as those of our own events do."""
    return (1).to_bytes(6, "big") + b"\x80\x00\x80" + number.to_bytes(7, "big")


async def sent(place: Place, *values: str) -> None:
    """Publish values, each by a step of its own: asked twice, it is published once."""
    if not place.store.traits.publishes:
        await place.broker.publish([publish(value).record for value in values])
        return
    owned = await place.own(group="source")
    for value in values:
        step = settle(0, handler="source.give")._replace(subject=value.encode().rjust(16))
        await place.apply(owned, step, publish(value))


async def passed(place: Place, owned: Owned, offsets: Mapping[Partition, int]) -> None:
    """Tell a store that can not see the log how far the group has come in it."""
    ends = await place.broker.ends([TOPIC.name])
    plans = [
        Plan(owned, (Passed(partition, offset, ends[partition]),))
        for partition, offset in offsets.items()
    ]
    assert set(await place.store.apply(plans)) == {Applied.DONE}


async def taken(place: Place, owned: Owned, values: Sequence[str]) -> list[Source]:
    """Publish values, and have the group read them; say where each came in."""
    await sent(place, *values)
    subscription = await place.broker.subscribe(GROUP, [TOPIC.name])
    found: dict[str, Source] = {}
    ends: dict[Partition, int] = {}
    async with asyncio.timeout(20):
        while len(found) < len(values):
            for record in await subscription.poll(100):
                found[record.value.decode()] = Source(record.topic, record.partition, record.offset)
                ends[Partition(record.topic, record.partition)] = record.offset + 1
    await subscription.commit(ends)
    await subscription.close()
    await passed(place, owned, ends)
    return [found[value] for value in values]


async def swept(place: Place, keep: Keep = KEEP) -> None:
    """Prune to the end, if it is time to."""
    while await place.store.prune(GROUP, keep, most=3):
        pass


async def seen(place: Place, subject: bytes, source: Source | None = None) -> Seen:
    """Load one delivery's rows."""
    return await place.look(Want(HANDLER, subject, source=source))


class ForgettingContract:
    """Part of the contract of a store."""

    async def test_what_was_settled_is_forgotten_in_time(self, make: MakePlace) -> None:
        """Not before, and the floor tells of it; what waits or is dead stays."""
        async with opened(make) as place:
            owned = await place.own()
            old = await taken(place, owned, [f"{n}" for n in range(12)])
            states = (Status.DONE, Status.VOID, Status.PARKED, Status.DEAD)
            for n, source in enumerate(old):
                status = states[n % 4]
                kept = parked(None, chain="") if n % 4 > 1 else None
                change = settle(0, status, parked=kept, at=source)._replace(subject=timed(n))
                assert await place.apply(owned, change) is Applied.DONE
            await swept(place)  # marks where the log ends
            marked = place.clock.now()
            (young,) = await taken(place, owned, ["young"])
            await place.apply(owned, settle(0, at=young)._replace(subject=timed(99)))
            await place.clock.advance(99)
            await swept(place)
            assert (await seen(place, timed(0))).status is Status.DONE
            assert (await seen(place, timed(55), old[0])).floor is None
            await place.clock.advance(11)
            await swept(place)
            for n, source in enumerate(old):
                row = await seen(place, timed(n), source)
                assert row.status is (None if n % 4 < 2 else states[n % 4])  # noqa: PLR2004
                if row.status is None:
                    assert row.floor is not None
                    assert row.floor.offset >= source.offset
                    assert row.floor == Floor(row.floor.offset, marked)
            assert (await seen(place, timed(99))).status is Status.DONE
            above = await seen(place, timed(100), young)
            assert above.floor is not None
            assert above.floor.offset < young.offset
            assert (await seen(place, timed(100))).floor is None

    async def test_what_the_group_has_not_read_past_is_not_forgotten(self, make: MakePlace) -> None:
        """However old it is: it may come again."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(None, publish("unread"))
            source = Source(TOPIC.name, 0, 1)
            await place.apply(owned, settle(0, at=source)._replace(subject=timed(1)))
            for _ in range(4):
                await swept(place)
                await place.clock.advance(1000)
            row = await seen(place, timed(1), source)
            assert (row.status, row.floor) == (Status.DONE, None)
            assert (await seen(place, timed(2), source)).floor is None

    async def test_an_id_without_a_time_is_remembered_for_as_long_as_a_flow(
        self, make: MakePlace
    ) -> None:
        """A caller's own key may be used again at any time."""
        async with opened(make) as place:
            owned = await place.own()
            (source,) = await taken(place, owned, ["one"])
            await place.apply(owned, settle(7, at=source))
            await swept(place)
            for status in (Status.DONE, None):
                await place.clock.advance(900)
                await swept(place)
                assert await place.status(7) is status

    async def test_gates_and_calls_are_kept_as_long_as_a_flow(self, make: MakePlace) -> None:
        """And longer while a call, a timer or an undo is open."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(None, publish("so that the log has an end"))
            now = place.clock.now()
            effect = timed(5)
            texts = {
                "old": b"",
                "odd": b"no JSON",
                "call": {"intents": ["x"]},
                "timer": {"timers": [timed(4).hex()]},
                "undo": {"effects": {id_text(effect): {}}},
            }
            for scope, kept in texts.items():
                members = kept if isinstance(kept, bytes) else json.dumps(kept).encode()
                gate = Gate(GateKey("undo", HANDLER, scope), 0, closed=True, members=members)
                assert await place.apply(owned, gate) is Applied.DONE
            waiting = settle(0, Status.PARKED, parked=parked(None, chain=""))
            await place.apply(
                owned,
                waiting._replace(subject=effect),
                waiting._replace(subject=timed(6)),
                SetTimer(timed(4), now + 1e6, HANDLER, b"", Source(TOPIC.name, 0, 1)),
                Remember(timed(1), f"{HANDLER}/known", Memo.RESULT, b"r"),
                Remember(timed(2), f"{HANDLER}/unknown", Memo.INTENT, b""),
                Remember(timed(6), f"{HANDLER}/parked", Memo.RESULT, b"r"),
            )
            await swept(place)
            await place.clock.advance(900)
            await place.apply(None, publish("later"))
            young = Gate(GateKey("undo", HANDLER, "young"), 0, closed=True, members=b"")
            await place.apply(owned, young)
            for gone in (False, True):
                await swept(place)
                keys = {scope: GateKey("undo", HANDLER, scope) for scope in (*texts, "young")}
                gates = (await place.look(Want(HANDLER, timed(1), tuple(keys.values())))).gates
                left = {scope for scope, key in keys.items() if gates[key].seq}
                assert left == ({"call", "timer", "undo", "young"} if gone else set(keys))
                memos = [
                    set((await place.look(Want(HANDLER, timed(n), memos=True))).memos)
                    for n in (1, 2, 6)
                ]
                assert memos == [set() if gone else {"known"}, {"unknown"}, {"parked"}]
                await place.clock.advance(200)

    async def test_a_sweep_begins_now_and_then(self, make: MakePlace) -> None:
        """Whoever asks before `every_s` have passed is sent away."""
        async with opened(make) as place:
            keep = Keep(inbox_s=100.0, flow_s=1000.0, every_s=500.0)
            owned = await place.own()
            (source,) = await taken(place, owned, ["one"])
            await place.apply(owned, settle(0, at=source)._replace(subject=timed(1)))
            for delay_s, status in ((0, Status.DONE), (499, Status.DONE), (1, None)):
                await place.clock.advance(delay_s)
                await swept(place, keep)
                assert (await seen(place, timed(1))).status is status

    async def test_records_go_once_they_were_read_and_no_position_is_given_twice(
        self, make: MakePlace
    ) -> None:
        """Only where a store shares its file with the log; one record always stays."""
        async with opened(make) as place:
            publishing(place)
            keep = Keep(100.0, 1000.0, log_s=50.0, every_s=10.0)
            owned = await place.own()
            old = await taken(place, owned, ["a", "b", "c"])
            await swept(place, keep)
            await place.clock.advance(60)
            await swept(place, keep)
            assert await published(place) == ["c"]
            await sent(place, "unread")
            await swept(place, keep)
            await place.clock.advance(60)
            await swept(place, keep)
            assert await published(place) == ["unread"]
            (new,) = await taken(place, owned, ["d"])
            assert new.offset == old[-1].offset + 2
