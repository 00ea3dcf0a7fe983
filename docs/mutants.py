"""The page that shows how the tests are tested, from the mutants' table and what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutants.__main__ import SIMULATED_MAX
from tests.mutants.table import ABSENT, MUTANTS

__all__ = ["mutants_page"]

CAUGHT = Path(__file__).parents[1] / "tests" / "mutants" / "caught.json"


def mutants_page(notice: str) -> str:
    """Write the page."""
    return "\n".join(_lines(notice)) + "\n"


def _lines(notice: str) -> Iterator[str]:
    caught = json.loads(CAUGHT.read_text(encoding="utf-8"))
    yield from ("# The tests are tested", "", notice, "")
    yield "Each promise is broken on purpose, in a copy of the tree: a suite that does not notice"
    yield "is no evidence. `make mutants` does it again and fails where nobody notices;"
    yield "`python -m tests.mutants --write` keeps what it found for this page."
    yield ""
    yield f"*Seed* is the first of the seeds 1 to {SIMULATED_MAX} of `choreo simulate` that noticed"
    yield "as well, so the number of runs of the shop's scenario that it took:"
    yield "what random faults find without knowing what to look for. Where it is none of them,"
    yield "only the test that knows does; a dash is where a simulation does not run what is broken."
    yield from ("", "| mutant | breaks | noticed by | seed |", "|---|---|---|---|")
    for mutant in MUTANTS:
        found = caught.get(mutant.name, {})
        test = found.get("test", "")
        seed = _seed(found) if mutant.simulated else "–"
        shown = f"`{test}`" if test else "not run yet"
        yield f"| {mutant.name} | {mutant.breaks} | {shown} | {seed} |"
    if ABSENT:
        yield from ("", "Nothing to break here:", "")
        yield from (f"- {name}: {why}" for name, why in ABSENT.items())


def _seed(found: dict[str, Any]) -> str:
    return str(found["seed"] or "none") if "seed" in found else "not run yet"
