"""`graph`: the topology as a picture, for a tool that draws it."""

from __future__ import annotations

import typer

from choreo.cli.manifests import topology_of
from choreo.cli.settings import Settings
from choreo.topology.drawing import FORMATS, drawn

__all__ = ["show_graph"]


def show_graph(settings: Settings, form: str, *, deployed: bool) -> None:
    """Write the picture to standard output."""
    if form not in FORMATS:
        raise typer.BadParameter(f"{form!r} is none of {', '.join(FORMATS)}", param_hint="--format")
    typer.echo(drawn(topology_of(settings, deployed=deployed), form), nl=False)
