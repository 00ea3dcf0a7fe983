"""The page that shows how the tests are tested, from the mutants' table and what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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
    yield "*Program* is the first of the order flow's seeded programs"
    yield "(`tests/services/test_order_stateful.py`, always the same ten) that noticed as well:"
    yield "what whole-system runs find without knowing what to look for. Where it is none of them,"
    yield "only the test that knows does."
    yield from ("", "| mutant | breaks | noticed by | program |", "|---|---|---|---|")
    for mutant in MUTANTS:
        found = caught.get(mutant.name, {})
        test = found.get("test", "")
        program = (found["program"] or "none") if "program" in found else "not run yet"
        shown = f"`{test}`" if test else "not run yet"
        yield f"| {mutant.name} | {mutant.breaks} | {shown} | {program} |"
    if ABSENT:
        yield from ("", "Nothing to break here:", "")
        yield from (f"- {name}: {why}" for name, why in ABSENT.items())
