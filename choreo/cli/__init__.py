"""The command line: `choreo`, or `python -m choreo`.

Every verb is a few lines here; what it does stands in a module of its own. Exit codes: 0,
1 for what failed or was found wrong, 2 for a call that is wrong itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from choreo.app import store_migrations
from choreo.cli.auditing import run_audit
from choreo.cli.checking import run_check
from choreo.cli.configuring import show_config
from choreo.cli.dead import dead
from choreo.cli.doctor import run_doctor
from choreo.cli.graphing import show_graph
from choreo.cli.options import grouped
from choreo.cli.publishing import publish_file, publish_one
from choreo.cli.reading import SHOWN, list_flows, show_flow, since
from choreo.cli.running import clock, develop, run_services, run_tracker
from choreo.cli.schemas import schemas
from choreo.cli.settings import Settings
from choreo.cli.simulation import Simulation
from choreo.cli.topics import topics
from choreo.environment import adopt_dotenv
from choreo.errors import ChoreoError
from choreo.ports import FlowFilter

__all__ = ["app", "main"]

HASHING = "PYTHONHASHSEED"

app = typer.Typer(
    name="choreo",
    help="Event-driven choreography: run services, see their flows, check what they left.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Modules = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODULE[:service]]...",
        help="Modules that declare services; else [tool.choreo] modules.",
        show_default=False,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="Where choreo.db and views.db are; else CHOREO_BROKER, else .choreo.",
        show_default=False,
    ),
]
Health = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:]PORT",
        help="Serve /livez, /readyz, /startupz, /metrics there; else CHOREO_HEALTH, else nowhere.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]

Deployed = Annotated[
    bool, typer.Option("--deployed", help="What runs, or ran, on the log; not modules.")
]


config = typer.Typer(help="Settings.", no_args_is_help=True)
app.add_typer(config, name="config")
app.add_typer(dead, name="dead")
app.add_typer(schemas, name="schemas")
app.add_typer(topics, name="topics")


@app.callback()
def _begin(context: typer.Context) -> None:
    if context.invoked_subcommand in ("config", "doctor"):
        return  # they tell of all that is wrong, not of the first thing only
    adopt_dotenv()
    Settings().check(store=context.invoked_subcommand != "topics")


@app.command()
def dev(modules: Modules = None, folder: Folder = None, *, health: Health = None) -> None:
    """Run all services and the tracker in one process, again after every change."""
    develop(Settings(folder, modules or (), health))


@app.command()
def run(
    modules: Modules = None,
    folder: Folder = None,
    *,
    tracker: Annotated[bool, typer.Option("--tracker", help="With the tracker beside.")] = False,
    health: Health = None,
) -> None:
    """Run services until SIGTERM or Ctrl-C."""
    run_services(Settings(folder, modules or (), health), tracked=tracker)


@app.command("tracker")
def tracker_(folder: Folder = None, *, health: Health = None) -> None:
    """Follow the log and keep the views of all flows up to date."""
    run_tracker(Settings(folder, (), health))


@app.command()
def publish(
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="Full name, or the class's if one.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE.jsonl]", help="One event a line; - is standard input."),
    ] = None,
    text: Annotated[str | None, typer.Option("--json", help="One event.")] = None,
    id: Annotated[
        str | None,
        typer.Option(help="Field with your own key: publishing again is then harmless."),
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option("--module", "-m", help="Declares the type; else [tool.choreo] modules."),
    ] = None,
    folder: Folder = None,
) -> None:
    """Publish first events of flows, from --json or a file; bad lines are named."""
    settings = Settings(folder, module or ())
    if (file is None) == (text is None):
        raise typer.BadParameter("give either FILE.jsonl or --json", param_hint="FILE")
    if text is not None:
        publish_one(settings, kind, text, key_field=id)
    else:
        assert file is not None
        publish_file(settings, kind, file, key_field=id)


@app.command()
def flows(
    status: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    name: Annotated[str, typer.Option(help="Only flows of this name.")] = "",
    since_: Annotated[
        str | None, typer.Option("--since", help="Started since then: 10m, 2h, 3d, or a time.")
    ] = None,
    search: Annotated[str, typer.Option(help="In flow id, key, event type, service, error.")] = "",
    limit: Annotated[
        int | None,
        typer.Option(min=0, max=2**31, help=f"At most; 0 is all. {SHOWN}, with --json all."),
    ] = None,
    folder: Folder = None,
    *,
    json: AsJson = False,
) -> None:
    """List flows, newest first."""
    which = FlowFilter(
        status=tuple(one.strip() for many in status or () for one in many.split(",")),
        name=name,
        since=None if since_ is None else since(since_, clock().now()),
        search=search,
        limit=(0 if json else SHOWN) if limit is None else limit,
    )
    list_flows(Settings(folder), which, as_json=json)


@app.command()
def flow(
    which: Annotated[str, typer.Argument(metavar="ID", help="Flow id, its beginning, or key.")],
    folder: Folder = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Until it has ended.")] = False,
    json: AsJson = False,
) -> None:
    """Show one flow as a tree: what followed from what, what failed, what is missing."""
    show_flow(Settings(folder), which, watch=watch, as_json=json)


@app.command()
def audit(
    folder: Folder = None,
    *,
    running: Annotated[
        bool, typer.Option("--running", help="Flows may still be on their way.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Check that log and store agree with each other and with what is promised."""
    run_audit(Settings(folder), at_rest=not running, as_json=json)


