"""Names of handlers, and partitions of groups, as the small integers that rows keep.

A handler that was renamed keeps its number, so all that was ever written under a former name
is found under the present one. The former name stays an alias: an older process that runs
beside the new one, or comes back, means the same rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.text import kept, told
from choreo.events import Partition
from choreo.plan import Gate, Passed, Plan, Remember, SetTimer, Settle

__all__ = [
    "NOBODY",
    "Names",
    "Place",
    "adopt",
    "group_of",
    "know",
    "places_of",
    "unknown_in",
]

LOCK = 0x63686F72_656F0002
NOBODY = 0
"""The place of what came in on no partition."""


class Place(NamedTuple):
    """A partition, as a group's."""

    group: str
    topic: str
    partition: int

    def of(self) -> Partition:
        """Give the partition."""
        return Partition(self.topic, self.partition)


class Names:
    """What this process has learned of both kinds of numbers; they never change."""

    def __init__(self) -> None:
        """Know nothing."""
        self.handlers: dict[str, int] = {}
        self.texts: dict[int, str] = {}
        self.places: dict[tuple[str, str, int], int] = {}
        self.partitions: dict[int, Place] = {NOBODY: Place("", "", 0)}

    def learn(self, found: Mapping[str, int]) -> None:
        """Know handlers; a number of ours keeps the name that we have for it."""
        self.handlers.update(found)
        self.texts.update({number: name for name, number in found.items()})

    def place(self, handler: str, topic: str, partition: int) -> int:
        """Give the number of a handler's input; raises KeyError when it is not known yet."""
        return self.places[group_of(handler), topic, partition]

    def learn_places(self, found: dict[Place, int]) -> None:
        """Know partitions."""
        for place, number in found.items():
            self.places[place] = number
        self.partitions.update({number: place for place, number in found.items()})

    def learn_rows(self, rows: Iterable[Any]) -> None:
        """Know partitions, of rows of group, topic and partition that end with their number."""
        self.learn_places({Place(told(row[0]), row[1], row[2]): row[-1] for row in rows})


_groups: dict[str, str] = {}


def group_of(handler: str) -> str:
    """Give the group that a handler, "group.handler", belongs to."""
    found = _groups.get(handler)
    if found is None:
        found = _groups[handler] = handler.partition(".")[0]
    return found


def unknown_in(names: Names, plans: Iterable[Plan]) -> tuple[list[str], list[Place]]:
    """List the handlers and partitions that plans name and that have no number here yet."""
    handlers: list[str] = []
    places: list[Place] = []

    def place(group: str, topic: str, partition: int) -> None:
        if (group, topic, partition) not in names.places:
            places.append(Place(group, topic, partition))

    for plan in plans:
        group = None if plan.owned is None else plan.owned.group
        if plan.owned is not None:
            for partition in plan.owned.epochs:
                place(plan.owned.group, *partition)
        for change in plan.changes:
            if isinstance(change, (Settle, SetTimer)):
                handlers.append(change.handler)
                place(group_of(change.handler), *change.source[:2])
                if group is not None:
                    place(group, *change.source[:2])
            elif isinstance(change, Gate):
                handlers.append(change.key.name)
            elif isinstance(change, Remember):
                handlers.append(change.name.partition("/")[0])
            elif isinstance(change, Passed) and group is not None:
                place(group, *change.partition)
    return [name for name in handlers if name not in names.handlers], places


async def places_of(connection: Connection, wanted: Iterable[Place]) -> dict[Place, int]:
    """Give the number of each partition, a new one where it has none."""
    asked = sorted(set(wanted))
    columns = [[kept(p.group) for p in asked], [p.topic for p in asked], [p[2] for p in asked]]
    await connection.execute(
        "INSERT INTO choreo.owner (grp, topic, partition)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::int[]) ON CONFLICT DO NOTHING",
        *columns,
    )
    rows = await connection.fetch(
        "SELECT o.id, o.grp, o.topic, o.partition FROM choreo.owner o"
        " JOIN unnest($1::text[], $2::text[], $3::int[]) AS a (grp, topic, partition)"
        " USING (grp, topic, partition)",
        *columns,
    )
    return {Place(told(row[1]), row[2], row[3]): row[0] for row in rows}


