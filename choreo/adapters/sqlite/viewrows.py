"""Rows of the views: the tables, and how ids are kept."""

from __future__ import annotations

from choreo.events import id_text

__all__ = ["SCHEMA", "TABLES", "VERSION", "Key", "packed", "ranges", "unpacked"]

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
