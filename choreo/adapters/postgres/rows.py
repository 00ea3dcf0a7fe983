"""Statements of a group: what is locked and read first, and what is written at the end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from choreo.adapters.postgres.board import (
    ABSENT,
    Board,
    InboxRow,
    Timer,
    inbox_row,
    memo_key,
)
from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.names import Names
from choreo.adapters.postgres.text import kept
from choreo.codec import headers_to_text
from choreo.errors import StoreConflictError
from choreo.events import Record
from choreo.plan import (
    CancelTimer,
    Change,
    Gate,
    Owned,
    Plan,
    Remember,
    SaveState,
    Settle,
)

__all__ = ["Found", "claims_of", "columns", "lock", "lock_claims", "publish", "write"]

CLAIMS = "SELECT id, epoch FROM choreo.owner WHERE id = ANY($1::int[]) ORDER BY id FOR SHARE"
NEW_ROWS = (
    'INSERT INTO choreo.inbox (handler, subject, status, hash, owner, "offset", run, attempt,'
    " due, chain, record, error) SELECT * FROM unnest($1::int[], $2::bytea[], $3::int2[],"
    " $4::bytea[], $5::int[], $6::int8[], $7::int[], $8::int[], $9::float8[], $10::text[],"
    " $11::bytea[], $12::text[]) ON CONFLICT DO NOTHING RETURNING handler, subject"
)
OLD_ROWS = (
    'SELECT i.handler, i.subject, i.status, i.hash, i.owner, i."offset", i.run, i.attempt, i.due,'
    " i.chain FROM choreo.inbox i JOIN unnest($1::int[], $2::bytea[]) AS a (handler, subject)"
    " USING (handler, subject) ORDER BY i.handler, i.subject FOR UPDATE OF i"
)
CHAINS = (
    'SELECT i.handler, i.subject, i.status, i.hash, i.owner, i."offset", i.run, i.attempt, i.due,'
    " i.chain FROM unnest($1::int[], $2::text[], $3::int[]) AS a (handler, chain, most),"
    " LATERAL (SELECT * FROM choreo.inbox WHERE handler = a.handler AND chain = a.chain"
    ' ORDER BY "offset", subject LIMIT a.most) AS i'
)
GATES = (  # the row is locked first; what comes back is how it stands behind that lock
    "INSERT INTO choreo.gate AS g (kind, handler, scope, seq, closed, members, at)"
    " SELECT kind, handler, scope, 0, false, '', 0"
    " FROM unnest($1::text[], $2::int[], $3::text[]) AS a (kind, handler, scope)"
    " ON CONFLICT (kind, handler, scope) DO UPDATE SET seq = g.seq"
    " RETURNING kind, handler, scope, seq, closed, members"
)
STATES = (
    "INSERT INTO choreo.state (type, key, version, value)"
    " SELECT type, key, 0, NULL FROM unnest($1::text[], $2::text[]) AS a (type, key)"
    " ON CONFLICT (type, key) DO UPDATE SET version = state.version"
    " RETURNING type, key, version, value"
)
MEMOS = (
    "INSERT INTO choreo.memo (subject, handler, name, state, result, at)"
    f" SELECT subject, handler, name, {ABSENT}, '', 0"
    " FROM unnest($1::bytea[], $2::int[], $3::text[]) AS a (subject, handler, name)"
    " ON CONFLICT (subject, handler, name) DO UPDATE SET state = memo.state"
    " RETURNING subject, handler, name, state, result"
)
TIMERS = (
    'SELECT id, due, handler, payload, owner, "offset" FROM choreo.timer'
    " WHERE id = ANY($1::bytea[]) ORDER BY id FOR UPDATE"
)

ROWS_WRITTEN = (
    "UPDATE choreo.inbox i SET status = a.status, run = a.run, attempt = a.attempt, due = a.due,"
    " chain = a.chain, record = a.record, error = a.error, hash = a.hash, owner = a.owner,"
    ' "offset" = a."offset" FROM unnest($1::int[], $2::bytea[], $3::int2[], $4::bytea[],'
    " $5::int[], $6::int8[], $7::int[], $8::int[], $9::float8[], $10::text[], $11::bytea[],"
    ' $12::text[]) AS a (handler, subject, status, hash, owner, "offset", run, attempt, due,'
    " chain, record, error) WHERE i.handler = a.handler AND i.subject = a.subject"
)
ROWS_RELEASED = (
    "UPDATE choreo.inbox i SET due = a.due FROM unnest($1::int[], $2::bytea[], $3::float8[])"
    " AS a (handler, subject, due) WHERE i.handler = a.handler AND i.subject = a.subject"
)
ROWS_GONE = (
    "DELETE FROM choreo.inbox i USING unnest($1::int[], $2::bytea[]) AS a (handler, subject)"
    " WHERE i.handler = a.handler AND i.subject = a.subject"
)
GATES_WRITTEN = (
    "UPDATE choreo.gate g SET seq = a.seq, closed = a.closed, members = a.members, at = $7"
    " FROM unnest($1::text[], $2::int[], $3::text[], $4::int8[], $5::bool[], $6::bytea[])"
    " AS a (kind, handler, scope, seq, closed, members)"
    " WHERE g.kind = a.kind AND g.handler = a.handler AND g.scope = a.scope"
)
STATES_WRITTEN = (
    "UPDATE choreo.state s SET version = a.version, value = a.value"
    " FROM unnest($1::text[], $2::text[], $3::int8[], $4::bytea[])"
    " AS a (type, key, version, value) WHERE s.type = a.type AND s.key = a.key"
)
MEMOS_WRITTEN = (
    "UPDATE choreo.memo m SET state = a.state, result = a.result, at = $6"
    " FROM unnest($1::bytea[], $2::int[], $3::text[], $4::int2[], $5::bytea[])"
    " AS a (subject, handler, name, state, result)"
    " WHERE m.subject = a.subject AND m.handler = a.handler AND m.name = a.name"
)
# What was only locked, and is not to be.
GATES_GONE = (
    "DELETE FROM choreo.gate g USING unnest($1::text[], $2::int[], $3::text[])"
    " AS a (kind, handler, scope) WHERE g.kind = a.kind AND g.handler = a.handler"
    " AND g.scope = a.scope AND g.seq = 0"
)
STATES_GONE = (
    "DELETE FROM choreo.state s USING unnest($1::text[], $2::text[]) AS a (type, key)"
    " WHERE s.type = a.type AND s.key = a.key AND s.version = 0"
)
MEMOS_GONE = (
    "DELETE FROM choreo.memo m USING unnest($1::bytea[], $2::int[], $3::text[])"
    " AS a (subject, handler, name) WHERE m.subject = a.subject AND m.handler = a.handler"
    f" AND m.name = a.name AND m.state = {ABSENT}"
)
TIMERS_SET = (
    'INSERT INTO choreo.timer (id, due, handler, payload, owner, "offset") SELECT * FROM unnest('
    "$1::bytea[], $2::float8[], $3::int[], $4::bytea[], $5::int[], $6::int8[])"
    " ON CONFLICT (id) DO UPDATE SET due = excluded.due, handler = excluded.handler,"
    ' payload = excluded.payload, owner = excluded.owner, "offset" = excluded."offset"'
)
TIMERS_GONE = "DELETE FROM choreo.timer WHERE id = ANY($1::bytea[])"
OUTBOX = (
    "INSERT INTO choreo.outbox (owner, topic, key, headers, value)"
    " SELECT owner, topic, key, headers, value FROM unnest($1::int[], $2::text[], $3::bytea[],"
    " $4::text[], $5::bytea[]) WITH ORDINALITY AS a (owner, topic, key, headers, value, n)"
    " ORDER BY n RETURNING seq"
)
SENT = "DELETE FROM choreo.outbox WHERE seq = ANY($1::int8[])"
PASSED = (
    'INSERT INTO choreo.position (owner, "offset", ended, ended_at)'
    ' SELECT owner, "offset", ended, $4'
    ' FROM unnest($1::int[], $2::int8[], $3::int8[]) AS a (owner, "offset", ended)'
    ' ON CONFLICT (owner) DO UPDATE SET "offset" = excluded."offset",'
    " ended = excluded.ended, ended_at = excluded.ended_at"
)


def columns(rows: Collection[Sequence[Any]]) -> list[list[Any]]:
    """Turn rows, at least one, into one list a column."""
    return [list(column) for column in zip(*rows, strict=True)]


# ── lock and read ────────────────────────────────────────────────────────────────────────


async def lock_claims(connection: Connection, names: Names, plans: Sequence[Plan]) -> set[int]:
    """Lock what the plans stand on; give the `id` of each Owned of which a part is another's."""
    claims = {id(plan.owned): claims_of(names, plan.owned) for plan in plans if plan.owned}
    asked = sorted({place for claim in claims.values() for place, _ in claim})
    if not asked:
        return set()
    epochs = {row[0]: row[1] for row in await connection.fetch(CLAIMS, asked)}
    return {
        owned
        for owned, claim in claims.items()
        if any(epochs.get(place) != epoch for place, epoch in claim)
    }


