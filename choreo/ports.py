"""Ports: what the rest of choreo needs of a log, a store, a view store, a clock.

An adapter implements them; a contract in `choreo.testing.contracts` holds each promise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

from choreo.events import Partition, Record
from choreo.plan import GateKey, Memo, Owned, Parked, Plan, Source, Status
from choreo.policies import Keep

__all__ = [
    "ORPHANS",
    "UNWRITTEN",
    "Applied",
    "Assignee",
    "Broker",
    "BrokerTraits",
    "Clock",
    "Due",
    "Fact",
    "Floor",
    "FlowFilter",
    "FlowMerge",
    "FlowSummary",
    "GateSeen",
    "Row",
    "Seen",
    "StateSeen",
    "Store",
    "StoreTraits",
    "Subscription",
    "Topic",
    "Tx",
    "ViewBatch",
    "ViewStore",
    "Want",
]

Value = None | bool | int | float | str | bytes
"""What a statement takes and gives. Decimal and datetime go in as text, too."""
Row = Mapping[str, Any]


class Clock(Protocol):
    """Time. Everything that waits or looks at the time asks this."""

    def now(self) -> float:
        """Give epoch seconds."""
        ...

    def elapsed(self) -> float:
        """Give seconds of a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds of this clock."""
        ...


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic to be. `partitions` bounds how many processes can share a group's work."""

    name: str
    partitions: int = 4


@dataclass(frozen=True, slots=True)
class BrokerTraits:
    """What a broker can do; contracts skip by these alone.

    `stores`: the store's `apply` publishes by itself (same file, no relay).
    """

    durable: bool
    stores: bool


class Subscription(Protocol):
    """A group's place in some topics."""

    async def poll(self, records_max: int) -> Sequence[Record]:
        """Wait for records and give at most `records_max`, in order per partition.

        Each is given again, after a restart, until its offset is committed. Empty only
        when closed.
        """
        ...

    def assigned(self) -> Collection[Partition]:
        """Give the partitions that are ours now."""
        ...

    @property
    def shared(self) -> bool:
        """Tell whether other members have a part of the group's partitions."""
        ...

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Set the offset to read next per partition; those not ours any more are passed over."""
        ...

    async def close(self) -> None:
        """Leave the group. May be called twice; a waiting `poll` returns nothing."""
        ...


class Assignee(Protocol):
    """Who is told which partitions of a subscription are its own."""

    async def assigned(self, partitions: Collection[Partition]) -> None:
        """Take them over: their records come once this has returned."""
        ...

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Come to rest in them: no record of them comes, and another member waits for them."""
        ...


