"""A bug that needs a fault to be seen is found, shrunk to that fault, told, and replayed."""

from choreo.testing import Faults
from choreo.testing.simulation import Case, Crash, Outcome, Plan, Trial, run_all
from tests.simulation.desk import careful, hasty, money, orders, scenario, single

FAULTS = Faults(
    refused=0.02, ack_lost=0.03, delayed=0.1, repeated=0.05, duplicate=0.05, crash=0.005
)
WRONG = Trial(
    [orders, hasty], scenario, faults=FAULTS, invariants=(money,),
    command=lambda seed: f"choreo simulate desk --seed {seed}",
)  # fmt: skip
RIGHT = Trial([orders, careful], scenario, faults=FAULTS, invariants=(money,))


def found() -> Outcome:
    outcomes = run_all(WRONG, [Case(seed) for seed in range(1, 41)])
    return next(one for one in outcomes if any(name == "money" for name, _ in one.violations))


def test_a_forgotten_refund_is_found_shrunk_told_and_replayed() -> None:
    outcome = found()
    assert WRONG.run(Case(outcome.seed)) == outcome
    plan, fewest = WRONG.shrunk(outcome)
    assert len(outcome.fired) > len(fewest.fired) == 1
    ((machine, _, fault),) = fewest.fired
    assert (machine, fault) in {("outside Bank", "ack_lost"), ("outside Bank", "silent")}
    told = WRONG.run(Case(outcome.seed, plan), story=True)
    assert told.violations[0][0] == "money"
    lines = told.story.splitlines()
    assert lines[0].startswith("✘ money: order desk-")
    assert any("⚡ ack_lost of outside Bank at take" in line for line in lines)
    assert any("capture → Declined" in line for line in lines)
    assert lines[-1].endswith(f"choreo simulate desk --seed {outcome.seed}")


def test_without_the_bug_nothing_is_found() -> None:
    outcomes = list(run_all(RIGHT, [Case(seed) for seed in range(1, 41)], workers=2))
    assert [one.violations for one in outcomes if one.violations] == []


def test_a_crash_at_each_await_of_a_flow() -> None:
    trial = Trial([orders, careful], single, invariants=(money,))
    cases = trial.crashes()
    assert {case.plan.crashes[0].service for case in cases} == {"orders", "payments"}
    outcomes = list(run_all(trial.calm(), cases, workers=2))
    assert [one.faults for one in outcomes] == [{"crash": 1}] * len(cases)
    assert [one.violations for one in outcomes if one.violations] == []
    assert len({one.history_hash for one in outcomes}) > 10


def test_a_crash_at_two_awaits() -> None:
    trial = Trial([orders, careful], single, invariants=(money,)).calm()
    every = trial.crashes(pairs=True)
    outcomes = list(run_all(trial, every[:: len(every) // 60], workers=2))
    assert [one.violations for one in outcomes if one.violations] == []
    assert any(one.faults == {"crash": 2} for one in outcomes)


def test_a_crash_by_plan_comes_where_it_is_told() -> None:
    trial = Trial([orders, careful], single, invariants=(money,)).calm()
    outcome = trial.run(Case(1, Plan((Crash("payments", 7),))), story=True)
    assert outcome.faults == {"crash": 1}
    assert not outcome.violations
