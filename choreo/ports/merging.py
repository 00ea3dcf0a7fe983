"""How what a batch says of a flow is merged into the flow's row, whatever keeps the row.

Merging is commutative, and harmless when repeated: what two trackers write of one flow comes to
the same in either order. Where marks do not suffice the row is not plain, and told by a fold.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

from choreo.ports.views import Fact, FlowMerge, ViewBatch

__all__ = ["NOT_PLAIN", "PLAIN", "PLAIN_WITH_ROOT", "FlowRow", "joined", "readable", "told"]

NOT_PLAIN, PLAIN, PLAIN_WITH_ROOT = 0, 1, 2


class FlowRow(NamedTuple):
    """A flow as it is merged. Not `plain`: only a fold of all its facts can tell.

    Ids and words are as the store keeps them, as texts or numbers; `marks` are the words of
    the flow's facts, as any kind of set that has `|`.
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


def joined(before: FlowRow, new: FlowRow) -> FlowRow:
    """Merge what a batch says into a row. What can not be merged makes the row not plain."""
    plain = (
        before.plain == PLAIN
        and (new.plain == PLAIN or (new.plain == PLAIN_WITH_ROOT and before.root is not None))
        and not (before.root and new.root)
        and not (before.end and new.end)
    )
    rooted = new if new.root else before
    return FlowRow(
        before.flow, rooted.root, rooted.name, before.status, rooted.key, before.end or new.end,
        rooted.started if rooted.root else min(before.started, new.started),
        before.ended if before.end else new.ended, rooted.deadline, PLAIN if plain else NOT_PLAIN,
        max(before.updated, new.updated), max(before.stuck_at or 0.0, new.stuck_at or 0.0),
        before.marks | new.marks,
    )  # fmt: skip


def told(row: FlowRow, ends: Collection[tuple[Any, Any]], status: tuple[Any, Any]) -> FlowRow:
    """Tell the status of a plain row: it reached an end, or it did not."""
    running, completed = status
    (flow, root, name, _, key, end, started, ended, deadline, plain, updated, stuck_at, marks) = row
    if end is not None and (root, end) in ends:
        return FlowRow(flow, root, name, completed, key, end, started, ended, None, plain,
                       updated, None, marks)  # fmt: skip
    return FlowRow(flow, root, name, running, key, None, started, None, deadline, plain,
                   updated, stuck_at if name else None, marks)  # fmt: skip


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
