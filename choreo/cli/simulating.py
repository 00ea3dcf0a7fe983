"""`simulate`: all services in one process, on virtual time, with faults from seeds."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import typer

from choreo.cli.loading import functions, services
from choreo.cli.output import cleaned, counted, say, show_json
from choreo.cli.settings import Settings
from choreo.cli.simulation import Simulation
from choreo.errors import ConfigurationError
from choreo.service import Service
from choreo.testing.simulation import Case, Crash, Outcome, Plan, Trial, hashed, run_all, totals

__all__ = ["run_simulation"]

SCENARIO = "scenario"
FIRST_S = 2.0
"""Until progress is told first; from one time to the next it is as long again and a half."""
SAME_SEED = "same-seed"
OTHERWISE = (
    "the same seed gave two histories: some service goes by what does not hang on the seed"
    " (random, uuid4, the id of an object, a file); give it a resource that does"
)


def run_simulation(settings: Settings, asked: Simulation, *, as_json: bool) -> None:
    """Run the seeds; tell the first violation as a story; exit with 1 if there is one."""
    declared = services(settings.modules)
    scenario, named = _scenario(settings, asked)
    trial = Trial(
        declared,
        scenario,
        invariants=functions(settings.invariants),
        command=_replay(settings, named),
    )
    crashes = tuple(Crash(service, at) for service, at in asked.crashes())
    _known(crashes, declared)
    if crashes or asked.exhaustive:
        trial = trial.calm()
    if crashes:
        cases = [Case(asked.seed or 1, Plan(crashes))]
    elif asked.exhaustive:
        cases = trial.crashes(asked.seed or 1, pairs=asked.pairs)
    else:
        seeds = range(1, asked.seeds + 1) if asked.seed is None else (asked.seed,)
        cases = [Case(seed) for seed in seeds]
    begun = time.perf_counter()
    outcomes = _run(trial, cases, asked, twice=not crashes and not asked.exhaustive)
    cases = cases[: len(outcomes)]
    took_s = time.perf_counter() - begun
    failed = [(case, one) for case, one in zip(cases, outcomes, strict=True) if one.violations]
    _tell(outcomes, cases, asked, took_s=took_s, as_json=as_json)
    if failed:
        say(cleaned_lines(_story(trial, *failed[0])))
        raise typer.Exit(1)


def _known(crashes: Sequence[Crash], declared: Sequence[Service]) -> None:
    """Raise ConfigurationError for a crash of a service that is not simulated."""
    names = [service.name for service in declared]
    for one in crashes:
        if one.service not in names:
            raise ConfigurationError(
                "no such service is simulated",
                code="CH1007",
                fix=f"one of {', '.join(names)}",
                crash=f"{one.service}:{one.at}",
            )


def _run(trial: Trial, cases: Sequence[Case], asked: Simulation, *, twice: bool) -> list[Outcome]:
    """Run all, or up to the first violation, and say how far that is; the first one `twice`."""
    outcomes: list[Outcome] = []
    said, every_s = time.perf_counter(), FIRST_S
    violations = 0
    more = cases[:1] if twice else []
    for outcome in run_all(trial, [*cases, *more], workers=asked.workers):
        if len(outcomes) == len(cases):
            outcomes[0] = _compared(outcomes[0], outcome)
            break
        outcomes.append(outcome)
        violations += bool(outcome.violations)
        if violations and asked.first:
            break
        if time.perf_counter() - said > every_s:
            said, every_s = time.perf_counter(), 1.5 * every_s
            say(f"{len(outcomes)} of {len(cases)} runs, {violations} with violations")
    return outcomes


def _compared(first: Outcome, again: Outcome) -> Outcome:
    """See that one seed gives one history; else nothing that is found can be found again."""
    if first.history_hash == again.history_hash:
        return first
    return replace(first, violations=[*first.violations, (SAME_SEED, OTHERWISE)])


def _tell(
    outcomes: Sequence[Outcome],
    cases: Sequence[Case],
    asked: Simulation,
    *,
    took_s: float,
    as_json: bool,
) -> None:
    faults = dict(sorted(totals(outcomes).items()))
    flows = sum(one.flows for one in outcomes)
    awaits = len(cases) if asked.exhaustive else sum(sum(o.awaits.values()) for o in outcomes)
    violations = [
        {"seed": one.seed, "invariant": name, "text": text, "crashes": _planned(case)}
        for case, one in zip(cases, outcomes, strict=True)
        for name, text in one.violations
    ]
    if as_json:
        show_json(
            {
                "violations": violations,
                "faults": faults,
                "history_hash": hashed(outcomes),
                "flows": flows,
                "flows_per_s": round(flows / took_s, 1),
                "awaits": awaits,
                "runs": len(outcomes),
            }
        )
        return
    what = "crashes, one run each" if asked.exhaustive else "awaits"
    typer.echo(
        f"{counted(len(outcomes), 'run')}, {counted(flows, 'flow')}, {awaits} {what},"
        f" {flows / took_s:.0f} flows a second"
    )
    if asked.exhaustive:
        _tell_awaits(cases)
    typer.echo("faults: " + (", ".join(f"{k} {v}" for k, v in faults.items()) or "none"))
    typer.echo(f"history {hashed(outcomes)}")
    bad = len({(one["seed"], str(one["crashes"])) for one in violations})
    typer.echo(f"✘ {counted(bad, 'run')} with violations" if bad else "✔ no violations")


def _tell_awaits(cases: Sequence[Case]) -> None:
    """Say how many awaits of each service were crashed at."""
    found: dict[str, set[int]] = {}
    for case in cases:
        for one in case.plan.crashes:
            found.setdefault(one.service, set()).add(one.at)
    each = ", ".join(f"{name} {len(places)}" for name, places in found.items())
    typer.echo(f"every await: {each}")


def _planned(case: Case) -> list[str]:
    return [f"{one.service}:{one.at}" for one in case.plan.crashes]


def _story(trial: Trial, case: Case, outcome: Outcome) -> str:
    """Find the fewest faults that still fail, and tell what happens with them."""
    if case.plan.crashes:
        told = trial.run(case, story=True).story
        return f"{told} {' '.join(f'--crash {one}' for one in _planned(case))}"
    if {name for name, _ in outcome.violations} == {SAME_SEED}:
        return f"✘ {SAME_SEED}: {OTHERWISE}\n  seed {case.seed}"
    say(f"seed {case.seed} fails; looking for the fewest of its faults that do")
    plan, fewest = trial.shrunk(outcome)
    told = trial.run(Case(case.seed, plan), story=True).story
    before, after = len(outcome.fired), len(fewest.fired)
    return f"{told}\n  shrunk from {counted(before, 'fault')} to {after}"


def cleaned_lines(text: str) -> str:
    """Show several lines of text from elsewhere."""
    return "\n".join(cleaned(line) for line in text.split("\n"))


def _replay(settings: Settings, scenario: str) -> Callable[[int], str]:
    modules = " ".join(settings.modules)
    told = f" --scenario {scenario}" if scenario else ""
    return lambda seed: f"choreo simulate {modules}{told} --seed {seed}"


def _scenario(settings: Settings, asked: Simulation) -> tuple[Callable[[Any], object], str]:
    """Find the scenario, and how it was named: "" for the first module's own."""
    if asked.scenario:
        return functions([asked.scenario])[0], asked.scenario
    first = settings.modules[0].partition(":")[0]
    module = sys.modules[first]
    found = getattr(module, SCENARIO, None)
    if not callable(found):
        try:
            found = getattr(importlib.import_module(f"{first}.{SCENARIO}"), SCENARIO, None)
        except ModuleNotFoundError as exc:
            if exc.name is None or not exc.name.startswith(first):
                raise
    if not callable(found):
        raise ConfigurationError(
            "there is no scenario: nothing says what is to happen",
            code="CH8004",
            fix=f"define scenario(world) in {first}, or name one: --scenario module:function",
            module=first,
        )
    return found, ""
