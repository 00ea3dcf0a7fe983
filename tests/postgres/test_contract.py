"""PostgreSQL keeps what the port of a store promises."""

from pathlib import Path

import pytest

from choreo.adapters.postgres import PostgresStore
from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.testing import MakePlace, ManualClock, Place, ShowingContract, StoreContract


def place_over(url: str, path: Path) -> MakePlace:
    clock = ManualClock()

    async def make() -> Place:
        broker = SqliteBroker(Log(Database(path)))
        return Place(PostgresStore(url, clock=clock), broker, clock)

    return make


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def make(self, url: str, tmp_path: Path) -> MakePlace:
        return place_over(url, tmp_path / "log.db")


class TestPostgresShown(ShowingContract):
    @pytest.fixture
    def make(self, url: str, tmp_path: Path) -> MakePlace:
        return place_over(url, tmp_path / "log.db")
