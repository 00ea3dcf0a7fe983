"""Before services begin: their migrations, and whether something waits for who is gone."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from choreo.adapters.system import SystemClock
from choreo.app.opening import deployed
from choreo.errors import BrokerError, ChoreoError, ConfigurationError
from choreo.ports import (
    IN_SYNC,
    REPLICAS,
    Broker,
    OutsideBroker,
    OutsideStore,
    Prepared,
    Store,
    TopicLook,
    Tx,
)
from choreo.service import Service

__all__ = ["migrate", "refuse_orphans", "transaction", "warn_of_database", "warn_of_topics"]

log = logging.getLogger("choreo.app")

WEAK = "CH6014"


@asynccontextmanager
async def transaction(service: Service, folder: str | Path | None = None) -> AsyncIterator[Tx]:
    """Open one transaction on a service's own data, outside of any step, migrated first."""
    broker, store = deployed(folder, clock=SystemClock())
    try:
        await migrate(store, service)
        async with store.transaction() as tx:
            yield tx
    finally:
        await store.close()
        await broker.close()


async def migrate(store: Store, service: Service) -> None:
    """Run the service's migrations that have not run yet, in order, each once."""
    if service.migrations is not None:
        files = await asyncio.to_thread(_migrations, service)
        await cast("Prepared", store).migrate(service.name, files)


def _migrations(service: Service) -> list[tuple[str, str]]:
    folder = service.migrations
    assert folder is not None
    if not folder.is_dir():
        raise ConfigurationError(
            "the folder of migrations does not exist",
            code="CH1012",
            fix="create it, or leave migrations= out",
            service=service.name,
            folder=folder,
        )
    return [(path.name, path.read_text()) for path in sorted(folder.glob("*.sql"))]


async def warn_of_topics(
    broker: Broker, topics: Collection[str], services: Sequence[tuple[Service, Collection[str]]]
) -> None:
    """Name what of the topics' settings weakens a promise, where others may have set them up.

    `services` come with the topics that each takes from. What may not be seen is passed over.
    """
    if not hasattr(broker, "look"):
        return
    try:
        seen = await cast("OutsideBroker", broker).look(topics)
    except ChoreoError as exc:
        log.warning("it could not be looked at how topics are set up: %s", exc)
        return
    _warn_of_weak_topics(seen)
    _warn_of_short_inboxes(seen, services)


async def warn_of_database(store: Store) -> None:
    """Name what of a database's settings weakens a promise, where others may have set it up."""
    if not hasattr(store, "weaker"):
        return
    try:
        weaker = await cast("OutsideStore", store).weaker()
    except ChoreoError as exc:
        log.warning("it could not be looked at how the database is set up: %s", exc)
        return
    if weaker:
        error = ChoreoError(
            "a step may be undone by a loss of power after it was told",
            code=WEAK,
            fix="set them on, in postgresql.conf or for this database",
            settings=", ".join(weaker),
        )
        log.warning("%s", error)


def _warn_of_weak_topics(seen: Mapping[str, TopicLook]) -> None:
    weak = {name: seen[name].weaker for name in sorted(seen) if seen[name].weaker}
    if weak:
        name, settings = next(iter(weak.items()))
        error = ChoreoError(
            "topics may lose what was acknowledged when a broker loses its disk",
            code=WEAK,
            fix=f"give them {REPLICAS} replicas, min.insync.replicas={IN_SYNC}, and no unclean"
            " election; `choreo doctor` looks at them again",
            topics=f"{len(weak)} of {len(seen)}",
            such_as=f"{name}: {', '.join(settings)}",
        )
        log.warning("%s", error)


def _warn_of_short_inboxes(
    seen: Mapping[str, TopicLook], services: Sequence[tuple[Service, Collection[str]]]
) -> None:
    """Name services that forget what they have settled before its topic forgets the record."""
    kept = {name: one.retention_s or 0.0 for name, one in seen.items()}
    for service, taken in services:
        inbox_s = service.keep.inbox_s
        longer = {topic: kept[topic] for topic in sorted(taken) if kept.get(topic, 0) > inbox_s}
        if longer:
            error = BrokerError(
                "the inbox is kept for less than topics keep their records: one that is read again"
                " after that becomes a dead letter",
                code="CH3027",
                fix="raise Service(inbox_keep_s=) above the retention of its topics, or lower that",
                service=service.name,
                inbox_keep_s=f"{inbox_s:g}",
                topics=", ".join(f"{topic} {_kept(for_s)}" for topic, for_s in longer.items()),
            )
            log.warning("%s", error)


def _kept(for_s: float) -> str:
    return "for ever" if math.isinf(for_s) else f"{for_s:g} s"


async def refuse_orphans(store: Store, services: Mapping[str, Collection[str]]) -> None:
    """Raise ConfigurationError while something waits for handlers that a service has not."""
    for service, present in services.items():
        found: dict[str, list[str]] = {}
        for one in await cast("Prepared", store).waiting(service):
            if not {one.handler, *one.former} & set(present):
                found.setdefault(one.handler, []).append(f"{one.many} {one.what}")
        if found:
            waiting = "; ".join(f"{name}: {', '.join(counts)}" for name, counts in found.items())
            raise ConfigurationError(
                f"something waits for handlers that the service does not have: {waiting}",
                code="CH1013",
                fix="name the former name in was= of its heir, or run the old handler until "
                "nothing waits for it",
                service=service,
            )
