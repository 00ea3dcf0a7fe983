"""The tracker's views in a SQLite file of their own, beside the log's.

Facts are kept as they come, flows as rows for lists; words that repeat (types, topics,
steps) are kept once and named by a number. All of it can be rebuilt from the log, so
`synchronous=NORMAL` is enough: a power loss costs the last batches, which are read again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from choreo.adapters.sqlite.bulk import insert_rows, select_rows
from choreo.adapters.sqlite.database import make_folder, retried, translated, version_of
from choreo.adapters.sqlite.viewrows import (
    NOT_PLAIN,
    PLAIN,
    PLAIN_WITH_ROOT,
    SCHEMA,
    TABLES,
    VERSION,
    FlowRow,
    Key,
    joined,
    mark_of,
    packed,
    ranges,
    readable,
    told,
    unpacked,
)
from choreo.errors import BrokerClosedError, StoreConflictError
from choreo.ports import Fact, FlowFilter, FlowMerge, FlowSummary, ViewBatch

__all__ = ["SqliteViewStore"]

T = TypeVar("T")

CACHE_KIB = 65_536
FOUND_MAX = 20
FOLD_MAX = 500
"""Flows folded again in one transaction because of a manifest; the rest waits for the next."""

FACT_COLUMNS = 18
FACT = (
    "flow, topic, partition, offset, id, type, source, step, cause, subject, at, key, attempt, "
    "started, took, state, run, more"
)
MERGED = (
    "flow, root, name, status, key, end, started, ended, deadline, plain, updated, stuck_at, marks"
)
MERGED_COLUMNS = 13
OLD = f"SELECT {MERGED} FROM asked CROSS JOIN flow ON flow.flow = asked.column1"
MOVED_FROM = 10  # what changes with every fact stands at the end
STEPS = (
    "coalesce(steps, (SELECT count(DISTINCT step || ' ' || hex(coalesce(subject, cause))) "
    "FROM fact WHERE fact.flow = flow.flow AND step IS NOT NULL))"
)
SUMMARY = (
    "flow, root, name, status, key, end, started, updated, ended, deadline, stuck_at, retries, "
    f"compensations, dead, voids, {STEPS}, error"
)


class SqliteViewStore:
    """Views in one file, or in `:memory:`; one thread and one connection do everything."""

    def __init__(self, path: str | Path) -> None:
        """Remember where; nothing is opened before the first use."""
        self.path = str(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="choreo-sqlite-views")
        self._connection: sqlite3.Connection | None = None
        self._words: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._closed = False

    # ── verbs ────────────────────────────────────────────────────────────────────────────

    async def position(self) -> tuple[int, str]:
        return await self._run(self._position)

    async def apply(self, batch: ViewBatch) -> int:
        return await self._run(lambda c: self._in_transaction(c, batch))

    async def flows(self, which: FlowFilter) -> Sequence[FlowSummary]:
        return await self._run(lambda c: self._flows(c, which))

    async def facts(self, flow: str) -> Sequence[Fact]:
        return await self._run(lambda c: self._facts(c, packed(flow)))

    async def find(self, text: str) -> Sequence[str]:
        return await self._run(lambda c: [unpacked(one) for one in self._find(c, text)])

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
                return fn(self._connected())

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

    def _position(self, c: sqlite3.Connection) -> tuple[int, str]:
        meta = dict(c.execute("SELECT name, value FROM meta").fetchall())
        return int(meta.get("position", 0)), str(meta.get("last", ""))

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
        self._words, self._texts = {}, {}  # words of this transaction are gone
        if c.in_transaction:
            c.execute("ROLLBACK")

    def _apply(self, c: sqlite3.Connection, batch: ViewBatch) -> int:
        stands, _ = self._position(c)
        if stands != batch.since:
            raise StoreConflictError(
                "another tracker has written these views", since=batch.since, position=stands
            )
        if batch.reset:
            for table in TABLES:
                c.execute(f"DELETE FROM {table}")
            self._words, self._texts = {}, {}
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
        self._number(c, wanted)

    def _number(self, c: sqlite3.Connection, wanted: Iterable[str]) -> None:
        if not self._words:
            self._read_words(c)
        new = sorted(word for word in wanted if word and word not in self._words)
        if new:
            c.executemany(
                "INSERT INTO word (text) VALUES (?) ON CONFLICT DO NOTHING",
                [(word,) for word in new],
            )
            self._read_words(c)

    def _read_words(self, c: sqlite3.Connection) -> None:
        self._texts = dict(c.execute("SELECT id, text FROM word").fetchall())
        self._words = {"": 0, **{text: number for number, text in self._texts.items()}}
        self._texts[0] = ""

    def _insert(self, c: sqlite3.Connection, facts: Sequence[Fact]) -> dict[str, int]:
        """Insert facts that are not there yet; give the marks of each flow."""
        words = self._words
        ids: dict[str, Key] = {}
        named: dict[tuple[str, str, str], tuple[int, int | None, int | None, int]] = {}
        marks: dict[str, int] = {}
        values: list[Any] = []
        for (flow, topic, partition, offset, own, kind, source, step, cause, subject, at, key,
             attempt, started, took, state, run, more) in facts:  # fmt: skip
            if flow not in ids:
                ids[flow] = packed(flow)
            if own not in ids:
                ids[own] = packed(own)
            if cause not in ids:
                ids[cause] = packed(cause)
            names = (kind, source, step)
            if names not in named:
                named[names] = self._named(names)
            type_, source_, step_, mark = named[names]
            marks[flow] = marks.get(flow, 0) | mark
            values += (
                ids[flow], words[topic], partition, offset, ids[own], type_, source_, step_,
                ids[cause], None if subject == cause else packed(subject), at, key, attempt,
                started, took, words[state], run, more or None,
            )  # fmt: skip
        insert_rows(c, f"INSERT INTO fact ({FACT})", FACT_COLUMNS, values, "ON CONFLICT DO NOTHING")
        return marks

    def _named(self, names: tuple[str, str, str]) -> tuple[int, int | None, int | None, int]:
        """Give the numbers of type, source and step, and their mark."""
        kind, source, step = (self._words[name] for name in names)
        return kind, source or None, step or None, mark_of((kind, source, step))

    def _merge(
        self, c: sqlite3.Connection, merges: Sequence[FlowMerge], marks: Mapping[str, int]
    ) -> set[Key]:
        """Merge rows of flows; name those that have to be folded instead."""
        if not merges:
            return set()
        keys = [packed(merge.flow) for merge in merges]
        old = {row[0]: FlowRow._make(row) for row in select_rows(c, OLD, 1, keys)}
        words = self._words
        ends = {(words.get(root), words.get(end))
                for root, end in c.execute("SELECT root, end FROM ending")}  # fmt: skip
        status = self._status_numbers(c)
        fold: set[Key] = set()
        values: list[Any] = []
        moved: list[Any] = []
        for key, merge in zip(keys, merges, strict=True):
            row = self._fresh(key, merge, marks.get(merge.flow, 0))
            before = old.get(key)
            if before is not None:
                row = joined(before, row)
            if row.plain == PLAIN:
                row = told(row, ends, status)
            else:
                fold.add(key)
                kept = status[0] if before is None else before.status
                row = row._replace(status=kept, plain=NOT_PLAIN)
            if before is not None and row[:MOVED_FROM] == before[:MOVED_FROM]:
                moved += (key, *row[MOVED_FROM:])
            else:
                values += row
        self._write_rows(c, values, moved)
        return fold

    @staticmethod
    def _write_rows(c: sqlite3.Connection, values: list[Any], moved: list[Any]) -> None:
        """Write rows; of those that only `moved` on, what no index has."""
        columns = [name for name in MERGED.split(", ") if name != "flow"]
        insert_rows(
            c, f"INSERT INTO flow ({MERGED})", MERGED_COLUMNS, values,
            f"ON CONFLICT DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in columns)}",
        )  # fmt: skip
        columns = columns[MOVED_FROM - 1 :]
        insert_rows(
            c, f"INSERT INTO flow (flow, {', '.join(columns)})", 1 + len(columns), moved,
            f"ON CONFLICT DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in columns)}",
        )  # fmt: skip

    def _status_numbers(self, c: sqlite3.Connection) -> tuple[int, int]:
        self._number(c, ("running", "completed"))
        return self._words["running"], self._words["completed"]

    def _fresh(self, key: Key, merge: FlowMerge, marks: int) -> FlowRow:
        words = self._words
        plain = PLAIN_WITH_ROOT if merge.end and not merge.root else PLAIN
        return FlowRow(
            key, words[merge.root] or None, words[merge.name] or None, 0, merge.key,
            words[merge.end] or None, merge.started, merge.ended, merge.deadline,
            plain if merge.plain else NOT_PLAIN, merge.updated, merge.stuck_at, marks,
        )  # fmt: skip

    def _mark_stale(self, c: sqlite3.Connection, types: Collection[str]) -> None:
        numbers = [self._words[kind] for kind in types if kind in self._words]
        if numbers:
            c.execute("UPDATE flow SET dirty = 1 WHERE marks & ? <> 0", (mark_of(numbers),))

    def _fold(self, c: sqlite3.Connection, flow: Key, batch: ViewBatch) -> None:
        """Write the row that a fold of all facts gives. From now on the flow is always folded."""
        row = batch.fold(unpacked(flow), self._facts(c, flow))
        self._number(c, (row.root, row.name, row.status, row.end))
        words = self._words
        c.execute(
            "UPDATE flow SET root = ?, name = ?, status = ?, key = ?, end = ?, started = ?, "
            "updated = ?, ended = ?, deadline = ?, stuck_at = ?, retries = ?, compensations = ?, "
            "dead = ?, voids = ?, steps = ?, error = ?, plain = 0, dirty = NULL WHERE flow = ?",
            (
                words[row.root] or None, words[row.name] or None, words[row.status], row.key,
                words[row.end] or None, row.started, row.updated, row.ended, row.deadline,
                row.stuck_at, row.retries, row.compensations, row.dead, row.voids, row.steps,
                row.error or None, flow,
            ),
        )  # fmt: skip

    # ── reading ──────────────────────────────────────────────────────────────────────────

    def _facts(self, c: sqlite3.Connection, flow: Key) -> list[Fact]:
        texts = self._known_texts(c)
        return [
            Fact(
                unpacked(flow), texts[topic], partition, offset, unpacked(own), texts[kind],
                texts[source or 0], texts[step or 0], unpacked(cause),
                unpacked(cause if subject is None else subject), at, key, attempt, started, took,
                texts[state], run, more or "",
            )
            for (flow, topic, partition, offset, own, kind, source, step, cause, subject, at, key,
                 attempt, started, took, state, run, more)
            in c.execute(f"SELECT {FACT} FROM fact WHERE flow = ?", (flow,)).fetchall()
        ]  # fmt: skip

    def _known_texts(self, c: sqlite3.Connection) -> dict[int, str]:
        """Give all words; another process may have added some."""
        (last,) = c.execute("SELECT coalesce(max(id), 0) FROM word").fetchone()
        if last + 1 != len(self._texts):
            self._read_words(c)
        return self._texts

    def _find(self, c: sqlite3.Connection, text: str) -> list[Key]:
        """Give the flow of this id; else those with this key; else those that begin so."""
        key = packed(text)
        if c.execute("SELECT 1 FROM flow WHERE flow = ?", (key,)).fetchone():
            return [key]
        keyed = c.execute(
            "SELECT flow FROM flow WHERE key = ? AND key <> '' ORDER BY started DESC LIMIT ?",
            (text, FOUND_MAX),
        ).fetchall()
        if keyed:
            return [flow for (flow,) in keyed]
        return self._beginning(c, text)

    def _beginning(self, c: sqlite3.Connection, text: str) -> list[Key]:
        found: list[Key] = []
        for low, high in ranges(text):
            found += [flow for (flow,) in c.execute(
                "SELECT flow FROM flow WHERE flow BETWEEN ? AND ? LIMIT ?", (low, high, FOUND_MAX)
            ) if unpacked(flow).startswith(text.lower() if isinstance(flow, bytes) else text)
            ]  # fmt: skip
        return found[:FOUND_MAX]

    def _flows(self, c: sqlite3.Connection, which: FlowFilter) -> list[FlowSummary]:
        texts = self._known_texts(c)
        words = self._words
        where, values = ["1"], list[Any]()
        statuses: list[int | None] = [words.get(one, -1) for one in which.status] or [None]
        if which.name:
            where.append("name = ?")
            values.append(words.get(which.name, -1))
            if not which.status:  # so that the index on name, status and start serves
                statuses = self._present(c)
        if which.since is not None:
            where.append("started >= ?")
            values.append(which.since)
        if which.search:
            self._search(c, which.search, where, values)
        rows: list[tuple[Any, ...]] = []
        for status in dict.fromkeys(statuses):
            narrowed = [*where] if status is None else [*where, "status = ?"]
            rows += c.execute(
                f"SELECT {SUMMARY} FROM flow WHERE {' AND '.join(narrowed)} "
                "ORDER BY started DESC LIMIT ?",
                (*values, *(() if status is None else (status,)), which.limit or -1),
            ).fetchall()
        rows.sort(key=lambda row: row[6], reverse=True)
        return [_summary(row, texts) for row in rows[: which.limit or None]]

    @staticmethod
    def _present(c: sqlite3.Connection) -> list[int | None]:
        """Give the statuses that flows have, by leaps in their index."""
        found: list[int | None] = []
        last = -1
        while True:
            (last,) = c.execute("SELECT min(status) FROM flow WHERE status > ?", (last,)).fetchone()
            if last is None:
                return found
            found.append(last)

    def _search(
        self, c: sqlite3.Connection, text: str, where: list[str], values: list[Any]
    ) -> None:
        """Ask for a flow id, a key, an event type, a service or handler, or an error."""
        ids = [*self._find(c, text), *self._beginning(c, text)]
        like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        numbers = [n for (n,) in c.execute(
            "SELECT id FROM word WHERE text LIKE ? ESCAPE '\\'", (like,)).fetchall()]  # fmt: skip
        listed = ",".join(map(str, numbers)) or "-1"
        where.append(
            f"(flow IN ({','.join('?' * len(ids))}) OR error LIKE ? ESCAPE '\\' OR "
            "(marks & ? <> 0 AND EXISTS (SELECT 1 FROM fact WHERE fact.flow = flow.flow AND "
            f"(type IN ({listed}) OR source IN ({listed}) OR step IN ({listed})))))"
        )
        values += [*ids, like, mark_of(numbers)]


def _summary(row: Sequence[Any], texts: Mapping[int, str]) -> FlowSummary:
    (flow, root, name, status, key, end, started, updated, ended, deadline, stuck_at, retries,
     compensations, dead, voids, steps, error) = row  # fmt: skip
    return FlowSummary(
        flow=unpacked(flow), root=texts[root or 0], name=texts[name or 0], status=texts[status],
        key=key or "", end=texts[end or 0], started=started, updated=updated, ended=ended,
        deadline=deadline, stuck_at=stuck_at, retries=retries or 0,
        compensations=compensations or 0, dead=dead or 0, voids=voids or 0, steps=steps or 0,
        error=error or "",
    )  # fmt: skip
