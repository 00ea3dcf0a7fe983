"""A shop for each test, in a folder of its own, on the deployment that the test names."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.postgres.database import database
from tests.services.places import Files, Place, Places, Servers
from tests.services.shop import SERVICES, Shop


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    """Make places for shops: a file for each, unless the test runs `everywhere`."""
    kind = getattr(request, "param", "one file")
    with ExitStack() as stack:

        def made(name: str) -> Place:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            if kind != "servers":
                return Files(folder, beside=kind == "two files")
            kafka = request.getfixturevalue("kafka_server")
            url = stack.enter_context(database())
            return stack.enter_context(closing(Servers(folder, kafka.bootstrap, url, SERVICES)))

        yield made


@pytest.fixture
def place(places: Places) -> Place:
    """Where the shop of a test is."""
    return places("")


@pytest.fixture
def shop(place: Place, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop that nothing was ordered in; the environment names its deployment."""
    for name, value in place.settings.items():
        monkeypatch.setenv(name, value)
    return Shop(place.folder, at=place)
