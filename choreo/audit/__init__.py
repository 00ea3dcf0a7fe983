"""The whole, checked: a pure function from the log and the stores to what should not be.

It looks at what is left, not at how it came about, so live runs, simulations and chaos are
all held to the same. Users add invariants of their own: functions from Evidence to
sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from choreo.audit.case import Case
from choreo.audit.evidence import Committed, Evidence, Recovery, Told, Views, Violation
from choreo.audit.further import FURTHER, FURTHER_AT_REST, lacks
from choreo.audit.gathering import gather
from choreo.audit.invariants import ALWAYS, Invariant
from choreo.audit.resting import AT_REST

__all__ = [
    "GUARANTEES",
    "Committed",
    "Evidence",
    "Recovery",
    "Report",
    "Told",
    "Views",
    "Violation",
    "audit",
    "gather",
    "judge",
    "name_of",
]

Own = Callable[[Evidence], Iterable[str]]
NEEDS: Mapping[str, str] = {"offsets": "positions"}

GUARANTEES: Mapping[str, tuple[str, ...]] = {
    "4 one end": ("one-end", "reached-an-end"),
    "5 completed: every step once, nothing undone": ("once", "completed", "joined"),
    "6 cancelled: every effect undone once, in reverse": (
        "undone", "undone-for-a-reason", "undone-in-reverse",
    ),
    "7 no effect twice": ("once", "contents", "known", "one-row-a-key"),
    "8 what is committed is published, and taken by all": ("published", "taken", "held"),
    "9 nothing is published without its step": ("committed", "manifests"),
    "10 causes exist, and come first": ("causes",),
    "11 order per key": ("order",),
    "12 what is void leaves nothing": ("void", "undone"),
    "13 timers: never early, once": ("not-early", "answered", "once", "fired"),
    "14 offsets": ("offsets", "forward"),
    "15 the tracker shows what is true": ("views", "rebuilt"),
    "16 a replay changes nothing": ("replay-changes-nothing",),
    "17 same seed, same history": ("same-seed",),
    "18 no secret is told": ("no-secret",),
    "19 all flows end in time": ("in-time",),
    "20 no lag, an empty outbox, no lease": ("sent", "caught-up"),
    "21 a held key delays no other": ("unhindered",),
    "22 no service starts again for ever": ("restarted",),
}  # fmt: skip
"""What is promised, by number, and the invariants that judge it; 1 to 3 are users' own."""


@dataclass(frozen=True, slots=True)
class Report:
    """An audit's verdict: what it found, what it judged, and what it could not, with why."""

    violations: Sequence[Violation]
    judged: Sequence[str]
    unjudged: Mapping[str, str]


def audit(
    evidence: Evidence,
    *,
    invariants: Sequence[Own] = (),
    manifests: Iterable[Mapping[str, Any]] = (),
    at_rest: bool = True,
) -> list[Violation]:
    """Give all violations, the framework's first: those of `judge`'s report."""
    found = judge(evidence, invariants=invariants, manifests=manifests, at_rest=at_rest)
    return list(found.violations)


def judge(
    evidence: Evidence,
    *,
    invariants: Sequence[Own] = (),
    manifests: Iterable[Mapping[str, Any]] = (),
    at_rest: bool = True,
) -> Report:
    """Judge by every invariant that the evidence is enough for.

    `at_rest` says that nothing is on its way any more: only then must every flow have an
    end and every event be taken. Manifests are read from the log; `manifests` adds those of
    services that put none there. An invariant of the user's own that fails is a violation:
    what could not be judged is not known to hold.
    """
    case = Case(evidence, manifests)
    violations: list[Violation] = []
    judged: list[str] = []
    unjudged: dict[str, str] = {}
    for invariant, need, only_at_rest in rules():
        name = name_of(invariant)
        if only_at_rest and not at_rest:
            unjudged[name] = "holds at rest only"
        elif need and lacks(evidence, need):
            unjudged[name] = f"no evidence: {need}"
        else:
            judged.append(name)
            violations += (Violation(name, text) for text in invariant(case))
    for own in invariants:
        name = getattr(own, "__name__", repr(own))
        judged.append(name)
        try:
            for text in own(evidence):
                violations.append(Violation(name, text))
        except Exception as exc:  # noqa: BLE001 - user code; whatever it is, it is told
            text = f"could not be judged: {type(exc).__name__}: {exc}"
            violations.append(Violation(name, text))
    return Report(violations, judged, unjudged)


def rules() -> Iterator[tuple[Invariant, str, bool]]:
    """List every invariant of the framework, what evidence it needs, and whether rest as well."""
    for invariants, at_rest in ((ALWAYS, False), (AT_REST, True)):
        for invariant in invariants:
            yield invariant, NEEDS.get(name_of(invariant), ""), at_rest
    for further, at_rest in ((FURTHER, False), (FURTHER_AT_REST, True)):
        for invariant, need in further.items():
            yield invariant, need, at_rest


def name_of(invariant: Invariant) -> str:
    """Name an invariant, as violations do."""
    return invariant.__name__.replace("_", "-")
