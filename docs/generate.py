"""Writes the reference: `python -m docs.generate`; with `--check` it only tells what is old.

Each page comes from the docstrings and signatures of the code, so that what is promised is
said once.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import typer

import choreo
from choreo import errors, ports, telemetry, testing
from choreo.cli import settings
from choreo.environment import PREFIX, REGISTRY, VARIABLES
from choreo.worker import Limits
from docs.commands import PAGES
from docs.invariants import invariants_page
from docs.mutants import mutants_page
from docs.pages import NOTICE, described, page

__all__ = ["generated", "write"]

FOLDER = Path(__file__).parent / "reference"

SERVICE = ("Service", "Flow", "Retry", "Limit", "Breaker")
HANDLING = (
    "Event", "Secret", "Foreign", "Context", "Tx", "State", "Failure", "Results",
    "After", "Cancel", "FanOut", "NewFlow", "Later", "NotDone",
)  # fmt: skip
RUNNING = ("App", "run", "transaction", "Evidence")
FACADE = tuple(choreo.__all__)


# ── Python ───────────────────────────────────────────────────────────────────────────────


def name_pages() -> Mapping[str, Sequence[str]]:
    """Sort the façade's names by page; what has no place is an error."""
    raised = tuple(
        name
        for name in FACADE
        if inspect.isclass(getattr(choreo, name))
        and issubclass(getattr(choreo, name), errors.ChoreoError)
    )
    placed = {*SERVICE, *HANDLING, *RUNNING, *raised}
    lost = [name for name in FACADE if name not in placed]
    assert not lost, f"docs/generate.py: give these names of the façade a page: {lost}"
    known = set(FACADE)
    return {
        "service": [name for name in SERVICE if name in known],
        "handlers": [name for name in HANDLING if name in known],
        "running": [name for name in RUNNING if name in known],
    }


def names(which: Sequence[str]) -> Iterator[str]:
    """Describe names of the façade."""
    for name in which:
        yield from described(name, getattr(choreo, name))


# ── the other pages ──────────────────────────────────────────────────────────────────────


def errors_page() -> str:
    """List every class that choreo raises."""
    rows = ["| class | code | transient | |", "|---|---|---|---|"]
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, errors.ChoreoError):
            doc = inspect.getdoc(kind) or ""
            again = "yes" if kind.transient else ""
            rows.append(f"| `{name}` | {kind.code} | {again} | {' '.join(doc.split())} |")
    tree = (inspect.getdoc(errors) or "").splitlines()[1:]
    return page(
        "Errors",
        ["Each code and what to do about it: [errors and their fixes](../errors.md).", ""],
        _indented_as_text(tree),
        ["", *rows],
    )


def _indented_as_text(lines: Sequence[str]) -> Iterator[str]:
    """Fence what is indented."""
    inside = False
    for line in lines:
        if line.startswith("    ") and not inside:
            inside = True
            yield "```text"
        elif line and not line.startswith("    ") and inside:
            inside = False
            yield "```"
            yield ""
        if line or not inside:
            yield line[4:] if inside else line
    if inside:
        yield "```"


def ports_page(title: str, *which: str) -> str:
    """Describe ports: what an adapter has to be."""
    intro = "A contract holds each promise: [contracts and faults](contracts.md)."
    return page(
        title, [intro, ""], *(list(described(name, getattr(ports, name))) for name in which)
    )


def check_ports() -> None:
    """See that every port has a page."""
    found = {
        name for name, thing in vars(ports).items()
        if getattr(thing, "_is_protocol", False) and thing.__module__ == ports.__name__
    }  # fmt: skip
    lost = found - {*LOG_PORTS, *STORE_PORTS, "Tx"}
    assert not lost, f"docs/generate.py: give these ports a page: {lost}"


LOG_PORTS = ("Broker", "Subscription", "Assignee", "Clock")
STORE_PORTS = ("Store", "ViewStore", "SchemaRegistry")


def testing_page() -> str:
    """Describe `choreo.testing`."""
    intro = (inspect.getdoc(testing) or "").splitlines()
    parts = [list(described(name, getattr(testing, name))) for name in testing.__all__
             if name not in (*CONTRACTS, *FAULTS, *SIMULATION)]  # fmt: skip
    return page("`choreo.testing`", [*intro, ""], *parts)


def simulation_page() -> str:
    """Describe the simulated deployment."""
    parts = [list(described(name, getattr(testing, name))) for name in testing.__all__
             if name in SIMULATION]  # fmt: skip
    about = "From `choreo.testing`; [how to simulate a system](../how-to/simulate.md)."
    return page("Simulation", [about, ""], *parts)


def contracts_page() -> str:
    """Describe the contracts of the ports, and the faults to run them through."""
    contracts = sys.modules["choreo.testing.contracts"]
    about = (inspect.getdoc(contracts) or "").splitlines()
    named = ", ".join(f"`{name}`" for name in testing.__all__ if name in CONTRACTS)
    parts = [list(described(name, getattr(testing, name))) for name in testing.__all__
             if name in FAULTS]  # fmt: skip
    return page("Contracts and faults", [f"From `choreo.testing`: {named}.", ""],
                _indented_as_text(about), [""], *parts)  # fmt: skip


CONTRACTS = tuple(
    name for name in testing.__all__
    if getattr(testing, name).__module__.startswith("choreo.testing.contracts")
    or name.startswith("Make")
)  # fmt: skip
SIMULATION = tuple(
    name for name in testing.__all__
    if getattr(getattr(testing, name), "__module__", "").startswith("choreo.testing.simulation")
)  # fmt: skip
FAULTS = tuple(name for name in testing.__all__ if name.startswith(("Fault", "CALM", "ROUGH")))


