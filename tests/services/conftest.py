"""A shop for each test, in a folder of its own."""

from pathlib import Path

import pytest

from tests.services.shop import Shop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop that nothing was ordered in; the environment names its store."""
    monkeypatch.setenv("CHOREO_BROKER", f"sqlite:///{tmp_path / 'choreo.db'}")
    return Shop(tmp_path)
