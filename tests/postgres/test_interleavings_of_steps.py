"""Interleavings of whole steps, as an App meets them: told once, held on PostgreSQL too.

What two connections do to each other's rows stands in test_interleavings.py, an unknown COMMIT in
test_outages.py, a group with one bad plan also in the store's contract.
"""

from pathlib import Path

import pytest

from tests.postgres.lab import PostgresLab
from tests.semantics.test_interleavings import (
    test_a_failure_outcome_after_the_success_of_a_redelivery,
    test_a_group_with_one_bad_plan,
    test_a_redrive_after_otherwise,
    test_a_void_that_comes_while_the_action_runs,
    test_an_action_whose_outcome_is_unknown_when_its_attempts_end,
    test_one_trigger_three_effects,
    test_two_triggers_at_once,
)

__all__ = [
    "test_a_failure_outcome_after_the_success_of_a_redelivery",
    "test_a_group_with_one_bad_plan",
    "test_a_redrive_after_otherwise",
    "test_a_void_that_comes_while_the_action_runs",
    "test_an_action_whose_outcome_is_unknown_when_its_attempts_end",
    "test_one_trigger_three_effects",
    "test_two_triggers_at_once",
]


pytestmark = pytest.mark.blocks("a test looks into the database while the App runs")


@pytest.fixture
def lab(tmp_path: Path, url: str) -> PostgresLab:
    return PostgresLab(tmp_path, url=url)
