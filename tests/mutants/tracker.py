"""Promises of the tracker, broken: what its views would lack, or tell twice."""

from tests.mutants.mutant import Mutant, Patch

__all__ = ["TRACKED"]

SHARED = "choreo/tracker/shared.py"
TRACKERS = "tests/unit/test_tracker_shared.py::"
VIEWS = "tests/contracts/test_views.py::TestSqliteViews::"

TRACKED = (
    Mutant(
        "holes in the views left",
        "views that were lost are filled again, whatever the group's offsets say",
        (
            Patch(
                SHARED, "if new and not await self._fill(new, subscription.assigned):", "if False:"
            ),
        ),
        (f"{TRACKERS}test_views_that_were_lost_are_filled_again",),
    ),
    Mutant(
        "batch of an older catalog taken",
        "rows are merged by what services declare now",
        (
            Patch(
                SHARED,
                "position = self._number + (ends is not None)",
                "position = self._number",
            ),
        ),
        (f"{TRACKERS}test_manifests_that_come_late_tell_old_flows_anew",),
    ),
    Mutant(
        "facts counted twice",
        "a record that is read twice is one fact",
        (
            Patch(
                "choreo/adapters/sqlite/views.py",
                'values, "ON CONFLICT DO NOTHING")',
                'values, "")',
            ),
        ),
        ("tests/unit/test_views.py::test_the_same_facts_again_change_nothing",),
    ),
    Mutant(
        "end before its root forgotten",
        "a view is a function of the set of facts",
        (
            Patch(
                "choreo/ports/merging.py",
                "if root is not None and end is not None and (root, end) not in ends:",
                "if end is not None and (root, end) not in ends:",
            ),
        ),
        (f"{VIEWS}test_the_order_of_batches_does_not_matter",),
    ),
    Mutant(
        "partition put in the order of its clock",
        "records of a partition are read in its order",
        (
            Patch(
                "choreo/adapters/kafka/aligning.py",
                "last = max(last, record.timestamp)",
                "last = record.timestamp",
            ),
        ),
        ("tests/kafka/test_reading.py::test_all_come_in_the_order_of_time_and_of_their_partition",),
    ),
    Mutant(
        "acknowledged before it is written",
        "a faust worker's own offsets are never ahead of the views",
        (
            Patch(
                "choreo/adapters/faust/subscription.py",
                "        while not self._closed:\n            ours",
                "        while False:\n            ours",
            ),
        ),
        ("tests/faust/test_adapter.py::test_an_agent_waits_until_its_records_are_committed",),
    ),
)
