"""Steps of a flow, from facts: the state of each is the highest that was noted of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from choreo.ports import Fact
from choreo.tracker.catalog import Catalog
from choreo.tracker.view import Attempt, StepView

__all__ = ["is_aside", "more_of", "steps_of"]

# Once settled, a step stays so; below that the higher run and attempt tell, then this.
SETTLED = {"void": 1, "discarded": 1, "given_up": 2, "done": 3}
RANK = {
    "duplicate": 0,
    "redriven": 0,
    "overdue": 1,
    "waiting": 2,
    "parked": 2,
    "retrying": 2,
    "dead": 3,
}
ASIDE = "!quarantine"

Key = tuple[str, str]


def more_of(fact: Fact) -> Mapping[str, Any]:
    """Read what is rare of a fact."""
    found: Mapping[str, Any] = json.loads(fact.more) if fact.more else {}
    return found


def steps_of(facts: Iterable[Fact], catalog: Catalog) -> dict[Key, StepView]:
    """Put the facts of one flow together by handler and subject; the order plays no part."""
    groups: dict[Key, list[Fact]] = {}
    for fact in facts:
        if fact.step and not is_aside(fact):
            groups.setdefault(_key(fact, catalog), []).append(fact)
    return {key: _step(key, groups[key], catalog) for key in groups}


def is_aside(fact: Fact) -> bool:
    """Tell whether this is about no step: something set aside, or an operator refused."""
    return fact.state == "refused" or fact.step.endswith(ASIDE)


def _key(fact: Fact, catalog: Catalog) -> Key:
    if fact.step in catalog.gathering:
        return fact.step, more_of(fact).get("branch", "") if fact.more else ""
    return fact.step, fact.subject


def _order(fact: Fact) -> tuple[int, int, int, int, float, float, str, int, int]:
    state = fact.state or "done"
    return (
        SETTLED.get(state, 0), fact.run, fact.attempt, RANK.get(state, 1),
        _number(more_of(fact).get("due")) or 0.0, fact.at,
        fact.topic, fact.partition, fact.offset,
    )  # fmt: skip


def _step(key: Key, facts: list[Fact], catalog: Catalog) -> StepView:
    ordered = sorted(facts, key=_order)
    best = ordered[-1]
    said = more_of(best)
    notes = [fact for fact in ordered if fact.state and fact.state != "duplicate"]
    outputs = sorted((fact for fact in ordered if not fact.state), key=lambda fact: fact.offset)
    failed = {(fact.run, fact.attempt) for fact in notes if fact.state == "retrying"}
    declared = catalog.handlers.get(key[0])
    return StepView(
        handler=key[0],
        subject=key[1],
        state=best.state or "done",
        cause=best.cause,
        run=max(fact.run for fact in ordered),
        attempt=best.attempt,
        attempts_max=int(_number(said.get("attempts_max")) or 0)
        or (declared.retry.attempts_max if declared is not None else 0),
        started=min((f.started for f in ordered if f.started is not None), default=None),
        took_s=best.took_s,
        due=_number(said.get("due")),
        error=_text(said.get("error")),
        message=_text(said.get("message")),
        reason=_text(said.get("reason")),
        unknown=bool(said.get("unknown")),
        undoes=next((_text(more_of(f).get("undoes")) for f in ordered if f.more
                     and more_of(f).get("undoes")), ""),
        branch=_text(said.get("branch")),
        retries=max(len(failed), best.attempt - 1 if best.run == 0 else 0),
        duplicates=sum(fact.state == "duplicate" for fact in ordered),
        outputs=tuple(dict.fromkeys(fact.id for fact in outputs)),
        attempts=_attempts(notes, outputs),
    )  # fmt: skip


def _attempts(notes: list[Fact], outputs: list[Fact]) -> tuple[Attempt, ...]:
    """List the tries that left a trace, each once."""
    found: dict[tuple[int, int, str], Attempt] = {}
    for fact in [*notes, *outputs[:1]]:
        state = fact.state or "done"
        found[fact.run, fact.attempt, state] = Attempt(
            fact.run, fact.attempt, state, fact.started, fact.took_s,
            _text(more_of(fact).get("error")),
        )  # fmt: skip
    return tuple(sorted(found.values(), key=lambda one: (one.started or 0.0, one.run, one.attempt)))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
