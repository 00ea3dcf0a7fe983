"""`check`: do the services fit together."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import typer
from rich.text import Text

from choreo.cli.manifests import size_of, topology_of, where
from choreo.cli.output import cleaned, console, counted, show_json
from choreo.cli.settings import Settings
from choreo.topology import Finding, Topology, check

__all__ = ["run_check"]

WIDTH_MIN = 40


def run_check(settings: Settings, *, deployed: bool, as_json: bool) -> None:
    """Check all services together; exit with 1 when something is found."""
    topology = topology_of(settings, deployed=deployed)
    found = check(topology)
    if as_json:
        show_json({"findings": [_json(one) for one in found], "checked": _counts(topology)})
    else:
        out = console()
        for one in found:
            for line in _shown(one, out.width):
                out.print(line, soft_wrap=True)
            out.print()
        verdict = counted(len(found), "finding") if found else "✔ nothing found"
        out.print(f"{verdict}; checked {size_of(topology)}")
    if found:
        raise typer.Exit(1)


def _shown(one: Finding, width: int) -> Iterator[Text]:
    head = Text("✘ ", style="red")
    head.append(one.code, style="bold")
    head.append(f"  {cleaned(one.place)}", style="bold")
    if one.at:
        head.append(f"  {cleaned(where(one.at))}", style="bright_black")
    yield head
    yield from map(Text, _wrapped(one.what, width))
    for number, event in enumerate(one.example):
        arrow = "  " if not number or event.startswith("–") else "→ "
        yield Text(f"    {arrow}{cleaned(event)}", style="cyan")
    for line in _wrapped(f"Fix: {one.fix}", width):
        fix = Text(line)
        fix.highlight_regex("^  Fix:", "green")
        yield fix


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        cleaned(text), max(width, WIDTH_MIN), initial_indent="  ", subsequent_indent="  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _json(one: Finding) -> dict[str, Any]:
    return {
        "code": one.code,
        "place": one.place,
        "at": where(one.at) if one.at else None,
        "what": one.what,
        "example": list(one.example),
        "fix": one.fix,
    }


def _counts(topology: Topology) -> dict[str, int]:
    return {
        "services": len(topology.of_service),
        "handlers": len(topology.handlers),
        "flows": len(topology.flows),
    }
