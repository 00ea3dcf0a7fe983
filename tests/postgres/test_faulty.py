"""The contract once more, through a store that fails by a seed, and plans of any changes."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings

from choreo.adapters.postgres import PostgresStore
from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.ports import Applied
from choreo.testing import Faults, FaultyStore, MakePlace, ManualClock, Place, StoreContract
from choreo.testing.contracts.place import opened, publish, published
from tests.contracts.retrying import RetryingStore, Unheard
from tests.contracts.test_store_stateful import OutboxMachine
from tests.postgres.database import database

FAULTS = Faults(refused=0.2, ack_lost=0.5, delayed=0.3)


@pytest.fixture(scope="module")
def made() -> Iterator[list[FaultyStore]]:
    made: list[FaultyStore] = []
    yield made
    if len(made) > 80:  # the contract as a whole
        fired = {fault for one in made for fault in one.fired}
        verbs = ("own", "load", "apply", "due", "unsent", "transaction")
        assert {("refused", verb) for verb in verbs} <= fired
        assert {("ack_lost", verb) for verb in ("own", "apply", "transaction")} <= fired


class TestPostgresFaultyStore(StoreContract):
    @pytest.fixture
    def make(self, url: str, tmp_path: Path, made: list[FaultyStore]) -> MakePlace:
        clock, chance = ManualClock(), Random(1)

        async def make() -> Place:
            unheard = Unheard()
            seed = chance.getrandbits(32)
            inner = PostgresStore(url, clock=clock)
            faulty = FaultyStore(inner, seed=seed, faults=FAULTS, unheard=unheard)
            made.append(faulty)
            broker = SqliteBroker(Log(Database(tmp_path / "log.db")))
            return Place(RetryingStore(faulty, unheard), broker, clock)

        return make

    async def test_a_plan_of_nobody_is_written(self, make: MakePlace) -> None:
        """At least once: nothing in it can be compared."""
        async with opened(make) as place:
            assert await place.apply(None, publish("root")) is Applied.DONE
            assert set(await published(place)) == {"root"}


class PostgresMachine(OutboxMachine):
    """A store in PostgreSQL and the model, side by side."""

    def open(self) -> None:
        if not hasattr(self, "stack"):
            self.stack = ExitStack()
            self.url = self.stack.enter_context(database())
        broker = SqliteBroker(self.log("log.db"))
        self.place = Place(PostgresStore(self.url, clock=self.clock), broker, self.clock)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "stack"):
            self.stack.close()


TestPostgres = PostgresMachine.TestCase
TestPostgres.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)