@app.command()
def check(
    modules: Modules = None,
    folder: Folder = None,
    *,
    deployed: Deployed = False,
    json: AsJson = False,
) -> None:
    """Check that services fit together: events, schemas, undos, joins, times."""
    run_check(Settings(folder, modules or ()), deployed=deployed, as_json=json)


@app.command()
@grouped
def simulate(asked: Simulation, modules: Modules = None, *, json: AsJson = False) -> None:
    """Run services in one process on virtual time, with faults from seeds; check everything."""
    from choreo.cli.simulating import run_simulation  # it brings all that tests need

    run_simulation(Settings(None, modules or ()), asked, as_json=json)


@app.command()
def graph(
    modules: Modules = None,
    folder: Folder = None,
    *,
    form: Annotated[str, typer.Option("--format", help="mermaid or dot.")] = "mermaid",
    deployed: Deployed = False,
) -> None:
    """Draw services, handlers and events, as text for Mermaid or Graphviz."""
    show_graph(Settings(folder, modules or ()), form, deployed=deployed)


@app.command()
def migrations(
    *,
    after: Annotated[
        int, typer.Option(min=0, help="Only newer ones: SELECT max(number) FROM choreo.version.")
    ] = 0,
) -> None:
    """Print the SQL of the store's tables in PostgreSQL, for those who make them by hand."""
    typer.echo(store_migrations(after), nl=False)


@app.command()
def doctor(
    folder: Folder = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without reading the whole file for damage.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Look at machine, settings, file, processes and what waits; write nothing."""
    run_doctor(Settings(folder), quick=quick, as_json=json)


@config.command("show")
def config_show(modules: Modules = None, folder: Folder = None, *, json: AsJson = False) -> None:
    """Show every setting as it holds, where it comes from, and what is wrong."""
    show_config(Settings(folder, modules or ()), as_json=json)


def main() -> None:
    """Run the command line; what choreo raises becomes one line, and exit code 1."""
    if sys.argv[1:2] == ["simulate"] and os.environ.get(HASHING) != "0":
        # The order of a set of texts hangs on it: a run must not differ from the next.
        os.execve(  # noqa: S606 - this very program
            sys.executable,
            [sys.executable, "-m", "choreo", *sys.argv[1:]],
            {**os.environ, HASHING: "0"},
        )
    try:
        app(prog_name="choreo")
    except ChoreoError as exc:
        typer.echo(f"error: {exc}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)
