"""Who owns what: epochs, the processes that hold them, and what is left of those that went.

A process is alive while its connection to the database holds its advisory lock: the lock goes
with the process, however that ends, and with no clock that has to be believed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import NamedTuple

from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.names import NOBODY, Names, Place, know
from choreo.adapters.postgres.text import kept, told
from choreo.errors import StoreError
from choreo.events import Partition
from choreo.plan import Owned
from choreo.ports import ORPHANS

__all__ = ["Claim", "hold", "holder_number", "let_go", "orphans", "take_over"]

log = logging.getLogger("choreo.postgres")
NO_GENERATION = -1
SPACE = 0x63686F72  # of our advisory locks: it spells "chor"
LIVING = (
    "SELECT objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    f" AND classid::int8 = {SPACE}"
)
FORMER = (
    "SELECT id, epoch, holder, generation FROM choreo.owner WHERE id = ANY($1::int[])"
    " ORDER BY id FOR UPDATE"
)
TAKEN = (
    "UPDATE choreo.owner SET epoch = epoch + 1, holder = $2, generation = $3"
    " WHERE id = ANY($1::int[]) RETURNING id, epoch"
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


class Claim(NamedTuple):
    """Who takes over what: `generation` is the group's, where its broker counts them."""

    group: str
    partitions: Collection[Partition]
    holder: int
    generation: int | None


async def take_over(connection: Connection, names: Names, claim: Claim) -> Owned:
    """Raise the epochs; tell what was left. Inside a transaction; the places are known."""
    group, partitions, holder, generation = claim
    partition_of = {names.places[group, *partition]: partition for partition in partitions}
    former = await connection.fetch(FORMER, list(partition_of))
    alive = {row[0] for row in await connection.fetch(LIVING)}
    for row in former:
        if generation is not None and row[3] > generation and row[2] in alive - {holder}:
            _say_overtaken(claim, partition_of.pop(row[0]), row[3])
    former = [row for row in former if row[0] in partition_of]
    unclean = {partition_of[row[0]] for row in former if row[2] and row[2] not in {holder, *alive}}
    number = NO_GENERATION if generation is None else generation
    taken = await connection.fetch(TAKEN, list(partition_of), holder, number)
    epochs = {partition_of[row[0]]: row[1] for row in taken}
    places = list(partition_of)
    if ORPHANS in epochs:
        places += await orphans(connection, names, group)
    rows = await connection.fetch(HELD, places)
    await know(connection, names, rows)
    held = [(names.texts[row[0]], told(row[1])) for row in rows]
    return Owned(group, epochs, held, unclean)


def _say_overtaken(claim: Claim, partition: Partition, generation: int) -> None:
    error = StoreError(
        "not taken over: a process that lives has it by a newer generation of the group",
        code="CH4016",
        fix="nothing, if this process has stood still: it joins again. If the group was made anew"
        " under running processes, start them again",
        group=claim.group,
        partition=f"{partition.topic}-{partition.number}",
        generation=claim.generation,
        newer=generation,
    )
    log.warning("%s", error)


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
