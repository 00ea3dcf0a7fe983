"""Reading a store: what deliveries need to see, what is due, who owns what."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from choreo.adapters.sqlite.bulk import select_rows
from choreo.adapters.sqlite.names import known
from choreo.adapters.sqlite.tx import SqliteTx, driven
from choreo.errors import FencedError, StoreError
from choreo.events import Partition
from choreo.plan import GateKey, Memo, Owned, Parked, Source, Status
from choreo.ports import Due, GateSeen, Row, Seen, StateSeen, Want

__all__ = [
    "Session",
    "due_of",
    "due_rows",
    "let_go",
    "seen_of",
    "stale",
    "take_over",
]

TX_HOLD_S = 10.0
NO_GATE = GateSeen(0, closed=False, members=b"")
NO_STATE = StateSeen(0, None)
NOTHING = Seen()

INBOX = (
    "SELECT handler, subject, status, topic.name, partition, offset, hash, run, attempt FROM asked"
    " CROSS JOIN inbox ON handler = column1 AND subject = column2"
    " CROSS JOIN topic ON topic.id = inbox.topic"
)
GATE = (
    "SELECT kind, handler, scope, seq, closed, members FROM asked"
    " CROSS JOIN gate ON kind = column1 AND handler = column2 AND scope = column3"
)
STATE = (
    "SELECT type, key, version, value FROM asked"
    " CROSS JOIN state ON type = column1 AND key = column2"
)
MEMO = (
    "SELECT subject, handler, name, state, result FROM asked CROSS JOIN memo ON subject = column1"
)


def seen_of(
    connection: sqlite3.Connection, names: Mapping[str, int], wants: Sequence[Want]
) -> list[Seen]:
    """Read all that these deliveries want, in one query a table."""
    asked: list[Any] = []
    for want in wants:
        asked += (names[want.handler], want.subject)
    rows = {(row[0], row[1]): row for row in select_rows(connection, INBOX, 2, asked)}
    gates = _gates(connection, names, wants)
    states = _states(connection, wants)
    memos = _memos(connection, wants)
    if not rows and not gates and not states and not memos:
        return [_plain_seen(want) for want in wants]
    found = []
    for want in wants:
        row = rows.get((names[want.handler], want.subject))
        status, source, payload_hash, run, attempt = None, None, b"", 0, 0
        if row is not None:
            status, source = Status(row[2]), Source(row[3], row[4], row[5])
            payload_hash, run, attempt = row[6], row[7] or 0, row[8] or 0
        found.append(
            Seen(
                status, source, payload_hash, run, attempt,
                {key: gates.get(key, NO_GATE) for key in want.gates},
                states.get(want.state, NO_STATE) if want.state else None,
                memos.get((want.subject, names[want.handler]), {}) if want.memos else {},
            )
        )  # fmt: skip
    return found


def _plain_seen(want: Want) -> Seen:
    if not want.gates and not want.state:
        return NOTHING
    gates = dict.fromkeys(want.gates, NO_GATE)
    return Seen(gates=gates, state=NO_STATE if want.state else None)


def _gates(
    connection: sqlite3.Connection, names: Mapping[str, int], wants: Sequence[Want]
) -> dict[GateKey, GateSeen]:
    asked: dict[tuple[str, int, str], GateKey] = {}
    for want in wants:
        for key in want.gates:
            number = names.get(key.name) or known(connection, key.name)
            if number is not None:
                asked[key.kind, number, key.scope] = key
    rows = select_rows(connection, GATE, 3, [part for row in asked for part in row])
    return {
        asked[kind, number, scope]: GateSeen(seq, bool(closed), members)
        for kind, number, scope, seq, closed, members in rows
    }


def _states(
    connection: sqlite3.Connection, wants: Sequence[Want]
) -> dict[tuple[str, str], StateSeen]:
    asked = {want.state for want in wants if want.state}
    rows = select_rows(connection, STATE, 2, [part for key in asked for part in key])
    return {(kind, key): StateSeen(version, value) for kind, key, version, value in rows}


def _memos(
    connection: sqlite3.Connection, wants: Sequence[Want]
) -> dict[tuple[bytes, int], dict[str, tuple[Memo, bytes]]]:
    asked = list({want.subject for want in wants if want.memos})
    found: dict[tuple[bytes, int], dict[str, tuple[Memo, bytes]]] = {}
    for subject, handler, name, state, result in select_rows(connection, MEMO, 1, asked):
        found.setdefault((subject, handler), {})[name] = (Memo(state), result)
    return found


# ── due ──────────────────────────────────────────────────────────────────────────────────

OURS = "handler IN (SELECT id FROM name WHERE text GLOB ?)"
DUE = (
    "SELECT handler, subject, due, topic.name, partition, offset, record, hash, run, attempt,"
    " chain, error FROM inbox CROSS JOIN topic ON topic.id = inbox.topic"
    f" WHERE status = 1 AND due IS NOT NULL AND due <= ? AND {OURS}"
    " ORDER BY due LIMIT ?"
)
FIRED = (
    "SELECT handler, timer.id, due, topic.name, partition, offset, payload FROM timer"
    f" CROSS JOIN topic ON topic.id = timer.topic WHERE due <= ? AND {OURS}"
    " ORDER BY due LIMIT ?"
)
NEXT = (
    f"SELECT min(due) FROM (SELECT min(due) AS due FROM inbox WHERE status = 1 AND due > ?1"
    f" AND {OURS.replace('?', '?2')}"
    f" UNION ALL SELECT min(due) FROM timer WHERE due > ?1 AND {OURS.replace('?', '?2')})"
)


def due_rows(
    connection: sqlite3.Connection, owned: Owned, now: float, most: int
) -> tuple[list[tuple[Any, ...]], float | None]:
    """Read parked deliveries and timers that are due, and when the next one is."""
    ours = f"{owned.group}.*"
    rows = connection.execute(DUE, (now, ours, most)).fetchall()
    rows += connection.execute(FIRED, (now, ours, most)).fetchall()
    rows.sort(key=lambda row: row[2])
    (after,) = connection.execute(NEXT, (now, ours)).fetchone()
    return rows, after


def due_of(handler: str, row: tuple[Any, ...]) -> Due:
    """Make a Due of a row."""
    subject, due, source, payload = row[1], row[2], Source(row[3], row[4], row[5]), row[6]
    if len(row) == 7:  # noqa: PLR2004 - a timer's columns
        return Due(handler, subject, due, source, payload, None)
    parked = Parked(row[8], row[9], due, row[10] or "", payload, row[11] or "")
    return Due(handler, subject, due, source, payload, parked, row[7])


# ── ownership ────────────────────────────────────────────────────────────────────────────


def holder_name() -> str:
    """Name this process, so that no later one with its number is taken for it."""
    return f"{os.getpid()} {_started(os.getpid())}"


def _started(pid: int) -> str:
    """Give when a process started; empty when it is gone, or the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _alive(holder: str) -> bool:
    pid, _, started = holder.partition(" ")
    if not pid:
        return False
    if Path("/proc").exists():
        return bool(started) and _started(int(pid)) == started
    try:
        os.kill(int(pid), 0)
    except OSError:
        return False
    return True


