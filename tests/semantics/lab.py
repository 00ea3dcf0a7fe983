"""A laboratory: an App on a file, a clock that a test moves, and ways to look at the log."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from choreo import App, Event, Service
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.codec import JSON_TYPE, headers_from_text
from choreo.events import Record
from choreo.step.control import request
from choreo.testing import ManualClock
from choreo.testing.clock import Settle
from choreo.worker import Limits

ROUNDS_MAX = 200
HASTY = Limits(drain_s=0.05)
"""For an App that is stopped in the middle of its work."""


class Unminded(ManualClock):
    """Time that goes on whatever somebody is at."""

    def settle_with(self, settle: Settle) -> Callable[[], None]:
        del settle
        return lambda: None


@dataclass
class Lab:
    """One folder, opened as often as a test likes; what stays is what the log has.

    `beside`: the store stands in a file of its own, and a relay between it and the log.
    """

    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)
    beside: bool = False

    @asynccontextmanager
    async def open(
        self,
        *services: Service,
        resources: Mapping[type, Any] | None = None,
        limits: Limits | None = None,
    ) -> AsyncIterator[App]:
        """Run the services until the block ends."""
        broker, store = self.parts()
        made = App(
            *services,
            broker=broker,
            store=store,
            clock=self.clock,
            resources=resources,
            limits=limits,
        )
        async with made as app:
            await self.clock.settle()
            yield app

    def parts(self) -> tuple[SqliteBroker, SqliteStore]:
        """Make the log and the store of an App."""
        log = Log(Database(self.folder / "choreo.db"))
        own = Log(Database(self.folder / "store.db")) if self.beside else log
        store = SqliteStore(own, clock=self.clock, publishes=not self.beside)
        return SqliteBroker(log), store

    async def until(self, true: Callable[[], object]) -> None:
        """Let everything go on, without time, until it is true."""
        for _ in range(ROUNDS_MAX):
            if true():
                return
            await self.clock.settle()
        raise AssertionError("it did not come true")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let time go on although one handler waits for something other than the clock."""
        stand_in = asyncio.ensure_future(self.clock.sleep(1e9))
        try:
            yield
        finally:
            stand_in.cancel()

    # ── what the log has ─────────────────────────────────────────────────────────────────

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the log's file, or the store's, behind everybody's back."""
        logs = any(f" {table}" in sql for table in ("log", "member", "assignment"))
        name = "store.db" if self.beside and not logs else "choreo.db"
        with closing(sqlite3.connect(self.folder / name)) as db:
            return db.execute(sql, values).fetchall()

    def log(self) -> list[Record]:
        """Give all records, in order of their commit."""
        rows = self.rows(
            "SELECT name, key, headers, value, partition, position "
            "FROM log JOIN topic ON topic.id = log.topic ORDER BY position"
        )
        return [Record(name, key, headers_from_text(h), *rest) for name, key, h, *rest in rows]

    def kinds(self) -> list[str]:
        """Give the class names of the events that count, in order."""
        return [_kind(one) for one in self.log() if _ours(one) and "choreo-void" not in one.headers]

    def voids(self) -> list[str]:
        """Give the class names of the events that were published void."""
        return [_kind(one) for one in self.log() if _ours(one) and "choreo-void" in one.headers]

    def only(self, event: type[Event]) -> list[Record]:
        """Give the records of one type."""
        return [one for one in self.log() if _ours(one) and _kind(one) == event.__name__]

    def dead(self) -> list[Record]:
        """Give the dead letters."""
        return [one for one in self.log() if one.topic == "choreo.dead"]

    async def ask(self, app: App, action: str, letter: Record | None = None, **more: Any) -> None:
        """Ask for a dead letter (the only one) to be redriven or discarded."""
        await self.clock.advance(0.001)  # so that no two requests are the same
        (letter,) = [letter] if letter is not None else self.dead()
        more = {"reason": "the test says so", "by": "tester", "now": self.clock.now(), **more}
        await app.broker.publish([request(letter, action, **more)])
        await self.clock.settle()

    def notes(self, *states: str) -> list[dict[str, Any]]:
        """Give what was noted of steps without outputs: all, or these states."""
        found = []
        for one in self.log():
            if one.topic == "choreo.steps":
                note = {**json.loads(one.value), "step": one.headers["choreo-step"]}
                if not states or note["state"] in states:
                    found.append(note)
        return found


async def turning(true: Callable[[], object]) -> None:
    """Let the loop turn until it is true, by the real clock."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what it waits for happens in threads
            await asyncio.sleep(0)


def _ours(record: Record) -> bool:
    return not record.topic.startswith("choreo.")


def _kind(record: Record) -> str:
    return record.headers["ce_type"].rsplit(".", 1)[-1]


def record_of(event: Event, id: str, *, flow: str = "", value: bytes | None = None) -> Record:
    """Make the record of an event as a stranger would, of any id, flow and bytes."""
    info = type(event).__event__
    assert info.key is not None
    headers = {
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": "stranger",
        "ce_type": info.type,
        "content-type": JSON_TYPE,
    }
    if flow:
        headers["ce_correlationid"] = flow
    data = event.model_dump_json().encode() if value is None else value
    return Record(info.topic, str(getattr(event, info.key)).encode(), headers, data)
