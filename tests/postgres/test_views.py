"""Views keep what the port promises: in PostgreSQL, fed by several."""

import asyncio

import pytest
from hypothesis import given, settings

from choreo.adapters.postgres.views import PostgresViewStore
from choreo.errors import StoreError
from choreo.events import Record
from choreo.testing import MakeViews, ViewStoreContract
from tests.postgres.database import database, server
from tests.unit.test_tracker_shared import assert_same_views, shares

DROP = """
DROP TABLE IF EXISTS choreo.view_state, choreo.view_mark, choreo.view_shape, choreo.view_fact,
    choreo.view_flow, choreo.view_manifest, choreo.view_ending
"""


class TestPostgresViews(ViewStoreContract):
    @pytest.fixture
    def make(self, url: str) -> MakeViews:
        server().run(DROP, url=url)

        async def make() -> PostgresViewStore:
            return PostgresViewStore(url)

        return make


async def test_tables_of_an_older_version_are_made_anew(url: str) -> None:
    await asyncio.to_thread(server().run, DROP, url=url)
    views = PostgresViewStore(url)
    await views.position()
    await views.close()
    for sql in (
        "UPDATE choreo.view_state SET version = 0, position = 7",
        "DELETE FROM choreo.view_state",
    ):
        await asyncio.to_thread(server().run, sql, url=url)
        views = PostgresViewStore(url)
        assert await views.position() == (0, "", {})
        await views.close()


async def test_tables_of_a_newer_version_are_left_alone(url: str) -> None:
    await asyncio.to_thread(server().run, DROP, url=url)
    views = PostgresViewStore(url)
    await views.position()
    await views.close()
    await asyncio.to_thread(server().run, "UPDATE choreo.view_state SET version = 99", url=url)
    views = PostgresViewStore(url)
    with pytest.raises(StoreError) as caught:
        await views.position()
    assert caught.value.code == "CH4005"
    assert "99" in str(caught.value)
    await views.close()
    await asyncio.to_thread(server().run, DROP, url=url)


@settings(max_examples=15, deadline=None)
@given(drawn=shares())
def test_any_split_order_and_repetition_gives_the_same_views(
    drawn: tuple[list[Record], list[tuple[int, list[Record]]]],
) -> None:
    with database() as url:
        server().run(DROP, url=url)
        asyncio.run(assert_same_views(PostgresViewStore(url), *drawn))
