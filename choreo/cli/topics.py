"""`topics`: what services need of a Kafka cluster: topics, partitions, the least of rights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import typer

from choreo.app import open_topics
from choreo.cli.loading import services
from choreo.cli.options import grouped
from choreo.cli.output import counted, execute, say, show_json
from choreo.cli.settings import Settings
from choreo.topology import Acl, TopicStep, acls_of, manifest, steps_of, topics_of

__all__ = ["topics"]

topics = typer.Typer(
    help="Topics on Kafka: what services need, what is there.", no_args_is_help=True
)

DAY_S = 86_400
SIGNS = {"create": "+", "grow": "~", "keep": "="}


@dataclass(frozen=True)
class Wanted:
    """Which services, on which cluster, how large."""

    modules: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE[:service]]...",
            help="Modules that declare services; else [tool.choreo] modules.",
            show_default=False,
        ),
    ] = None
    servers: Annotated[
        str | None,
        typer.Option(
            help="host:port; else CHOREO_BROKER, KAFKA_BOOTSTRAP_SERVERS.", show_default=False
        ),
    ] = None
    partitions: Annotated[int, typer.Option(min=1, help="Of each topic.")] = 4
    topic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PARTITIONS", help="Of this topic. May be repeated.", show_default=False
        ),
    ] = None
    retention_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of topics that are made; else as the cluster has it.",
            show_default=False,
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False

    def given(self) -> dict[str, int]:
        """Read NAME=PARTITIONS."""
        found: dict[str, int] = {}
        for one in self.topic or ():
            name, _, number = one.rpartition("=")
            if not name or not number.isdecimal() or int(number) < 1:
                what = f"{one!r} is no NAME=PARTITIONS"
                raise typer.BadParameter(what, param_hint="--topic")
            found[name] = int(number)
        return found


@topics.command()
@grouped
def plan(wanted: Wanted) -> None:
    """Say what `apply` would do, and what each service's user has to be allowed."""
    steps, acls = execute(_planned(wanted, act=False))
    _show(steps, acls, as_json=wanted.json)


@topics.command()
@grouped
def apply(wanted: Wanted) -> None:
    """Create topics that are missing, and add partitions that are missing; delete nothing."""
    steps, acls = execute(_planned(wanted, act=True))
    _show(steps, acls, as_json=wanted.json)


async def _planned(wanted: Wanted, *, act: bool) -> tuple[Sequence[TopicStep], Sequence[Acl]]:
    given = wanted.given()
    found = services(Settings(None, wanted.modules or ()).modules)
    manifests = {service.name: manifest(service) for service in found}
    days = wanted.retention_days
    needed = topics_of(
        manifests,
        partitions=wanted.partitions,
        retention_s=None if days is None else days * DAY_S,
        given=given,
    )
    async with open_topics(wanted.servers) as cluster:
        there = await cluster.partitions()
        steps = steps_of(needed, there, await cluster.retention(there))
        acls = [replace(one, name=cluster.namespace + one.name) for one in acls_of(manifests)]
        if act:
            await cluster.create([one.topic for one in steps if one.act == "create"])
            await cluster.grow([one.topic for one in steps if one.act == "grow"])
    return steps, acls


def _show(steps: Sequence[TopicStep], acls: Sequence[Acl], *, as_json: bool) -> None:
    if as_json:
        show_json({"topics": [asdict(one) for one in steps], "acls": [asdict(one) for one in acls]})
        return
    for one in steps:
        grown = f"{one.before} → " if one.act == "grow" else ""
        count = one.before if one.act == "keep" else one.topic.partitions
        kept = ", keeps the last of each key" if one.topic.compact else ""
        typer.echo(f"{SIGNS[one.act]} {one.topic.name}  {grown}{counted(count, 'partition')}{kept}")
        if one.warning:
            say(f"warning: {one.topic.name}: {one.warning}")
    typer.echo("")
    for acl in acls:
        typer.echo(f"User:{acl.service}  {acl.operation}  {acl.resource} {acl.name}")
