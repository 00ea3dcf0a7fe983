"""What is judged, and what is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from choreo.events import Record
from choreo.ports import Row

__all__ = ["Evidence", "Violation"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The log and the store as they are: what an invariant judges by.

    `history` has every record in the order of the log. `rows(sql, *values)` asks the store
    (`$1`, `$2`, … as in a Tx). `folder` is where the files are.
    """

    history: Sequence[Record]
    rows: Callable[..., list[Row]]
    folder: Path


class Violation(NamedTuple):
    """What may never happen and did: the invariant's name, and one sentence."""

    invariant: str
    text: str
