"""The command line's pages: every verb as its own help has it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from choreo.cli import app as command_line
from choreo.cli.dead import dead as dead_letters
from choreo.cli.schemas import schemas as schema_verbs
from choreo.cli.topics import topics as kafka_topics
from docs.pages import fenced, page

__all__ = ["PAGES"]

OPERATING = ("audit", "migrations", "doctor", "config")


def command_line_page() -> str:
    """Describe every verb of the command line from its own help."""
    root = typer.main.get_command(command_line)
    intro = [
        (root.help or ""), "",
        "Exit codes: 0; 1 for what failed or was found wrong; 2 for a call that is wrong itself.",
        ("`python -m choreo` is the same program. Some have pages of their own: "
        "[dead](command-line-dead.md), [schemas](command-line-schemas.md), "
        "[topics](command-line-topics.md), and those for "
        "[who operates a deployment](command-line-operating.md)."), "",
    ]  # fmt: skip
    parts = verbs(root, "choreo", without=("dead", "schemas", "topics", *OPERATING))
    return page("The command line", intro, *(list(part) for part in parts))


def operating_page() -> str:
    """Describe the verbs for who operates a deployment."""
    root = typer.main.get_command(command_line)
    assert isinstance(root, TyperGroup)
    others = [name for name in root.commands if name not in OPERATING]
    intro = ["Whether a deployment is in order, and what it needs.", ""]
    parts = verbs(root, "choreo", without=others)
    return page("The command line, operating", intro, *(list(part) for part in parts))


def topics_page() -> str:
    """Describe the verbs of `choreo topics`."""
    topics = typer.main.get_command(kafka_topics)
    intro = [topics.help or "", ""]
    return page("choreo topics", intro, *(list(part) for part in verbs(topics, "choreo topics")))


def dead_page() -> str:
    """Describe the verbs of `choreo dead`."""
    dead = typer.main.get_command(dead_letters)
    intro = [dead.help or "", ""]
    return page("choreo dead", intro, *(list(part) for part in verbs(dead, "choreo dead")))


def schemas_page() -> str:
    """Describe the verbs of `choreo schemas`."""
    group = typer.main.get_command(schema_verbs)
    intro = [group.help or "", "", "[Use Avro](../how-to/use-avro.md) shows them at work.", ""]
    return page("choreo schemas", intro, *(list(part) for part in verbs(group, "choreo schemas")))


def verbs(command: Any, path: str, without: Sequence[str] = ()) -> Iterator[Iterator[str]]:
    """Yield a part for each verb, in the order in which they are declared."""
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            if not inner.hidden and name not in without:
                yield from verbs(inner, f"{path} {name}")
    else:
        yield verb(command, path)


def verb(command: Any, path: str) -> Iterator[str]:
    """Describe one verb."""
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## `{path}`"
    yield ""
    yield from fenced([f"{path} {usage}".strip()])
    yield from inspect.cleandoc(command.help or "").splitlines()
    yield ""
    records = [found for param in command.params if (found := param.get_help_record(context))]
    if records:
        yield "| | |"
        yield "|---|---|"
        yield from (f"| `{_cell(flags)}` | {_cell(what)} |" for flags, what in records)
        yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {
    "command-line": command_line_page,
    "command-line-dead": dead_page,
    "command-line-operating": operating_page,
    "command-line-schemas": schemas_page,
    "command-line-topics": topics_page,
}
"""What makes each page."""
