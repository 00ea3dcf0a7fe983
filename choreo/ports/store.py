"""The store: where steps are recorded, and the user's own tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    "Due",
    "Enlisting",
    "Floor",
    "GateSeen",
    "Outbox",
    "Prepared",
    "Row",
    "Seen",
    "StateSeen",
    "Store",
    "StoreTraits",
    "Tx",
    "Unsent",
    "Waiting",
    "Want",
]

Value = None | bool | int | float | str | bytes
"""What a statement takes and gives. Decimal and datetime go in as text, too."""
Row = Mapping[str, Any]


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
    """What a store can do.

    `publishes`: `apply` appends to the log by itself; a store that does not is an `Outbox`.
    """

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

    async def own(
        self, group: str, partitions: Collection[Partition], *, generation: int | None = None
    ) -> Owned:
        """Take the partitions over: their epochs rise, plans of former owners are stale.

        A partition that the broker has given to another member since is not in the answer: one
        that a process which lives took over by a higher `generation` of the group.
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


class Unsent(NamedTuple):
    """A record that a step left, and that is not known to be on its topic."""

    row: int
    partition: Partition
    record: Record


class Outbox(Protocol):
    """What a relay asks of a store whose `apply` does not publish by itself.

    `apply` writes each record that it is to publish as a row of its own, under the partition
    that the step's delivery came in on, and sets the record's `row`. Rows rise in the order
    in which they are committed per partition. A plan with `Sent` takes rows away.
    """

    async def unsent(self, owned: Owned, *, after: int, most: int) -> Sequence[Unsent]:
        """Give rows beyond `after` that came of partitions of `owned`, in order, at most `most`.

        Rows that came of no delivery are with the ORPHANS of one group at a time, by their key
        in the order in which they were committed.
        """
        ...

    async def stirred(self) -> None:
        """Wait until there may be rows that `apply` did not tell of: a caller's transaction."""
        ...


class Enlisting(Protocol):
    """What is asked of a store by who publishes in a transaction of his own."""

    async def enlist(self, tx: object, record: Record) -> None:
        """Make a record part of a transaction: it is published once that is committed, or never.

        `tx` is a Tx of `transaction()`, or what the store's own client calls a transaction.
        Raises StoreError CH4014 for one that is not open, or not of this database.
        """
        ...


class Waiting(NamedTuple):
    """What waits for a handler: parked deliveries, timers, open outside calls."""

    handler: str
    former: tuple[str, ...]
    what: str
    many: int


class Prepared(Protocol):
    """What is asked of a store before services begin on it, and while they run."""

    async def migrate(self, service: str, files: Sequence[tuple[str, str]]) -> None:
        """Run a service's own migrations, (name, SQL), in order, each once, all or none.

        Raises ConfigurationError when one that has run was changed since.
        """
        ...

    async def waiting(self, group: str) -> Sequence[Waiting]:
        """Give what waits for the group's handlers, whoever they are."""
        ...

    async def migrations(self) -> Collection[tuple[str, str]]:
        """Give service and name of each migration that has run.

        It waits for nobody's transaction, unless the store can not write before that ends.
        """
        ...
