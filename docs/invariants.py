"""The page that lists what an audit judges, from the invariants' own docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from choreo.audit import GUARANTEES, name_of, rules

__all__ = ["invariants_page"]


def invariants_page(notice: str) -> str:
    """Write the page."""
    return "\n".join(_lines(notice)) + "\n"


def _lines(notice: str) -> Iterator[str]:
    yield from ("# What an audit judges", "", notice, "")
    yield "`choreo audit` judges by each of these that it has the evidence for, and says which it"
    yield "had none for. Programs call `choreo.audit.judge(evidence)`: a pure function of values."
    yield "Those marked *at rest* hold once nothing is on its way any more; what is promised about"
    yield "money and stock is for functions of your own, named in `[tool.choreo] invariants`."
    yield from ("", "| promise | invariants |", "|---|---|")
    for promise, names in GUARANTEES.items():
        number, _, words = promise.partition(" ")
        yield f"| {number}. {words} | {', '.join(f'`{name}`' for name in names)} |"
    for invariant, need, at_rest in rules():
        found = (invariant.__doc__ or "").strip().split("\n", 1)
        about = [f"*{mark}*" for mark in (("at rest",) if at_rest else ())]
        about += [f"needs `Evidence.{need}`"] if need else []
        yield from ("", f"## `{name_of(invariant)}`", "")
        yield f"{', '.join(about).capitalize()}: {found[0]}" if about else found[0]
        if len(found) > 1:
            yield from ("", *inspect.cleandoc(found[1]).split("\n"))
