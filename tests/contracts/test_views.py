"""Views keep what the port promises: in a SQLite file."""

from pathlib import Path

import pytest

from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.testing import MakeViews, ViewStoreContract


class TestSqliteViews(ViewStoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakeViews:
        async def make() -> SqliteViewStore:
            return SqliteViewStore(tmp_path / "views.db")

        return make
