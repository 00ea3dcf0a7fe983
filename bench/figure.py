"""A figure: a value with its baseline from the same run, and where figures are kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Figure", "kept"]

OUT = Path(__file__).parent / "out" / "latest.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """`ratio` is value / baseline; None where there is nothing to compare with."""

    name: str
    value: float
    unit: str
    baseline: float | None
    about: str

    @property
    def ratio(self) -> float | None:
        """Give value / baseline."""
        return None if not self.baseline else self.value / self.baseline


def kept(figures: list[Figure]) -> Path:
    """Write figures to `bench/out/latest.json`; those that were not measured stay."""
    OUT.parent.mkdir(exist_ok=True)
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    for figure in figures:
        known[figure.name] = {
            "value": round(figure.value, 3),
            "unit": figure.unit,
            "baseline": None if figure.baseline is None else round(figure.baseline, 3),
            "ratio": None if figure.ratio is None else round(figure.ratio, 4),
        }
    OUT.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    return OUT
