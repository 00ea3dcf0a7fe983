"""A desk that runs by the machine's clock, in this process or in its own, and its log."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choreo import App, Service
from choreo.codec import headers_from_text
from choreo.events import Record
from choreo.ports import Clock
from choreo.worker import Limits

WITHIN_S = 20.0
LOOK_S = 0.005

FOREIGN = "INSERT INTO log (topic, partition, key, headers, value) VALUES (?, 0, ?, ?, ?)"


async def until(true: Callable[[], object], *, within_s: float = WITHIN_S) -> None:
    """Look again and again until it is true."""
    last = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < last, "it did not come true"
        await asyncio.sleep(LOOK_S)


def rows_of(path: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Read, or write, a database."""
    with closing(sqlite3.connect(path, timeout=10)) as db, db:
        return db.execute(sql, values).fetchall()


@dataclass
class Desk:
    """One folder; what stays is what the log has."""

    folder: Path

    @asynccontextmanager
    async def open(
        self,
        *services: Service,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator[App]:
        """Run the services until the block ends."""
        async with App(*services, folder=self.folder, clock=clock, limits=limits) as app:
            yield app

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read, or write, the file behind everybody's back."""
        return rows_of(self.folder / "choreo.db", sql, *values)

    def write(self, topic: str, headers: object, value: object, *, key: object = b"x") -> None:
        """Append a record as a stranger would; `headers` is a mapping or the very text."""
        text = json.dumps(headers) if isinstance(headers, Mapping) else headers
        ((number,),) = self.rows("SELECT id FROM topic WHERE name = ?", topic)
        self.rows(FOREIGN, number, key, text, value)

    def log(self, topic: str = "") -> list[Record]:
        """Give all records, or those of a topic, in order of their commit."""
        rows = self.rows(
            "SELECT name, key, headers, value, partition, position "
            "FROM log JOIN topic ON topic.id = log.topic WHERE ? IN ('', name) ORDER BY position",
            topic,
        )
        return [Record(name, key, headers_from_text(h), *rest) for name, key, h, *rest in rows]

    def kinds(self) -> list[str]:
        """Give the class names of the events, in order."""
        return [
            one.headers["ce_type"].rsplit(".", 1)[-1]
            for one in self.log()
            if not one.topic.startswith("choreo.") and "ce_type" in one.headers
        ]

    def dead(self) -> list[Record]:
        """Give the dead letters."""
        return self.log("choreo.dead")


def headers_of(kind: str, id: str, **more: str) -> dict[str, str]:
    """Give the headers of an event as a stranger writes them."""
    return {
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": "stranger",
        "ce_type": kind,
        "content-type": "application/json",
        **more,
    }