def claims_of(names: Names, owned: Owned) -> list[tuple[int, int]]:
    """Give place and epoch of each partition that is owned."""
    group = owned.group
    return [(names.places[group, p.topic, p.number], epoch) for p, epoch in owned.epochs.items()]


async def lock(connection: Connection, board: Board, plans: Sequence[Plan]) -> Found:
    """Lock and read all that the changes of these plans compare with, sorted, kind by kind."""
    changes = [change for plan in plans for change in plan.changes]
    fresh = await _lock_inbox(connection, board, [c for c in changes if type(c) is Settle])
    await _lock_guards(connection, board, changes)
    return Found(
        {**board.inbox, **fresh}, dict(board.gates), dict(board.states), dict(board.memos),
        dict(board.timers),
    )  # fmt: skip


async def _lock_inbox(
    connection: Connection, board: Board, settles: Sequence[Settle]
) -> dict[tuple[int, bytes], InboxRow]:
    """Insert what was not there; give those rows. The others are read, and locked."""
    if not settles:
        return {}
    names = board.names
    wanted: dict[tuple[int, bytes], InboxRow] = {}
    keys = set()
    for change in settles:
        key = (names.handlers[change.handler], change.subject)
        keys.add(key)
        if change.seen is None and key not in wanted:
            wanted[key] = inbox_row(names, change)
    fresh = {}
    if wanted:
        rows = [(*key, *wanted[key][:-1]) for key in sorted(wanted)]
        fresh = {
            (row[0], row[1]): wanted[row[0], row[1]]
            for row in await connection.fetch(NEW_ROWS, *columns(rows))
        }
    board.inbox.update(dict.fromkeys(keys))
    if old := sorted(keys - fresh.keys()):
        found = {
            (row[0], row[1]): _loaded(row)
            for row in await connection.fetch(OLD_ROWS, *columns(old))
        }
        if any(key in wanted and key not in found for key in old):
            raise StoreConflictError("a row went while it was looked at", fix="it is done again")
        board.inbox.update(found)
    await _lock_chains(connection, board, settles)
    return fresh


