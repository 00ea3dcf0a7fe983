"""`dead ls`, `show`, `redrive`, `discard`: the verbs; what they do stands in `deciding`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from choreo.cli.deciding import Ask, answers_of, ask, list_letters, operator, show_letter
from choreo.cli.letters import Wanted
from choreo.cli.options import grouped
from choreo.cli.reading import since
from choreo.cli.running import clock
from choreo.cli.settings import Settings

__all__ = ["dead"]

dead = typer.Typer(help="Dead letters: look, redrive, discard.", no_args_is_help=True)

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="Ids, or their beginnings.", show_default=False),
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Where choreo.db is; else CHOREO_BROKER, else .choreo.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@dataclass(frozen=True, slots=True)
class Which:
    """Options that say which dead letters."""

    service: Annotated[str, typer.Option(help="Only of this service.")] = ""
    error: Annotated[str, typer.Option(help="Only with this in their error.")] = ""
    since_: Annotated[
        str | None, typer.Option("--since", help="Died since then: 10m, 2h, 3d, or a time.")
    ] = None

    @property
    def wanted(self) -> Wanted:
        """Give them as a value."""
        then = None if self.since_ is None else since(self.since_, clock().now())
        return Wanted(self.service, self.error, then)


@dataclass(frozen=True, slots=True)
class Decision:
    """Options of a decision: why, by whom, on how many, and whether it is meant."""

    reason: Annotated[str, typer.Option(help="Why: it is kept with the decision.")]
    by: Annotated[
        str, typer.Option(help="Who decides; else the system's user.", show_default=False)
    ] = ""
    all_: Annotated[
        bool, typer.Option("--all", help="All that --service, --error and --since leave.")
    ] = False
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; otherwise only say what would be done.")
    ] = False

    def ask(self, action: str, ids: list[str] | None, which: Which) -> Ask:
        """Give what is asked for."""
        by = self.by or operator()
        return Ask(action, ids or (), self.reason, by, self.all_, which.wanted, self.yes)


@dead.command("ls")
@grouped
def list_(
    which: Which,
    folder: Folder = None,
    *,
    decided: Annotated[
        bool, typer.Option("--all", help="Those redriven or discarded, too.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List dead letters that wait for a decision, newest first."""
    list_letters(Settings(folder), which.wanted, decided=decided, as_json_=json)


@dead.command()
def show(
    which: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    folder: Folder = None,
    *,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show the value as it is, with secret fields.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Show one: what failed, why, what was decided. Secret fields are hidden."""
    show_letter(Settings(folder), which, payload=payload, as_json_=json)


@dead.command()
@grouped
def redrive(
    decision: Decision,
    which: Which,
    ids: Ids = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(help="NAME=JSON: what an outside call gave; or NAME=not-done."),
    ] = None,
    edit: Annotated[
        Path | None, typer.Option(help="Run the value in this file instead, as a new event.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Have dead letters run again: a new run, with all its attempts."""
    answers = answers_of(answer or ())
    ask(Settings(folder), decision.ask("redrive", ids, which), edit=edit, answers=answers)


@dead.command()
@grouped
def discard(decision: Decision, which: Which, ids: Ids = None, folder: Folder = None) -> None:
    """Decide that dead letters are not to be run any more."""
    ask(Settings(folder), decision.ask("discard", ids, which))
