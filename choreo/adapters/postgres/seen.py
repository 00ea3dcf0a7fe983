"""Reading a store: what deliveries need to see, what is due, what is not sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.names import NOBODY, Names, group_of, know
from choreo.adapters.postgres.rows import columns
from choreo.adapters.postgres.text import kept, told
from choreo.codec import headers_from_text
from choreo.events import Record
from choreo.plan import GateKey, Memo, Parked, Source, Status
from choreo.ports import ORPHANS, Due, Floor, GateSeen, Seen, StateSeen, Unsent, Want

__all__ = ["due_rows", "seen_of", "unsent_of", "unsent_rows"]

NO_GATE = GateSeen(0, closed=False, members=b"")
NO_STATE = StateSeen(0, None)
NOTHING = Seen()

# The floors are read in the statement that reads the rows: rows go after the floors rise, so
# who sees a row no more sees the floor that it went by.
INBOX = """
SELECT i.handler, i.subject, i.status, i.owner, i."offset", i.hash, i.run, i.attempt, i.due,
    i.chain, i.record, i.error
FROM unnest($1::int[], $2::bytea[]) AS a (handler, subject)
JOIN choreo.inbox i USING (handler, subject)
UNION ALL
SELECT NULL, NULL, NULL, owner, floor, NULL, NULL, NULL, floor_at, NULL, NULL, NULL
FROM choreo.position WHERE floor >= 0 AND owner = ANY($3::int[])
"""
GATES = (
    "SELECT g.kind, g.handler, g.scope, g.seq, g.closed, g.members FROM choreo.gate g"
    " JOIN unnest($1::text[], $2::int[], $3::text[]) AS a (kind, handler, scope)"
    " USING (kind, handler, scope)"
)
STATES = (
    "SELECT s.type, s.key, s.version, s.value FROM choreo.state s"
    " JOIN unnest($1::text[], $2::text[]) AS a (type, key) USING (type, key)"
)
MEMOS = (
    "SELECT subject, handler, name, state, result FROM choreo.memo WHERE subject = ANY($1::bytea[])"
)


async def seen_of(connection: Connection, names: Names, wants: Sequence[Want]) -> list[Seen]:
    """Read all that these deliveries want, in one query a table."""
    found = await _seen(connection, names, wants)
    about = [index for index, want in enumerate(wants) if want.target is not None]
    if about:
        targets = [want.target for want in wants if want.target is not None]
        for index, seen in zip(about, await _seen(connection, names, targets), strict=True):
            found[index] = found[index]._replace(target=seen)
    return found


async def _seen(connection: Connection, names: Names, wants: Sequence[Want]) -> list[Seen]:
    handlers = names.handlers
    asked = [handlers[want.handler] for want in wants]
    places = [_place(names, want) for want in wants]
    rows: dict[tuple[int, bytes], Any] = {}
    floors: dict[int, Floor] = {}
    known = sorted({place for place in places if place})
    subjects = [want.subject for want in wants]
    read = await connection.fetch(INBOX, asked, subjects, known)
    if read:
        await know(connection, names, read)
    for row in read:
        if row[0] is None:
            floors[row[3]] = Floor(row[4], row[8])
        else:
            rows[row[0], row[1]] = row
    gates = await _gates(connection, names, wants)
    states = await _states(connection, wants)
    memos = await _memos(connection, wants)
    found = []
    for want, handler, place in zip(wants, asked, places, strict=True):
        inbox = rows.get((handler, want.subject))
        if inbox is None and not want.gates and not want.state and not want.memos:
            found.append(Seen(floor=floors[place]) if place in floors else NOTHING)
            continue
        seen = NOTHING if inbox is None else _of_row(names, inbox)
        found.append(
            seen._replace(
                gates={key: gates.get(key, NO_GATE) for key in want.gates},
                state=states.get(want.state, NO_STATE) if want.state else None,
                memos=memos.get((want.subject, handler), {}) if want.memos else {},
                floor=floors.get(place) if inbox is None else None,
            )
        )
    return found


def _place(names: Names, want: Want) -> int:
    """Give the place that a record came in on; 0 where it has none, so no floor either."""
    source = want.source
    if source is None:
        return NOBODY
    return names.places.get((group_of(want.handler), source[0], source[1]), NOBODY)


def _of_row(names: Names, row: Any) -> Seen:
    _, _, status, owner, offset, payload_hash, run, attempt, due, chain, record, error = row
    place = names.partitions[owner]
    kept_ = None
    if status in (Status.PARKED, Status.DEAD):
        told_ = told(chain or "")
        kept_ = Parked(run or 0, attempt or 0, due, told_, record or b"", error or "")
    return Seen(
        Status(status), Source(place.topic, place.partition, offset), payload_hash,
        run or 0, attempt or 0, kept=kept_,
    )  # fmt: skip


async def _gates(
    connection: Connection, names: Names, wants: Sequence[Want]
) -> dict[GateKey, GateSeen]:
    asked: dict[tuple[str, int, str], GateKey] = {}
    for want in wants:
        for key in want.gates:
            asked[kept(key.kind), names.handlers[key.name], kept(key.scope)] = key
    if not asked:
        return {}
    return {
        asked[row[0], row[1], row[2]]: GateSeen(row[3], closed=row[4], members=row[5])
        for row in await connection.fetch(GATES, *columns(list(asked)))
    }


async def _states(
    connection: Connection, wants: Sequence[Want]
) -> dict[tuple[str, str], StateSeen]:
    asked = {(kept(want.state[0]), kept(want.state[1])): want.state for want in wants if want.state}
    if not asked:
        return {}
    return {
        asked[row[0], row[1]]: StateSeen(row[2], row[3])
        for row in await connection.fetch(STATES, *columns(list(asked)))
    }


async def _memos(
    connection: Connection, wants: Sequence[Want]
) -> Mapping[tuple[bytes, int], dict[str, tuple[Memo, bytes]]]:
    asked = list({want.subject for want in wants if want.memos})
    found: dict[tuple[bytes, int], dict[str, tuple[Memo, bytes]]] = {}
    if asked:
        for subject, handler, name, state, result in await connection.fetch(MEMOS, asked):
            found.setdefault((subject, handler), {})[told(name)] = (Memo(state), result)
    return found


# ── due, unsent ──────────────────────────────────────────────────────────────────────────

DUE = (
    'SELECT handler, subject, due, owner, "offset", record, hash, run, attempt, chain, error'
    " FROM choreo.inbox WHERE status = 1 AND due IS NOT NULL AND due <= $1"
    " AND owner = ANY($2::int[]) ORDER BY due LIMIT $3"
)
FIRED = (
    'SELECT handler, id, due, owner, "offset", payload FROM choreo.timer'
    " WHERE due <= $1 AND owner = ANY($2::int[]) ORDER BY due LIMIT $3"
)
NEXT = (
    "SELECT least((SELECT due FROM choreo.inbox WHERE status = 1 AND due IS NOT NULL AND due > $1"
    " AND owner = ANY($2::int[]) ORDER BY due LIMIT 1),"
    " (SELECT due FROM choreo.timer WHERE due > $1 AND owner = ANY($2::int[])"
    " ORDER BY due LIMIT 1))"
)
UNSENT = (
    "SELECT seq, owner, topic, key, headers, value FROM choreo.outbox"
    " WHERE seq > $1 AND owner = ANY($2::int[]) ORDER BY seq LIMIT $3"
)


async def due_rows(
    connection: Connection, names: Names, places: Sequence[int], now: float, most: int
) -> tuple[list[Due], float | None]:
    """Read parked deliveries and timers that are due, earliest first, and when the next one is."""
    rows: list[Any] = await connection.fetch(DUE, now, places, most)
    rows += await connection.fetch(FIRED, now, places, most)
    await know(connection, names, rows)
    rows.sort(key=lambda row: float(row[2]))
    after = await connection.fetchval(NEXT, now, places)
    return [_due(names, row) for row in rows], after


def _due(names: Names, row: Any) -> Due:
    handler, subject, due, owner, offset, payload = row[:6]
    place = names.partitions[owner]
    source = Source(place.topic, place.partition, offset)
    if len(row) == 6:  # noqa: PLR2004 - a timer's columns
        return Due(names.texts[handler], subject, due, source, payload, None)
    parked = Parked(row[7], row[8], due, told(row[9] or ""), payload, row[10] or "")
    return Due(names.texts[handler], subject, due, source, payload, parked, row[6])


async def unsent_rows(
    connection: Connection, names: Names, places: Sequence[int], after: int, most: int
) -> list[Unsent]:
    """Read rows of the outbox, in order."""
    rows = await connection.fetch(UNSENT, after, places, most)
    return [unsent_of(names, row) for row in rows]


def unsent_of(names: Names, row: Any) -> Unsent:
    """Make of a row of the outbox what a relay publishes."""
    seq, owner, topic, key, headers, value = row
    record = Record(topic, key, headers_from_text(headers), value)
    record.row = seq
    partition = ORPHANS if owner == NOBODY else names.partitions[owner].of()
    return Unsent(seq, partition, record)
