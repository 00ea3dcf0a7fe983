"""Consumer groups in the file: who is a member, and whose each partition is.

There is no coordinator: each member looks at the two tables a few times a second, and does
its own part in one transaction: it drops members that are gone, keeps its lease, takes free
partitions up to its share, and gives back what it has beyond that, once that has come to rest.
A member is gone when its process is, or when it has not renewed its lease.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from choreo.events import Partition

__all__ = [
    "LEASE_S",
    "Group",
    "Member",
    "Turn",
    "alive",
    "assigned_to",
    "holder_name",
    "joined",
    "left",
    "look",
    "perform",
    "turn_of",
]

LEASE_S = 5.0
RENEW_S = 1.0


class Member(NamedTuple):
    """One subscription. `until` is the end of its lease, in seconds of the system's uptime."""

    id: int
    holder: str
    topics: frozenset[str]
    until: float


class Group(NamedTuple):
    """A group as it was read: members in order of joining, and each partition's member (or 0)."""

    members: Sequence[Member]
    assigned: Mapping[Partition, int]


class Turn(NamedTuple):
    """What a member is to do. `evicted` are members that are gone, `out` says that we are."""

    out: bool
    renew: bool
    evicted: tuple[int, ...]
    take: tuple[Partition, ...]
    give: tuple[Partition, ...]

    @property
    def writes(self) -> bool:
        """Tell whether a transaction is needed."""
        return bool(self.renew or self.evicted or self.take) and not self.out


# ── deciding ─────────────────────────────────────────────────────────────────────────────


def turn_of(
    group: Group,
    me: int,
    partitions: Mapping[str, int],
    now: float,
    *,
    alive: Callable[[str], bool],
) -> Turn:
    """Decide what member `me` is to do; `partitions` has the number of each of its topics.

    Of each topic the members in order of joining have equal shares, the first ones one more;
    who has more gives its last ones back, who has fewer takes the first free ones. Topics
    with as many partitions are dealt with alike, so equal keys stay together.
    """
    mine = next((member for member in group.members if member.id == me), None)
    if mine is None:
        return Turn(out=True, renew=False, evicted=(), take=(), give=())
    living = [m for m in group.members if m.id == me or (_leased(m, now) and alive(m.holder))]
    ids = {member.id for member in living}
    evicted = tuple(member.id for member in group.members if member.id not in ids)
    take: list[Partition] = []
    give: list[Partition] = []
    for topic, count in partitions.items():
        sharing = [member.id for member in living if topic in member.topics]
        rank, number = sharing.index(me), len(sharing)
        share = count // number + (rank < count % number)
        all_ = [Partition(topic, n) for n in range(count)]
        held = [p for p in all_ if group.assigned.get(p) == me]
        free = [p for p in all_ if group.assigned.get(p, 0) not in ids]
        take += free[: max(share - len(held), 0)]
        give += held[share:]
    renew = mine.until - now < LEASE_S - RENEW_S
    return Turn(out=False, renew=renew, evicted=evicted, take=tuple(take), give=tuple(give))


def _leased(member: Member, now: float) -> bool:
    """Tell whether a lease runs; one that ends too late is of before the machine's last start."""
    return now <= member.until <= now + LEASE_S


# ── the tables ───────────────────────────────────────────────────────────────────────────


def _group(connection: sqlite3.Connection, group: str) -> Group:
    members = connection.execute(
        "SELECT id, holder, topics, until FROM member WHERE grp = ? ORDER BY id", (group,)
    )
    assigned = connection.execute(
        "SELECT topic, partition, member FROM assignment WHERE grp = ?", (group,)
    )
    return Group(
        [Member(id_, holder, _topics(topics), until) for id_, holder, topics, until in members],
        {Partition(topic, number): member for topic, number, member in assigned},
    )


@lru_cache(maxsize=256)
def _topics(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))


def joined(connection: sqlite3.Connection, group: str, topics: Iterable[str], now: float) -> int:
    """Become a member; give its number."""
    cursor = connection.execute(
        "INSERT INTO member (grp, holder, topics, until) VALUES (?, ?, ?, ?)",
        (group, holder_name(), json.dumps(sorted(topics)), now + LEASE_S),
    )
    return cursor.lastrowid or 0


def left(
    connection: sqlite3.Connection, me: int, partitions: Collection[Partition] | None = None
) -> None:
    """Give partitions back; without any named, leave the group."""
    if partitions is None:
        connection.execute("DELETE FROM member WHERE id = ?", (me,))
        connection.execute("UPDATE assignment SET member = 0 WHERE member = ?", (me,))
        return
    connection.executemany(
        "UPDATE assignment SET member = 0 WHERE member = ? AND topic = ? AND partition = ?",
        [(me, *partition) for partition in partitions],
    )


def look(
    connection: sqlite3.Connection, group: str, me: int, partitions: Mapping[str, int], now: float
) -> Turn:
    """Read the group and decide."""
    seen: dict[str, bool] = {}

    def lives(holder: str) -> bool:
        if holder not in seen:
            seen[holder] = alive(holder)
        return seen[holder]

    return turn_of(_group(connection, group), me, partitions, now, alive=lives)


def perform(
    connection: sqlite3.Connection, group: str, me: int, partitions: Mapping[str, int], now: float
) -> Turn:
    """Do one member's part, inside a transaction that writes."""
    turn = look(connection, group, me, partitions, now)
    if turn.out:
        return turn
    for gone in turn.evicted:
        left(connection, gone)
    if turn.renew:
        connection.execute("UPDATE member SET until = ? WHERE id = ?", (now + LEASE_S, me))
    connection.executemany(
        "INSERT INTO assignment VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET member = ?4",
        [(group, *partition, me) for partition in turn.take],
    )
    connection.executemany(  # from now on the log knows that this group has yet to read them
        "INSERT INTO position (grp, topic, partition, offset) VALUES (?, ?, ?, 1)"
        " ON CONFLICT DO NOTHING",
        [(group, *partition) for partition in turn.take],
    )
    connection.execute(  # of topics that no member has any more
        "DELETE FROM assignment WHERE grp = ?1 AND member = 0"
        " AND NOT EXISTS (SELECT 1 FROM member, json_each(member.topics)"
        " WHERE member.grp = ?1 AND json_each.value = assignment.topic)",
        (group,),
    )
    return turn


def assigned_to(connection: sqlite3.Connection, group: str, me: int) -> list[Partition]:
    """Give the partitions that are a member's now."""
    return [
        Partition(*row)
        for row in connection.execute(
            "SELECT topic, partition FROM assignment WHERE grp = ? AND member = ?", (group, me)
        )
    ]


# ── processes ────────────────────────────────────────────────────────────────────────────


def holder_name() -> str:
    """Name this process, so that no later one with its number is taken for it."""
    return f"{os.getpid()} {_started(os.getpid())} {_place()}"


def alive(holder: str) -> bool:
    """Tell whether a process may still be there; of one we can not see only its lease tells."""
    pid, started, boot, space = [*holder.split(" "), "", "", ""][:4]
    if not pid.isdigit():
        return False
    if not Path("/proc").exists():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True
    here_boot, _, here = _place().partition(" ")
    if boot != here_boot:
        return False
    return space != here or _started(int(pid)) == started


def _started(pid: int) -> str:
    """Give when a process started; empty when it is gone, or the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


@lru_cache(maxsize=1)
def _place() -> str:
    """Name where a process number means something: the machine's start, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return " "