def _loaded(row: Any) -> InboxRow:
    return InboxRow(*row[2:10])._replace(loaded=True)


async def _lock_chains(connection: Connection, board: Board, settles: Sequence[Settle]) -> None:
    """Read the first rows of each chain in which somebody may be let go, or has to wait.

    A settle takes one row out of a chain, or puts one in: so many more have to be known. Only
    the owner of the partition changes them, and it does so in one transaction at a time.
    """
    most: dict[tuple[int, str], int] = {}
    for change in settles:
        handler = board.names.handlers[change.handler]
        before = board.inbox[handler, change.subject]
        chains = {kept(change.parked.chain)} if change.parked is not None else set()
        if before is not None and before.chain:
            chains.add(before.chain)
        for chain in chains - {""}:
            most[handler, chain] = most.get((handler, chain), 1) + 1
    if not most:
        return
    asked = [(*chain, count) for chain, count in most.items()]
    for row in await connection.fetch(CHAINS, *columns(asked)):
        key = (row[0], row[1])
        if key not in board.inbox:
            board.inbox[key] = _loaded(row)
    for key, one in board.inbox.items():
        if one is not None and one.chain:
            board.chains.setdefault((key[0], one.chain), set()).add(key)


def _guards(names: Names, changes: Iterable[Change]) -> tuple[set[Any], ...]:
    """Give the keys of gates, states, memos and timers that are compared."""
    gates, states, memos, timers = set(), set(), set(), set()
    for change in changes:
        if isinstance(change, Gate):
            kind, name, scope = change.key
            gates.add((kept(kind), names.handlers[name], kept(scope)))
        elif isinstance(change, SaveState):
            states.add((kept(change.type), kept(change.key)))
        elif isinstance(change, Remember):
            memos.add(memo_key(names, change))
        elif isinstance(change, CancelTimer) and change.due is not None:
            timers.add(change.id)
    return gates, states, memos, timers


