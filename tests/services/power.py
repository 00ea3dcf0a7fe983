"""A shop whose machine loses its power: what the disk has by then, cut from its write-ahead log.

While orders run a reader holds the file as it was at first, so that nothing of the log is
copied into it: every frame that was ever written is there to be cut. A disk that has kept
some frames and not the next is the file as it was, and the log up to there.
"""

import hashlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from choreo import App
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.sqlite.contents import contents_of, positions_of
from choreo.audit import Evidence
from choreo.codec import headers_from_text
from choreo.events import Record
from choreo.plan import Plan, Settle
from choreo.ports import Applied
from services.notifications import Mailer
from services.payments import PaymentProvider
from services.shipping import Carrier
from tests.auditing import asking
from tests.services.shop import SERVICES, Shop

HEADER = 32  # of the log; https://www.sqlite.org/fileformat2.html#walformat
FRAME_HEADER = 24
LOG = (
    "SELECT name, CAST(key AS BLOB), CAST(headers AS BLOB), CAST(value AS BLOB), partition,"
    " position FROM log JOIN topic ON topic.id = log.topic ORDER BY position"
)


class Acknowledged(NamedTuple):
    """What somebody was told is written, and how long the write-ahead log was then."""

    size: int
    what: tuple[str, bytes]


class Noting:
    """A part of a deployment; whatever it acknowledges is noted."""

    def __init__(self, inner: Any, wal: Path, told: list[Acknowledged]) -> None:
        self._inner = inner
        self._wal = wal
        self._told = told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _note(self, *what: tuple[str, bytes]) -> None:
        size = self._wal.stat().st_size if self._wal.exists() else 0
        self._told += (Acknowledged(size, one) for one in what)

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        """Write; note each delivery that is settled now."""
        results: Sequence[Applied | BaseException] = await self._inner.apply(plans)
        done = (plan for plan, how in zip(plans, results, strict=True) if how is Applied.DONE)
        self._note(*(what for plan in done for what in settled_by(plan)))
        return results

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish; note the ids."""
        await self._inner.publish(records)
        self._note(*(("", record.headers["ce_id"].encode()) for record in records))


def settled_by(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Name the inbox rows that a plan leaves."""
    if plan.want is not None:
        yield plan.want.handler, plan.want.subject
    for change in plan.changes:
        if isinstance(change, Settle):
            yield change.handler, change.subject


@asynccontextmanager
async def noted(shop: Shop, told: list[Acknowledged]) -> AsyncIterator[App]:
    """Run the shop, and note what it acknowledges."""
    file = shop.folder / "choreo.db"
    wal = shop.folder / "choreo.db-wal"
    log = Log(Database(file))
    outside = {PaymentProvider: shop.bank.provider(), Mailer: shop.post, Carrier: shop.van}
    broker: Any = Noting(SqliteBroker(log), wal, told)
    store: Any = Noting(SqliteStore(log, clock=shop.clock), wal, told)
    async with App(
        *SERVICES, broker=broker, store=store, resources=outside, clock=shop.clock
    ) as app:
        yield app


@dataclass(slots=True)
class Lost:
    """What a disk had: the file, its write-ahead log, and what had been acknowledged."""

    folder: Path
    base: bytes
    wal: bytes
    told: Sequence[Acknowledged]
    shm: bytes = b""
    _states: dict[int, "State"] = field(default_factory=dict)

    @property
    def frame(self) -> int:
        """How long a frame is."""
        return FRAME_HEADER + int.from_bytes(self.wal[8:12], "big")

    def ends(self) -> list[int]:
        """Give where each frame of the log ends; at first there is none."""
        return [*range(HEADER, len(self.wal) + 1, self.frame)]

    def commits(self) -> list[int]:
        """Give where each transaction of the log ends."""
        frames = ((start, start + self.frame) for start in self.ends()[:-1])
        # The last frame of a transaction has the size of the file after it; the others have 0.
        ended = (end for start, end in frames if any(self.wal[start + 4 : start + 8]))
        return [HEADER, *ended]

    def committed(self, size: int) -> int:
        """Give the end of the last transaction that is whole in so many bytes."""
        return max((end for end in self.commits() if end <= size), default=HEADER)

    def place(self, wal: bytes, *, base: bytes | None = None, shm: bytes | None = None) -> Path:
        """Write a copy of the file, with this log beside it; give its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        file = self.folder / "choreo.db"
        file.write_bytes(self.base if base is None else base)
        file.with_name("choreo.db-wal").write_bytes(wal)
        if shm is not None:
            file.with_name("choreo.db-shm").write_bytes(shm)
        return self.folder

    def at(self, size: int) -> "State":
        """Give the state after the last transaction that is whole in so many bytes."""
        end = self.committed(size)
        if end not in self._states:
            self._states[end] = state_of(self.place(self.wal[:end]))
        return self._states[end]


class State(NamedTuple):
    """What a file has: a digest of every table, and what an audit sees."""

    digest: str
    evidence: Evidence

    @property
    def acknowledged(self) -> set[tuple[str, bytes]]:
        """Name the deliveries and the events that are there."""
        (contents,) = self.evidence.stores
        rows = {(row.handler, row.subject) for row in contents.inbox}
        return rows | {
            ("", record.headers.get("ce_id", "").encode()) for record in self.evidence.history
        }


def state_of(folder: Path) -> State:
    """Open a file as it is, and read all that is there. Raises where it is damaged."""
    with closing(sqlite3.connect(folder / "choreo.db", isolation_level=None)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        digest = hashlib.sha256()
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        for (table,) in tables.fetchall():
            digest.update(repr((table, db.execute(f"SELECT * FROM {table}").fetchall())).encode())
        return State(digest.hexdigest(), shown_by(db, folder))


def shown_by(db: sqlite3.Connection, folder: Path) -> Evidence:
    """Gather what a file shows, without an App, through one connection."""
    history = [
        Record(topic, key, headers_from_text(headers), value, partition, offset)
        for topic, key, headers, value, partition, offset in db.execute(LOG)
    ]
    rows = asking(folder / "choreo.db")
    return Evidence(history, rows, folder, [contents_of(db)], positions_of(db))
