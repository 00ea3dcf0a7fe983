"""Who has no partition at first takes its own over later, whatever the store does meanwhile."""

from choreo.testing import Faults
from choreo.testing.simulation import Case, Crash, Plan, Trial, run_all
from tests.simulation.desk import careful, orders, scenario


def test_partitions_that_come_later_are_taken_over_although_the_store_does_not_answer() -> None:
    """A process that starts again within its forerunner's session has none at first."""
    faults = Faults(refused=0.04, ack_lost=0, delayed=0, repeated=0, commit_lost=0)
    crashed = Plan((Crash("payments", 20),))
    outcomes = list(
        run_all(
            Trial([orders, careful], scenario, faults),
            [Case(n, crashed) for n in range(1, 61)],
            workers=2,
        )
    )
    assert all(one.faults["crash"] == 1 for one in outcomes)
    assert [one.violations for one in outcomes if one.violations] == []
