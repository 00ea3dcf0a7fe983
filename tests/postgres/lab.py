"""A laboratory whose store is PostgreSQL, beside a log in a file: the same stories, told there."""

from dataclasses import dataclass
from typing import Any

from choreo.adapters.postgres import PostgresStore
from choreo.adapters.sqlite import Database, Log, SqliteBroker
from tests.postgres.database import server
from tests.semantics.lab import Lab

__all__ = ["PostgresLab"]

LOGS = ("log", "member", "assignment")


@dataclass
class PostgresLab(Lab):
    """What a test tells of an App, with the store's rows in a database of its own."""

    url: str = ""

    def parts(self) -> tuple[SqliteBroker, Any]:
        log = Log(Database(self.folder / "choreo.db"))
        return SqliteBroker(log), PostgresStore(self.url, clock=self.clock)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        if any(f" {table}" in sql for table in LOGS):
            return super().rows(sql, *values)
        assert not values
        return [tuple(row) for row in server().run(sql, url=self.url)]
