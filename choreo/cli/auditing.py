"""`audit`: does the log agree with the store, and both with what was promised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import typer

from choreo.app import deployed, open_codec
from choreo.audit import Evidence, Report, Violation, gather, judge
from choreo.audit.gathering import Log
from choreo.cli.loading import functions
from choreo.cli.output import cleaned, counted, execute, fail, show_json
from choreo.cli.running import clock
from choreo.cli.settings import Settings
from choreo.events import FLOW
from choreo.ports import AuditedStore, Row, Store

__all__ = ["run_audit"]


def run_audit(settings: Settings, *, at_rest: bool, as_json: bool) -> None:
    """Check everything that log and store can show; exit with 1 on a violation."""
    if not settings.log_exists():
        fail("CH1016", f"there is no log at {settings.deployment} yet. Fix: run services first")
    own = functions(settings.invariants)
    found, checked = execute(_judged(settings, own, at_rest=at_rest))
    sentences = [_sentence(violation) for violation in found.violations]
    if as_json:
        about = {"judged": [*found.judged], "unjudged": dict(found.unjudged)}
        show_json({"violations": sentences, "checked": checked, **about})
    else:
        for sentence in sentences:
            typer.echo(f"✘ {cleaned(sentence)}")
        counts = ", ".join(f"{count} {name}" for name, count in checked.items())
        verdict = counted(len(sentences), "violation") if sentences else "✔ no violations"
        typer.echo(f"{verdict}; checked {counts}")
        for why, names in _grouped(found.unjudged).items():
            typer.echo(f"  not judged ({why}): {', '.join(names)}")
    if sentences:
        raise typer.Exit(1)


async def _judged(
    settings: Settings, own: Sequence[Callable[[Evidence], Iterable[str]]], *, at_rest: bool
) -> tuple[Report, dict[str, int]]:
    broker, store = deployed(settings.folder, clock=clock())
    codec = open_codec(clock())
    try:
        asking = _Asking(store, asyncio.get_running_loop())
        folder = settings.database.parent
        log, kept = cast("Log", broker), cast("AuditedStore", store)
        evidence = await gather(log, [kept], rows=asking.rows, folder=folder)
        await codec.learn(evidence.history)
        evidence = replace(evidence, read=codec.plain)
        found = await asyncio.to_thread(judge, evidence, invariants=own, at_rest=at_rest)
    finally:
        await codec.close()
        await store.close()
        await broker.close()
    history = evidence.history
    flows = {record.headers[FLOW] for record in history if FLOW in record.headers}
    counts = {"records": len(history), "flows": len(flows), "invariants": len(found.judged)}
    return found, counts


def _grouped(unjudged: Mapping[str, str]) -> dict[str, list[str]]:
    """Group the invariants that were not judged by what was missing."""
    found: dict[str, list[str]] = {}
    for name, why in unjudged.items():
        found.setdefault(why.partition(":")[0], []).append(name)
    return found


class _Asking:
    """Lets an invariant, which runs in a thread, ask the store; each time for a moment only."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def rows(self, sql: str, *values: object) -> list[Row]:
        """Give the rows of a SELECT."""
        return asyncio.run_coroutine_threadsafe(self._fetch(sql, values), self._loop).result()

    async def _fetch(self, sql: str, values: Sequence[object]) -> list[Row]:
        async with self._store.transaction() as tx:
            return await tx.fetch(sql, *values)


def _sentence(violation: Violation) -> str:
    name, text = violation
    return text if text.startswith(f"{name}:") else f"{name}: {text}"
