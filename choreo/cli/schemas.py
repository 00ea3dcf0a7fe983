"""`schemas`: the Avro schemas of events, generated, compared, registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from choreo.app import open_registry
from choreo.cli.loading import services
from choreo.cli.options import grouped
from choreo.cli.output import cleaned, console, counted, execute, fail, show_json
from choreo.cli.settings import Settings
from choreo.codec import subject_of
from choreo.environment import REGISTRY, codec_settings
from choreo.events import Event
from choreo.schemas import (
    SchemaFinding,
    SchemaFolder,
    Version,
    added,
    check_schemas,
    owned_schemas,
    written,
)
from choreo.topology import classes_of

__all__ = ["schemas"]

schemas = typer.Typer(
    help="Avro schemas of events: a file a version, checked in.", no_args_is_help=True
)

DEFAULT = Path("schemas")


@dataclass(frozen=True)
class Where:
    """Which services, which folder, for whom it is said."""

    modules: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE[:service]]...",
            help="Modules that declare services; else [tool.choreo] modules.",
            show_default=False,
        ),
    ] = None
    schemas: Annotated[
        Path | None,
        typer.Option(
            "--schemas", help="The folder; else CHOREO_SCHEMAS, else schemas.", show_default=False
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False

    def folder(self) -> SchemaFolder:
        """Give the folder of schemas."""
        chosen = codec_settings()
        return SchemaFolder(self.schemas or chosen.folder or DEFAULT, chosen.recursive)

    def declared(self) -> list[tuple[str, type[Event]]]:
        """Give the event classes of the services, each with its service."""
        found = services(Settings(None, self.modules or ()).modules)
        return [(service.name, event) for service in found for event in classes_of(service)]


def _show(done: Sequence[Mapping[str, Any]], name: str, *, as_json: bool, verdict: str) -> None:
    if as_json:
        show_json({name: list(done)})
        return
    for one in done:
        typer.echo("  ".join(cleaned(str(part)) for part in one.values()))
    typer.echo(verdict)


@schemas.command()
@grouped
def generate(where: Where) -> None:
    """Add a version for each owned event whose class has changed; write nothing else."""
    folder = where.folder()
    versions = folder.versions()
    declared = owned_schemas((event for _, event in where.declared()), recursive=folder.recursive)
    new = [
        found
        for kind, schema in sorted(declared.items())
        if (found := added(versions.get(kind, ()), kind, schema)) is not None
    ]
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        for one in new:
            text = written(one.schema.root)
            folder.path.joinpath(one.file).write_text(text, encoding="utf-8")
    except OSError as exc:
        fail("CH1043", f"{folder.path} can not be written: {exc.strerror}. Fix: name another")
    verdict = f"{counted(len(new), 'version')} added; {counted(len(declared), 'event')} owned"
    done = [{"file": str(folder.path / one.file)} for one in new]
    _show(done, "added", as_json=where.json, verdict=verdict)


@schemas.command()
@grouped
def check(where: Where) -> None:
    """Compare all versions with each other, the code with the newest, views with owners."""
    folder = where.folder()
    versions = folder.versions()
    declared = where.declared()
    found = check_schemas(declared, versions, recursive=folder.recursive)
    kinds = {event.__event__.type for _, event in declared}
    count = sum(len(versions.get(kind, ())) for kind in kinds)
    if where.json:
        findings = [_as_json(one) for one in found]
        checked = {"events": len(kinds), "versions": count}
        show_json({"findings": findings, "checked": checked})
    else:
        for one in found:
            _told(one)
        size = f"{counted(len(kinds), 'event')}, {counted(count, 'version')}"
        verdict = counted(len(found), "finding") if found else "✔ nothing found"
        typer.echo(f"{verdict}; checked {size}")
    if found:
        raise typer.Exit(1)


def _told(one: SchemaFinding) -> None:
    out = console()
    at = f"  {one.field}" if one.field else ""
    out.print(f"✘ {one.code}  {cleaned(one.type)}{cleaned(at)}", soft_wrap=True)
    out.print(f"  {cleaned(one.what)}", soft_wrap=True)
    out.print(f"  Fix: {cleaned(one.fix)}\n", soft_wrap=True)


def _as_json(one: SchemaFinding) -> dict[str, Any]:
    return {
        "code": one.code, "type": one.type, "field": one.field or None, "what": one.what,
        "fix": one.fix, "reader": one.reader or None, "writer": one.writer or None,
    }  # fmt: skip


@schemas.command()
@grouped
def register(where: Where) -> None:
    """Register every version of every owned event; the registry's own settings stay."""
    folder = where.folder()
    declared = [event for _, event in where.declared() if event.__event__.key is not None]
    chosen = codec_settings()
    if chosen.registry is None:
        fail("CH1014", f"no registry is set. Fix: set {REGISTRY}, http://host:8081")
    found = check_schemas([("", event) for event in declared], folder.versions())
    if unwritten := [one for one in found if one.code == "CH1120"]:
        fail("CH1120", f"{unwritten[0].type}: {unwritten[0].what}. Fix: {unwritten[0].fix}")
    done = execute(_registered(chosen.registry, declared, folder.versions()))
    verdict = f"{counted(len(done), 'version')} registered"
    _show(done, "registered", as_json=where.json, verdict=verdict)


async def _registered(
    url: str, events: Sequence[type[Event]], versions: Mapping[str, Sequence[Version]]
) -> list[dict[str, Any]]:
    """Register oldest first, so that the registry's own rule sees them as they came."""
    registry = open_registry(url)
    done = []
    try:
        for event in dict.fromkeys(events):
            subject = subject_of(event.__event__)
            for version in versions.get(event.__event__.type, ()):
                number = await registry.register(subject, version.schema.text)
                done.append({"subject": subject, "version": version.number, "id": number})
    finally:
        await registry.close()
    return done