ENVIRONMENT_ONLY = tuple(
    name for name in VARIABLES if name.startswith(("CHOREO_AVRO", "CHOREO_CODEC", "CHOREO_SCHEMAS"))
)


def settings_page() -> str:
    """List the settings of the command line, and the limits of a worker."""
    intro = (inspect.getdoc(settings) or "").splitlines()
    rows = ["| environment, `.env` | `[tool.choreo]` | |", "|---|---|---|"]
    entries = set(settings.TABLE) - {"folder"}  # of the broker: told below
    for variable in VARIABLES:
        if variable in ENVIRONMENT_ONLY:
            continue
        short = variable.removeprefix(PREFIX).lower()
        entry = short
        entries.discard(entry)
        what = " ".join((getattr(settings.Settings, entry).__doc__ or "").split())
        told = f"`{entry}`" if entry in settings.TABLE else ""
        rows.append(f"| `{variable}` | {told} | {what} |")
    assert not entries, f"docs/generate.py: no variable for the settings {entries}"
    table = ["| limit | default |", "|---|---|"]
    table += [f"| `{one.name}` | {one.default} |" for one in dataclasses.fields(Limits)]
    limits = [
        "## Limits of a worker", "",
        "`App(…, limits=Limits(…))`, from `choreo.worker`.", "",
        *(inspect.getdoc(Limits) or "").splitlines(), "", *table,
    ]  # fmt: skip
    broker = [
        "",
        "`folder` (`--folder`) names the folder of the file `choreo.db`; without it and",
        "`CHOREO_BROKER`, that is `.choreo`. With `CHOREO_BROKER=kafka://` without hosts they",
        "are those of `KAFKA_BOOTSTRAP_SERVERS`; beside Kafka, and for",
        "`CHOREO_STORE=postgresql://`, `DATABASE_URL` says where the database is. Neither does",
        "anything where nobody has chosen a server. A path, as in `kafka://host:9092/staging`,",
        "begins the names of all topics and groups (`staging.…`): so several deployments share",
        "one cluster. Security of Kafka: `KAFKA_SECURITY_PROTOCOL` and so on, by Kafka's own",
        "names in capitals.",
        "",
    ]
    avro = [
        "What values are written as is said in the environment alone, with",
        ", ".join(f"`{one}`" for one in (*ENVIRONMENT_ONLY, REGISTRY)),
        "([use Avro](../how-to/use-avro.md)).",
        "",
    ]
    return page("Settings", [*intro, ""], rows, broker, avro, limits)


def telemetry_page() -> str:
    """List all that is told of a worker: spans, metrics, attributes, fields of log records."""
    intro = (inspect.getdoc(telemetry) or "").splitlines()
    told = "Nothing else is told: no payload, no text of an exception, no id in a metric's label."
    how = "[Watch a deployment](../how-to/watch-a-deployment.md) says how to turn it on."
    spans = ["## Spans", "", "| name | kind | | attributes |", "|---|---|---|---|"]
    spans += [
        f"| `{one.name}` | {one.kind} | {one.meaning} | {_ticked(one.attributes)} |"
        for one in telemetry.SPANS
    ]
    metrics = ["## Metrics", "", "| name | kind | unit | | labels |", "|---|---|---|---|---|"]
    for one in telemetry.METRICS:
        where = f" (only with an {one.needs})" if one.needs else ""
        metrics.append(
            f"| `{one.name}` | {one.kind} | `{one.unit}` | {one.meaning}{where}"
            f" | {_ticked(one.attributes)} |"
        )
    attributes = ["## Attributes", "", "| name | |", "|---|---|"]
    attributes += [f"| `{name}` | {meaning} |" for name, meaning in telemetry.ATTRIBUTES.items()]
    fields = [
        "## Fields of log records",
        "",
        *(inspect.getdoc(telemetry.LogFields) or "").splitlines(),
    ]
    fields += ["", "| name | |", "|---|---|"]
    fields += [f"| `{name}` | {meaning} |" for name, meaning in telemetry.LOG_FIELDS.items()]
    parts = [[*part, ""] for part in ([*intro, "", told, how], spans, metrics, attributes, fields)]
    return page("Telemetry", *parts)


def _ticked(names_: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names_)


# ── writing ──────────────────────────────────────────────────────────────────────────────

TITLES = {
    "service": "Services",
    "handlers": "What handlers take and give",
    "running": "Running services",
}
OTHERS: Mapping[str, Callable[[], str]] = {
    "invariants": lambda: invariants_page(NOTICE),
    "mutants": lambda: mutants_page(NOTICE),
    "errors": errors_page,
    "port-broker": lambda: ports_page("Ports: the log and the clock", *LOG_PORTS),
    "port-store": lambda: ports_page("Ports: the stores", *STORE_PORTS),
    "testing": testing_page,
    "contracts": contracts_page,
    "simulation": simulation_page,
    "settings": settings_page,
    "telemetry": telemetry_page,
    **PAGES,
}


def generated() -> dict[str, str]:
    """Give every page of the reference by the name of its file."""
    check_ports()
    found = {
        f"{stem}.md": page(TITLES[stem], list(names(which)))
        for stem, which in name_pages().items()
    }  # fmt: skip
    found.update({f"{stem}.md": make() for stem, make in OTHERS.items()})
    return found


def write(folder: Path = FOLDER, *, check: bool = False) -> list[str]:
    """Write what is old, and name it; with `check` only name it."""
    old = []
    for name, text in generated().items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            old.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    return old


if __name__ == "__main__":
    only_check = "--check" in sys.argv[1:]
    changed = write(check=only_check)
    for one in changed:
        typer.echo(f"{'old' if only_check else 'written'}: docs/reference/{one}")
    sys.exit(1 if only_check and changed else 0)
