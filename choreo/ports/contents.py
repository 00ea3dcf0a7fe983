"""What a store and a log have to show when the whole is audited: values, not tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    "OutsideBroker",
    "OutsideStore",
    "OwnerRow",
    "TimerRow",
    "TopicLook",
    "weaker_settings",
]

REPLICAS, IN_SYNC = 3, 2
DURABLE = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_write", "remote_apply"),
}


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
    """One topic: on how many brokers its least replicated partition lies, how many must agree.

    None is what may not be seen; of `retention_s` also that the last record of a key is kept.
    """

    partitions: int
    replicas: int
    in_sync_min: int | None
    retention_s: float | None
    unclean: bool = False
    """Whether a broker that lacks records may lead."""

    @property
    def weaker(self) -> Sequence[str]:
        """Name what lets records be lost that were acknowledged."""
        found = []
        if self.replicas < REPLICAS:
            found.append(f"replicas={self.replicas}")
        if self.in_sync_min is not None and self.in_sync_min < IN_SYNC:
            found.append(f"min.insync.replicas={self.in_sync_min}")
        if self.unclean:
            found.append("unclean.leader.election.enable=true")
        return found


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

    @property
    def weaker(self) -> Sequence[str]:
        """Name the settings by which a loss of power may undo what was told."""
        return weaker_settings(self.settings)


def weaker_settings(settings: Mapping[str, str]) -> Sequence[str]:
    """Name those of a database's settings by which a loss of power may undo what was told."""
    return [
        f"{name}={settings.get(name, '?')}"
        for name, good in DURABLE.items()
        if settings.get(name) not in good
    ]


class OutsideBroker(Protocol):
    """What is asked of a broker whose topics others may set up, and which forgets by itself."""

    async def look(self, topics: Collection[str]) -> Mapping[str, TopicLook]:
        """Look at those of these topics that are there."""
        ...


class OutsideStore(Protocol):
    """What is asked of a store in a database that others set up."""

    async def weaker(self) -> Sequence[str]:
        """Name the settings by which a loss of power may undo what was told."""
        ...
