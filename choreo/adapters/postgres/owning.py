"""Who owns what: epochs, the processes that hold them, and what is left of those that went.

A process is alive while its connection to the database holds its advisory lock: the lock goes
with the process, however that ends, and with no clock that has to be believed.
"""

from __future__ import annotations

from collections.abc import Collection

from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.names import NOBODY, Names, Place, know
from choreo.adapters.postgres.text import kept, told
from choreo.events import Partition
from choreo.plan import Owned
from choreo.ports import ORPHANS

__all__ = ["hold", "holder_number", "let_go", "orphans", "take_over"]

SPACE = 0x63686F72  # of our advisory locks: it spells "chor"
LIVING = (
    "SELECT objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    f" AND classid::int8 = {SPACE}"
)
FORMER = (
    "SELECT id, epoch, holder FROM choreo.owner WHERE id = ANY($1::int[]) ORDER BY id FOR UPDATE"
)
TAKEN = (
    "UPDATE choreo.owner SET epoch = epoch + 1, holder = $2 WHERE id = ANY($1::int[])"
    " RETURNING id, epoch"
)
HELD = (
    "SELECT handler, chain, 0, owner FROM choreo.inbox"
    " WHERE chain IS NOT NULL AND chain <> '' AND owner = ANY($1::int[])"
)
ORPHANED = (
    "SELECT id, grp, topic, partition FROM choreo.owner WHERE grp = $1 AND topic <> ''"
    f" AND holder NOT IN ({LIVING})"
)
FIRST = f"SELECT min(grp) FROM choreo.owner WHERE topic = '' AND holder IN ({LIVING})"
LET_GO = (
    "UPDATE choreo.owner o SET holder = 0 FROM unnest($1::int[], $2::int8[]) AS a (id, epoch)"
    " WHERE o.id = a.id AND o.epoch = a.epoch"
)


async def holder_number(connection: Connection) -> int:
    """Draw a number that stands for this process."""
    return int(await connection.fetchval("SELECT nextval('choreo.holder')"))


async def hold(connection: Connection, holder: int) -> None:
    """Be alive for as long as this connection is."""
    await connection.execute(f"SELECT pg_advisory_lock({SPACE}, {holder})")


async def take_over(
    connection: Connection,
    names: Names,
    holder: int,
    group: str,
    partitions: Collection[Partition],
) -> Owned:
    """Raise the epochs; tell what was left. Inside a transaction; the places are known."""
    partition_of = {names.places[group, *partition]: partition for partition in partitions}
    former = await connection.fetch(FORMER, list(partition_of))
    alive = {row[0] for row in await connection.fetch(LIVING)}
    unclean = {partition_of[row[0]] for row in former if row[2] and row[2] not in {holder, *alive}}
    taken = await connection.fetch(TAKEN, list(partition_of), holder)
    epochs = {partition_of[row[0]]: row[1] for row in taken}
    places = list(partition_of)
    if ORPHANS in epochs:
        places += await orphans(connection, names, group)
    rows = await connection.fetch(HELD, places)
    await know(connection, names, rows)
    held = [(names.texts[row[0]], told(row[1])) for row in rows]
    return Owned(group, epochs, held, unclean)


async def orphans(connection: Connection, names: Names, group: str) -> list[int]:
    """Give the places of partitions that nobody has who lives; and that of nobody.

    This is with one group at a time: the first, by name, whose orphans somebody has who lives.
    """
    rows = await connection.fetch(ORPHANED, kept(group))
    names.learn_places({Place(group, row[2], row[3]): row[0] for row in rows})
    first = await connection.fetchval(FIRST)
    nobodys = [NOBODY] if first in (None, kept(group)) else []
    return [*nobodys, *(row[0] for row in rows)]


async def let_go(connection: Connection, epochs: Collection[tuple[int, int]]) -> None:
    """Say that this process has nothing open in these any more."""
    places, taken = zip(*epochs, strict=True)
    await connection.execute(LET_GO, places, taken)
