"""One run of a scenario, and many: in forked batches, with all that is told of them.

A batch is a process of its own, so that what a run leaves behind (what crashed is kept, and
ends with its process) does not add up, and as many cores as there are help.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from choreo.audit import Violation
from choreo.errors import SimulationError
from choreo.service import Service
from choreo.testing.faults import CALM, Faults
from choreo.testing.simulation.chance import Crash, Injected
from choreo.testing.simulation.story import told
from choreo.testing.simulation.world import Invariant, Plan, World, simulate

__all__ = ["Case", "Outcome", "Trial", "hashed", "run_all", "totals"]

BATCH = 20
GC_THRESHOLD = 50_000
"""As a worker has it (`Limits.gc_threshold`): a run leaves few cycles, and its history grows."""


class Case(NamedTuple):
    """What one run hangs on: its seed, and what goes wrong by plan."""

    seed: int
    plan: Plan = Plan()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to. Violations are (invariant, sentence); `fired` names each fault."""

    seed: int
    violations: list[tuple[str, str]]
    faults: dict[str, int]
    fired: list[tuple[str, int, str]]
    history_hash: str
    flows: int
    awaits: dict[str, int]
    story: str = ""

    @property
    def injected(self) -> list[Injected]:
        """Name the faults that fired, as a Plan takes them."""
        return [Injected(machine, number) for machine, number, _ in self.fired]


