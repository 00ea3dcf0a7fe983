"""Each test here has a database of its own, on one server for all of them."""

from collections.abc import Iterator

import pytest

from tests.postgres.database import database


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url
