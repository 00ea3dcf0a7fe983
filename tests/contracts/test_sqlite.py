"""The embedded deployment keeps what the ports promise: in a file, and in memory."""

from pathlib import Path

import pytest

from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.testing import (
    BrokerContract,
    MakeBroker,
    MakePlace,
    ManualClock,
    Place,
    StoreContract,
)

MEMORY = ":memory:"


def broker_over(path: str | Path) -> MakeBroker:
    async def make() -> SqliteBroker:
        return SqliteBroker(Log(Database(path)))

    return make


def place_beside(folder: Path | None) -> MakePlace:
    """Make stores that publish nothing, in a file of their own or in memory, beside a log."""
    clock = ManualClock()

    async def make() -> Place:
        paths = (MEMORY, MEMORY) if folder is None else (folder / "store.db", folder / "log.db")
        store, log = (Log(Database(path)) for path in paths)
        return Place(SqliteStore(store, clock=clock, publishes=False), SqliteBroker(log), clock)

    return make


def place_over(path: str | Path) -> MakePlace:
    clock = ManualClock()

    async def make() -> Place:
        log = Log(Database(path))
        return Place(SqliteStore(log, clock=clock), SqliteBroker(log), clock)

    return make


class TestSqliteFileBroker(BrokerContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakeBroker:
        return broker_over(tmp_path / "choreo.db")


class TestSqliteMemoryBroker(BrokerContract):
    @pytest.fixture
    def make(self) -> MakeBroker:
        return broker_over(MEMORY)


class TestSqliteFileStore(StoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakePlace:
        return place_over(tmp_path / "choreo.db")


class TestSqliteFileOutboxStore(StoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakePlace:
        return place_beside(tmp_path)


class TestSqliteMemoryOutboxStore(StoreContract):
    @pytest.fixture
    def make(self) -> MakePlace:
        return place_beside(None)


class TestSqliteMemoryStore(StoreContract):
    @pytest.fixture
    def make(self) -> MakePlace:
        return place_over(MEMORY)
