"""How things are shown: colours, times, texts that come from elsewhere."""

from __future__ import annotations

import asyncio
import json
import sys
import unicodedata
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from choreo.events import rfc3339

__all__ = [
    "ICONS",
    "ago",
    "cleaned",
    "console",
    "counted",
    "duration",
    "execute",
    "fail",
    "moment",
    "say",
    "short",
    "show_json",
    "status_text",
]

T = TypeVar("T")

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400

ICONS = {
    "completed": ("✔", "green"),
    "compensated": ("↩", "yellow"),
    "running": ("▶", "cyan"),
    "waiting": ("◷", "cyan"),
    "retrying": ("↻", "yellow"),
    "parked": ("⏸", "yellow"),
    "compensating": ("↶", "magenta"),
    "failed": ("✘", "red"),
    "done": ("✔", "green"),
    "void": ("∅", "bright_black"),
    "dead": ("✘", "red"),
    "redriven": ("⟳", "cyan"),
    "edited": ("✎", "cyan"),
    "discarded": ("∅", "bright_black"),
    "refused": ("✘", "yellow"),
    "quarantined": ("⚠", "yellow"),
    "given_up": ("⚑", "yellow"),
    "overdue": ("⏰", "red"),
    "duplicate": ("=", "bright_black"),
}
"""A sign and a colour for each status and state; the word always stands beside them."""


def console(*, error: bool = False) -> Console:
    """Give a console as wide as the terminal; NO_COLOR is honoured."""
    return Console(stderr=error, highlight=False, markup=False, emoji=False)


def execute(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end."""
    return asyncio.run(work)


def say(text: str) -> None:
    """Write a line for people, beside what programs read."""
    typer.echo(text, err=True)


def fail(code: str, text: str) -> NoReturn:
    """Say in one line what is wrong, with its code, and exit with 1."""
    typer.echo(f"error: {code} {text}", err=True)
    raise typer.Exit(1)


def counted(number: int, what: str) -> str:
    """Write a number of things: `1 event`, `2 events`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def show_json(value: object) -> None:
    """Write JSON, readable in a terminal, one line elsewhere."""
    indent = 2 if sys.stdout.isatty() else None
    typer.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def status_text(status: str) -> Text:
    """Show a status or state: sign, word, colour."""
    icon, colour = ICONS.get(status, ("?", "white"))
    return Text(f"{icon} {status.replace('_', ' ')}", style=colour)


def short(kind: str) -> str:
    """Give an event type without its topic."""
    return cleaned(kind.rsplit(".", 1)[-1])


def cleaned(text: str) -> str:
    """Take out what would steer a terminal; texts come from events and errors."""
    return "".join(
        sign if not unicodedata.category(sign).startswith("C") else "�"
        for sign in text.replace("\n", " ").replace("\t", " ")
    )


def duration(seconds: float | None) -> str:
    """Write a duration in the unit that suits it."""
    if seconds is None:
        return ""
    if seconds < 0.9995:  # noqa: PLR2004 - what would be shown as 1000 ms is 1 s
        return f"{seconds * 1000:.3g} ms"
    if seconds < MINUTE_S:
        return f"{seconds:.3g} s"
    if seconds < HOUR_S:
        return f"{seconds // MINUTE_S:.0f} min {seconds % MINUTE_S:.0f} s"
    if seconds < 2 * DAY_S:
        return f"{seconds // HOUR_S:.0f} h {seconds % HOUR_S // MINUTE_S:.0f} min"
    return f"{seconds / DAY_S:.0f} days"


def ago(then: float, now: float) -> str:
    """Write how long ago, or in how long."""
    if then <= 0:
        return "unknown"
    delta = now - then
    if abs(delta) < 1:
        return "now"
    units = ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min"), (1, "s"))
    size, unit = next(pair for pair in units if abs(delta) >= pair[0])
    text = f"{abs(delta) // size:.0f} {unit}"
    return f"{text} ago" if delta > 0 else f"in {text}"


def moment(then: float | None) -> str | None:
    """Write a point in time as RFC 3339, for programs."""
    return None if not then else rfc3339(then)
