"""How what a batch says of a flow is merged into the flow's row, whatever keeps the row.

Merging is commutative, and harmless when repeated: what two trackers write of one flow comes to
the same in either order. Where marks do not suffice the row is not plain, and told by a fold.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

from choreo.ports.views import Fact, FlowMerge, ViewBatch

__all__ = ["NOT_PLAIN", "PLAIN", "STUCK_AFTER_S", "FlowRow", "merged", "readable"]

NOT_PLAIN, PLAIN = 0, 1
STUCK_AFTER_S = 60.0
"""An open flow of which nothing was heard for so long, and nothing is due, is stuck."""


class FlowRow(NamedTuple):
    """A flow as it is merged. Not `plain`: only a fold of all its facts can tell.

    Ids and words are as the store keeps them, as texts or numbers; `marks` are the words of
    the flow's facts, as any kind of set that has `|`. While `root` is None, `end` and `ended`
    are of an event that may turn out to be the flow's end: no list shows them.
    """

    flow: Any
    root: Any
    name: Any
    status: Any
    key: str
    end: Any
    started: float
    ended: float | None
    deadline: float | None
    plain: int
    updated: float
    stuck_at: float | None
    marks: Any


def merged(
    before: FlowRow | None,
    new: FlowRow,
    ends: Collection[tuple[Any, Any]],
    status: tuple[Any, Any],
) -> FlowRow:
    """Merge what a batch says into a row; tell whether it has come to an end.

    `ends` has (root, end) types that belong together, `status` the words for running and
    completed. What can not be merged makes the row not plain, and leaves its status as it was.
    """
    row = new if before is None else _joined(before, new, ends)
    (flow, root, name, _, key, end, started, ended, deadline, plain, updated, _, marks) = row
    running, completed = status
    if root is not None and end is not None and (root, end) not in ends:
        end = ended = None
    stuck_at = updated + STUCK_AFTER_S if name else None
    if not plain:
        told = running if before is None else before.status
    elif root is not None and end is not None:
        told, deadline, stuck_at = completed, None, None
    else:
        told = running
    return FlowRow(flow, root, name, told, key, end, started, ended, deadline, plain, updated,
                   stuck_at, marks)  # fmt: skip


def _joined(before: FlowRow, new: FlowRow, ends: Collection[tuple[Any, Any]]) -> FlowRow:
    """Put two rows together. Of two roots of a type, or ends, the earlier one holds, as in a fold.

    An end that is not the root's has been dropped, so another type of root needs a fold.
    """
    plain = before.plain and new.plain
    rooted, started = before, before.started
    if before.root is None:
        rooted, started = new, min(before.started, new.started)
        if new.root is not None:
            started = new.started
    elif new.root is not None:
        if before.root != new.root or (started == new.started and before.key != new.key):
            plain = NOT_PLAIN
        elif new.started < started:
            rooted, started = new, new.started
    root, end, ended = rooted.root, before.end, before.ended
    if new.end is not None and (root is None or (root, new.end) in ends):
        if end is None or (root is not None and (root, end) not in ends):
            end, ended = new.end, new.ended
        elif end == new.end:
            ended = min(ended or 0.0, new.ended or 0.0)
        else:
            plain = NOT_PLAIN
    return FlowRow(
        before.flow, root, rooted.name, before.status, rooted.key, end, started, ended,
        rooted.deadline, plain, max(before.updated, new.updated),
        None, before.marks | new.marks,
    )  # fmt: skip


def readable(batch: ViewBatch, *, without: str = "") -> ViewBatch:
    """Replace, in all texts, what can not be written as UTF-8, and the characters `without`."""
    table = {ord(one): "\ufffd" for one in without}

    def clean(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.encode("utf-8", "replace").decode().translate(table)

    return replace(
        batch,
        last=clean(batch.last),
        facts=[Fact._make(map(clean, fact)) for fact in batch.facts],
        flows=[FlowMerge._make(map(clean, merge)) for merge in batch.flows],
    )
