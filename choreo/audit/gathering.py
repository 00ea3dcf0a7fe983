"""Evidence, read through the ports: the only part of an audit that is no pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from choreo.audit.evidence import Evidence
from choreo.events import Partition, Record
from choreo.ports import AuditedBroker, AuditedStore, Broker, Row

__all__ = ["Log", "gather"]


class Log(Broker, AuditedBroker, Protocol):
    """A broker that also tells what its groups have committed."""


async def gather(
    broker: Log, stores: Sequence[AuditedStore], *, rows: Callable[..., list[Row]], folder: Path
) -> Evidence:
    """Read the log, then every store, then what came meanwhile: fit to judge a live system.

    `rows` answers for the services' own tables; it is kept, not called.
    """
    history: list[Record] = []
    async for records in broker.read(None):
        history += records
    positions = await broker.positions()
    contents = [await store.contents() for store in stores]
    meanwhile: list[Record] = []
    async for records in broker.read(None, since=_beyond(history)):
        meanwhile += records
    return Evidence(
        history,
        rows,
        folder,
        contents,
        positions,
        meanwhile,
        ordered=not broker.traits.partitioned,
        whole=_is_whole(history, partitioned=broker.traits.partitioned),
    )


def _is_whole(history: Sequence[Record], *, partitioned: bool) -> bool:
    """Tell whether no record has been forgotten. A log that is one counts without a gap."""
    if partitioned:
        first: dict[Partition, int] = {}
        for record in history:
            first.setdefault(Partition(record.topic, record.partition), record.offset)
        return not any(first.values())
    return not history or history[-1].offset == len(history)


def _beyond(history: Sequence[Record]) -> Mapping[Partition, int]:
    found: dict[Partition, int] = {}
    for record in history:
        found[Partition(record.topic, record.partition)] = record.offset + 1
    return found
