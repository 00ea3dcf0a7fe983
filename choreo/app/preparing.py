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
from choreo.errors import BrokerError, ConfigurationError
from choreo.ports import Broker, Forgetting, Prepared, Store, Tx
from choreo.service import Service

__all__ = ["migrate", "refuse_orphans", "transaction", "warn_of_short_inboxes"]

log = logging.getLogger("choreo.app")


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


async def warn_of_short_inboxes(
    broker: Broker, services: Sequence[tuple[Service, Collection[str]]]
) -> None:
    """Name services that forget what they have settled before its topic forgets the record.

    `services` come with the topics that each takes from. A broker that forgets nothing by
    itself is not asked.
    """
    if not hasattr(broker, "retention"):
        return
    topics = {topic for _, taken in services for topic in taken}
    kept = await cast("Forgetting", broker).retention(topics)
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
