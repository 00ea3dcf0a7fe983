"""What the tracker keeps of the log, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from choreo.events import Partition

__all__ = ["Fact", "FlowFilter", "FlowMerge", "FlowSummary", "Standing", "ViewBatch", "ViewStore"]


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


class Standing(NamedTuple):
    """Where the views stand.

    `position` is what the last batch moved it to, and `last` what that named; `marks` has, of
    each partition of a partitioned log, the offset to go on from.
    """

    position: int
    last: str
    marks: Mapping[Partition, int]


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """What one batch of records adds to the views, as one transaction.

    It moves the position from `since` to `position`. In a log with positions the records lay
    there, and `last` names the last of them. Of a partitioned log the position counts what
    services have declared, so batches that add no manifest leave it where it is; `marks` has
    the offset that follows the records in each of their partitions.

    `fold` gives a flow's row from all of its facts. `manifests` has (service, position, JSON
    text). `ends` has (root, end) types that belong together, None when unchanged; `stale`
    names types and steps: flows that have one are folded again. `reset` begins anew.
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
    marks: Mapping[Partition, int] = field(default_factory=dict)


class ViewStore(Protocol):
    """Where the tracker keeps facts and what it made of them. Can be rebuilt from the log."""

    async def position(self) -> Standing:
        """Give where to go on from; 0, "" and nothing when the views are new."""
        ...

    async def apply(self, batch: ViewBatch) -> int:
        """Write a batch, all or nothing; give how many flows are still to be folded again.

        Facts that are there already, and merges repeated or in another order, change nothing.
        A mark never goes back, but by a reset. Raises StoreConflictError when another tracker
        has moved the position from `since`.
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
