"""The tracker: how fast it reads, how much it keeps, how long a list takes when there is much."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.figure import Figure
from bench.flows import APART_S, T0, Chain, interleaved, note_of, records_of, write_log
from bench.process import started
from choreo.cli.reading import list_flows
from choreo.cli.settings import Settings
from choreo.events import Record
from choreo.ports import FlowFilter

__all__ = ["list_growth", "tracker_events"]

FLOWS = 20_000
LONG = Chain("order", 10)
BATCH = 3000
FACTS = """
CREATE TABLE fact (flow, position INTEGER, type TEXT, step TEXT, cause, at TEXT, key TEXT,
    PRIMARY KEY (flow, position)) WITHOUT ROWID
"""

FEW, MANY = 10_000, 1_000_000
ORDER, REFUND, RECALL = Chain("order", 3), Chain("refund", 3), Chain("recall", 3)
RECALLS = 20
"""Flows of a kind that is not met again after the first ones: nothing near the top is theirs."""
FATES = {7: "dead", 50: "running", 60: "dead", 70: "retrying"}
"""What becomes of these of a hundred flows; the others are completed."""
ROUNDS = 9
IDS = {"flow", "id", "cause", "subject"}
TIMES = {"at", "started", "updated", "ended", "deadline", "stuck_at"}


# ── reading ──────────────────────────────────────────────────────────────────────────────


def tracker_events(flows: int = FLOWS) -> list[Figure]:
    """Events a second that one tracker takes from a log that it has not read yet.

    The baseline is a bare loop over the same log: read a row, parse its headers, insert one
    row. `tracker_bytes` is what the views' file takes for a flow of ten events; its baseline
    is what the log's file takes for it.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        written = asyncio.run(write_log(folder, [LONG], interleaved(LONG, flows)))
        bare = written / _bare(folder)
        with started("bench.tracker_process", folder) as tracker:
            took = tracker.heard()["caught_up_s"]
            tracker.told()
            tracker.heard()
        kept, logged = ((folder / name).stat().st_size for name in ("views.db", "choreo.db"))
    return [
        Figure("tracker_events", written / took, "events/s", bare,
               f"{written:,} events; a bare loop read {bare:,.0f} a second"),
        Figure("tracker_bytes", kept / flows, "bytes/flow", logged / flows,
               f"flows of {LONG.events} events; baseline: the log"),
    ]  # fmt: skip


def _bare(folder: Path) -> float:
    """Read the log into one table; give the seconds."""
    with (
        closing(sqlite3.connect(folder / "choreo.db", isolation_level=None)) as log,
        closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as facts,
    ):
        facts.execute("PRAGMA journal_mode=WAL")
        facts.execute("PRAGMA synchronous=NORMAL")
        facts.execute(FACTS)
        begun = time.perf_counter()
        rows = log.execute("SELECT position, headers FROM log ORDER BY position")
        while batch := rows.fetchmany(BATCH):
            facts.execute("BEGIN")
            facts.executemany("INSERT INTO fact VALUES (?,?,?,?,?,?,?)", map(_fact, batch))
            facts.execute("COMMIT")
        return time.perf_counter() - begun


def _fact(row: tuple[int, str]) -> tuple[Any, ...]:
    position, text = row
    said = json.loads(text)
    flow = said.get("ce_correlationid") or said["ce_id"]
    cause = said.get("ce_causationid", "")
    return (
        bytes.fromhex(flow.replace("-", "")), position, said["ce_type"], said.get("choreo-step"),
        bytes.fromhex(cause.replace("-", "")), said["ce_time"], said["ce_subject"],
    )  # fmt: skip


# ── lists ────────────────────────────────────────────────────────────────────────────────


