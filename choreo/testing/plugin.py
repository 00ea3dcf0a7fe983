"""A pytest plugin: `pytest_plugins = ["choreo.testing.plugin"]` gives the fixture `simulated`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from choreo.testing.simulation import World, simulate

__all__ = ["simulated"]


def _entered(stack: ExitStack, *services: object, **told: object) -> World:
    return stack.enter_context(simulate(*services, **told))  # type: ignore[arg-type]


@pytest.fixture
def simulated() -> Iterator[Callable[..., World]]:
    """Give `simulate`, whose worlds end with the test."""
    with ExitStack() as stack:
        yield partial(_entered, stack)
