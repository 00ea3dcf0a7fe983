"""Options of `simulate`. What it does stands in `simulating`, loaded when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

__all__ = ["Simulation"]


@dataclass(frozen=True, slots=True)
class Simulation:
    """Options of a simulation: which seeds, of what, and what goes wrong."""

    seeds: Annotated[int, typer.Option(min=1, max=10**7, help="Run seeds 1 to N.")] = 100
    seed: Annotated[int | None, typer.Option(help="Run this seed alone.", show_default=False)] = (
        None
    )
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="So many processes share the seeds.")
    ] = 1
    scenario: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Called with the world; else `scenario` of the first module.",
        ),
    ] = ""
    first: Annotated[
        bool, typer.Option("--first", help="Stop at the first run with a violation.")
    ] = False
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Crash at each await instead, one run each.")
    ] = False
    pairs: Annotated[
        bool, typer.Option("--pairs", help="With --exhaustive: at each two awaits.")
    ] = False
    crash: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE:N", help="Crash at this await, and nowhere else; may be repeated."
        ),
    ] = None

    def crashes(self) -> list[tuple[str, int]]:
        """Read --crash."""
        found = []
        for text in self.crash or ():
            service, _, number = text.rpartition(":")
            if not service or not number.isdigit():
                raise typer.BadParameter("write service:number", param_hint="--crash")
            found.append((service, int(number)))
        return found
