"""Writes the reference: `python -m docs.generate`; with `--check` it only tells what is old.

Each page comes from the docstrings and signatures of the code, so that what is promised is
said once.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

import choreo
from choreo import errors, ports, telemetry, testing
from choreo.cli import app as command_line
from choreo.cli import settings
from choreo.cli.dead import dead as dead_letters
from choreo.cli.schemas import schemas as schema_verbs
from choreo.cli.topics import topics as kafka_topics
from choreo.environment import PREFIX, REGISTRY, VARIABLES
from choreo.worker import Limits
from docs.invariants import invariants_page
from docs.mutants import mutants_page

__all__ = ["generated", "write"]

FOLDER = Path(__file__).parent / "reference"
NOTICE = "<!-- written by `make docs` from docstrings: change those -->"
WIDTH = 100

SERVICE = ("Service", "Flow", "Retry", "Limit", "Breaker")
HANDLING = (
    "Event", "Secret", "Foreign", "Context", "Tx", "State", "Failure", "Results",
    "After", "Cancel", "FanOut", "NewFlow", "Later", "NotDone",
)  # fmt: skip
RUNNING = ("App", "run", "transaction", "Evidence")
FACADE = tuple(choreo.__all__)
# Public for other parts of choreo, not for users.
INNER = {
    "After.due", "Context.go_on", "Context.tx_opened", "Context.undo_all", "Context.undos",
    "Later.due", "Retry.delay_s", "Retry.retryable", "Service.handler_of", "Service.seal",
    "State.to_stored",
}  # fmt: skip
MADE_BY_CHOREO = ("Context", "Given", "Secret")


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


def signature_lines(name: str, thing: Any, *, bound: bool = False) -> Iterator[str]:
    """Write a signature, on one line if it fits."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        yield name
        return
    params = [one for one in signature.parameters.values() if not (bound and one.name == "self")]
    written = list(_parameters(params))
    result = "" if signature.return_annotation in (inspect.Parameter.empty, "None", None) else (
        f" -> {_text(signature.return_annotation)}"
    )  # fmt: skip
    plain = inspect.unwrap(thing)
    prefix = "async " if inspect.iscoroutinefunction(plain) else ""
    if inspect.isasyncgenfunction(plain):  # a context manager
        prefix, result = "async with ", result.replace("AsyncIterator[", "").rstrip("]")
    line = f"{prefix}{name}({', '.join(written)}){result}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"{prefix}{name}("
    for one in written:
        yield f"    {one},"
    yield f"){result}"


def _parameters(params: Sequence[inspect.Parameter]) -> Iterator[str]:
    starred = False
    for one in params:
        if one.kind is one.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        starred = starred or one.kind is one.VAR_POSITIONAL
        text = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(one.kind.name, "") + one.name
        if one.annotation is not one.empty:
            text += f": {_text(one.annotation)}"
        if one.default is not one.empty:
            text += f" = {_default(one.default)}"
        yield text


def _text(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return getattr(annotation, "__name__", None) or str(annotation)


def _default(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = value == type(value)()
        return f"{type(value).__name__}()" if plain else repr(value)
    return repr(value)


def settings_of_class(thing: type) -> list[str]:
    """Write what a class statement of a subclass takes: `class E(Event, topic=…)`."""
    hook = vars(thing).get("__pydantic_init_subclass__")
    if hook is None:
        return []
    params = [
        one for one in inspect.signature(hook.__func__).parameters.values()
        if one.kind is one.KEYWORD_ONLY
    ]  # fmt: skip
    given_ = ", ".join(f"{one.name}={_default(one.default)}" for one in params)
    return [f"class Mine({thing.__name__}, {given_})"]


def described(name: str, thing: Any, level: str = "##") -> Iterator[str]:
    """Describe a class or a function, and the public methods of a class."""
    yield f"{level} `{name}`"
    yield ""
    is_class = inspect.isclass(thing)
    if not is_class and not callable(thing):  # a value
        yield from fenced([repr(thing)])
        return
    heads = settings_of_class(thing) if is_class else []
    if not heads and not getattr(thing, "_is_protocol", False) and name not in MADE_BY_CHOREO:
        heads = list(signature_lines(name, thing))
    if heads:
        yield from fenced(heads)
    yield from (inspect.getdoc(thing) or "").splitlines()
    yield ""
    if is_class:
        for verb, method in methods(thing):
            if f"{name}.{verb}" not in INNER:
                yield from described_method(verb, method)


def methods(thing: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class defines itself, as written."""
    for verb, method in vars(thing).items():
        if verb.startswith("_") or verb in (
            "model_config",
            "model_fields",
            "model_computed_fields",
        ):
            continue
        if isinstance(method, property | types.FunctionType | staticmethod) and _own_doc(method):
            yield verb, method


def _own_doc(method: Any) -> str:
    return inspect.cleandoc(getattr(method, "__doc__", "") or "")


def described_method(verb: str, method: Any) -> Iterator[str]:
    """Describe a method: its signature, and its docstring."""
    if isinstance(method, property):
        yield f"**`{verb}`** (a property)"
    else:
        yield from fenced(list(signature_lines(verb, method, bound=True)))
    yield ""
    yield from _own_doc(method).splitlines()
    yield ""


def fenced(lines: Sequence[str]) -> Iterator[str]:
    """Fence lines that are no program."""
    yield "```text"
    yield from lines
    yield "```"
    yield ""


def page(title: str, *parts: Iterator[str] | Sequence[str]) -> str:
    """Put a page together; blank lines never stand in a row."""
    lines = [NOTICE, "", f"# {title}", ""]
    for part in parts:
        for line in part:
            if line or lines[-1]:
                lines.append(line.rstrip())
    return "\n".join(lines).rstrip() + "\n"


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
        "anything where nobody has chosen a server. Security of Kafka: `KAFKA_SECURITY_PROTOCOL`",
        "and so on, by Kafka's own names in capitals.",
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


# ── the command line ─────────────────────────────────────────────────────────────────────


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
    "command-line": command_line_page,
    "command-line-dead": dead_page,
    "command-line-operating": operating_page,
    "command-line-schemas": schemas_page,
    "command-line-topics": topics_page,
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
