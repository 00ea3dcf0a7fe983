"""What a store promises of gates, keyed states and memos: compare, then set."""
# ruff: noqa: PLR2004 - these are tests: expected values are literal

from __future__ import annotations

import asyncio

from choreo.plan import Gate, GateKey, Memo, Plan, Remember, SaveState
from choreo.ports import Applied, GateSeen, Seen, StateSeen, Want
from choreo.testing.contracts.place import (
    HANDLER,
    MakePlace,
    Place,
    opened,
    publish,
    published,
    reopenable,
    settle,
    subject,
    want,
)

__all__ = ["GuardContract"]

KEY = GateKey("effects", "contract.undo", "flow/branch ✓")
STATE = ("contract.Basket", "order ✓ 1")
CHARGE = f"{HANDLER}/charge"


class GuardContract:
    """Part of the contract of a store."""

    # ── gates ────────────────────────────────────────────────────────────────────────────

    async def test_an_absent_gate_is_open_and_empty(self, make: MakePlace) -> None:
        """`load` answers for each gate that was asked for."""
        async with opened(make) as place:
            seen = await gates(place, KEY, KEY._replace(scope="other"))
            assert seen.gates[KEY] == GateSeen(0, closed=False, members=b"")
            assert len(seen.gates) == 2

    async def test_a_gate_is_written_as_it_was_seen(self, make: MakePlace) -> None:
        """Each write is seen by the next; its seq tells one from another."""
        async with opened(make) as place:
            owned = await place.own()
            seq, seqs = 0, [0]
            for number, members in enumerate((b"", b"\x00\xff", b"x" * (1 << 20))):
                change = Gate(KEY, seq, closed=bool(number), members=members)
                assert await place.apply(owned, settle(number), change) is Applied.DONE
                seen = (await gates(place, KEY)).gates[KEY]
                assert (seen.closed, seen.members) == (bool(number), members)
                seq = seen.seq
                seqs.append(seq)
            assert len(set(seqs)) == 4

    async def test_a_gate_that_changed_is_a_conflict(self, make: MakePlace) -> None:
        """Nothing of the plan is written; decided again on what is there, it goes through."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(owned, Gate(KEY, 0, closed=False, members=b"first"))
            seen = (await gates(place, KEY)).gates[KEY]
            for seq in (0, seen.seq - 1, seen.seq + 1):
                late = Gate(KEY, seq, closed=True, members=b"late")
                if seq != seen.seq:
                    result = await place.apply(owned, settle(1), publish("late"), late)
                    assert result is Applied.CONFLICT
            assert await place.status(1) is None
            assert (await gates(place, KEY)).gates[KEY] == seen
            again = Gate(KEY, seen.seq, closed=True, members=b"again")
            assert await place.apply(owned, settle(1), publish("again"), again) is Applied.DONE
            assert await published(place) == ["again"]

    async def test_of_two_in_one_group_the_second_conflicts(self, make: MakePlace) -> None:
        """Both decided on the same gate: one was first, and the other must look again."""
        async with opened(make) as place:
            owned = await place.own()
            change = Gate(KEY, 0, closed=False, members=b"")
            plans = [Plan(owned, (settle(n), publish(str(n)), change)) for n in range(3)]
            results = await place.store.apply(plans)
            assert results == [Applied.DONE, Applied.CONFLICT, Applied.CONFLICT]
            assert await published(place) == ["0"]

    async def test_gates_are_all_or_none(self, make: MakePlace) -> None:
        """One of a plan's gates that changed keeps the others as they were."""
        async with opened(make) as place:
            owned = await place.own()
            other = KEY._replace(name="contract.other")
            await place.apply(owned, Gate(other, 0, closed=True, members=b"taken"))
            for order in (1, -1):
                pair = (
                    Gate(KEY, 0, closed=True, members=b"x"),
                    Gate(other, 0, closed=True, members=b"x"),
                )[::order]
                assert await place.apply(owned, settle(1), *pair) is Applied.CONFLICT
            seen = (await gates(place, KEY, other)).gates
            assert seen[KEY] == GateSeen(0, closed=False, members=b"")
            assert seen[other].members == b"taken"

    async def test_a_duplicate_is_no_conflict(self, make: MakePlace) -> None:
        """A delivery that was settled stays settled, whatever its gates say by now."""
        async with opened(make) as place:
            owned = await place.own()
            changes = (settle(1), Gate(KEY, 0, closed=False, members=b""))
            assert await place.apply(owned, *changes) is Applied.DONE
            assert await place.apply(owned, *changes) is Applied.DUPLICATE

    async def test_counted_side_by_side_nothing_is_lost(self, make: MakePlace) -> None:
        """Many that each load, decide and apply until they win: every one is in the end there."""
        async with opened(make) as place:
            owned = await place.own()

            async def arrive(number: int) -> None:
                for _ in range(1000):
                    seen = (await gates(place, KEY)).gates[KEY]
                    members = seen.members + bytes([number])
                    change = Gate(KEY, seen.seq, closed=False, members=members)
                    if await place.apply(owned, settle(number), change) is Applied.DONE:
                        return
                raise AssertionError("it never won")

            async with asyncio.timeout(30):
                await asyncio.gather(*(arrive(number) for number in range(16)))
            assert sorted((await gates(place, KEY)).gates[KEY].members) == list(range(16))

    # ── keyed states ─────────────────────────────────────────────────────────────────────

    async def test_a_state_is_saved_as_it_was_seen(self, make: MakePlace) -> None:
        """Absent: version 0, no value. Each version is written once."""
        async with opened(make) as place:
            owned = await place.own()
            assert await state(place) == StateSeen(0, None)
            version = 0
            for number, value in enumerate((b"", b"{}", b"x" * (1 << 20))):
                change = SaveState(*STATE, version, value)
                assert await place.apply(owned, settle(number), change) is Applied.DONE
                again = await place.apply(owned, settle(50 + number), change)
                assert again is Applied.CONFLICT
                seen = await state(place)
                assert seen.value == value
                assert seen.version > version
                version = seen.version
            assert await place.status(50) is None

    async def test_states_are_told_apart_by_type_and_key(self, make: MakePlace) -> None:
        """And a want without one is given none."""
        async with opened(make) as place:
            owned = await place.own()
            for type_, key in (("a", "1"), ("a", "2"), ("b", "1")):
                value = f"{type_}{key}".encode()
                assert await place.apply(owned, SaveState(type_, key, 0, value)) is Applied.DONE
            seen = await place.store.load(
                [
                    *(want(1)._replace(state=pair) for pair in (("a", "2"), ("b", "1"))),
                    want(1)._replace(state=("b", "2")),
                    want(1),
                ]
            )
            found = [one.state.value if one.state else "none" for one in seen]
            assert found == [b"a2", b"b1", None, "none"]

    # ── memos ────────────────────────────────────────────────────────────────────────────

    async def test_the_first_result_is_the_result(self, make: MakePlace) -> None:
        """An intent before it, nothing after it: a later result, or intent, changes nothing."""
        async with opened(make) as place:
            owned = await place.own()
            assert await memos(place) == {}
            steps = (
                (Memo.INTENT, b"", (Memo.INTENT, b"")),
                (Memo.RESULT, b"first", (Memo.RESULT, b"first")),
                (Memo.RESULT, b"second", (Memo.RESULT, b"first")),
                (Memo.INTENT, b"", (Memo.RESULT, b"first")),
                (Memo.CLOSED, b"", (Memo.RESULT, b"first")),
            )
            for memo, result, stands in steps:
                written = await place.apply(owned, Remember(subject(1), CHARGE, memo, result))
                assert written in (Applied.DONE, Applied.CONFLICT)
                assert await memos(place) == {"charge": stands}

    async def test_a_closed_call_may_be_made_again(self, make: MakePlace) -> None:
        """Closed says that nothing happened: an intent and a result may follow."""
        async with opened(make) as place:
            owned = await place.own()
            for memo, result in (
                (Memo.INTENT, b""), (Memo.CLOSED, b""), (Memo.INTENT, b""), (Memo.RESULT, b"r"),
            ):  # fmt: skip
                change = Remember(subject(1), CHARGE, memo, result)
                assert await place.apply(owned, change) is Applied.DONE
                assert (await memos(place))["charge"] == (memo, result)

    async def test_memos_are_of_a_subject_and_a_handler(self, make: MakePlace) -> None:
        """Written as "handler/name", loaded by name for that handler, and only when wanted."""
        async with opened(make) as place:
            owned = await place.own()
            for number, name in (
                (1, CHARGE), (1, f"{HANDLER}/ship ✓/now"), (1, f"{HANDLER}.other/x"), (2, CHARGE),
            ):  # fmt: skip
                change = Remember(subject(number), name, Memo.RESULT, f"{number}{name}".encode())
                await place.apply(owned, change)
            assert set(await memos(place)) == {"charge", "ship ✓/now"}
            assert (await memos(place, 2))["charge"] == (Memo.RESULT, f"2{CHARGE}".encode())
            assert not (await place.look(want(1))).memos

    async def test_an_intent_outlives_a_stop(self, make: MakePlace) -> None:
        """That is what it is for; gates and states do as well."""
        async with opened(make) as place:
            reopenable(place)
            owned = await place.own()
            await place.apply(owned, Remember(subject(1), CHARGE, Memo.INTENT, b""))
            await place.apply(
                owned, Gate(KEY, 0, closed=True, members=b"m"), SaveState(*STATE, 0, b"s")
            )
            gate, saved = (await gates(place, KEY)).gates[KEY], await state(place)
        async with opened(make) as again:
            assert await memos(again) == {"charge": (Memo.INTENT, b"")}
            assert (await gates(again, KEY)).gates[KEY] == gate
            assert await state(again) == saved


async def gates(place: Place, *keys: GateKey) -> Seen:
    """Load gates."""
    return await place.look(Want(HANDLER, subject(1), gates=keys))


async def state(place: Place) -> StateSeen:
    """Load the state."""
    seen = (await place.look(want(1)._replace(state=STATE))).state
    assert seen is not None
    return seen


async def memos(place: Place, number: int = 1) -> dict[str, tuple[Memo, bytes]]:
    """Load the memos of a subject."""
    return dict((await place.look(want(number, memos=True))).memos)