async def _lock_guards(connection: Connection, board: Board, changes: Iterable[Change]) -> None:
    gates, states, memos, timers = _guards(board.names, changes)
    if gates:
        for row in await connection.fetch(GATES, *columns(sorted(gates))):
            board.gates[row[0], row[1], row[2]] = (row[3], row[4], row[5])
    if states:
        for row in await connection.fetch(STATES, *columns(sorted(states))):
            board.states[row[0], row[1]] = (row[2], row[3])
    if memos:
        for row in await connection.fetch(MEMOS, *columns(sorted(memos))):
            board.memos[row[0], row[1], row[2]] = (row[3], row[4])
    if timers:
        for row in await connection.fetch(TIMERS, sorted(timers)):
            board.timers[row[0]] = Timer(*row[1:])


# ── write ────────────────────────────────────────────────────────────────────────────────


class Found(NamedTuple):
    """The rows as they stand in the database before `write`."""

    inbox: dict[tuple[int, bytes], InboxRow | None]
    gates: dict[tuple[str, int, str], tuple[int, bool, bytes]]
    states: dict[tuple[str, str], tuple[int, bytes | None]]
    memos: dict[tuple[bytes, int, str], tuple[int, bytes]]
    timers: dict[bytes, Timer | None]


async def write(connection: Connection, board: Board, found: Found) -> None:
    """Write what has become of the rows; give each record its row."""
    run = connection.execute
    await _write_inbox(connection, board, found)
    gates = [(*key, *row) for key, row in board.gates.items() if row != found.gates.get(key)]
    if gates:
        await run(GATES_WRITTEN, *columns(gates), board.now)
    states = [(*key, *row) for key, row in board.states.items() if row != found.states[key]]
    if states:
        await run(STATES_WRITTEN, *columns(states))
    memos = [(*key, *row) for key, row in board.memos.items() if row != found.memos[key]]
    if memos:
        await run(MEMOS_WRITTEN, *columns(memos), board.now)
    for sql, left in (
        (GATES_GONE, [key for key, row in board.gates.items() if row[0] == 0]),
        (STATES_GONE, [key for key, row in board.states.items() if row[0] == 0]),
        (MEMOS_GONE, [key for key, row in board.memos.items() if row[0] == ABSENT]),
    ):
        if left:
            await run(sql, *columns(left))
    await _write_timers(connection, board, found)
    await publish(connection, board.published)
    if board.sent:
        await run(SENT, board.sent)
    if passed := [(place, *row) for place, row in sorted(board.passed.items()) if row]:
        await run(PASSED, *columns(passed), board.now)


async def _write_inbox(connection: Connection, board: Board, found: Found) -> None:
    written, released, gone = [], [], []
    for key, row in board.inbox.items():
        before = found.inbox.get(key)
        if row == before:
            continue
        if row is None:
            gone.append(key)
        elif row.loaded:
            released.append((*key, row.due))
        else:
            written.append((*key, *row[:-1]))
    for sql, rows in ((ROWS_WRITTEN, written), (ROWS_RELEASED, released), (ROWS_GONE, gone)):
        if rows:
            await connection.execute(sql, *columns(rows))


async def _write_timers(connection: Connection, board: Board, found: Found) -> None:
    changed = {
        id_: timer
        for id_, timer in board.timers.items()
        if id_ not in found.timers or timer != found.timers[id_]
    }
    gone = [id_ for id_, timer in changed.items() if timer is None]
    there = [(id_, *timer) for id_, timer in sorted(changed.items()) if timer is not None]
    if gone:
        await connection.execute(TIMERS_GONE, sorted(gone))
    if there:
        await connection.execute(TIMERS_SET, *columns(there))


async def publish(connection: Connection, published: Sequence[tuple[int, Record]]) -> None:
    """Append records to the outbox, in this order, and tell each its row."""
    if not published:
        return
    rows = [
        (owner, record.topic, record.key, headers_to_text(record.headers), record.value)
        for owner, record in published
    ]
    seqs = sorted(row[0] for row in await connection.fetch(OUTBOX, *columns(rows)))
    for (_, record), seq in zip(published, seqs, strict=True):
        record.row = seq