def list_growth(few: int = FEW, many: int = MANY, rounds: int = ROUNDS) -> list[Figure]:
    """How many times longer `choreo flows` takes with 10^6 flows than with 10^4, at worst.

    Each filter is asked by way of the command's own reading: open the files, catch up with
    the log, query, draw the table. Of each the median is taken. The baseline of a filter is
    its time with 10^4 flows; the figure is the worst quotient.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        asyncio.run(write_log(folder, (ORDER, REFUND, RECALL), _mixed(few)))
        settings = Settings(folder)
        _listed(settings, FlowFilter(limit=1))  # now the tracker has read it all
        before = _measured(settings, _filters(few, few), rounds)
        _multiply(folder / "views.db", few, many)
        after = _measured(settings, _filters(few, many), rounds)
    grown = {name: after[name] / before[name] for name in before}
    worst = max(grown, key=lambda name: grown[name])
    told = ", ".join(f"{name} {quotient:.2f}" for name, quotient in grown.items())
    return [
        Figure("list_growth", grown[worst], "times", 1.0,
               f"worst: {worst}, {before[worst] * 1e3:.1f} ms with {few:,} flows, "
               f"{after[worst] * 1e3:.1f} ms with {many:,}; {told}"),
    ]  # fmt: skip


def _mixed(flows: int) -> Iterator[Record]:
    """Give flows of three kinds: most are completed, some on their way, some have failed."""
    for number in range(flows):
        chain = RECALL if number < RECALLS else REFUND if number % 10 == 3 else ORDER
        fate = FATES.get(number % 100, "completed")
        records = records_of(chain, number, reached=None if fate == "completed" else 2)
        yield from records
        if fate not in ("completed", "running"):
            why = "recalled" if chain is RECALL else f"no answer from host {number % 1000}"
            yield note_of(chain, records, fate, why)


def _filters(few: int, flows: int) -> dict[str, FlowFilter]:
    """Give what is asked for, each as `choreo flows` asks it: the newest 50."""
    newest = T0 + flows * APART_S
    known = records_of(ORDER, few // 2)[0].headers
    filters = {
        "status": FlowFilter(status=("completed",)),
        "two statuses": FlowFilter(status=("failed", "retrying")),
        "no such status": FlowFilter(status=("compensated",)),
        "name": FlowFilter(name="refund"),
        "rare name": FlowFilter(name="recall"),
        "name and status": FlowFilter(name="refund", status=("completed",)),
        "since": FlowFilter(since=newest - 60),
        "since long ago": FlowFilter(since=T0),
        "id": FlowFilter(search=known["ce_id"]),
        "key": FlowFilter(search=known["ce_subject"]),
        "type": FlowFilter(search="Step2"),
        "service": FlowFilter(search="refund1"),
        "rare type": FlowFilter(search="bench.recall2"),
        "rare type and status": FlowFilter(search="order2", status=("failed",)),
        "error": FlowFilter(search="ProviderError"),
        "rare error": FlowFilter(search="Error: recalled"),
        "nothing": FlowFilter(search="no flow has this"),
        "all of it": FlowFilter(
            search="Step1", status=("completed",), name="refund", since=newest - 3600
        ),
    }
    return {name: replace(one, limit=50) for name, one in filters.items()}


def _listed(settings: Settings, which: FlowFilter) -> float:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        begun = time.perf_counter()
        list_flows(settings, which, as_json=False)
        return time.perf_counter() - begun


def _measured(settings: Settings, filters: dict[str, FlowFilter], count: int) -> dict[str, float]:
    """Give the median of each; one round after the other, so that noise falls on all alike."""
    rounds = [{name: _listed(settings, one) for name, one in filters.items()} for _ in range(count)]
    return {name: statistics.median(one[name] for one in rounds) for name in filters}


def _multiply(path: Path, few: int, many: int) -> None:
    """Copy what the tracker wrote of `few` flows until there are `many`; each copy is younger."""
    with closing(sqlite3.connect(path, isolation_level=None)) as views:
        views.execute("PRAGMA synchronous=OFF")
        views.execute("PRAGMA cache_size=-262144")
        tables = [_Table(views, "flow"), _Table(views, "fact")]
        for copy in range(1, many // few):
            views.execute("BEGIN")
            for table in tables:
                table.copy(views, copy, copy * few * APART_S)
            views.execute("COMMIT")


class _Table:
    """The rows of one table of the views; those of the kind that is not met again are left out."""

    def __init__(self, views: sqlite3.Connection, name: str) -> None:
        cursor = views.execute(f"SELECT * FROM {name} WHERE key NOT LIKE '{RECALL.name}-%'")
        columns = [column[0] for column in cursor.description]
        self._rows = cursor.fetchall()
        self._insert = f"INSERT INTO {name} VALUES ({','.join('?' * len(columns))})"
        self._flow, self._key = columns.index("flow"), columns.index("key")
        self._ids = [n for n, one in enumerate(columns) if one in IDS]
        self._times = [n for n, one in enumerate(columns) if one in TIMES]

    def copy(self, views: sqlite3.Connection, number: int, younger_s: float) -> None:
        """Insert all rows again: ids, keys and times of their own."""
        views.executemany(self._insert, self._copies(f"-{number}", younger_s))

    def _copies(self, ending: str, younger_s: float) -> Iterator[list[Any]]:
        younger_ms = int(younger_s * 1000)
        for row in self._rows:
            made = list(row)
            made[self._key] += ending
            ms = int.from_bytes(row[self._flow][:6], "big") + younger_ms
            front = ms.to_bytes(6, "big")  # all ids of a flow begin with its time
            for n in self._ids:
                if made[n]:
                    made[n] = front + made[n][6:]
            for n in self._times:
                if made[n]:
                    made[n] += younger_s
            yield made
