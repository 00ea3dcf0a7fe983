"""`python -m services.inventory`: the service on its own, or `… stock FILE` to load its stock."""

import asyncio
from pathlib import Path

import typer

from choreo import ChoreoError, run
from services.inventory import inventory
from services.inventory.stock import load, read

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Run the inventory service until it is told to stop."""
    if context.invoked_subcommand is None:
        run(inventory)


@cli.command()
def stock(file: Path) -> None:
    """Load the opening stock from FILE: lines of sku,name,units under that heading.

    May be done again: the same file changes nothing. Bad lines are named, the others are
    loaded; the exit code is 1 if there was a bad one.
    """
    try:
        loaded, bad = asyncio.run(load(list(read(file))))
    except OSError as exc:
        typer.echo(f"{file}: {exc.strerror or exc}", err=True)
        raise typer.Exit(2) from None
    except ChoreoError as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(2) from None
    for line in bad:
        typer.echo(f"{file}:{line.line}: {line.field}: {line.reason}", err=True)
    typer.echo(f"{loaded} articles in stock, {len(bad)} bad lines")
    raise typer.Exit(1 if bad else 0)


if __name__ == "__main__":
    cli()
