"""Lists of flows, newest first, each part of them from an index that ends with `started`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from choreo.adapters.postgres.lines import Connection
from choreo.ports import FlowFilter, FlowSummary

__all__ = ["Listing", "found", "summaries"]

FOUND_MAX = 20
LAST = "\U0010ffff"

NEWEST = "SELECT flow, started FROM choreo.view_flow WHERE {where} ORDER BY started DESC LIMIT $1"
SINCE = "status IS NOT NULL AND started >= $2"
BY_STATUS = f"{SINCE} AND status = $3"
BY_SHAPE = f"{SINCE} AND status = $3 AND shape = $4"
BY_ERROR = (
    f"{SINCE} AND error IS NOT NULL AND error ILIKE $3"
    " AND ($4::text IS NULL OR status = $4) AND ($5::text IS NULL OR name = $5)"
)
AMONG = (
    "SELECT flow, started, status, name FROM choreo.view_flow"
    " WHERE flow = ANY ($1::text[]) AND status IS NOT NULL"
)
SHAPES = """
SELECT id FROM choreo.view_shape
WHERE ($1::text IS NULL OR name = $1)
    AND ($2::text IS NULL OR EXISTS (SELECT FROM unnest(words) AS word WHERE word ILIKE $2))
"""
PRESENT = """
WITH RECURSIVE leap AS (
    (SELECT status FROM choreo.view_flow WHERE status IS NOT NULL ORDER BY status LIMIT 1)
    UNION ALL
    SELECT (SELECT status FROM choreo.view_flow WHERE status > leap.status ORDER BY status LIMIT 1)
    FROM leap WHERE leap.status IS NOT NULL
)
SELECT status FROM leap WHERE status IS NOT NULL
"""
SUMMARY = """
SELECT flow, coalesce(root, ''), coalesce(name, ''), status, key,
    CASE WHEN root IS NULL THEN '' ELSE coalesce(finish, '') END, started, updated,
    CASE WHEN root IS NULL THEN NULL ELSE ended END, deadline, stuck_at,
    retries, compensations, dead, voids,
    coalesce(steps, (
        SELECT count(DISTINCT (one ->> 6, one ->> 8))
        FROM choreo.view_fact AS fact, json_array_elements(facts::json) AS one
        WHERE fact.flow = view_flow.flow AND one ->> 6 <> '')::integer),
    coalesce(error, '')
FROM choreo.view_flow WHERE flow = ANY ($1::text[]) AND status IS NOT NULL
"""


class Listing:
    """The newest flows that fit a filter, gathered from several indexes."""

    def __init__(self, c: Connection, which: FlowFilter) -> None:
        """Nothing is gathered yet."""
        self._c = c
        self._which = which
        self._since = float("-inf") if which.since is None else which.since
        self._found: dict[str, float] = {}

    async def flows(self) -> list[str]:
        """Give them, newest first."""
        which = self._which
        statuses = list(dict.fromkeys(which.status))
        if which.search:
            await self._search(which.search, statuses)
        elif which.name:
            await self._shaped(await self._shapes(which.name, None), statuses)
        elif statuses:
            for status in statuses:
                await self._take(BY_STATUS, status)
        else:
            await self._take(SINCE)
        ordered = sorted(self._found, key=lambda flow: self._found[flow], reverse=True)
        return ordered[: which.limit or None]

    async def _take(self, where: str, *values: object) -> None:
        sql = NEWEST.format(where=where)
        for flow, started in await self._c.fetch(
            sql, self._which.limit or None, self._since, *values
        ):
            self._found[flow] = started

    async def _shapes(self, name: str | None, like: str | None) -> list[int]:
        return [shape for (shape,) in await self._c.fetch(SHAPES, name or None, like)]

    async def _shaped(self, shapes: Iterable[int], statuses: Sequence[str]) -> None:
        present = statuses or [status for (status,) in await self._c.fetch(PRESENT)]
        for shape in shapes:
            for status in present:
                await self._take(BY_SHAPE, status, shape)

    async def _search(self, text: str, statuses: Sequence[str]) -> None:
        """Look for a flow id, a key, an event type, a service or handler, or an error."""
        which = self._which
        ids = dict.fromkeys((*await found(self._c, text), *await _beginning(self._c, text)))
        for flow, started, status, name in await self._c.fetch(AMONG, [*ids]):
            if (
                started >= self._since
                and (not statuses or status in statuses)
                and which.name in ("", name)
            ):
                self._found[flow] = started
        like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        for status in statuses or (None,):
            await self._take(BY_ERROR, like, status, which.name or None)
        await self._shaped(await self._shapes(which.name, like), statuses)


async def summaries(c: Connection, flows: Sequence[str]) -> list[FlowSummary]:
    """Give the rows of these flows, in this order."""
    rows = {row[0]: row for row in await c.fetch(SUMMARY, flows)}
    return [FlowSummary(*rows[flow]) for flow in flows if flow in rows]


# ── one flow ─────────────────────────────────────────────────────────────────────────────


async def found(c: Connection, text: str) -> list[str]:
    """Give the flow of this id; else those with this key; else those that begin so."""
    if await c.fetchval("SELECT true FROM choreo.view_flow WHERE flow = $1", text):
        return [text]
    keyed = await c.fetch(
        "SELECT flow FROM choreo.view_flow WHERE key = $1 AND key <> '' AND status IS NOT NULL"
        " ORDER BY started DESC LIMIT $2",
        text, FOUND_MAX,
    )  # fmt: skip
    return [flow for (flow,) in keyed] or await _beginning(c, text)


async def _beginning(c: Connection, text: str) -> list[str]:
    """Give flows whose ids begin so; those of UUIDs in whatever case, dashes or not."""
    beginnings: dict[str, Any] = {text: None, _as_uuid(text): None}
    flows: dict[str, None] = {}
    for beginning in filter(None, beginnings):
        rows = await c.fetch(
            "SELECT flow FROM choreo.view_flow WHERE flow BETWEEN $1 AND $2"
            " AND status IS NOT NULL ORDER BY flow LIMIT $3",
            beginning, beginning + LAST, FOUND_MAX,
        )  # fmt: skip
        flows.update(dict.fromkeys(flow for (flow,) in rows))
    return list(flows)[:FOUND_MAX]


def _as_uuid(text: str) -> str:
    """Write the beginning of a UUID as UUIDs are written; empty when it is none."""
    digits = text.replace("-", "").lower()
    if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):  # noqa: PLR2004
        return ""
    cuts = (0, 8, 12, 16, 20, 32)
    parts = [digits[start:end] for start, end in pairwise(cuts)]
    return "-".join(filter(None, parts))
