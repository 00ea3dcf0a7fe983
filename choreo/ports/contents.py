"""What a store and a log have to show when the whole is audited: values, not tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from choreo.events import Partition
from choreo.plan import Memo, Source, Status
from choreo.ports.store import Unsent

__all__ = [
    "AuditedBroker",
    "AuditedStore",
    "ClusterLook",
    "Contents",
    "DatabaseLook",
    "InboxRow",
    "MemoRow",
    "OwnerRow",
    "TimerRow",
    "TopicLook",
]


class InboxRow(NamedTuple):
    """One delivery: `due` in epoch seconds and `chain` of one that is parked or dead."""

    handler: str
    subject: bytes
    status: Status
    source: Source
    due: float | None = None
    chain: str = ""


class TimerRow(NamedTuple):
    """One timer that has not fired; `due` in epoch seconds."""

    id: bytes
    handler: str
    due: float
    source: Source


class MemoRow(NamedTuple):
    """One outside call: of which delivery, by which name, and what is known of it."""

    handler: str
    subject: bytes
    name: str
    state: Memo


class OwnerRow(NamedTuple):
    """Who has a partition of a group; `holder` is empty once it was let go."""

    group: str
    partition: Partition
    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class Contents:
    """All that one store keeps for choreo, as of one moment.

    `outbox` is what is not known to be on its topic. `floors` has, by group and partition, the
    offset up to which inbox rows may have been forgotten.
    """

    inbox: Sequence[InboxRow] = ()
    timers: Sequence[TimerRow] = ()
    memos: Sequence[MemoRow] = ()
    owners: Sequence[OwnerRow] = ()
    outbox: Sequence[Unsent] = ()
    floors: Mapping[tuple[str, Partition], int] = field(default_factory=dict)


class AuditedStore(Protocol):
    """What an audit asks of a store."""

    async def contents(self) -> Contents:
        """Read everything, as of one moment."""
        ...


class AuditedBroker(Protocol):
    """What an audit asks of a broker."""

    async def positions(self) -> Mapping[tuple[str, Partition], int]:
        """Give the offset that each group has committed in each partition: the one read next."""
        ...


class TopicLook(NamedTuple):
    """One topic: on how many brokers its least replicated partition lies, how many must agree."""

    partitions: int
    replicas: int
    in_sync_min: int
    retention_s: float | None


class ClusterLook(NamedTuple):
    """A cluster as it answers."""

    brokers: int
    topics: Mapping[str, TopicLook]


class DatabaseLook(NamedTuple):
    """A database as it answers.

    `tables` is the number of the last migration that has run, 0 without our tables, `newest` that
    of this version; `off_s` how far this machine's clock is ahead of it.
    """

    name: str
    settings: Mapping[str, str]
    standby: bool
    tables: int
    newest: int
    unsent: int
    off_s: float
