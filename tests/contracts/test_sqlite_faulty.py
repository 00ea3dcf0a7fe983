"""The contracts once more, over a deployment that fails by a seed and a client that asks again.

Word for word: what is refused, late, given twice or told to have failed changes nothing for a
caller who calls again. Only a record that no step publishes may be there twice, when its
answer was lost: nothing tells it from another one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.errors import BrokerUnavailableError, StoreUnavailableError
from choreo.events import Partition, Record
from choreo.plan import Status
from choreo.ports import Applied, Topic
from choreo.testing import (
    CALM,
    BrokerContract,
    Faults,
    FaultyBroker,
    FaultyStore,
    MakeBroker,
    MakePlace,
    ManualClock,
    Place,
    StoreContract,
)
from choreo.testing.contracts.outbox import OutboxContract
from choreo.testing.contracts.place import opened, publish, published, settle
from tests.contracts.retrying import RetryingBroker, RetryingStore, Unheard, until_answered

ONE = Topic("contract.one", 1)
HERE = Partition(ONE.name, 0)
BROKER = Faults(refused=0.3, ack_lost=0, delayed=0.3, repeated=0.3, commit_lost=0, repeated_max=4)
STORE = Faults(refused=0.2, ack_lost=0.5, delayed=0.3)


WHOLE = 100
"""So many tests are the contracts as a whole, not some that were picked."""


class Fired:
    """What has fired in all tests of this module."""

    def __init__(self) -> None:
        self.made: list[FaultyBroker | FaultyStore] = []
        self.tests = 0

    def missing(self, faulty: type, faults: str, verbs: str) -> list[tuple[str, str]]:
        found = Counter[tuple[str, str]]()
        for one in self.made:
            if isinstance(one, faulty):
                found += one.fired
        pairs = [(fault, verb) for fault in faults.split() for verb in verbs.split()]
        return [pair for pair in pairs if not found[pair]]


@pytest.fixture(scope="module")
def fired() -> Iterator[Fired]:
    fired = Fired()
    yield fired
    if fired.tests >= WHOLE:
        verbs = "publish subscribe read ensure poll commit"
        assert not fired.missing(FaultyBroker, "refused delayed", verbs)
        assert not fired.missing(FaultyBroker, "repeated", "poll")
        verbs = "own load apply due unsent transaction"
        assert not fired.missing(FaultyStore, "refused delayed", verbs)
        assert not fired.missing(FaultyStore, "ack_lost", "own apply transaction")


@pytest.fixture(params=[1, 2])
def chance(request: pytest.FixtureRequest) -> Random:
    return Random(request.param)


class TestSqliteFaultyBroker(BrokerContract):
    @pytest.fixture
    def make(self, tmp_path: Path, chance: Random, fired: Fired) -> MakeBroker:
        fired.tests += 1

        async def make() -> RetryingBroker:
            inner = SqliteBroker(Log(Database(tmp_path / "choreo.db")))
            faulty = FaultyBroker(inner, seed=chance.getrandbits(32), faults=BROKER)
            fired.made.append(faulty)
            return RetryingBroker(faulty)

        return make


class TestSqliteFaultyStore(StoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path, chance: Random, fired: Fired) -> MakePlace:
        fired.tests += 1
        clock = ManualClock()

        async def make() -> Place:
            log = Log(Database(tmp_path / "choreo.db"))
            unheard = Unheard()
            inner = SqliteStore(log, clock=clock)
            seed = chance.getrandbits(32)
            faulty = FaultyStore(inner, seed=seed, faults=STORE, unheard=unheard)
            fired.made.append(faulty)
            return Place(RetryingStore(faulty, unheard), SqliteBroker(log), clock)

        return make

    async def test_a_plan_of_nobody_is_written(self, make: MakePlace) -> None:
        """At least once: nothing in it can be compared."""
        async with opened(make) as place:
            assert await place.apply(None, publish("root")) is Applied.DONE
            assert set(await published(place)) == {"root"}


class TestSqliteFaultyOutbox(OutboxContract):
    @pytest.fixture
    def make(self, tmp_path: Path, chance: Random, fired: Fired) -> MakePlace:
        clock = ManualClock()

        async def make() -> Place:
            unheard = Unheard()
            log = Log(Database(tmp_path / "store.db"))
            inner = SqliteStore(log, clock=clock, publishes=False)
            seed = chance.getrandbits(32)
            faulty = FaultyStore(inner, seed=seed, faults=STORE, unheard=unheard)
            fired.made.append(faulty)
            broker = SqliteBroker(Log(Database(tmp_path / "log.db")))
            return Place(RetryingStore(faulty, unheard), broker, clock)

        return make


# ── what the faults themselves are ───────────────────────────────────────────────────────


def record(n: int) -> Record:
    return Record(ONE.name, b"k", {"ce_id": str(n)}, str(n).encode())


async def opened_log(path: Path, faults: Faults, seed: int = 1) -> FaultyBroker:
    """Open a log with a topic of one partition; nothing fails before it is there."""
    broker = FaultyBroker(SqliteBroker(Log(Database(path))), seed=seed, faults=CALM)
    await broker.ensure([ONE])
    broker.faults = faults
    return broker


async def numbers(broker: FaultyBroker) -> list[int]:
    broker.faults = CALM
    return [int(one.value) async for batch in broker.read([ONE.name]) for one in batch]


async def test_what_is_refused_was_not_done(tmp_path: Path) -> None:
    broker = await opened_log(tmp_path / "choreo.db", replace(CALM, refused=1))
    with pytest.raises(BrokerUnavailableError) as caught:
        await broker.publish([record(1)])
    assert caught.value.transient
    assert broker.fired == {("refused", "publish"): 1}
    assert await numbers(broker) == []
    await broker.close()


async def test_what_was_done_may_be_told_to_have_failed(tmp_path: Path) -> None:
    """Published again, it is there again: as a whole, in order, and nothing between."""
    broker = await opened_log(tmp_path / "choreo.db", replace(CALM, ack_lost=0.5))
    for n in range(0, 60, 3):
        batch = [record(n + i) for i in range(3)]
        await until_answered(partial(broker.publish, batch))
    lost = broker.fired["ack_lost", "publish"]
    assert lost > 3
    seen = await numbers(broker)
    assert len(seen) == 60 + 3 * lost
    assert list(dict.fromkeys(seen)) == list(range(60))
    assert all(seen[n : n + 3] == [seen[n] + i for i in range(3)] for n in range(0, len(seen), 3))
    await broker.close()


async def test_what_is_repeated_was_given_before_and_is_in_order(tmp_path: Path) -> None:
    """Each stretch goes on without a gap, never before what was committed."""
    broker = await opened_log(tmp_path / "choreo.db", replace(CALM, repeated=0.4))
    await broker.publish([record(n) for n in range(100)])
    subscription = await broker.subscribe("group", [ONE.name])
    seen: list[int] = []
    committed = -1
    while 99 not in seen:
        for one in await subscription.poll(7):
            n = int(one.value)
            assert committed < n <= max(seen, default=-1) + 1
            assert not seen or n <= seen[-1] + 1
            seen.append(n)
        if len(seen) % 3 == 0:
            committed = seen[-1]
            await subscription.commit({HERE: one.offset + 1})
    assert sorted(set(seen)) == list(range(100))
    assert len(seen) > 100
    assert broker.fired["repeated", "poll"] > 3
    await broker.close()


async def test_a_lost_commit_is_found_out_by_the_next_member_only(tmp_path: Path) -> None:
    path = tmp_path / "choreo.db"
    broker = await opened_log(path, replace(CALM, commit_lost=1))
    await broker.publish([record(n) for n in range(4)])
    subscription = await broker.subscribe("group", [ONE.name])
    (*_, last) = await subscription.poll(9)
    await subscription.commit({HERE: last.offset + 1})
    assert broker.fired == {("commit_lost", "commit"): 1}
    await broker.close()
    broker = await opened_log(path, CALM)
    again = await broker.subscribe("group", [ONE.name])
    assert [int(one.value) for one in await again.poll(9)] == [0, 1, 2, 3]
    await broker.close()


async def test_a_poll_whose_answer_is_lost_loses_no_record(tmp_path: Path) -> None:
    broker = await opened_log(tmp_path / "choreo.db", CALM)
    await broker.publish([record(n) for n in range(30)])
    subscription = await broker.subscribe("group", [ONE.name])
    broker.faults = replace(CALM, ack_lost=0.7)
    seen: list[int] = []
    while len(seen) < 30:
        seen += [int(one.value) for one in await until_answered(lambda: subscription.poll(4))]
    assert seen == list(range(30))
    assert broker.fired["ack_lost", "poll"] > 3
    await broker.close()


async def test_an_unknown_commit_was_one(tmp_path: Path) -> None:
    """Told either way, raised or in the plans' places; asked again, it is a duplicate."""
    told: set[str] = set()
    for seed in range(8):
        log = Log(Database(tmp_path / f"{seed}.db"))
        faults = replace(CALM, ack_lost=1)
        store = FaultyStore(SqliteStore(log, clock=ManualClock()), seed=seed, faults=CALM)
        place = Place(store, SqliteBroker(log), ManualClock())
        await place.broker.ensure([Topic("contract.orders", 4)])
        owned = await place.own()
        store.faults = faults
        try:
            result = await place.apply(owned, settle(1), publish("once"))
        except StoreUnavailableError:
            told.add("raised")
        else:
            assert isinstance(result, StoreUnavailableError)
            told.add("in its place")
        assert store.fired == {("ack_lost", "apply"): 1}
        store.faults = CALM
        assert await place.status(1) is Status.DONE
        assert await place.apply(owned, settle(1), publish("once")) is Applied.DUPLICATE
        assert await published(place) == ["once"]
        await place.close()
    assert told == {"raised", "in its place"}


async def test_the_same_seed_fails_the_same_way(tmp_path: Path) -> None:
    """As far as the calls come in the same order."""
    histories = []
    for turn in range(2):
        broker = await opened_log(tmp_path / f"{turn}.db", Faults(refused=0.3, ack_lost=0.3), 7)
        answers = []
        for n in range(50):
            try:
                await broker.publish([record(n)])
            except BrokerUnavailableError as exc:
                answers.append(exc.what)
            else:
                answers.append("done")
        histories.append((answers, broker.fired, await numbers(broker)))
        await broker.close()
    assert histories[0] == histories[1]
    assert len(set(histories[0][0])) == 3
