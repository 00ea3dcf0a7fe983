"""An audit sees all that SQLite keeps: in one file, in memory, and beside another log."""

from pathlib import Path

import pytest

from choreo.testing import MakePlace, ShowingContract
from tests.contracts.test_sqlite import MEMORY, place_beside, place_over


class TestSqliteFile(ShowingContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakePlace:
        return place_over(tmp_path / "choreo.db")


class TestSqliteMemory(ShowingContract):
    @pytest.fixture
    def make(self) -> MakePlace:
        return place_over(MEMORY)


class TestSqliteBeside(ShowingContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakePlace:
        return place_beside(tmp_path)
