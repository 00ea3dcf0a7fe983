"""`make bench`: measure, print ratios, keep the figures."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from bench.figure import Figure, kept
from bench.saga import saga5, saga5_tx

MEASURES = {"saga5": saga5, "saga5_tx": saga5_tx}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", choices=sorted(MEASURES), help="one measurement")
    only = parser.parse_args().only
    console = Console()
    figures: list[Figure] = []
    for name, measure in MEASURES.items():
        if only in (None, name):
            console.print(f"measuring {name} …", style="dim")
            figures += measure()
    table = Table("figure", "value", "baseline", "ratio", "about")
    for one in figures:
        ratio = "" if one.ratio is None else f"{one.ratio:.3f}"
        baseline = "" if one.baseline is None else f"{one.baseline:,.1f}"
        table.add_row(one.name, f"{one.value:,.1f} {one.unit}", baseline, ratio, one.about)
    console.print(table)
    console.print(f"kept in {kept(figures)}", style="dim")


if __name__ == "__main__":
    main()
