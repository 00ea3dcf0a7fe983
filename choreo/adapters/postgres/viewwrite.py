"""One batch of the tracker's, written into the views."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from choreo.adapters.postgres.lines import Connection
from choreo.errors import StoreConflictError
from choreo.ports import Fact, FlowMerge, FlowSummary, ViewBatch
from choreo.ports.merging import NOT_PLAIN, PLAIN, PLAIN_WITH_ROOT, FlowRow, joined, told

__all__ = ["Writing", "facts_of", "shape_of"]

FOLD_MAX = 500
"""Flows folded again in one transaction because of a manifest; the rest waits for the next."""
RUNNING, COMPLETED = "running", "completed"
EMPTIED = ("mark", "shape", "fact", "flow", "manifest", "ending")
SEPARATOR = "\x1f"

STANDS = "SELECT position FROM choreo.view_state"
MOVE = "UPDATE choreo.view_state SET position = $1, last = $2"
MARK = """
INSERT INTO choreo.view_mark (topic, partition, "offset")
SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[]) AS m ORDER BY 1, 2
ON CONFLICT (topic, partition) DO UPDATE
SET "offset" = greatest(view_mark."offset", excluded."offset")
"""
CLAIM = """
INSERT INTO choreo.view_flow (flow) SELECT * FROM unnest($1::text[]) AS f ORDER BY 1
ON CONFLICT (flow) DO NOTHING
"""
OLD = """
SELECT flow, root, view_flow.name, status, key, finish, started, ended, deadline, plain, updated,
    stuck_at, words, shape
FROM choreo.view_flow LEFT JOIN choreo.view_shape ON id = shape
WHERE flow = ANY ($1::text[]) ORDER BY flow FOR UPDATE OF view_flow
"""
INSERT = """
INSERT INTO choreo.view_fact (flow, topic, partition, "offset", work, rest)
SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::bigint[], $5::text[], $6::text[])
ON CONFLICT DO NOTHING
"""
SHAPES = """
INSERT INTO choreo.view_shape (id, name, words)
SELECT id, name, string_to_array(words, $4)
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS s (id, name, words) ORDER BY 1
ON CONFLICT (id) DO NOTHING
"""
MERGED = """
UPDATE choreo.view_flow SET root = u.root, name = u.name, status = u.status, key = u.key,
    finish = u.finish, started = u.started, ended = u.ended, deadline = u.deadline,
    plain = u.plain, updated = u.updated, stuck_at = u.stuck_at, shape = u.shape
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
    $7::double precision[], $8::double precision[], $9::double precision[], $10::smallint[],
    $11::double precision[], $12::double precision[], $13::bigint[])
    AS u (flow, root, name, status, key, finish, started, ended, deadline, plain, updated,
        stuck_at, shape)
WHERE view_flow.flow = u.flow
"""
MOVED = """
UPDATE choreo.view_flow SET updated = u.updated, stuck_at = u.stuck_at
FROM unnest($1::text[], $2::double precision[], $3::double precision[])
    AS u (flow, updated, stuck_at)
WHERE view_flow.flow = u.flow
"""
FOLDED = """
UPDATE choreo.view_flow SET root = u.root, name = u.name, status = u.status, key = u.key,
    finish = u.finish, started = u.started, updated = u.updated, ended = u.ended,
    deadline = u.deadline, stuck_at = u.stuck_at, retries = u.retries,
    compensations = u.compensations, dead = u.dead, voids = u.voids, steps = u.steps,
    error = u.error, shape = u.shape, plain = 0, stale = false
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
    $7::double precision[], $8::double precision[], $9::double precision[],
    $10::double precision[], $11::double precision[], $12::integer[], $13::integer[],
    $14::integer[], $15::integer[], $16::integer[], $17::text[], $18::bigint[])
    AS u (flow, root, name, status, key, finish, started, updated, ended, deadline, stuck_at,
        retries, compensations, dead, voids, steps, error, shape)
