"""One batch of the tracker's, written into the views."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.rows import columns
from choreo.adapters.postgres.viewshape import Shapes
from choreo.errors import StoreConflictError
from choreo.ports import Fact, FlowMerge, FlowSummary, ViewBatch
from choreo.ports.merging import NOT_PLAIN, PLAIN, FlowRow, merged

__all__ = ["UnwritableError", "Writing", "facts_of"]

FOLD_MAX = 500
"""Flows folded again in one transaction because of a manifest; the rest waits for the next."""
STATUS = "running", "completed"
EMPTIED = ("mark", "shape", "fact", "flow", "manifest", "ending")
NUL = "\\u0000"
"""As JSON writes it. No text of PostgreSQL has it, and no JSON that is looked into there."""

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
SELECT flow, root, name, status, key, finish, started, ended, deadline, plain, updated, stuck_at,
    shape
FROM choreo.view_flow WHERE flow = ANY ($1::text[]) ORDER BY flow FOR UPDATE
"""
INSERT = """
INSERT INTO choreo.view_fact (flow, facts) SELECT * FROM unnest($1::text[], $2::text[])
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
SHAPE = "SELECT flow, shape FROM choreo.view_flow WHERE flow = ANY ($1::text[])"

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class UnwritableError(ValueError):
    """A text has a character that no text of PostgreSQL has."""


class Writing:
    """One batch, inside its transaction."""

    def __init__(self, c: Connection, batch: ViewBatch, shapes: Shapes) -> None:
        """Nothing is written yet."""
        self._c = c
        self._batch = batch
        self._shapes = shapes

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
            shapes = {flow: shape for flow, shape in await c.fetch(SHAPE, [*left])}  # noqa: C416 - mypy takes no records for pairs
            await self._shapes.read(c, shapes.values())
            fold |= {flow: self._shapes.words(shape) for flow, shape in shapes.items()}
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
        c, batch, shapes = self._c, self._batch, self._shapes
        await c.execute(CLAIM, flows)
        old = {row[0]: row for row in await c.fetch(OLD, flows)}
        await shapes.read(c, {row[12] for row in old.values() if row[12] is not None})
        words = await self._insert(batch.facts)
        ends = {(root, end) for root, end in await c.fetch("SELECT * FROM choreo.view_ending")}
        fold: dict[str, frozenset[str]] = {}
        changed, moved = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
        met: set[int] = set()
        for merge in batch.flows:
            before, known = tuple(old[merge.flow]), None
            if before[3] is not None:
                known = FlowRow._make((*before[:12], shapes.words(before[12])))
            new = _fresh(merge, frozenset(words.get(merge.flow, ())))
            row = merged(known, new, ends, STATUS)
            if not row.plain:
                fold[merge.flow] = row.marks
            shape = shapes.number(row.name or "", row.marks)
            if row[:10] == before[:10] and shape == before[12]:
                moved.append((row.flow, row.updated, row.stuck_at))
            else:
                met.add(shape)
                changed.append((*row[:12], shape))
        await shapes.write(c, met)
        if changed:
            await c.execute(MERGED, *columns(changed))
        if moved:
            await c.execute(MOVED, *columns(moved))
        return fold

    async def _insert(self, facts: Sequence[Fact]) -> dict[str, set[str]]:
        """Insert facts, those of a flow together; give the words of each flow.

        Those that are there already are told apart by who reads them.
        """
        words: dict[str, set[str]] = {}
        kept: dict[str, list[Sequence[Any]]] = {}
        for fact in facts:
            flow, _, _, _, _, kind, source, step = fact[:8]
            if flow not in kept:
                kept[flow], words[flow] = [], set()
            kept[flow].append(fact[1:])
            words[flow].update((kind, source, step))
        for found in words.values():
            found.discard("")
        if kept:
            texts = [_to_json(rows) for rows in kept.values()]
            if any(NUL in text for text in texts):
                raise UnwritableError
            await self._c.execute(INSERT, [*kept], texts)
        return words

    async def _fold(self, flows: Mapping[str, frozenset[str]]) -> None:
        """Write the rows that a fold of all facts gives. From now on they are always folded."""
        facts = await facts_of(self._c, [*flows])
        batch = self._batch

        def folded() -> list[FlowSummary]:
            return [batch.fold(flow, facts.get(flow, [])) for flow in flows]

        rows = []
        for row in await asyncio.to_thread(folded):
            shape = self._shapes.number(row.name, flows[row.flow])
            rows.append((
                row.flow, row.root or None, row.name or None, row.status, row.key,
                row.end or None, row.started, row.updated, row.ended, row.deadline, row.stuck_at,
                row.retries, row.compensations, row.dead, row.voids, row.steps,
                row.error or None, shape,
            ))  # fmt: skip
        await self._shapes.write(self._c, {row[-1] for row in rows})
        await self._c.execute(FOLDED, *columns(rows))


def _fresh(merge: FlowMerge, words: frozenset[str]) -> FlowRow:
    return FlowRow(
        merge.flow, merge.root or None, merge.name or None, None, merge.key, merge.end or None,
        merge.started, merge.ended, merge.deadline, PLAIN if merge.plain else NOT_PLAIN,
        merge.updated, None, words,
    )  # fmt: skip


async def facts_of(c: Connection, flows: Collection[str]) -> dict[str, list[Fact]]:
    """Give all facts of these flows, each once."""
    facts: dict[str, dict[tuple[str, int, int], Fact]] = {flow: {} for flow in flows}
    rows = await c.fetch(
        "SELECT flow, facts FROM choreo.view_fact WHERE flow = ANY ($1::text[])", [*flows]
    )
    for flow, text in rows:
        for topic, partition, offset, *rest in json.loads(text):
            place = topic, partition, offset
            facts[flow][place] = Fact(flow, *place, *rest)
    return {flow: [*found.values()] for flow, found in facts.items()}
