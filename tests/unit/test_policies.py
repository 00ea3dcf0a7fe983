"""Policies: the decision is a value, and it stays within what was said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.errors import ConfigurationError
from choreo.policies import UNKNOWN_OUTCOME, Retry

SECONDS = st.floats(0, 1e6)
DRAWS = st.floats(0, 1, exclude_max=True)
POLICIES = st.builds(
    Retry,
    attempts_max=st.integers(1, 100),
    first_s=SECONDS,
    factor=st.floats(1, 1e4),
    jitter=st.floats(0, 1),
    longest_s=SECONDS,
)


@given(POLICIES, st.integers(1, 10_000), DRAWS)
def test_a_delay_lies_within_its_bounds(policy: Retry, attempt: int, draw: float) -> None:
    delay_s = policy.delay_s(attempt, draw)
    assert 0 <= delay_s <= policy.longest_s * (1 + policy.jitter)
    assert delay_s == policy.delay_s(attempt, draw)


@given(POLICIES, st.integers(1, 200), DRAWS)
def test_delays_never_shrink_for_the_same_draw(policy: Retry, attempt: int, draw: float) -> None:
    assert policy.delay_s(attempt, draw) <= policy.delay_s(attempt + 1, draw)


def test_delays_follow_the_schedule() -> None:
    plain = Retry(first_s=1, factor=5, longest_s=60)
    assert [plain.delay_s(attempt, 0.9) for attempt in (1, 2, 3, 4, 5)] == [1, 5, 25, 60, 60]
    spread = Retry(first_s=10, factor=1, jitter=0.2)
    assert [spread.delay_s(1, draw) for draw in (0, 0.5, 0.75)] == [8, 10, 11]


def test_the_pace_of_unknown_outcomes_has_an_end_but_no_last() -> None:
    assert UNKNOWN_OUTCOME.delay_s(1_000_000, 0.5) == UNKNOWN_OUTCOME.longest_s


def test_what_is_named_in_never_is_not_tried_again() -> None:
    policy = Retry(never=(LookupError,))
    assert not policy.retryable(KeyError("x"))
    assert policy.retryable(ValueError("x"))
    assert Retry().retryable(BaseException())


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts_max": 0},
        {"attempts_max": -1},
        {"first_s": -0.1},
        {"factor": 0.99},
        {"factor": 0},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": float("nan")},
        {"longest_s": -1},
    ],
)
def test_a_value_that_makes_no_schedule_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Retry(**wrong)  # type: ignore[arg-type]
    assert caught.value.code == "CH1011"
    assert next(iter(wrong)) in caught.value.what


@pytest.mark.parametrize("field", ["first_s", "factor", "longest_s"])
def test_a_value_that_is_no_number_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError):
        Retry(**{field: float("nan")})  # type: ignore[arg-type]


def test_a_steep_schedule_ends_at_its_longest() -> None:
    assert Retry(factor=1e6).delay_s(100, 0.5) == Retry().longest_s
