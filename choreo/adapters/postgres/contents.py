"""The tables as an audit sees them."""

from __future__ import annotations

from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.names import NOBODY, Names, know
from choreo.adapters.postgres.seen import unsent_of
from choreo.adapters.postgres.text import told
from choreo.plan import Memo, Source, Status
from choreo.ports import Contents, InboxRow, MemoRow, OwnerRow, TimerRow

__all__ = ["contents_of"]

INBOX = (
    "SELECT handler, subject, status, owner, \"offset\", due, coalesce(chain, '') FROM choreo.inbox"
)
TIMERS = 'SELECT handler, id, due, owner, "offset" FROM choreo.timer'
MEMOS = f"SELECT handler, subject, name, {NOBODY}, state FROM choreo.memo"
OWNERS = "SELECT grp, topic, partition, epoch, holder, id FROM choreo.owner"
OUTBOX = "SELECT seq, owner, topic, key, headers, value FROM choreo.outbox ORDER BY seq"
FLOORS = f"SELECT NULL, floor, {NOBODY}, owner FROM choreo.position WHERE floor >= 0"


async def contents_of(connection: Connection, names: Names) -> Contents:
    """Read what the database keeps for all services, as of one moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        inbox, timers, memos, owners, outbox, floors = [
            await connection.fetch(sql) for sql in (INBOX, TIMERS, MEMOS, OWNERS, OUTBOX, FLOORS)
        ]
        for rows in (inbox, timers, memos):
            await know(connection, names, rows)
    texts = names.texts
    names.learn_rows(owners)
    return Contents(
        inbox=[
            InboxRow(
                texts[row[0]],
                row[1],
                Status(row[2]),
                _source(names, row[3], row[4]),
                row[5],
                told(row[6]),
            )
            for row in inbox
        ],
        timers=[
            TimerRow(row[1], texts[row[0]], row[2], _source(names, row[3], row[4]))
            for row in timers
        ],
        memos=[
            MemoRow(texts[handler], subject, told(name), Memo(state))
            for handler, subject, name, _, state in memos
        ],
        owners=[
            OwnerRow(told(row[0]), names.partitions[row[5]].of(), row[3], str(row[4] or ""))
            for row in owners
            if row[3]
        ],
        outbox=[unsent_of(names, row) for row in outbox],
        floors={
            (names.partitions[row[3]].group, names.partitions[row[3]].of()): row[1]
            for row in floors
        },
    )


def _source(names: Names, owner: int, offset: int) -> Source:
    return Source(*names.partitions[owner].of(), offset)