WHERE view_flow.flow = u.flow
"""
STALE = """
UPDATE choreo.view_flow SET stale = true
WHERE shape IN (SELECT id FROM choreo.view_shape WHERE words && $1::text[])
"""
LEFT = f"SELECT flow FROM choreo.view_flow WHERE stale LIMIT {FOLD_MAX} FOR UPDATE SKIP LOCKED"
WORDS = """
SELECT flow, words FROM choreo.view_flow JOIN choreo.view_shape ON id = shape
WHERE flow = ANY ($1::text[])
"""


class Writing:
    """One batch, inside its transaction."""

    def __init__(self, c: Connection, batch: ViewBatch) -> None:
        """Nothing is written yet."""
        self._c = c
        self._batch = batch
        self._shapes: dict[int, tuple[str, str]] = {}

    async def done(self) -> int:
        """Write it; give how many flows are left to be folded again."""
        c, batch = self._c, self._batch
        await self._stand()
        if batch.reset:
            for table in EMPTIED:
                await c.execute(f"DELETE FROM choreo.view_{table}")
        if batch.stale:
            await c.execute(STALE, list(batch.stale))
        await self._declare()
        flows = sorted({merge.flow for merge in batch.flows})
        fold = await self._merge(flows) if flows else {}
        left = {flow for (flow,) in await c.fetch(LEFT)} - fold.keys()
        if left:
            words = {flow: frozenset(found) for flow, found in await c.fetch(WORDS, [*left])}
            fold |= {flow: words.get(flow, frozenset()) for flow in left}
        if fold:
            await self._fold(fold)
        return int(await c.fetchval("SELECT count(*) FROM choreo.view_flow WHERE stale"))

    async def _stand(self) -> None:
        """Check the position, and keep it where it is until the end of the transaction."""
        c, batch = self._c, self._batch
        last = await c.fetchval("SELECT last FROM choreo.view_state")
        moves = batch.position != batch.since or batch.reset or batch.last != last
        alone = moves or batch.ends is not None
        row = await c.fetchrow(f"{STANDS} FOR {'UPDATE' if alone else 'SHARE'}")
        position = row["position"] if row is not None else -1
        if position != batch.since:
            raise StoreConflictError(
                "another tracker has written these views", since=batch.since, position=position
            )
        if moves:
            await c.execute(MOVE, batch.position, batch.last)
        if batch.marks and not batch.reset:
            places = [(*place, offset) for place, offset in batch.marks.items()]
            await c.execute(MARK, *columns(places))

    async def _declare(self) -> None:
        c, batch = self._c, self._batch
        if batch.ends is not None:
            await c.execute("DELETE FROM choreo.view_ending")
            await c.executemany("INSERT INTO choreo.view_ending VALUES ($1, $2)", batch.ends)
        if batch.manifests:
            await c.executemany(
                "INSERT INTO choreo.view_manifest VALUES ($1, $2, $3) ON CONFLICT (service)"
                " DO UPDATE SET position = excluded.position, text = excluded.text"
                " WHERE excluded.position >= view_manifest.position",
                batch.manifests,
            )

    async def _merge(self, flows: list[str]) -> dict[str, frozenset[str]]:
        """Lock the rows, add facts, merge; give those to be folded, with their words."""
        c, batch = self._c, self._batch
        await c.execute(CLAIM, flows)
        old = {row[0]: row for row in await c.fetch(OLD, flows)}
        words = await self._insert(batch.facts)
        ends = {(root, end) for root, end in await c.fetch("SELECT * FROM choreo.view_ending")}
        fold: dict[str, frozenset[str]] = {}
        merged, moved = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
        for merge in batch.flows:
            row = _fresh(merge, frozenset(words.get(merge.flow, ())))
            before = old[merge.flow]
            if before["status"] is not None:
                row = joined(FlowRow._make((*before[:12], frozenset(before["words"]))), row)
            if row.plain == PLAIN:
                row = told(row, ends, (RUNNING, COMPLETED))
            else:
                fold[merge.flow] = row.marks
                row = row._replace(status=before["status"] or RUNNING, plain=NOT_PLAIN)
            shape = self._shape(row.name, row.marks)
            if row[:10] == tuple(before)[:10] and shape == before["shape"]:
                moved.append((row.flow, row.updated, row.stuck_at))
            else:
                merged.append((*row[:12], shape))
        await self._learn()
        if merged:
            await c.execute(MERGED, *columns(merged))
        if moved:
            await c.execute(MOVED, *columns(moved))
        return fold

    async def _insert(self, facts: Sequence[Fact]) -> dict[str, set[str]]:
        """Insert facts that are not there yet; give the words of each flow."""
        words: dict[str, set[str]] = {}
        rows = []
        for fact in facts:
            words.setdefault(fact.flow, set()).update(
                filter(None, (fact.type, fact.source, fact.step))
            )
            work = f"{fact.step} {fact.subject}" if fact.step else None
            rows.append((*fact[:4], work, json.dumps(fact[4:], ensure_ascii=False)))
        if rows:
            await self._c.execute(INSERT, *columns(rows))
        return words

    def _shape(self, name: str | None, words: Iterable[str]) -> int:
        shape, known = shape_of(name or "", words)
        self._shapes[shape] = known
        return shape

    async def _learn(self) -> None:
        """Write the shapes that were met; most are known, and nothing comes of it."""
        rows = [(shape, name, words) for shape, (name, words) in self._shapes.items()]
        self._shapes = {}
        if rows:
            await self._c.execute(SHAPES, *columns(rows), SEPARATOR)

    async def _fold(self, flows: Mapping[str, frozenset[str]]) -> None:
        """Write the rows that a fold of all facts gives. From now on they are always folded."""
        facts = await facts_of(self._c, [*flows])
        batch = self._batch

        def folded() -> list[FlowSummary]:
            return [batch.fold(flow, facts.get(flow, [])) for flow in flows]

        rows = []
        for row in await asyncio.to_thread(folded):
            shape = self._shape(row.name, flows[row.flow])
            rows.append((
                row.flow, row.root or None, row.name or None, row.status, row.key,
                row.end or None, row.started, row.updated, row.ended, row.deadline, row.stuck_at,
                row.retries, row.compensations, row.dead, row.voids, row.steps,
                row.error or None, shape,
            ))  # fmt: skip
        await self._learn()
        await self._c.execute(FOLDED, *columns(rows))


def _fresh(merge: FlowMerge, words: frozenset[str]) -> FlowRow:
    plain = PLAIN_WITH_ROOT if merge.end and not merge.root else PLAIN
    return FlowRow(
        merge.flow, merge.root or None, merge.name or None, None, merge.key, merge.end or None,
        merge.started, merge.ended, merge.deadline, plain if merge.plain else NOT_PLAIN,
        merge.updated, merge.stuck_at, words,
    )  # fmt: skip


def shape_of(name: str, words: Iterable[str]) -> tuple[int, tuple[str, str]]:
    """Give the number of a shape, and how it is written down."""
    listed = SEPARATOR.join(sorted(words))
    digest = hashlib.sha1(f"{name}\0{listed}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big", signed=True), (name, listed)


def columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Turn rows into a list a column, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]


async def facts_of(c: Connection, flows: Sequence[str]) -> dict[str, list[Fact]]:
    """Give all facts of these flows."""
    facts: dict[str, list[Fact]] = {}
    rows = await c.fetch(
        'SELECT flow, topic, partition, "offset", rest FROM choreo.view_fact'
        " WHERE flow = ANY ($1::text[])",
        flows,
    )
    for flow, topic, partition, offset, rest in rows:
        fact = Fact(flow, topic, partition, offset, *json.loads(rest))
        facts.setdefault(flow, []).append(fact)
    return facts
