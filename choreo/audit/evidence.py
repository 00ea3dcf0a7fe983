"""What is judged, and what is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from choreo.events import Partition, Record
from choreo.ports import Contents, FlowSummary, Row

__all__ = ["Committed", "Evidence", "Recovery", "Told", "Views", "Violation"]


class Committed(NamedTuple):
    """One commit of an offset. `member` is another one after every assignment."""

    group: str
    partition: Partition
    member: str
    offset: int


class Views(NamedTuple):
    """What a tracker shows of all flows, and what one shows that began anew, if one did."""

    live: Sequence[FlowSummary]
    rebuilt: Sequence[FlowSummary] | None = None


class Told(NamedTuple):
    """Texts that people or machines see, by name (a log file, a page), and planted secrets."""

    texts: Mapping[str, str]
    secrets: Sequence[str]


@dataclass(frozen=True, slots=True)
class Recovery:
    """How soon all is well after the last fault; times in epoch seconds, None: not judged.

    `at` is when faults stopped. From then on, or from its own beginning, a flow has `within_s`
    seconds to its end, and no delivery of a key that waits for nothing begins later than
    `delay_s_max` after its event. `restarts` names who started again on which record;
    `stopped` says that every service was told to end, and did.
    """

    at: float
    within_s: float | None = None
    delay_s_max: float | None = None
    restarts: Sequence[tuple[str, Partition, int]] = ()
    restarts_max: int | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """The log and the stores as they are: what an invariant judges by.

    `history` has every record in the order of the log. `rows(sql, *values)` asks the store
    (`$1`, `$2`, … as in a Tx) for the services' own tables. `folder` is where the files are.

    The rest is for the framework's invariants; what is None is not judged. `stores`: what
    each store keeps, of one service or of many. `positions`: the offset that a group reads
    next, by partition. `meanwhile`: records that came while the stores were read; nothing is
    asked of them, but what a store says may rest on them. `ordered`: a record's place in
    `history` says what came first; else that is known within a partition only. `whole`:
    the log has all that was ever published; else nothing is asked that only its lost beginning
    could answer. `skew_s`: how far the clocks of two machines may differ.

    `views`: what a tracker shows. `outside`: the idempotency keys in an outside system's
    books, by system. `commits`: offsets in the order in which they were committed. `replayed`:
    the same system after a replay; `tables` are the services' own, to compare. `runs`: a hash
    of the history of each run, by seed. `told`: what may hold no secret.
    `read` reads the values of records that are no JSON.
    """

    history: Sequence[Record]
    rows: Callable[..., list[Row]]
    folder: Path
    stores: Sequence[Contents] = ()
    positions: Mapping[tuple[str, Partition], int] | None = None
    meanwhile: Sequence[Record] = ()
    ordered: bool = True
    whole: bool = True
    skew_s: float = 0.0
    views: Views | None = None
    outside: Mapping[str, Sequence[str]] | None = None
    commits: Sequence[Committed] | None = None
    replayed: Evidence | None = None
    tables: Mapping[str, Sequence[object]] | None = None
    runs: Mapping[str, Sequence[str]] | None = None
    told: Told | None = None
    recovery: Recovery | None = None
    read: Callable[[Record], Any] | None = None

    def value(self, record: Record) -> Any:
        """Give what a record's value says, as JSON would have it."""
        return json.loads(record.value) if self.read is None else self.read(record)


class Violation(NamedTuple):
    """What may never happen and did: the invariant's name, and one sentence."""

    invariant: str
    text: str