def take_over(
    connection: sqlite3.Connection, group: str, partitions: Collection[Partition]
) -> Owned:
    """Raise the epochs; refused while another living process holds them."""
    holder = holder_name()
    held = connection.execute(
        "SELECT DISTINCT holder FROM owner WHERE grp = ? AND holder <> ?", (group, holder)
    ).fetchall()
    for (other,) in held:
        if _alive(other):
            raise FencedError(
                "the service already runs in another process",
                fix="end that process, or let it do the work",
                service=group,
                pid=other.partition(" ")[0],
            )
    connection.executemany(
        "INSERT INTO owner VALUES (?, ?, ?, 1, ?)"
        " ON CONFLICT DO UPDATE SET epoch = epoch + 1, holder = excluded.holder",
        [(group, partition.topic, partition.number, holder) for partition in partitions],
    )
    epochs = {
        Partition(topic, number): epoch
        for topic, number, epoch in connection.execute(
            "SELECT topic, partition, epoch FROM owner WHERE grp = ?", (group,)
        )
        if (topic, number) in partitions
    }
    parked = connection.execute(
        "SELECT name.text, chain FROM inbox JOIN name ON name.id = handler"
        " WHERE status = 1 AND chain <> '' AND name.text GLOB ?",
        (f"{group}.*",),
    ).fetchall()
    return Owned(group, holder, epochs, parked)


def let_go(connection: sqlite3.Connection, owned: Sequence[Owned]) -> None:
    """Say that this process holds these no more."""
    for one in owned:
        connection.executemany(
            "UPDATE owner SET holder = '' WHERE grp = ? AND topic = ? AND partition = ?"
            " AND epoch = ?",
            [(one.group, p.topic, p.number, epoch) for p, epoch in one.epochs.items()],
        )


def stale(connection: sqlite3.Connection, owned: Owned) -> frozenset[Partition]:
    """Give the partitions that somebody else has taken over since."""
    rows = connection.execute(
        "SELECT topic, partition, epoch FROM owner WHERE grp = ?", (owned.group,)
    ).fetchall()
    current = {(topic, number): epoch for topic, number, epoch in rows}
    return frozenset(p for p, epoch in owned.epochs.items() if current.get(p) != epoch)


# ── transactions of the user's own ───────────────────────────────────────────────────────


class Session:
    """A Tx outside of any step: the writer waits for its statements until it ends."""

    weight = 256

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer on this loop."""
        self._loop = loop
        self._asked: SimpleQueue[Any] = SimpleQueue()
        self.done: asyncio.Future[None] = loop.create_future()

    async def execute(self, sql: str, *values: object) -> int:
        return int(await self._ask("execute", sql, values))

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return list(await self._ask("fetch", sql, values))

    async def fetchval(self, sql: str, *values: object) -> Any:
        return await self._ask("fetchval", sql, values)

    async def _ask(self, verb: str, sql: str, values: tuple[object, ...]) -> Any:
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._asked.put((verb, sql, values, answer))
        await asyncio.wait((answer, self.done), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            self.done.result()
        return answer.result()

    def end(self, *, rollback: bool) -> None:
        """End it; `done` tells when it is committed."""
        self._asked.put(rollback)
        if rollback:
            self.done.cancel()

    def perform(self, connection: sqlite3.Connection) -> None:
        """Run statements as they come, until the end."""
        tx = SqliteTx(connection)
        while not isinstance(asked := self._next(), bool):
            verb, sql, values, answer = asked
            try:
                result = driven(getattr(tx, verb)(sql, *values))
            except BaseException as exc:  # noqa: BLE001 - handed over to who asked
                self._answer(answer, None, exc)
            else:
                self._answer(answer, result, None)
        if asked:
            raise _RolledBack

    def _next(self) -> Any:
        try:
            return self._asked.get(timeout=TX_HOLD_S)
        except Empty:
            raise StoreError(
                f"a transaction waited {TX_HOLD_S:g} s for its next statement: rolled back",
                code="CH4007",
                fix="await nothing else inside a transaction; it holds up every writer",
            ) from None

    def _answer(
        self, answer: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        def resolve() -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(resolve)

    def finish(self, error: BaseException | None) -> None:
        """Tell that it is committed, or why it is not."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class _RolledBack(Exception):  # noqa: N818 - a request, not an error
    pass
