"""Tables of the embedded deployment: the log and the store, in one file."""

from __future__ import annotations

__all__ = ["OUTBOX", "SCHEMA", "VERSION", "WITH_OUTBOX"]

VERSION = 1
"""Kept in the file as `PRAGMA user_version`."""
WITH_OUTBOX = 2
"""Version of a file whose store stands beside another broker: it has the table `outbox`, too."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS name (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE           -- of a handler or a mark
);
CREATE TABLE IF NOT EXISTS alias (
    text TEXT PRIMARY KEY,              -- a former name
    id   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topic (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS log (
    position  INTEGER PRIMARY KEY AUTOINCREMENT,  -- also the offset within its partition
    topic     INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    key       BLOB,
    headers   TEXT NOT NULL,
    value     BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS position (
    grp       TEXT NOT NULL,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset    INTEGER NOT NULL,                   -- to read next
    floor     INTEGER NOT NULL DEFAULT 0,         -- up to here inbox rows may be gone
    floor_at  REAL NOT NULL DEFAULT 0,            -- when the log ended at the floor
    PRIMARY KEY (grp, topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS member (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    grp    TEXT NOT NULL,
    holder TEXT NOT NULL,                         -- its process
    topics TEXT NOT NULL,                         -- a JSON list
    until  REAL NOT NULL                          -- the lease's end, in seconds of uptime
);
CREATE TABLE IF NOT EXISTS assignment (
    grp       TEXT NOT NULL,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    member    INTEGER NOT NULL,                   -- 0: nobody's
    PRIMARY KEY (grp, topic, partition)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS position_floor ON position (grp) WHERE floor > 0;
CREATE TABLE IF NOT EXISTS mark (
    position INTEGER PRIMARY KEY,                 -- where the log ended
    at       REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS sweep (
    grp TEXT PRIMARY KEY,
    at  REAL NOT NULL                             -- when it last began to forget
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owner (
    grp       TEXT NOT NULL,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    epoch     INTEGER NOT NULL,
    holder    TEXT NOT NULL,                      -- its process, or empty once it let go
    PRIMARY KEY (grp, topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox (
    handler   INTEGER NOT NULL,
    subject   BLOB NOT NULL,                      -- 16 bytes
    status    INTEGER NOT NULL,                   -- 1 parked, 2 done, 3 dead, 4 void
    hash      BLOB NOT NULL,
    topic     INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    offset    INTEGER NOT NULL,
    run       INTEGER,
    attempt   INTEGER,
    due       REAL,
    chain     TEXT,                               -- of what is parked or dead; '' holds nobody
    record    BLOB,
    error     TEXT,
    PRIMARY KEY (handler, subject)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS inbox_due ON inbox (due) WHERE status = 1 AND due IS NOT NULL;
CREATE INDEX IF NOT EXISTS inbox_chain ON inbox (handler, chain, offset) WHERE chain IS NOT NULL;
CREATE TABLE IF NOT EXISTS gate (
    kind    TEXT NOT NULL,
    handler INTEGER NOT NULL,
    scope   TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    closed  INTEGER NOT NULL,
    members BLOB NOT NULL,
    position INTEGER NOT NULL,                    -- where the log ended when it was written
    PRIMARY KEY (kind, handler, scope)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timer (
    id        BLOB PRIMARY KEY,
    due       REAL NOT NULL,
    handler   INTEGER NOT NULL,
    payload   BLOB NOT NULL,
    topic     INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    offset    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS timer_due ON timer (due);
CREATE TABLE IF NOT EXISTS state (
    type    TEXT NOT NULL,
    key     TEXT NOT NULL,
    version INTEGER NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (type, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memo (
    subject BLOB NOT NULL,
    handler INTEGER NOT NULL,
    name    TEXT NOT NULL,                        -- of the call
    state   INTEGER NOT NULL,                     -- 0 closed, 1 intent, 2 result
    result  BLOB NOT NULL,
    position INTEGER NOT NULL,                    -- where the log ended when it was written
    PRIMARY KEY (subject, handler, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS memo_open ON memo (handler) WHERE state = 1;
CREATE TABLE IF NOT EXISTS migration (
    service TEXT NOT NULL,
    file    TEXT NOT NULL,
    sha1    TEXT NOT NULL,
    PRIMARY KEY (service, file)
) WITHOUT ROWID;
"""

OUTBOX = """
CREATE TABLE IF NOT EXISTS outbox (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    grp       TEXT NOT NULL,
    topic     TEXT NOT NULL,            -- the step's delivery came in on this partition
    partition INTEGER NOT NULL,
    target    TEXT NOT NULL,            -- the topic of the record itself
    key       BLOB,
    headers   TEXT NOT NULL,
    value     BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS passed (
    grp       TEXT NOT NULL,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset    INTEGER NOT NULL,         -- where the partition, in the log elsewhere, ended
    at        REAL NOT NULL,            -- when the group last told
    PRIMARY KEY (grp, topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended (      -- such ends, remembered: what `mark` is to a log here
    grp       TEXT NOT NULL,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset    INTEGER NOT NULL,
    at        REAL NOT NULL,
    PRIMARY KEY (grp, topic, partition, at)
) WITHOUT ROWID;
"""
