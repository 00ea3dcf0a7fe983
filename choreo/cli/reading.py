"""`flows` and `flow`: what the tracker made of the log, for people and for programs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from choreo.app import open_broker, open_views
from choreo.cli.output import (
    ago,
    cleaned,
    console,
    duration,
    execute,
    fail,
    moment,
    say,
    short,
    show_json,
    status_text,
)
from choreo.cli.running import clock
from choreo.cli.settings import Settings
from choreo.cli.tree import tree_of
from choreo.ports import FlowFilter, FlowSummary, ViewStore
from choreo.tracker import (
    OPEN,
    STATUSES,
    FlowView,
    SharedTracker,
    Tracker,
    badges,
    catalog_of,
    tracker_of,
    view_of,
)

__all__ = ["list_flows", "show_flow"]

WATCH_S = 0.25
WIDE = 110
SHOWN = 50
BRIEF = 18
"""Of a flow id, where there is no room: as far as to tell flows of one millisecond apart."""
UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}

SHOWN_MAX = 5


@asynccontextmanager
async def up_to_date(
    settings: Settings,
) -> AsyncIterator[tuple[ViewStore, Tracker | SharedTracker]]:
    """Open the views and read what has come to the log since; it works without a tracker."""
    broker, views = open_broker(settings.folder), open_views(settings.folder)
    try:
        tracker = tracker_of(broker, views, clock())
        await tracker.catch_up()
        yield views, tracker
    finally:
        await views.close()
        await broker.close()


# ── flows ────────────────────────────────────────────────────────────────────────────────


def list_flows(settings: Settings, which: FlowFilter, *, as_json: bool) -> None:
    """List flows, newest first."""
    unknown = [one for one in which.status if one not in STATUSES]
    if unknown:
        known = ", ".join(STATUSES)
        raise typer.BadParameter(f"{unknown[0]!r} is none of {known}", param_hint="--status")
    if settings.log_exists():
        found = execute(_flows(settings, which))
    else:
        found = []
        say(f"no flows: there is no log at {settings.deployment} yet")
        if not as_json:
            return
    now = clock().now()
    if as_json:
        show_json([summary_json(flow, now) for flow in found])
        return
    out = console()
    out.print(_table(found, now, wide=out.width >= WIDE))
    if which.limit and len(found) == which.limit:
        say(f"the newest {which.limit} flows; --limit 0 lists all")
    elif not found:
        say("no flows" + (" like that" if which != FlowFilter(limit=which.limit) else ""))


async def _flows(settings: Settings, which: FlowFilter) -> Sequence[FlowSummary]:
    async with up_to_date(settings) as (views, _):
        return await views.flows(which)


def _table(flows: Sequence[FlowSummary], now: float, *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("status", "flow", "key", "started", "took"):
        table.add_column(name, no_wrap=True)
    if wide:
        table.add_column("end", no_wrap=True)
    table.add_column("id", no_wrap=True, style="bright_black", min_width=36 if wide else BRIEF)
    for flow in flows:
        marks = badges(flow, now)
        status = status_text(flow.status)
        for name, holds in (("overdue", marks.overdue), ("stuck", marks.stuck)):
            if holds:
                status.append(f" ⚠ {name}", style="bold red")
        cells: list[Text] = [
            status, Text(cleaned(flow.name) or "–"), Text(cleaned(flow.key)),
            Text(ago(flow.started, now)), Text(duration(marks.duration_s)),
        ]  # fmt: skip
        if wide:
            cells.append(Text(short(flow.end)))
        cells.append(Text(cleaned(flow.flow) if wide else cleaned(flow.flow)[:BRIEF]))
        table.add_row(*cells)
    return table


def summary_json(flow: FlowSummary, now: float) -> dict[str, Any]:
    """Give a flow's row for programs; times as RFC 3339."""
    marks = badges(flow, now)
    return {
        "flow": flow.flow,
        "name": flow.name,
        "key": flow.key,
        "status": flow.status,
        "end": flow.end,
        "started": moment(flow.started),
        "ended": moment(flow.ended),
        "duration_s": round(marks.duration_s, 6),
        "retries": flow.retries,
        "compensations": flow.compensations,
        "dead": flow.dead,
        "steps": flow.steps,
        "overdue": marks.overdue,
        "stuck": marks.stuck,
        "error": flow.error,
    }


def since(text: str, now: float) -> float:
    """Read `10m`, `2 h`, `3d` ago, or a point in time; raises typer.BadParameter."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)(?:\s+ago)?\s*", text)
    if found:
        return now - float(found[1]) * UNITS[found[2]]
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither like 10m, 2h, 3d nor like 2026-01-31T12:00:00Z",
            param_hint="--since",
        ) from None
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()


# ── flow ─────────────────────────────────────────────────────────────────────────────────


def show_flow(settings: Settings, which: str, *, watch: bool, as_json: bool) -> None:
    """Show one flow, found by its id, the beginning of that, or its business key."""
    if not settings.log_exists():
        fail("CH1016", f"there is no log at {settings.deployment} yet. Fix: run services first")
    try:
        execute(_show(settings, which, watch=watch, as_json=as_json))
    except KeyboardInterrupt:
        if not watch:  # that is how one stops watching
            raise


async def _show(settings: Settings, which: str, *, watch: bool, as_json: bool) -> None:
    async with up_to_date(settings) as (views, tracker):
        flow = await _one(views, which)
        if watch:
            await _watch(views, tracker, flow, as_json=as_json)
            return
        view = await view_of(views, flow)
        assert view is not None
        now = clock().now()
        if as_json:
            show_json(view_json(view, now))
        else:
            console().print(tree_of(view, now))


async def _one(views: ViewStore, which: str) -> str:
    found = await views.find(which)
    if not found:
        fail(
            "CH1017",
            f"no flow has the id or key {which!r}. Fix: choreo flows --search looks further",
        )
    if len(found) > 1:
        more = " …" if len(found) > SHOWN_MAX else ""
        fail("CH1017", f"{which!r} may be any of {', '.join(found[:SHOWN_MAX])}{more}")
    return found[0]


async def _watch(
    views: ViewStore, tracker: Tracker | SharedTracker, flow: str, *, as_json: bool
) -> None:
    """Show the flow again whenever it has changed, until it has ended."""
    out = console()
    last: FlowView | None = None
    with Live(console=out, auto_refresh=False, transient=False) as live:
        while True:
            view = await view_of(views, flow, await catalog_of(views))
            assert view is not None
            now = clock().now()
            if as_json:
                if view != last:
                    show_json(view_json(view, now))
            elif out.is_terminal:
                live.update(tree_of(view, now), refresh=True)
            elif view != last:
                out.print(tree_of(view, now))
            if view.summary.status not in OPEN and not view.missing:
                return
            last = view
            await clock().sleep(WATCH_S)
            await tracker.catch_up()


def view_json(view: FlowView, now: float) -> dict[str, Any]:
    """Give all that is known of a flow for programs; times as epoch seconds below the top."""
    parts = asdict(view)
    steps = [
        {**step, "attempts": [one._asdict() for one in full.attempts]}
        for step, full in zip(parts["steps"], view.steps, strict=True)
    ]
    missing = [
        {name: value for name, value in one.items() if name != "step"} for one in parts["missing"]
    ]
    return {
        **summary_json(view.summary, now),
        "deadline": moment(view.summary.deadline),
        "voids": view.summary.voids,
        "events": parts["events"],
        "steps": steps,
        "missing": missing,
        "anomalies": parts["anomalies"],
    }
