"""What a step leaves, as values: a Plan is a tuple of Changes.

`step.decide` makes plans, a Store performs them. A new ability is a new Change or a new
use of one, never a new verb of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from choreo.events import Partition, Record

__all__ = [
    "CancelTimer",
    "Change",
    "Gate",
    "GateKey",
    "Memo",
    "Owned",
    "Passed",
    "Plan",
    "Publish",
    "Remember",
    "SaveState",
    "Sent",
    "SetTimer",
    "Settle",
    "Source",
    "Status",
    "waves",
]


class Status(IntEnum):
    """State of a delivery, as its inbox row has it. No row: not settled, never parked."""

    PARKED = 1
    DONE = 2
    DEAD = 3
    VOID = 4


class Memo(IntEnum):
    """State of an outside call."""

    CLOSED = 0  # it certainly had no effect; nothing is remembered
    INTENT = 1
    RESULT = 2


class Source(NamedTuple):
    """Where a delivery came in: the partition whose owner runs all that follows from it."""

    topic: str
    partition: int
    offset: int

    def of(self) -> Partition:
        """Give the partition."""
        return Partition(self.topic, self.partition)


class Parked(NamedTuple):
    """What a parked or dead row keeps beside its status.

    `due` in epoch seconds; None waits for the delivery before it in its `chain`. Later
    deliveries of a chain that is not "" wait behind it, also while it is dead.
    """

    run: int
    attempt: int
    due: float | None
    chain: str
    record: bytes
    error: str


class Settle(NamedTuple):
    """Set a delivery's state, by compare-and-set.

    `seen` is the (run, attempt) of the parked row that this outcome replaces; None: there
    was no row. A settle that loses makes its plan a duplicate, unless it is a `spawn`: a
    delivery of its own that the plan creates, and that may exist already. `dead`: the row
    that it replaces is a dead letter; one that is none any more is a conflict.
    """

    handler: str
    subject: bytes
    status: Status
    payload_hash: bytes
    source: Source
    seen: tuple[int, int] | None = None
    parked: Parked | None = None
    spawn: bool = False
    dead: bool = False

    @property
    def holds(self) -> bool:
        """Tell whether what comes later in its chain waits behind it."""
        return self.parked is not None and bool(self.parked.chain)


class Publish(NamedTuple):
    """Append a record to its topic."""

    record: Record


class SetTimer(NamedTuple):
    """Fire once at `due` (epoch seconds); the same id replaces."""

    id: bytes
    due: float
    handler: str
    payload: bytes
    source: Source


class CancelTimer(NamedTuple):
    """Take a timer back; none of that id is fine.

    With `due` and `payload`, it has fired: it must still be there as it was, or else it was
    replaced, cancelled or handled meanwhile, and the plan is a duplicate. The time alone
    does not tell: who sets it anew may set it for the very same moment.
    """

    id: bytes
    due: float | None = None
    payload: bytes = b""


class GateKey(NamedTuple):
    """Names a gate: its kind, whose it is, what it is about."""

    kind: str
    name: str
    scope: str


class Gate(NamedTuple):
    """Write a gate, if it is still as it was seen: `seq` is 0 for one that was absent."""

    key: GateKey
    seq: int
    closed: bool
    members: bytes


class Remember(NamedTuple):
    """Write down an outside call: its intent before, its result after. The first result wins."""

    subject: bytes
    name: str
    state: Memo
    result: bytes


class SaveState(NamedTuple):
    """Write a keyed state, if it still has the `version` seen (0: absent)."""

    type: str
    key: str
    version: int
    value: bytes


class Sent(NamedTuple):
    """Forget rows of the outbox: their records are on their topics."""

    rows: tuple[int, ...]


class Passed(NamedTuple):
    """Note how far a group has come in a partition: all before `offset` has its row, or is past.

    `end` is where the partition ends by now. From this a store that has no log in its own file
    tells how old its rows are, and raises floors; one that has needs to be told nothing.
    """

    partition: Partition
    offset: int
    end: int


Change = Settle | Publish | SetTimer | CancelTimer | Gate | Remember | SaveState | Sent | Passed


class Owned:
    """What a worker owns: partitions of a group, each with the epoch it was taken at.

    `topics` are those of the group: who has ORPHANS leaves their partitions alone, which go to
    another member soon. `held` has the (handler, chain) of every parked delivery found at the
    takeover: what comes later in such a chain waits behind it. `unclean` are the partitions
    whose former owner has crashed. A worker counts in `open` what it has on its way, and sets
    `lost` once the partitions are not its own any more.
    """

    __slots__ = ("checked", "epochs", "group", "held", "lost", "open", "topics", "unclean")

    def __init__(
        self,
        group: str,
        epochs: dict[Partition, int],
        held: Sequence[tuple[str, str]] = (),
        unclean: Collection[Partition] = (),
    ) -> None:
        """Say which partitions, at which epochs, and what was left."""
        self.group = group
        self.epochs = epochs
        self.held = held
        self.unclean = unclean
        self.topics: Collection[str] = ()
        self.open = 0
        self.lost = False
        self.checked: object = None  # the store's own mark of when it last saw the epochs

    def only(self, partition: Partition) -> Owned:
        """Give one partition alone: what a delivery's plans stand on."""
        return Owned(self.group, {partition: self.epochs[partition]})


class Plan(NamedTuple):
    """All that one step leaves: written together, or not at all.

    A plan with a `section` has its changes still to come: the store runs it inside the
    transaction (it is given a Tx and what `load` would give for `want`). Where the inbox row
    is all that has to be seen, `changes` is the claim: the Settle that the section is
    expected to begin with.
    """

    owned: Owned | None
    changes: tuple[Change, ...]
    section: Callable[..., Any] | None = None
    want: Any = None


def rows_of(plan: Plan) -> list[object]:
    """Name the rows that a plan writes by compare-and-set."""
    rows: list[object] = []
    for change in plan.changes:
        kind = type(change)
        if kind is Settle:
            rows.append((change.handler, change.subject))  # type: ignore[union-attr]
        elif kind is Gate:
            rows.append(change.key)  # type: ignore[union-attr]
        elif kind is SaveState:
            rows.append((change.type, change.key))  # type: ignore[union-attr]
        elif kind is Remember:
            rows.append((change.subject, change.name))  # type: ignore[union-attr]
        elif kind is SetTimer or kind is CancelTimer:
            rows.append(change.id)  # type: ignore[union-attr]
    return rows


def waves(plans: Sequence[Plan]) -> list[list[int]]:
    """Split a group, by index, so that no wave names a row twice; order is kept per row."""
    found: list[list[int]] = []
    last: dict[object, int] = {}
    for index, plan in enumerate(plans):
        rows = rows_of(plan)
        wave = max((last.get(row, -1) for row in rows), default=-1) + 1
        for row in rows:
            last[row] = wave
        if wave == len(found):
            found.append([])
        found[wave].append(index)
    return found
