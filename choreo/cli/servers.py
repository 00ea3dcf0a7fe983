"""`doctor` on servers: whether they answer, and whether a setting weakens a promise."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from choreo.app import look_at_cluster, look_at_database
from choreo.cli.loading import services
from choreo.cli.look import FAIL, OK, WARN, Look
from choreo.cli.output import counted, duration
from choreo.cli.settings import Settings
from choreo.errors import ChoreoError
from choreo.ports import IN_SYNC, REPLICAS, ClusterLook, DatabaseLook
from choreo.service import Service
from choreo.topology import manifest, topics_of

__all__ = ["judged_cluster", "judged_database", "judged_inboxes", "looked_at"]

T = TypeVar("T")
UNSENT_MAX = 10_000
OFF_S = 5.0
WEAK = "CH6014"


def looked_at(settings: Settings) -> Iterator[Look]:
    """Ask the cluster and the database; judge what they answer."""
    deployment = settings.deployment
    found: list[Service] = []
    if settings.modules:
        try:
            found = services(settings.modules)
        except ChoreoError as exc:
            yield Look(FAIL, exc.what, exc.code, exc.fix)
    manifests = {service.name: manifest(service) for service in found}
    wanted = [one.name for one in topics_of(manifests, partitions=1, retention_s=None, given={})]
    cluster = _answer(look_at_cluster(deployment.servers or "", wanted))
    if isinstance(cluster, Look):
        yield cluster
    else:
        yield from judged_cluster(cluster, wanted)
        yield from judged_inboxes(cluster, found)
    if deployment.database is not None:
        database = _answer(look_at_database(deployment.database))
        if isinstance(database, Look):
            yield database
        else:
            yield from judged_database(database)


def _answer(asking: Coroutine[Any, Any, T]) -> T | Look:
    try:
        return asyncio.run(asking)
    except ChoreoError as exc:
        where = ", ".join(str(value) for value in exc.fields.values())
        return Look(FAIL, f"{exc.what} ({where})" if where else exc.what, exc.code, exc.fix)


def judged_cluster(seen: ClusterLook, wanted: list[str]) -> Iterator[Look]:
    """Judge a cluster by the topics that are wanted of it."""
    yield Look(OK, f"Kafka answers: {counted(seen.brokers, 'broker')}")
    if missing := [name for name in wanted if name not in seen.topics]:
        yield Look(
            FAIL, f"topics are missing: {', '.join(missing)}", "CH3004",
            "choreo topics apply makes them",
        )  # fmt: skip
    if weak := {name: one.weaker for name, one in seen.topics.items() if one.weaker}:
        name, settings = next(iter(weak.items()))
        yield Look(
            WARN,
            f"{counted(len(weak), 'topic')} may lose what was acknowledged when a broker loses its"
            f" disk, such as {name}: {', '.join(settings)}",
            WEAK, f"{REPLICAS} replicas, min.insync.replicas={IN_SYNC}, and no unclean election",
        )  # fmt: skip
    elif seen.topics:
        yield Look(OK, f"{counted(len(seen.topics), 'topic')}, each on {REPLICAS} brokers or more")


def judged_inboxes(seen: ClusterLook, found: list[Service]) -> Iterator[Look]:
    """Judge whether services remember for as long as their topics keep their records."""
    for service in found:
        inbox_s = service.keep.inbox_s
        longer = [
            f"{name} {'for ever' if math.isinf(kept) else duration(kept)}"
            for name in sorted(_taken(service) & seen.topics.keys())
            if (kept := seen.topics[name].retention_s or 0.0) > inbox_s
        ]
        if longer:
            yield Look(
                WARN,
                f"{service.name} remembers for {duration(inbox_s)} what it has settled, and its"
                f" topics keep records for longer: {', '.join(longer)}",
                "CH3027", "raise Service(inbox_keep_s=), or lower the retention",
            )  # fmt: skip


def _taken(service: Service) -> set[str]:
    return {
        event.__event__.topic
        for handler in service.handlers.values()
        for event in (*handler.inputs, *handler.on)
    }


def judged_database(seen: DatabaseLook) -> Iterator[Look]:
    """Judge a database."""
    yield Look(OK, f"PostgreSQL {seen.settings.get('server_version', '')} answers: {seen.name}")
    if seen.standby:
        yield Look(
            FAIL, "it is a standby, which takes nothing", "CH4001",
            "let CHOREO_STORE name the primary",
        )  # fmt: skip
    if seen.weaker:
        weak = ", ".join(seen.weaker)
        yield Look(
            WARN, f"a step may be undone by a loss of power after it was told: {weak}",
            WEAK, "set them on, in postgresql.conf or for this database",
        )  # fmt: skip
    if seen.tables > seen.newest:
        yield Look(
            FAIL, f"its tables are of version {seen.tables}, this choreo knows {seen.newest}",
            "CH4005", "use that version of choreo, or a newer one",
        )  # fmt: skip
    elif seen.tables < seen.newest:
        yield Look(
            OK, f"its tables are of version {seen.tables}: the next start makes {seen.newest} of it"
        )
    if seen.unsent > UNSENT_MAX:
        yield Look(
            WARN, f"{seen.unsent} records wait to be published", "CH3007",
            "see that the services run, and that the broker takes what they publish",
        )  # fmt: skip
    if abs(seen.off_s) >= OFF_S:
        ahead = "ahead of" if seen.off_s > 0 else "behind"
        yield Look(
            WARN, f"this machine's clock is {duration(abs(seen.off_s))} {ahead} the database's",
            "CH4015", "have the machine keep its time; choreo goes by the database's",
        )  # fmt: skip
