"""Rows of the views: the tables, how ids are kept, and how a flow's row is merged."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

from choreo.events import id_text
from choreo.ports import Fact, FlowMerge, ViewBatch

__all__ = [
    "NOT_PLAIN",
    "PLAIN",
    "PLAIN_WITH_ROOT",
    "SCHEMA",
    "TABLES",
    "VERSION",
    "FlowRow",
    "Key",
    "joined",
    "packed",
    "ranges",
    "readable",
    "told",
    "unpacked",
]

Key = bytes | str
"""An id as it is kept: 16 bytes of a UUID, any other as text."""

VERSION = 4

TABLES = ("word", "shape", "fact", "flow", "manifest", "ending", "mark", "meta")
SCHEMA = """
CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE shape (
    id INTEGER PRIMARY KEY, name INTEGER NOT NULL, words BLOB NOT NULL, UNIQUE (name, words)
);
CREATE TABLE fact (
    flow, offset INTEGER, topic INTEGER, partition INTEGER, id, type INTEGER, source INTEGER,
    step INTEGER, cause, subject, at REAL, key TEXT, attempt INTEGER, started REAL, took REAL,
    state INTEGER, run INTEGER, more TEXT,
    PRIMARY KEY (flow, offset, topic, partition)
) WITHOUT ROWID;
CREATE TABLE flow (
    flow PRIMARY KEY, root INTEGER, name INTEGER, status INTEGER, key TEXT, end INTEGER,
    started REAL, updated REAL, ended REAL, deadline REAL, stuck_at REAL, shape INTEGER,
    plain INTEGER, retries INTEGER, compensations INTEGER, dead INTEGER, voids INTEGER,
    steps INTEGER, error TEXT, dirty INTEGER
) WITHOUT ROWID;
CREATE INDEX flow_status ON flow (status, started);
CREATE INDEX flow_shape ON flow (shape, status, started);
CREATE INDEX flow_started ON flow (started);
CREATE INDEX flow_key ON flow (key) WHERE key <> '';
CREATE INDEX flow_error ON flow (started, status, name, error) WHERE error IS NOT NULL;
CREATE INDEX flow_dirty ON flow (dirty) WHERE dirty = 1;
CREATE TABLE manifest (service TEXT PRIMARY KEY, position INTEGER, text TEXT) WITHOUT ROWID;
CREATE TABLE ending (root TEXT, end TEXT, PRIMARY KEY (root, end)) WITHOUT ROWID;
CREATE TABLE mark (
    topic TEXT, partition INTEGER, offset INTEGER, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""


class FlowRow(NamedTuple):
    """A flow as it is merged. Not `plain`: only a fold of all its facts can tell.

    `marks` are the words of its facts, as bits; a row keeps the number of its shape instead.
    """

    flow: Key
    root: int | None
    name: int | None
    status: int
    key: str
    end: int | None
    started: float
    ended: float | None
    deadline: float | None
    plain: int
    updated: float
    stuck_at: float | None
    marks: int


NOT_PLAIN, PLAIN, PLAIN_WITH_ROOT = 0, 1, 2


# ── merging ──────────────────────────────────────────────────────────────────────────────


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


def told(
    row: FlowRow, ends: Collection[tuple[int | None, int | None]], status: tuple[int, int]
) -> FlowRow:
    """Tell the status of a plain row: it reached an end, or it did not."""
    running, completed = status
    (flow, root, name, _, key, end, started, ended, deadline, plain, updated, stuck_at, marks) = row
    if end is not None and (root, end) in ends:
        return FlowRow(flow, root, name, completed, key, end, started, ended, None, plain,
                       updated, None, marks)  # fmt: skip
    return FlowRow(flow, root, name, running, key, None, started, None, deadline, plain,
                   updated, stuck_at if name else None, marks)  # fmt: skip


# ── ids ──────────────────────────────────────────────────────────────────────────────────


def packed(text: str) -> Key:
    """Keep a UUID as its 16 bytes, any other id as it is."""
    if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-":  # noqa: PLR2004
        digits = text.replace("-", "")
        try:
            raw = bytes.fromhex(digits)
        except ValueError:
            return text
        if len(raw) == 16 and raw.hex() == digits:  # noqa: PLR2004 - lower case, nothing skipped
            return raw
    return text


def unpacked(key: Key) -> str:
    """Give the id's text."""
    return id_text(key) if isinstance(key, bytes) else key


def ranges(text: str) -> list[tuple[Key, Key]]:
    """Give what an id that begins with `text` lies between, as it is kept."""
    ranges: list[tuple[Key, Key]] = [(text, text + "\U0010ffff")]
    digits = text.replace("-", "").lower()
    if digits and len(digits) <= 32 and not set(digits) - set("0123456789abcdef"):  # noqa: PLR2004
        ranges.append((bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f"))))
    return ranges


def readable(batch: ViewBatch) -> ViewBatch:
    """Replace, in all texts, what can not be written as UTF-8."""

    def clean(value: Any) -> Any:
        return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value

    return replace(
        batch,
        last=clean(batch.last),
        facts=[Fact._make(map(clean, fact)) for fact in batch.facts],
        flows=[FlowMerge._make(map(clean, merge)) for merge in batch.flows],
    )
