"""The tracker's views in a SQLite file of their own, beside the log's.

Facts are kept as they come, flows as rows for lists; what repeats is kept once and named by
a number. All of it can be rebuilt from the log, so
`synchronous=NORMAL` is enough: a power loss costs the last batches, which are read again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from choreo.adapters.sqlite.bulk import bound, insert_rows, select_rows
from choreo.adapters.sqlite.database import retried, translated, version_of
from choreo.adapters.sqlite.samefile import SameFile, make_folder
from choreo.adapters.sqlite.viewlist import Listing, found
from choreo.adapters.sqlite.viewrows import SCHEMA, TABLES, VERSION, Key, packed, unpacked
from choreo.adapters.sqlite.viewwords import Words, mask_of
from choreo.errors import BrokerClosedError, StoreConflictError
from choreo.events import Partition
from choreo.ports import Fact, FlowFilter, FlowMerge, FlowSummary, Standing, ViewBatch
from choreo.ports.merging import NOT_PLAIN, PLAIN, FlowRow, merged, readable

__all__ = ["SqliteViewStore"]

T = TypeVar("T")

CACHE_KIB = 65_536
FOLD_MAX = 500
"""Flows folded again in one transaction because of a manifest; the rest waits for the next."""

FACT_COLUMNS = 18
FACT = (
    "flow, topic, partition, offset, id, type, source, step, cause, subject, at, key, attempt, "
    "started, took, state, run, more"
)
MERGED = (
    "flow, root, name, status, key, end, started, ended, deadline, plain, updated, stuck_at, shape"
)
RESHAPED = "flow, updated, stuck_at, shape"
MOVED = "flow, updated, stuck_at"
OLD = f"SELECT {MERGED} FROM asked CROSS JOIN flow ON flow.flow = asked.column1"
MOVED_FROM = 10  # what changes with every fact stands at the end
SAME = 0
"""Kept as the subject of a fact that is about its cause."""
STEPS = (
    "coalesce(steps, (SELECT count(DISTINCT step || ' ' || "
    f"hex(iif(subject = {SAME}, cause, subject))) "
    "FROM fact WHERE fact.flow = flow.flow AND step IS NOT NULL))"
)
SUMMARY = (
    "flow, root, name, status, key, end, started, updated, ended, deadline, stuck_at, retries, "
    f"compensations, dead, voids, {STEPS}, error"
)
LISTED = f"SELECT {SUMMARY} FROM asked CROSS JOIN flow ON flow.flow = asked.column1"


class SqliteViewStore:
    """Views in one file, or in `:memory:`; one thread and one connection do everything."""

    def __init__(self, path: str | Path) -> None:
        """Remember where; nothing is opened before the first use."""
        self.path = str(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="choreo-sqlite-views")
        self._connection: sqlite3.Connection | None = None
        self._words = Words()
        self._same = SameFile(self.path)
        self._closed = False

    # ── verbs ────────────────────────────────────────────────────────────────────────────

    async def position(self) -> Standing:
        return await self._run(self._standing)

    async def apply(self, batch: ViewBatch) -> int:
        return await self._run(lambda c: self._in_transaction(c, batch))

    async def flows(self, which: FlowFilter) -> Sequence[FlowSummary]:
        return await self._run(lambda c: self._flows(c, which))

    async def facts(self, flow: str) -> Sequence[Fact]:
        return await self._run(lambda c: self._facts(c, packed(flow)))

    async def find(self, text: str) -> Sequence[str]:
        return await self._run(lambda c: [unpacked(one) for one in found(c, text)])

    async def manifests(self) -> Mapping[str, str]:
        return await self._run(
            lambda c: dict(c.execute("SELECT service, text FROM manifest").fetchall())
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    # ── the thread ───────────────────────────────────────────────────────────────────────

    async def _run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise BrokerClosedError("used after close", fix="make a new one", file=self.path)

        def run() -> T:
            with translated(self.path):
                connection = self._connected()
                self._same.check()
                return fn(connection)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            make_folder(self.path)
            connection = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False
            )
            try:
                retried(lambda: self._version(connection))  # before anything is written
                retried(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchone())
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
                connection.execute("PRAGMA temp_store=MEMORY")
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables; those of an older version are dropped, since the log has it all."""
        if retried(lambda: self._version(connection)) != VERSION:
            retried(lambda: connection.execute("BEGIN IMMEDIATE"))
            if self._version(connection) != VERSION:
                for table in TABLES:
                    connection.execute(f"DROP TABLE IF EXISTS {table}")
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        fix = "install the newer choreo that wrote it, or delete the file: the log has it all"
        return version_of(connection, self.path, VERSION, fix=fix)

    # ── writing ──────────────────────────────────────────────────────────────────────────

    def _standing(self, c: sqlite3.Connection) -> Standing:
        meta = dict(c.execute("SELECT name, value FROM meta").fetchall())
        marks = c.execute("SELECT topic, partition, offset FROM mark").fetchall()
        return Standing(
            int(meta.get("position", 0)), str(meta.get("last", "")),
            {Partition(topic, number): offset for topic, number, offset in marks},
        )  # fmt: skip

    def _in_transaction(
        self, c: sqlite3.Connection, batch: ViewBatch, *, clean: bool = False
    ) -> int:
        retried(lambda: c.execute("BEGIN IMMEDIATE"))
        try:
            left = self._apply(c, batch)
            retried(lambda: c.execute("COMMIT"))
        except UnicodeEncodeError:  # headers with bytes that are no UTF-8
            self._roll_back(c)
            if clean:
                raise
            return self._in_transaction(c, readable(batch), clean=True)
        except BaseException:
            self._roll_back(c)
            raise
        return left

    def _roll_back(self, c: sqlite3.Connection) -> None:
        self._words = Words()  # those of this transaction are gone
        if c.in_transaction:
            c.execute("ROLLBACK")

    def _apply(self, c: sqlite3.Connection, batch: ViewBatch) -> int:
        stands = self._standing(c).position
        if stands != batch.since:
            raise StoreConflictError(
                "another tracker has written these views", since=batch.since, position=stands
            )
        if batch.reset:
            for table in TABLES:
                c.execute(f"DELETE FROM {table}")
            self._words = Words()
        self._words.refresh(c)
        self._learn(c, batch)
        self._mark_stale(c, batch.stale)
        marks = self._insert(c, batch.facts)
        if batch.ends is not None:
            c.execute("DELETE FROM ending")
            c.executemany("INSERT INTO ending VALUES (?, ?)", batch.ends)
        c.executemany(
            "INSERT INTO manifest VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "position = excluded.position, text = excluded.text "
            "WHERE excluded.position >= position",
            batch.manifests,
        )
        fold = self._merge(c, batch.flows, marks)
        fold |= {flow for (flow,) in c.execute(
            "SELECT flow FROM flow WHERE dirty = 1 LIMIT ?", (FOLD_MAX,))}  # fmt: skip
        for flow in fold:
            self._fold(c, flow, batch)
        c.executemany(
            "INSERT INTO mark VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET offset = max(offset, excluded.offset)",
            [(*place, offset) for place, offset in batch.marks.items()],
        )
        c.executemany(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (("position", batch.position), ("last", batch.last)),
        )
        (left,) = c.execute("SELECT count(*) FROM flow WHERE dirty = 1").fetchone()
        return int(left)

    def _learn(self, c: sqlite3.Connection, batch: ViewBatch) -> None:
        """Give every word of the batch its number."""
        wanted: set[str] = set()
        for fact in batch.facts:
            wanted.update((fact[1], fact[5], fact[6], fact[7], fact[15]))
        for merge in batch.flows:
            wanted.update((merge.root, merge.name, merge.end))
        self._words.learn(c, wanted)

    def _insert(self, c: sqlite3.Connection, facts: Sequence[Fact]) -> dict[str, int]:
        """Insert facts that are not there yet; give the marks of each flow."""
        words = self._words.numbers
        ids: dict[str, Key | bytearray] = {}
        named: dict[tuple[str, str, str], tuple[int, int | None, int | None, int]] = {}
        marks: dict[str, int] = {}
        values: list[Any] = []
        for (flow, topic, partition, offset, own, kind, source, step, cause, subject, at, key,
             attempt, started, took, state, run, more) in facts:  # fmt: skip
            if flow not in ids:
                ids[flow] = bound(packed(flow))
            if own not in ids:
                ids[own] = bound(packed(own))
            if cause not in ids:
                ids[cause] = bound(packed(cause))
            names = (kind, source, step)
            if names not in named:
                named[names] = self._named(names)
            type_, source_, step_, mark = named[names]
            marks[flow] = marks.get(flow, 0) | mark
            values += (
                ids[flow], words[topic], partition, offset, ids[own], type_, source_, step_,
                ids[cause], SAME if subject == cause else packed(subject), at, key, attempt,
                started, took, words[state], run, more,
            )  # fmt: skip
        insert_rows(c, f"INSERT INTO fact ({FACT})", FACT_COLUMNS, values, "ON CONFLICT DO NOTHING")
        return marks

    def _named(self, names: tuple[str, str, str]) -> tuple[int, int | None, int | None, int]:
        """Give the numbers of type, source and step, and their mark."""
        kind, source, step = (self._words.numbers[name] for name in names)
        return kind, source or None, step or None, mask_of(filter(None, (kind, source, step)))

    def _merge(
        self, c: sqlite3.Connection, merges: Sequence[FlowMerge], marks: Mapping[str, int]
    ) -> set[Key]:
        """Merge rows of flows; name those that have to be folded instead."""
        if not merges:
            return set()
        keys = [packed(merge.flow) for merge in merges]
        old = {row[0]: row for row in select_rows(c, OLD, 1, keys)}
        words = self._words
        words.learn(c, ("running", "completed"))
        numbers, shapes = words.numbers, words.shapes
        status = numbers["running"], numbers["completed"]
        ends = {(numbers.get(root), numbers.get(end))
                for root, end in c.execute("SELECT root, end FROM ending")}  # fmt: skip
        fold: set[Key] = set()
        changed, reshaped, moved = list[Any](), list[Any](), list[Any]()
        for key, merge in zip(keys, merges, strict=True):
            before = old.get(key)
            known = None
            if before is not None:
                known = FlowRow._make((*before[:-1], shapes[before[-1]][1]))
            row = merged(known, self._fresh(key, merge, marks.get(merge.flow, 0)), ends, status)
            if not row.plain:
                fold.add(key)
            shape = words.shape(c, row.name, row.marks)
            if before is None or row[:MOVED_FROM] != before[:MOVED_FROM]:
                changed += (*row[:-1], shape)
            elif shape != before[-1]:
                reshaped += (key, row.updated, row.stuck_at, shape)
            else:
                moved += (key, row.updated, row.stuck_at)
        for columns, values in ((MERGED, changed), (RESHAPED, reshaped), (MOVED, moved)):
            self._write_rows(c, columns, values)
        return fold

    @staticmethod
    def _write_rows(c: sqlite3.Connection, columns: str, values: list[Any]) -> None:
        """Write these columns of rows, and no index on others."""
        names = columns.split(", ")
        insert_rows(
            c, f"INSERT INTO flow ({columns})", len(names), values,
            f"ON CONFLICT DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in names[1:])}",
        )  # fmt: skip

    def _fresh(self, key: Key, merge: FlowMerge, marks: int) -> FlowRow:
        words = self._words.numbers
        return FlowRow(
            key, words[merge.root] or None, words[merge.name] or None, 0, merge.key,
            words[merge.end] or None, merge.started, merge.ended, merge.deadline,
            PLAIN if merge.plain else NOT_PLAIN, merge.updated, None, marks,
        )  # fmt: skip

    def _mark_stale(self, c: sqlite3.Connection, types: Collection[str]) -> None:
        numbers = self._words.numbers
        mask = mask_of(numbers[kind] for kind in types if kind in numbers)
        for shape in self._words.shaped(mask=mask) if mask else ():
            c.execute("UPDATE flow SET dirty = 1 WHERE shape = ?", (shape,))

    def _fold(self, c: sqlite3.Connection, flow: Key, batch: ViewBatch) -> None:
        """Write the row that a fold of all facts gives. From now on the flow is always folded."""
        row = batch.fold(unpacked(flow), self._facts(c, flow))
        self._words.learn(c, (row.root, row.name, row.status, row.end))
        words = self._words.numbers
        (shape,) = c.execute("SELECT shape FROM flow WHERE flow = ?", (flow,)).fetchone()
        shape = self._words.shape(c, words[row.name], self._words.shapes[shape][1])
        c.execute(
            "UPDATE flow SET root = ?, name = ?, status = ?, key = ?, end = ?, started = ?, "
            "updated = ?, ended = ?, deadline = ?, stuck_at = ?, retries = ?, compensations = ?, "
            "dead = ?, voids = ?, steps = ?, error = ?, shape = ?, plain = 0, dirty = NULL "
            "WHERE flow = ?",
            (
                words[row.root] or None, words[row.name] or None, words[row.status], row.key,
                words[row.end] or None, row.started, row.updated, row.ended, row.deadline,
                row.stuck_at, row.retries, row.compensations, row.dead, row.voids, row.steps,
                row.error or None, shape, flow,
            ),
        )  # fmt: skip

    # ── reading ──────────────────────────────────────────────────────────────────────────

    def _facts(self, c: sqlite3.Connection, flow: Key) -> list[Fact]:
        self._words.refresh(c)
        texts = self._words.texts
        return [
            Fact(
                unpacked(flow), texts[topic], partition, offset, unpacked(own), texts[kind],
                texts[source or 0], texts[step or 0], unpacked(cause),
                unpacked(cause if subject == SAME else subject), at, key, attempt, started, took,
                texts[state], run, more,
            )
            for (flow, topic, partition, offset, own, kind, source, step, cause, subject, at, key,
                 attempt, started, took, state, run, more)
            in c.execute(f"SELECT {FACT} FROM fact WHERE flow = ?", (flow,)).fetchall()
        ]  # fmt: skip

    def _flows(self, c: sqlite3.Connection, which: FlowFilter) -> list[FlowSummary]:
        if "\0" in which.search:  # LIKE would end there, and find what lies before
            return []
        self._words.refresh(c)
        flows = Listing(c, self._words, which).flows()
        rows = {row[0]: row for row in select_rows(c, LISTED, 1, flows)}
        return [_summary(rows[flow], self._words.texts) for flow in flows if flow in rows]


def _summary(row: Sequence[Any], texts: Mapping[int, str]) -> FlowSummary:
    (flow, root, name, status, key, end, started, updated, ended, deadline, stuck_at, retries,
     compensations, dead, voids, steps, error) = row  # fmt: skip
    return FlowSummary(
        flow=unpacked(flow), root=texts[root or 0], name=texts[name or 0], status=texts[status],
        key=key or "", end=texts[end or 0] if root else "", started=started, updated=updated,
        ended=ended if root else None,  # before it has a root, nobody knows whose end it is
        deadline=deadline, stuck_at=stuck_at, retries=retries or 0,
        compensations=compensations or 0, dead=dead or 0, voids=voids or 0, steps=steps or 0,
        error=error or "",
    )  # fmt: skip
