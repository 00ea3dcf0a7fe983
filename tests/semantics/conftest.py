"""A laboratory for each test."""

from pathlib import Path

import pytest

from tests.semantics.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A laboratory in a folder of its own."""
    return Lab(tmp_path)
