"""A world repeats itself, lets months go by, and tells what went wrong."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from choreo.errors import SimulationError
from choreo.testing import CALM, ROUGH, Faults
from choreo.testing.simulation import Case, Outside, Plan, Trial, World, hashed, run_all, simulate
from choreo.testing.simulation.failing import Mark
from choreo.testing.simulation.host import Process
from tests.simulation.desk import Bank, Ordered, careful, money, orders, scenario

pytest_plugins = ["choreo.testing.plugin"]
SERVICES = [orders, careful]
TRIAL = Trial(SERVICES, scenario, invariants=(money,))
KINDS = {one.name for one in fields(Faults) if one.type == "float"} - {
    "raised", "late_s", "jump_s",
}  # fmt: skip
LOSES_POWER = 119
"""A seed by which power is lost while another step of the process has just been told of its own."""
HASH_OF = (
    "from tests.simulation.test_world import TRIAL, Case\n"
    "print(*(TRIAL.run(Case(seed)).history_hash for seed in (5, 6)))"
)


def hashes(*seeds: int) -> list[str]:
    return [TRIAL.run(Case(seed)).history_hash for seed in seeds]


def test_the_same_seed_gives_the_same_history() -> None:
    first = hashes(5, 6)
    assert hashes(6, 5) == first[::-1]
    assert len(set(first)) == 2


def test_nothing_hangs_on_the_process() -> None:
    """Neither on where objects lie, nor on how texts are hashed."""
    said = set()
    for hashing in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hashing}
        done = subprocess.run(
            [sys.executable, "-c", HASH_OF], env=env, capture_output=True, text=True, check=True
        )
        said.add(done.stdout.strip())
    assert said == {" ".join(hashes(5, 6))}


def test_workers_change_nothing() -> None:
    cases = [Case(seed) for seed in range(1, 24)]
    one, two = (list(run_all(TRIAL, cases, workers=number)) for number in (1, 2))
    assert one == two
    assert hashed(one) == hashed(two)
    assert [outcome.seed for outcome in one] == list(range(1, 24))


def test_whatever_goes_wrong_ends_well_and_every_fault_fires() -> None:
    rough = Trial(SERVICES, scenario, faults=_often(ROUGH, 4), invariants=(money,))
    seeds = [*range(1, 41), LOSES_POWER]
    outcomes = list(run_all(rough, [Case(seed) for seed in seeds], workers=2))
    assert [one.violations for one in outcomes if one.violations] == []
    fired = Counter[str]()
    for one in outcomes:
        fired.update(one.faults)
    assert set(fired) == KINDS


def _often(faults: Faults, times: float) -> Faults:
    return replace(faults, **{name: getattr(faults, name) * times for name in KINDS})


def test_months_go_by_in_no_time(simulated: Callable[..., World]) -> None:
    world = simulated(SERVICES, seed=3, faults=CALM, invariants=(money,))
    flow = world.publish(Ordered(order="desk-1"), id="1")
    assert world.publish(Ordered(order="desk-1"), id="1") == flow
    world.run(days=90)
    assert world.loop.time() > 90 * 86_400
    world.audit()
    assert world.flows == 1


def test_what_somebody_was_told_of_outlives_a_loss_of_power(
    simulated: Callable[..., World], tmp_path: Path
) -> None:
    world = simulated(SERVICES, seed=3, faults=CALM)
    world.publish(Ordered(order="desk-1"))
    world.run(days=1)
    assert world.evidence(tmp_path).recovery is None  # nobody was told to end
    process = world.machines["orders"].process
    assert process is not None
    mark = process.at_mercy()
    assert {lost(process, mark) for _ in range(20)} == {None, mark.content}
    process.acknowledge()
    assert {lost(process, mark) for _ in range(20)} == {None}


def lost(process: Process, mark: Mark) -> bytes | None:
    """Have the power go; give what the disk goes back to, None if it stays as it is."""
    process.lose_power(mark)
    return process._durable


def test_a_world_is_judged_by_all_that_it_has_evidence_for(
    simulated: Callable[..., World],
) -> None:
    world = simulated(SERVICES, seed=3, invariants=(money,))
    world.publish(Ordered(order="desk-1"), id="1")
    world.run(hours=1)
    report = world.judge()
    assert list(report.violations) == []
    assert {"views", "rebuilt", "caught-up", "forward", "offsets", "one-row-a-key"} <= {
        *report.judged
    }
    assert set(report.unjudged) == {
        "replay-changes-nothing", "same-seed", "no-secret", "in-time", "unhindered", "restarted",
    }  # fmt: skip
    world.publish(Ordered(order="desk-2"), id="2")
    world.run(hours=1)
    world.audit()
    assert world.flows == 2


def test_a_bank_that_takes_twice_for_one_key_is_found(simulated: Callable[..., World]) -> None:
    world = simulated(SERVICES, seed=3, faults=CALM)
    world.publish(Ordered(order="desk-1"), id="1")
    world.run(hours=1)
    world.outside("Bank").entries *= 2
    assert [one.invariant for one in world.judge().violations] == ["one-row-a-key"]


def test_a_wrong_system_is_told_as_a_story(simulated: Callable[..., World]) -> None:
    world = simulated(SERVICES, seed=3, faults=CALM)
    world.publish(Ordered(order="desk-1"))
    with pytest.raises(SimulationError, match="CH8003") as caught:
        world.audit(lambda evidence: ["order desk-1: it is never right"])
    told = str(caught.value)
    assert "no fault was needed" in told
    assert "payments.capture → Paid" in told or "capture → Paid" in told


def test_the_outside_may_be_told_by_the_test(simulated: Callable[..., World]) -> None:
    world = simulated(SERVICES, faults=CALM)
    kept: list[Outside] = []

    def made(outside: Outside) -> Bank:
        kept.append(outside)
        return Bank(outside)

    world.stand_in(Bank, made)
    world.publish(Ordered(order="desk-1"))
    world.run(minutes=1)
    assert list(kept[0].memory["taken"].values()) == ["desk-1"]


def test_a_replay_of_its_own_faults_is_the_same_run() -> None:
    first = TRIAL.run(Case(5))
    assert first.injected
    again = TRIAL.run(Case(5, Plan(only=tuple(first.injected))))
    assert again == first


async def test_a_world_needs_a_plain_function() -> None:
    with simulate(SERVICES) as world, pytest.raises(SimulationError, match="running event loop"):
        world.run(days=1)