class Broker(Protocol):
    """The log: topics of partitions of records."""

    @property
    def traits(self) -> BrokerTraits:
        """Tell what this broker can do."""
        ...

    async def publish(self, records: Sequence[Record]) -> None:
        """Append records, all or none, in order per key; durable on return.

        Sets partition and offset of each. Safe to call again: ids are deterministic.
        Raises BrokerUnavailableError (transient), BrokerClosedError.
        """
        ...

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> Subscription:
        """Join a group; a new one starts at the earliest record.

        Partitions that are free are assigned before this returns. When members come and
        go, partitions move: one member at a time has a partition, and a member that is
        gone, or has not moved for its lease, loses its own.
        """
        ...

    def read(
        self, topics: Sequence[str] | None, *, since: int = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        """Read topics (None: all) from position `since`, in batches, outside of any group.

        Ends at the end, unless told to `follow`.
        """
        ...

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create the topics that are not there. Safe to call again."""
        ...

    async def close(self) -> None:
        """Release everything. May be called twice."""
        ...


class Tx(Protocol):
    """The service's own data, in the transaction of the step.

    Parameters are `$1`, `$2`, … Values are None, bool, int, float, str, bytes; Decimal and
    datetime are kept as text. It opens at the first statement; from then on a handler may
    wait for `tx` only.
    """

    async def execute(self, sql: str, *values: object) -> int:
        """Run a statement; give the number of rows it changed."""
        ...

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """Give all rows, each a mapping by column name."""
        ...

    async def fetchval(self, sql: str, *values: object) -> Any:
        """Give the first column of the first row, None without one."""
        ...


class GateSeen(NamedTuple):
    """A gate as it was read. Absent: `seq` 0, open, no members."""

    seq: int
    closed: bool
    members: bytes


class StateSeen(NamedTuple):
    """A keyed state as it was read. Absent: version 0, no value."""

    version: int
    value: bytes | None


class Floor(NamedTuple):
    """Up to `offset` a group may have forgotten what it settled; the log ended there `at`."""

    offset: int
    at: float


class Want(NamedTuple):
    """What a delivery needs to see before it is decided.

    The first Want that names a handler may name its `former` names: what was written under
    them, by whomever, is found under the present one from then on, and the other way round.
    `source`: where a record was polled, if it was; `target`: another delivery it is about.
    """

    handler: str
    subject: bytes
    gates: tuple[GateKey, ...] = ()
    state: tuple[str, str] | None = None
    memos: bool = False
    former: tuple[str, ...] = ()
    source: Source | None = None
    target: Want | None = None


class Seen(NamedTuple):
    """What `load` read for one Want. `status` None: no inbox row.

    Then `floor` is that of the record's partition, if one has risen: rows from before it may
    be gone. `kept` is what a parked or dead row has, `target` what is seen of the Want's own.
    """

    status: Status | None = None
    source: Source | None = None
    payload_hash: bytes = b""
    run: int = 0
    attempt: int = 0
    gates: Mapping[GateKey, GateSeen] = {}
    state: StateSeen | None = None
    memos: Mapping[str, tuple[Memo, bytes]] = {}
    floor: Floor | None = None
    kept: Parked | None = None
    target: Seen | None = None


ORPHANS = Partition("", 0)
"""Stands for the partitions that no member of a group subscribes to any more."""
UNWRITTEN = "CH4008"
"""Code of the StoreError in a plan's place whose changes, not its section, failed."""


class Applied(Enum):
    """What became of a plan."""

    DONE = "done"
    DUPLICATE = "duplicate"  # its delivery was settled before: nothing was written
    CONFLICT = "conflict"  # a gate, state or memo changed since it was seen: decide again
    STALE = "stale"  # another owner took the partition: nothing was written


class Due(NamedTuple):
    """A parked delivery (`parked` set) or a timer whose time has come."""

    handler: str
    subject: bytes
    due: float
    source: Source
    payload: bytes
    parked: Parked | None
    payload_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class StoreTraits:
    """What a store can do. `publishes`: `apply` appends to the log by itself."""

    durable: bool
    publishes: bool


class Store(Protocol):
    """Where steps are recorded: inbox, gates, timers, state, memos, and the user's tables.

    Handlers are named "group.handler"; a memo "group.handler/call", and `load` gives a
    handler its own by the name of the call.
    """

    @property
    def traits(self) -> StoreTraits:
        """Tell what this store can do."""
        ...

    async def own(self, group: str, partitions: Collection[Partition]) -> Owned:
        """Take the partitions over: their epochs rise, plans of former owners are stale.

        A partition that the broker has given to another member since is not in the answer.
        ORPHANS stands for all partitions that no member of the group subscribes to.
        """
        ...

    async def load(self, wants: Sequence[Want]) -> Sequence[Seen]:
        """Read, in bulk, what deliveries need to see. A hint: `apply` decides."""
        ...

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        """Write all plans in one transaction; durable on return.

        Each is written as a whole or not at all, and one that fails takes no other with it.
        In its place stands what its section raised, or a StoreError of code UNWRITTEN when
        the fault is not the section's.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """Open a transaction of the service's own, outside of any step."""
        ...

    async def due(
        self, owned: Owned, *, skip: Collection[tuple[str, bytes]], most: int
    ) -> tuple[Sequence[Due], float | None]:
        """Give what is due by now, earliest first, and when the next after these is due.

        Only what came in on partitions of `owned`. Leaves out each (handler, subject) in
        `skip`: it is being handled.
        """
        ...

    async def prune(self, group: str, keep: Keep, *, most: int) -> bool:
        """Forget, of some `most` rows, what is older than `keep` says; true: call again.

        What something waits for stays: parked or dead deliveries, timers, open calls and
        undos. Floors rise before rows below them go. No sweep begins before `keep.every_s`.
        """
        ...

    async def close(self) -> None:
        """Finish what was asked, then release everything. May be called twice."""
        ...


# ── what the tracker keeps ───────────────────────────────────────────────────────────────


class Fact(NamedTuple):
    """What the tracker keeps of one record: who published it, why and when; never a payload.

    Its identity is (topic, partition, offset). `step` is the handler ("service.handler")
    that published, `subject` what that step was about: the id of an event or effect, and
    of a join its branch. `at` and `started` are epoch seconds, 0.0 and None if unknown.
    `state` and `run` are set by a note of a step that published no event; `more` is a JSON
    object of what is rare (error, due, branch, causes …), or "".
    """

    flow: str
    topic: str
    partition: int
    offset: int
    id: str
    type: str
    source: str
    step: str
    cause: str
    subject: str
    at: float
    key: str
    attempt: int
    started: float | None
    took_s: float | None
    state: str
    run: int
    more: str


class FlowMerge(NamedTuple):
    """What one batch adds to a flow's row. Merging is commutative, and harmless when repeated.

    `root` is the type of the event that began the flow, "" if the batch does not have it;
    `end` a type that ends some flow. Times are epoch seconds. Not `plain`: the row can
    only be told by folding all facts of the flow.
    """

    flow: str
    root: str
    name: str
    key: str
    started: float
    updated: float
    end: str
    ended: float | None
    deadline: float | None
    stuck_at: float
    plain: bool


@dataclass(frozen=True, slots=True)
class FlowSummary:
    """One flow in a list. Times are epoch seconds; `key` is the root event's.

    `status` is one of completed, compensated, running, waiting, retrying, parked,
    compensating, failed. From `deadline` on it is overdue, from `stuck_at` on stuck; both
    are None when that can not be.
    """

    flow: str
    root: str
    name: str
    status: str
    key: str
    end: str
    started: float
    updated: float
    ended: float | None = None
    deadline: float | None = None
    stuck_at: float | None = None
    retries: int = 0
    compensations: int = 0
    dead: int = 0
    voids: int = 0
    steps: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which flows to list, newest first. Empty fields ask for nothing.

    `search` is found in flow id (from its beginning), business key, event type, service
    and error. `since` in epoch seconds. `limit` 0: all.
    """

    status: tuple[str, ...] = ()
    name: str = ""
    since: float | None = None
    search: str = ""
    limit: int = 0


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """What one batch of records adds to the views, as one transaction.

    The records lay at positions `since` to before `position`; `last` names the last of
    them. `fold` gives a flow's row from all of its facts. `manifests` has (service, position,
    JSON text). `ends` has (root, end) types that belong together, None when unchanged;
    `stale` names types and steps: flows that have one are folded again. `reset` begins anew.
    """

    since: int
    position: int
    last: str
    fold: Callable[[str, Sequence[Fact]], FlowSummary]
    facts: Sequence[Fact] = ()
    flows: Sequence[FlowMerge] = ()
    manifests: Sequence[tuple[str, int, str]] = ()
    ends: Sequence[tuple[str, str]] | None = None
    stale: Sequence[str] = ()
    reset: bool = False


class ViewStore(Protocol):
    """Where the tracker keeps facts and what it made of them. Can be rebuilt from the log."""

    async def position(self) -> tuple[int, str]:
        """Give the position in the log to go on from, and what names the record before it."""
        ...

    async def apply(self, batch: ViewBatch) -> int:
        """Write a batch, all or nothing; give how many flows are still to be folded again.

        Raises StoreConflictError when another tracker has moved the position from `since`.
        """
        ...

    async def flows(self, which: FlowFilter) -> Sequence[FlowSummary]:
        """List flows, newest first."""
        ...

    async def facts(self, flow: str) -> Sequence[Fact]:
        """Give all facts of a flow."""
        ...

    async def find(self, text: str) -> Sequence[str]:
        """Give the ids of flows that begin with `text` or have it as key; at most 20."""
        ...

    async def manifests(self) -> Mapping[str, str]:
        """Give the newest manifest of each service, as JSON."""
        ...

    async def close(self) -> None:
        """Release everything. May be called twice."""
        ...
