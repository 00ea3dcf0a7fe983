"""Waves: a group split so that no wave names a row twice, and order per row stays."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from choreo.events import Record
from choreo.plan import (
    CancelTimer,
    Gate,
    GateKey,
    Memo,
    Plan,
    Publish,
    Remember,
    SaveState,
    SetTimer,
    Settle,
    Source,
    Status,
    rows_of,
    waves,
)

HERE = Source("unit.orders", 0, 1)
SUBJECTS = st.sampled_from([bytes([n]) * 16 for n in range(3)])
NAMES = st.sampled_from(["a", "b"])
CHANGES = st.one_of(
    st.builds(lambda h, s: Settle(h, s, Status.DONE, b"", HERE), NAMES, SUBJECTS),
    st.builds(lambda k, n: Gate(GateKey(k, n, "f"), 0, closed=False, members=b""), NAMES, NAMES),
    st.builds(lambda t, k: SaveState(t, k, 0, b""), NAMES, NAMES),
    st.builds(lambda s, n: Remember(s, n, Memo.INTENT, b""), SUBJECTS, NAMES),
    st.builds(lambda i: SetTimer(i, 1.0, "h", b"", HERE), SUBJECTS),
    st.builds(CancelTimer, SUBJECTS),
    st.builds(lambda: Publish(Record("unit.orders", None, {}, b""))),
)
PLAN = st.lists(CHANGES, max_size=4).map(lambda changes: Plan(None, tuple(changes)))
PLANS = st.lists(PLAN, max_size=20)


@given(PLANS)
def test_every_plan_is_in_one_wave(plans: list[Plan]) -> None:
    assert Counter(index for wave in waves(plans) for index in wave) == Counter(range(len(plans)))


@given(PLANS)
def test_no_wave_names_a_row_twice_and_none_is_empty(plans: list[Plan]) -> None:
    for wave in waves(plans):
        assert wave
        rows = [row for index in wave for row in set(rows_of(plans[index]))]
        assert len(rows) == len(set(rows))


@given(PLANS)
def test_plans_of_one_row_keep_their_order(plans: list[Plan]) -> None:
    wave_of = {index: number for number, wave in enumerate(waves(plans)) for index in wave}
    for later, plan in enumerate(plans):
        for earlier in range(later):
            if set(rows_of(plans[earlier])) & set(rows_of(plan)):
                assert wave_of[earlier] < wave_of[later]


@given(PLANS)
def test_there_are_no_more_waves_than_rows_demand(plans: list[Plan]) -> None:
    for number, wave in enumerate(waves(plans)):
        assert wave == sorted(wave)
        before = {row for index in waves(plans)[number - 1] for row in rows_of(plans[index])}
        for index in wave if number else ():
            assert set(rows_of(plans[index])) & before


def test_a_group_without_common_rows_is_one_wave() -> None:
    plans = [Plan(None, (CancelTimer(bytes([n]) * 16),)) for n in range(100)]
    assert waves(plans) == [list(range(100))]
    assert waves([]) == []


def test_a_record_is_no_row() -> None:
    same = Publish(Record("unit.orders", b"k", {}, b""))
    assert waves([Plan(None, (same,)), Plan(None, (same,))]) == [[0, 1]]
