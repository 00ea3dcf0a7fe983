"""Reading a store: what deliveries need to see."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from choreo.adapters.sqlite.bulk import select_rows
from choreo.adapters.sqlite.floors import floors_of, place_of
from choreo.adapters.sqlite.names import known
from choreo.plan import GateKey, Memo, Parked, Source, Status
from choreo.ports import GateSeen, Seen, StateSeen, Want

__all__ = ["seen_of"]

NO_GATE = GateSeen(0, closed=False, members=b"")
NO_STATE = StateSeen(0, None)
NOTHING = Seen()

INBOX = (
    "SELECT handler, subject, status, topic.name, partition, offset, hash, run, attempt, due,"
    " chain, record, error FROM asked CROSS JOIN inbox ON handler = column1 AND subject = column2"
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
    found = _seen(connection, names, wants)
    about = [index for index, want in enumerate(wants) if want.target is not None]
    if about:
        targets = [want.target for want in wants if want.target is not None]
        for index, seen in zip(about, _seen(connection, names, targets), strict=True):
            found[index] = found[index]._replace(target=seen)
    if all(one.status is not None for one in found):
        return found
    floors = floors_of(connection, wants)  # after the rows: they go after the floors rise
    if not floors:
        return found
    plain = {place: Seen(floor=floor) for place, floor in floors.items()}
    for index, one in enumerate(found):
        if one.status is None and (place := place_of(wants[index])) in floors:
            found[index] = plain[place] if one is NOTHING else one._replace(floor=floors[place])
    return found


def _seen(
    connection: sqlite3.Connection, names: Mapping[str, int], wants: Sequence[Want]
) -> list[Seen]:
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
        status, source, payload_hash, run, attempt, kept = None, None, b"", 0, 0, None
        if row is not None:
            status, source = Status(row[2]), Source(row[3], row[4], row[5])
            payload_hash, run, attempt = row[6], row[7] or 0, row[8] or 0
            if status in (Status.PARKED, Status.DEAD):
                kept = Parked(run, attempt, row[9], row[10] or "", row[11] or b"", row[12] or "")
        found.append(
            Seen(
                status, source, payload_hash, run, attempt,
                {key: gates.get(key, NO_GATE) for key in want.gates},
                states.get(want.state, NO_STATE) if want.state else None,
                memos.get((want.subject, names[want.handler]), {}) if want.memos else {},
                kept=kept,
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
