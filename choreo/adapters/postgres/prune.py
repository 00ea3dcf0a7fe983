"""Forgetting what is old, in pieces that hold nobody up.

A sweep marks where each partition ended when the group told of it last, and raises the group's
floors to marks that are old enough and that it has read beyond. Floors rise first;
only then rows of records before them go, so whoever finds no row for such a record knows that
it may have been handled before. Gates and calls age by when they were written.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from choreo.adapters.postgres.edge import translated
from choreo.adapters.postgres.lines import Connection, Lines
from choreo.adapters.postgres.rows import columns
from choreo.adapters.postgres.text import kept
from choreo.events import TIMED, id_bytes
from choreo.policies import Keep

__all__ = ["Sweep", "begin"]

DAY_S = 86_400.0

BEGUN = (
    "INSERT INTO choreo.sweep AS s VALUES ($1, $2) ON CONFLICT (grp) DO UPDATE SET at = $2"
    " WHERE abs($2 - s.at) >= $3 RETURNING 1"
)
MARKED = (
    "INSERT INTO choreo.mark (owner, at, ended) SELECT p.owner, p.ended_at, p.ended"
    " FROM choreo.position p JOIN choreo.owner o ON o.id = p.owner WHERE o.grp = $1"
    " ON CONFLICT DO NOTHING"
)
RAISED = (
    "UPDATE choreo.position p SET floor = m.ended - 1, floor_at = m.at FROM ("
    " SELECT DISTINCT ON (m.owner) m.owner, m.at, m.ended FROM choreo.mark m"
    " JOIN choreo.owner o ON o.id = m.owner JOIN choreo.position q ON q.owner = m.owner"
    ' WHERE o.grp = $1 AND m.at <= $2 AND m.ended <= q."offset" ORDER BY m.owner, m.at DESC'
    ") AS m WHERE p.owner = m.owner AND m.ended - 1 > p.floor"
)
FLOORS = (
    "SELECT p.owner, p.floor, p.floor_at, coalesce(("
    " SELECT m.ended - 1 FROM choreo.mark m WHERE m.owner = p.owner AND m.at <= $2"
    ' AND m.ended <= p."offset" ORDER BY m.at DESC LIMIT 1), -1)'
    " FROM choreo.position p JOIN choreo.owner o ON o.id = p.owner"
    " WHERE o.grp = $1 AND p.floor >= 0"
)
MARKS_GONE = (
    "DELETE FROM choreo.mark m USING choreo.owner o WHERE o.id = m.owner AND o.grp = $1"
    " AND m.at < (SELECT max(n.at) FROM choreo.mark n WHERE n.owner = m.owner AND n.at <= $2)"
)
HANDLERS = "SELECT id FROM choreo.name WHERE starts_with(text, $1)"

INBOX = (
    'SELECT subject, status, owner, "offset" FROM choreo.inbox'
    " WHERE handler = $1 AND subject > $2 AND subject < $3 ORDER BY subject LIMIT $4"
)
INBOX_GONE = (
    "DELETE FROM choreo.inbox WHERE handler = $1 AND subject = ANY($2::bytea[])"
    " AND status IN (2, 4)"
)
GATES = (
    "SELECT kind, handler, scope, at, members FROM choreo.gate"
    " WHERE (kind, handler, scope) > ($1, $2, $3) ORDER BY kind, handler, scope LIMIT $4"
)
GATES_GONE = (
    "DELETE FROM choreo.gate g USING unnest($1::text[], $2::int[], $3::text[])"
    " AS a (kind, handler, scope) WHERE g.kind = a.kind AND g.handler = a.handler"
    " AND g.scope = a.scope AND g.at <= $4"
)
MEMOS = (
    "SELECT subject, handler, name, at, state FROM choreo.memo"
    " WHERE (subject, handler, name) > ($1, $2, $3) ORDER BY subject, handler, name LIMIT $4"
)
MEMOS_GONE = (
    "DELETE FROM choreo.memo m USING unnest($1::bytea[], $2::int[], $3::text[])"
    " AS a (subject, handler, name) WHERE m.subject = a.subject AND m.handler = a.handler"
    " AND m.name = a.name AND m.at <= $4 AND m.state <> 1 AND NOT EXISTS (SELECT 1"
    " FROM choreo.inbox i WHERE i.handler = m.handler AND i.subject = m.subject"
    " AND i.status IN (1, 3))"
)
SET = "SELECT 1 FROM choreo.timer WHERE id = ANY($1::bytea[]) LIMIT 1"
OPEN = (
    "SELECT 1 FROM choreo.inbox WHERE handler = $1 AND subject = ANY($2::bytea[])"
    " AND status IN (1, 3) LIMIT 1"
)


class Floors(NamedTuple):
    """Of one partition: up to where rows may go, and those of ids that tell no time."""

    offset: int
    at: float
    timeless: int


async def begin(connection: Connection, group: str, keep: Keep, now: float) -> Sweep | None:
    """Mark how far the group has read, raise its floors; None while its last sweep is young."""
    async with connection.transaction():
        if await connection.fetchval(BEGUN, kept(group), now, keep.every_s) is None:
            return None
        await connection.execute(MARKED, kept(group))
        await connection.execute(RAISED, kept(group), now - keep.inbox_s)
        rows = await connection.fetch(FLOORS, kept(group), now - keep.flow_s)
        await connection.execute(MARKS_GONE, kept(group), now - max(keep.flow_s, keep.inbox_s))
        handlers = await connection.fetch(HANDLERS, f"{kept(group)}.")
    floors = {row[0]: Floors(*row[1:]) for row in rows}
    return Sweep(floors, [row[0] for row in handlers], now, now - keep.flow_s)


class Sweep:
    """One pass over what a group keeps, piece by piece."""

    def __init__(
        self, floors: dict[int, Floors], handlers: Sequence[int], now: float, flow_at: float
    ) -> None:
        """Keep the floors by place; gates and calls go that were written up to `flow_at`."""
        self._floors = floors
        self._handlers = handlers
        self._now = now
        self._flow_at = flow_at
        self._pieces: AsyncIterator[None] | None = None
        self._most = 0

    async def step(self, lines: Lines, where: str, most: int) -> bool:
        """Do the next piece; tell whether more are left."""
        self._most = most
        async with lines.one() as connection:
            with translated(where):
                self._connection = connection
                if self._pieces is None:
                    self._pieces = self._all()
                return await anext(self._pieces, _Over) is not _Over

    async def _all(self) -> AsyncIterator[None]:
        if self._floors:
            for handler in self._handlers:
                async for _ in self._inbox(handler):
                    yield
        async for _ in self._table(GATES, ("", -1, ""), self._gates):
            yield
        async for _ in self._table(MEMOS, (b"", -1, ""), self._memos):
            yield

    async def _inbox(self, handler: int) -> AsyncIterator[None]:
        """Pass over what was born after every floor: its records are not before any."""
        born = max(floor.at for floor in self._floors.values())
        young, old = _prefix(born), _prefix(self._now + DAY_S)
        for cursor, end in ((b"", young), (max(young, old), b"\xff" * 17)):
            rows: Sequence[Any] = [(cursor,)]
            while rows:
                rows = await self._connection.fetch(INBOX, handler, rows[-1][0], end, self._most)
                if doomed := [row[0] for row in rows if self._old(row)]:
                    await self._connection.execute(INBOX_GONE, handler, doomed)
                yield

    def _old(self, row: Any) -> bool:
        subject, status, owner, offset = row
        floor = self._floors.get(owner)
        if floor is None or offset > floor.offset or status not in (2, 4):
            return False
        return subject[6] >> 4 in TIMED or offset <= floor.timeless

    async def _table(self, look: str, cursor: tuple[Any, ...], forget: Any) -> AsyncIterator[None]:
        rows: Sequence[Any] = [cursor]
        while rows:
            rows = await self._connection.fetch(look, *rows[-1][:3], self._most)
            old = [r for r in rows if r[1] in self._handlers and r[3] <= self._flow_at]
            if old:
                await forget(old)
            yield

    async def _gates(self, rows: Sequence[Any]) -> None:
        doomed = [row[:3] for row in rows if not await self._waited_for(row[1], row[4])]
        if doomed:
            await self._connection.execute(GATES_GONE, *columns(doomed), self._flow_at)

    async def _memos(self, rows: Sequence[Any]) -> None:
        await self._connection.execute(
            MEMOS_GONE, *columns([row[:3] for row in rows]), self._flow_at
        )

    async def _waited_for(self, handler: int, members: bytes) -> bool:
        """Tell whether a call, a timer or an undo of this gate is open."""
        try:
            told = json.loads(members) if members else {}
        except ValueError:
            return False
        if not isinstance(told, dict):
            return False
        if told.get("intents"):
            return True
        timers = [*told.get("timers", ()), *([told["timer"]] if "timer" in told else [])]
        effects = [id_bytes(effect) for effect in told.get("effects", ())]
        fetchval = self._connection.fetchval
        if timers and await fetchval(SET, [bytes.fromhex(timer) for timer in timers]):
            return True
        return bool(effects and await fetchval(OPEN, handler, effects))


class _Over:
    pass


def _prefix(at: float) -> bytes:
    """Give what ids begin with that were born at this time."""
    return max(0, min(int(at * 1000), 2**48 - 1)).to_bytes(6, "big")
