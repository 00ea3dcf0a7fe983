"""The baseline: a bare, hand-written SQLite loop. Inbox row, event and offset, grouped.

It does what no framework can do without: read the event's JSON, derive an id, build headers
and the next event's JSON, write an inbox row and the event, move the offset;
`synchronous=FULL`, 256 steps a transaction.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import uuid
from pathlib import Path

__all__ = ["bare_steps_per_s"]

GROUP = 256
TABLES = """
CREATE TABLE inbox (handler INTEGER, subject BLOB, status INTEGER, PRIMARY KEY (handler, subject))
    WITHOUT ROWID;
CREATE TABLE log (position INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER, partition INTEGER,
    key BLOB, headers TEXT, value BLOB);
CREATE TABLE position (grp TEXT PRIMARY KEY, offset INTEGER) WITHOUT ROWID;
CREATE TABLE stock (sku TEXT PRIMARY KEY, units INTEGER) WITHOUT ROWID;
"""
HEADERS = (
    '{"ce_specversion":"1.0","ce_source":"s3","ce_type":"saga.s3.Step","content-type":'
    '"application/json","choreo-step":"s3.go","ce_id":"{id}","ce_time":"2026-01-01T00:00:00.000Z",'
    '"ce_subject":"order-1","ce_correlationid":"FLOW","ce_causationid":"FLOW",'
    '"choreo-attempt":"1","choreo-started":"1767225600.000","choreo-took":"0.000012"}'
)


def bare_steps_per_s(path: Path, *, steps: int, business: bool = False) -> float:
    """Run the loop; `business` adds one statement of the user's own to each step."""
    steps = -(-steps // GROUP) * GROUP
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(TABLES)
    inbox = f"INSERT INTO inbox VALUES {','.join(['(?,?,2)'] * GROUP)}"
    log = "INSERT INTO log (topic, partition, key, headers, value) VALUES " + ",".join(
        ["(?,?,?,?,?)"] * GROUP
    )
    stock = "INSERT INTO stock VALUES (?, 1) ON CONFLICT (sku) DO UPDATE SET units = units + 1"
    value = json.dumps({"order_id": "order-0", "filler": "x" * 200, "n": 0}).encode()
    flow = str(uuid.uuid4())
    subject, ms = uuid.uuid4().bytes, 1_767_225_600_000
    head, _, rest = HEADERS.replace("FLOW", flow).partition("{id}")
    begun = time.perf_counter()
    for group in range(0, steps, GROUP):
        rows: list[object] = []
        events: list[object] = []
        for n in range(group, group + GROUP):
            prefix = (ms + n // 30).to_bytes(6, "big")  # ids begin with the time
            subject = prefix + hashlib.sha1(subject).digest()[:10]  # noqa: S324 - an id
            key = f"order-{n % 5000}"
            headers = f"{head}{subject.hex()}{rest}"
            event = json.loads(value)
            value = json.dumps({"order_id": key, "filler": event["filler"], "n": n}).encode()
            rows += (n % 5, subject)
            events += (n % 6, n % 4, key.encode(), headers, value)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(inbox, rows)
        connection.execute(log, events)
        if business:
            for n in range(group, group + GROUP):
                connection.execute(stock, (f"sku-{n % 500}",))
        connection.execute(
            "INSERT INTO position VALUES ('g', ?1) ON CONFLICT (grp) DO UPDATE SET offset = ?1",
            (group,),
        )
        connection.execute("COMMIT")
    took = time.perf_counter() - begun
    connection.close()
    return steps / took
