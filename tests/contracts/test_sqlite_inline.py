"""The store of the simulated deployment, run inline, keeps what the port promises."""

from itertools import count

import pytest

from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.sqlite.inline import Disk, InlineDatabase
from choreo.testing import MakePlace, ManualClock, Place, StoreContract


@pytest.mark.blocks("the store in memory does everything on the loop: that is its use")
class TestSqliteInlineStore(StoreContract):
    @pytest.fixture
    def make(self) -> MakePlace:
        clock, numbers = ManualClock(), count(1)

        async def make() -> Place:
            database = InlineDatabase(Disk(), f"process-{next(numbers)}")
            store = SqliteStore(Log(database), clock=clock, publishes=False)
            return Place(store, SqliteBroker(Log(Database(":memory:"))), clock)

        return make
