"""The whole, checked: a pure function from the log and the store to what should not be.

It looks at what is left, not at how it came about, so live runs, simulations and chaos are
all held to the same. Users add invariants of their own: functions from Evidence to
sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from choreo.audit.case import Case
from choreo.audit.evidence import Evidence, Violation
from choreo.audit.invariants import ALWAYS, AT_REST

__all__ = ["Evidence", "Violation", "audit"]


def audit(
    evidence: Evidence,
    *,
    invariants: Sequence[Callable[[Evidence], Iterable[str]]] = (),
    manifests: Iterable[Mapping[str, Any]] = (),
    at_rest: bool = True,
) -> list[Violation]:
    """Give all violations, the framework's first.

    `at_rest` says that nothing is on its way any more: only then must every flow have an
    end and every event be taken. Manifests are read from the log; `manifests` adds those of
    services that put none there. An invariant of the user's own that fails is a violation:
    what could not be judged is not known to hold.
    """
    case = Case(evidence, manifests)
    found = [
        Violation(invariant.__name__.replace("_", "-"), text)
        for invariant in (*ALWAYS, *(AT_REST if at_rest else ()))
        for text in invariant(case)
    ]
    for own in invariants:
        name = getattr(own, "__name__", repr(own))
        try:
            for text in own(evidence):
                found.append(Violation(name, text))  # noqa: PERF401 - keeps those before a failure
        except Exception as exc:  # noqa: BLE001 - user code; whatever it is, it is told
            found.append(Violation(name, f"could not be judged: {type(exc).__name__}: {exc}"))
    return found