async def know(connection: Connection, names: Names, rows: Iterable[Any]) -> None:
    """Learn the handlers and partitions that rows name by number: their first and fourth."""
    rows = [row for row in rows if row[0] is not None]
    if unknown := {row[3] for row in rows} - names.partitions.keys():
        names.learn_rows(
            await connection.fetch(
                "SELECT grp, topic, partition, id FROM choreo.owner WHERE id = ANY($1::int[])",
                list(unknown),
            )
        )
    if unnamed := {row[0] for row in rows} - names.texts.keys():
        names.texts.update(
            {
                row[0]: told(row[1])
                for row in await connection.fetch(
                    "SELECT id, text FROM choreo.name WHERE id = ANY($1::int[])", list(unnamed)
                )
            }
        )


async def adopt(connection: Connection, asked: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Give the number of each name; it takes over what its former names have.

    One process at a time: two that start together name the same things.
    """
    if not any(asked.values()):
        rows = await connection.fetch(
            "SELECT text, id FROM choreo.name WHERE text = ANY($1)", [kept(name) for name in asked]
        )
        if len(rows) == len(asked):
            return {told(row[0]): row[1] for row in rows}
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        names = _Renaming(connection, frozenset(map(kept, asked)))
        return {
            name: await names.adopted(kept(name), [kept(one) for one in former])
            for name, former in asked.items()
        }


class _Renaming:
    """Names under the lock, one after the other."""

    def __init__(self, connection: Connection, asked: Collection[str]) -> None:
        self._connection = connection
        self._asked = asked

    async def adopted(self, name: str, former: list[str]) -> int:
        run = self._connection.execute
        number = await self._canonical(name)
        if number is None and (alias := await self._known(name)) is not None:
            heir = await self._connection.fetchval(
                "SELECT text FROM choreo.name WHERE id = $1", alias
            )
            if heir in self._asked:  # a handler of its own has the name now
                await run("DELETE FROM choreo.alias WHERE text = $1", name)
        found = [n for one in former if (n := await self._canonical(one)) is not None]
        if found and await self._known(name) is None:
            await run("UPDATE choreo.name SET text = $1 WHERE id = $2", name, found[0])
        number = await self._number(name)
        for other in found:
            if other != number:
                await self._merge(other, number)
                await self._fence(name.partition(".")[0])
        await self._connection.executemany(
            "INSERT INTO choreo.alias VALUES ($1, $2)"
            " ON CONFLICT (text) DO UPDATE SET id = excluded.id",
            [(one, number) for one in former],
        )
        return number

    async def _number(self, name: str) -> int:
        number = await self._known(name)
        if number is None:
            number = await self._connection.fetchval(
                "INSERT INTO choreo.name (text) VALUES ($1) RETURNING id", name
            )
        assert number is not None
        return number

    async def _merge(self, former: int, number: int) -> None:
        """Move the rows of a name under another, which had rows of its own already."""
        run = self._connection.execute
        for table, key in (
            ("inbox", ("subject",)),
            ("gate", ("kind", "scope")),
            ("memo", ("subject", "name")),
        ):  # where both have a row, the heir's stands
            same = " AND ".join(f"heir.{column} = old.{column}" for column in key)
            await run(
                f"DELETE FROM choreo.{table} old USING choreo.{table} heir"
                f" WHERE old.handler = $1 AND heir.handler = $2 AND {same}",
                former,
                number,
            )
            await run(f"UPDATE choreo.{table} SET handler = $2 WHERE handler = $1", former, number)
        await run("UPDATE choreo.timer SET handler = $2 WHERE handler = $1", former, number)
        await run("UPDATE choreo.alias SET id = $2 WHERE id = $1", former, number)
        await run("DELETE FROM choreo.name WHERE id = $1", former)

    async def _fence(self, group: str) -> None:
        """Have nobody write any more who knows a number that is gone: nobody would find it."""
        await self._connection.execute(
            "UPDATE choreo.owner SET epoch = epoch + 1 WHERE grp = $1 AND epoch > 0", group
        )

    async def _canonical(self, name: str) -> int | None:
        found = await self._connection.fetchval("SELECT id FROM choreo.name WHERE text = $1", name)
        return None if found is None else int(found)

    async def _known(self, name: str) -> int | None:
        found = await self._connection.fetchval(
            "SELECT id FROM choreo.name WHERE text = $1"
            " UNION ALL SELECT id FROM choreo.alias WHERE text = $1",
            name,
        )
        return None if found is None else int(found)
