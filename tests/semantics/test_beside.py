"""What the semantics promise holds with the store beside the log, and a relay between them.

With CHOREO_TEST_BESIDE=1 every test of these modules; else those that tell most.
"""

import os
from pathlib import Path
from types import ModuleType

import pytest

from tests.semantics import (
    test_attempts,
    test_compensation,
    test_hold,
    test_join,
    test_once,
    test_spill,
    test_state,
    test_time,
    test_visits,
)
from tests.semantics.lab import Lab
from tests.semantics.test_state import migrations

__all__ = ["migrations"]

CHOSEN: dict[ModuleType, int] = {
    test_attempts: 6,
    test_compensation: 8,
    test_hold: 2,
    test_join: 6,
    test_once: 4,
    test_spill: 3,
    test_state: 3,
    test_time: 5,
    test_visits: 2,
}
"""Of each module so many, spread evenly over it."""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, beside=True)


def chosen(module: ModuleType, most: int) -> dict[str, object]:
    """Pick tests of a module, each under its own name and the module's."""
    names = [name for name in vars(module) if name.startswith("test_")]
    if not os.environ.get("CHOREO_TEST_BESIDE"):
        names = names[:: max(len(names) // most, 1)][:most]
    short = module.__name__.rsplit(".", 1)[-1]
    return {f"{short}_{name.removeprefix('test_')}": getattr(module, name) for name in names}


for _module, _most in CHOSEN.items():
    globals().update(chosen(_module, _most))
