"""The audit of an embedded deployment's file, as `choreo audit` does it, for tests."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from choreo.app import embedded, open_codec, system_clock
from choreo.audit import Evidence, gather, judge
from choreo.ports import Row


def asking(file: Path) -> Callable[..., list[Row]]:
    """Make what answers a SELECT on a file."""

    def rows(sql: str, *values: object) -> list[Row]:
        with closing(sqlite3.connect(file)) as db:
            db.row_factory = sqlite3.Row
            named = {str(number): value for number, value in enumerate(values, 1)}
            return [dict(row) for row in db.execute(sql, named)]

    return rows


async def evidence_of(folder: Path) -> Evidence:
    """Gather all that a folder's file shows."""
    broker, store = embedded(folder, clock=system_clock())
    codec = open_codec(system_clock())
    try:
        rows = asking(folder / "choreo.db")
        evidence = await gather(broker, [store], rows=rows, folder=folder)
        await codec.learn(evidence.history)
        return replace(evidence, read=codec.plain)
    finally:
        await codec.close()
        await store.close()
        await broker.close()


async def judged(
    folder: Path,
    *own: Callable[[Evidence], Iterable[str]],
    at_rest: bool = True,
    spare: Sequence[str] = (),
) -> list[str]:
    """Give the violations in a folder, but those of the invariants that are spared."""
    evidence = await evidence_of(folder)
    report = await asyncio.to_thread(judge, evidence, invariants=own, at_rest=at_rest)
    return [f"{name}: {text}" for name, text in report.violations if name not in spare]