@dataclass(frozen=True)
class Trial:
    """What is tried: services, a scenario for them, faults, and invariants of the user's own."""

    services: Sequence[Service]
    scenario: Callable[[World], object]
    faults: Faults | None = None
    invariants: Sequence[Invariant] = ()
    command: Callable[[int], str] = field(default=lambda seed: f"simulate(…, seed={seed})")

    def run(self, case: Case, *, story: bool = False) -> Outcome:
        """Run one case to its verdict; with the story of the first violation, if asked."""
        with simulate(
            self.services,
            seed=case.seed,
            faults=self.faults,
            invariants=self.invariants,
            plan=case.plan,
        ) as world:
            self.scenario(world)
            found = world.judge().violations
            text = told(world, found, replay=self.command(case.seed)) if story and found else ""
            return _outcome(case, world, found, text)

    def crashes(self, seed: int = 1, *, pairs: bool = False) -> list[Case]:
        """List a case for each await that the scenario comes to: the process ends there.

        `pairs`: for each two of them. Nothing else goes wrong in these.
        """
        awaits = self.calm().run(Case(seed)).awaits
        single = [Crash(name, at) for name, number in awaits.items() for at in range(1, number + 1)]
        if not pairs:
            return [Case(seed, Plan((one,))) for one in single]
        return [
            Case(seed, Plan((one, other)))
            for index, one in enumerate(single)
            for other in single[index + 1 :]
        ]

    def calm(self) -> Trial:
        """Give the same without any fault that is drawn."""
        return Trial(self.services, self.scenario, CALM, self.invariants, self.command)

    def shrunk(self, outcome: Outcome, *, runs_max: int = 300) -> tuple[Plan, Outcome]:
        """Find the fewest faults with which the same invariant is still violated.

        Gives a plan under which nothing of them can be left out, as far as `runs_max` runs
        could tell, and what it came to.
        """
        wanted = {name for name, _ in outcome.violations}
        runs = 0

        def fails(only: Sequence[Injected]) -> Outcome | None:
            nonlocal runs
            runs += 1
            tried = self.run(Case(outcome.seed, Plan(only=tuple(only))))
            return tried if wanted & {name for name, _ in tried.violations} else None

        kept, best = outcome.injected, outcome
        size = len(kept)
        while size and runs < runs_max:
            start, shorter = 0, False
            while start < len(kept) and runs < runs_max:
                fewer = kept[:start] + kept[start + size :]
                tried = fails(fewer)
                if tried is None:
                    start += size
                else:
                    kept, best, shorter = tried.injected, tried, True
            size = min(size // 2, len(kept)) if not (size == 1 and shorter) else 1
        return Plan(only=tuple(kept)), best


def _outcome(case: Case, world: World, found: Sequence[Violation], story: str) -> Outcome:
    return Outcome(
        case.seed,
        [(one.invariant, one.text) for one in found],
        dict(sorted(world.counted().items())),
        [(one.name.machine, one.name.number, one.fault) for one in world.fired],
        world.history_hash,
        world.flows,
        {name: machine.awaits for name, machine in world.machines.items()},
        story,
    )


# ── many ─────────────────────────────────────────────────────────────────────────────────


def run_all(trial: Trial, cases: Sequence[Case], *, workers: int = 1) -> Iterator[Outcome]:
    """Run cases in forked batches, `workers` at a time; give outcomes in order of the cases.

    In this process instead, one after the other, where it can not be forked or has threads: a
    lock that one of them holds would be held in the child for ever.
    """
    if not hasattr(os, "fork") or threading.active_count() > 1:
        yield from map(trial.run, cases)
        return
    batches = [cases[start : start + BATCH] for start in range(0, len(cases), BATCH)]
    under_way: deque[_Batch] = deque()
    try:
        for batch in batches:
            if len(under_way) == workers:
                yield from under_way[0].outcomes()
                under_way.popleft()
            under_way.append(_Batch(trial, batch))
        while under_way:
            yield from under_way[0].outcomes()
            under_way.popleft()
    finally:
        for left in under_way:  # nobody wants to hear the rest
            left.end()


class _Batch:
    """Some cases in a process of their own, which writes a line of JSON for each."""

    def __init__(self, trial: Trial, cases: Sequence[Case]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        self._count = len(cases)
        self._process = os.fork()
        if not self._process:
            os.close(reading)
            _work(trial, cases, writing)
        os.close(writing)
        self._lines = os.fdopen(reading)

    def outcomes(self) -> Iterator[Outcome]:
        """Wait for them; raises SimulationError for a case that had none."""
        count = 0
        for line in self._lines:
            told_ = json.loads(line)
            if "error" in told_:
                raise SimulationError(
                    told_["error"], code=told_["code"], fix=told_["fix"], seed=told_["seed"]
                )
            count += 1
            yield _read(told_)
        self.end()
        if count < self._count:
            raise SimulationError(
                "a process that ran simulations has ended before they had",
                fix="run it again with --seed, to see what it says",
            )

    def end(self) -> None:
        """End the process, if it has not, and forget it. May be called twice."""
        self._lines.close()
        if self._process:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
            self._process = 0


def _work(trial: Trial, cases: Sequence[Case], writing: int) -> None:
    """Run cases in this process, tell of each, and end it: nothing else of it is to run."""
    code = 1
    gc.freeze()  # what was there before lives as long as this process
    gc.set_threshold(GC_THRESHOLD)
    try:
        with os.fdopen(writing, "w") as lines:
            for case in cases:
                try:
                    told_: dict[str, Any] = asdict(trial.run(case))
                except Exception as exc:  # noqa: BLE001 - told to the parent, which raises it
                    told_ = {
                        "error": getattr(exc, "what", f"{type(exc).__name__}: {exc}"),
                        "code": getattr(exc, "code", "CH8001"),
                        "fix": getattr(exc, "fix", "look at the scenario"),
                        "seed": case.seed,
                    }
                lines.write(json.dumps(told_) + "\n")
                lines.flush()
        code = 0
    finally:
        os._exit(code)


def _read(told_: dict[str, Any]) -> Outcome:
    told_["violations"] = [(name, text) for name, text in told_["violations"]]
    told_["fired"] = [(machine, number, fault) for machine, number, fault in told_["fired"]]
    return Outcome(**told_)


def hashed(outcomes: Sequence[Outcome]) -> str:
    """Give one hash for many runs: sha256 over theirs, in order."""
    return hashlib.sha256("".join(one.history_hash for one in outcomes).encode()).hexdigest()


def totals(outcomes: Sequence[Outcome]) -> Counter[str]:
    """Sum up which faults fired how often."""
    found = Counter[str]()
    for one in outcomes:
        found.update(one.faults)
    return found
