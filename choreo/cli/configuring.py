"""`config show`: every setting as it holds, where it comes from, and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

import typer
from rich.text import Text

from choreo.cli.output import cleaned, console, show_json
from choreo.cli.settings import Setting, Settings
from choreo.errors import ConfigurationError

__all__ = ["hidden", "show_config"]

PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^@\s]*(?=@)")


def show_config(settings: Settings, *, as_json: bool) -> None:
    """Show all settings; exit with 1 when something is wrong with one."""
    wrong = settings.wrong()
    rows = [] if wrong else settings.shown()
    if as_json:
        show_json(
            {"settings": [_json(one) for one in rows], "wrong": [_told(one) for one in wrong]}
        )
    else:
        out = console()
        for line in chain.from_iterable(map(_shown, rows)):
            out.print(line, soft_wrap=True)
        for one in wrong:
            typer.echo(f"✘ {_told(one)}")
    if wrong:
        raise typer.Exit(1)


def _shown(one: Setting) -> Iterator[Text]:
    """Write a setting: name and source, what it is for, and its values, one a line."""
    head = Text(one.name, style="bold")
    head.append(f"  from {cleaned(one.where)}" if one.value else "  not set", style="bright_black")
    yield head
    yield Text(f"  {one.meaning}", style="bright_black")
    yield from (Text(f"    {cleaned(hidden(value))}") for value in one.value.split())


def _json(one: Setting) -> dict[str, str]:
    return {**one._asdict(), "value": hidden(one.value)}


def _told(error: ConfigurationError) -> str:
    return cleaned(hidden(str(error)))


def hidden(text: str) -> str:
    """Take passwords out of URLs."""
    return PASSWORD.sub(r"\1:***", text)
