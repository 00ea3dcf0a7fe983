"""A PostgreSQL for all tests of a run, and for each test a database that is as new."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from choreo.adapters.postgres import PostgresStore
from choreo.plan import Plan
from choreo.testing import ManualClock
from choreo.testing.servers.postgres import PostgresServer

__all__ = ["database", "server"]

EMPTY = """
SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE one text;
BEGIN
    FOR one IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
        WHERE schemaname = 'public' LOOP
        EXECUTE 'DROP TABLE ' || one || ' CASCADE';
    END LOOP;
    FOR one IN SELECT tablename FROM pg_tables
        WHERE schemaname = 'choreo' AND tablename <> 'version' LOOP
        EXECUTE 'DELETE FROM choreo.' || one;
    END LOOP;
END $$
"""

_free: list[str] = []


@cache
def server() -> PostgresServer:
    """Give the server of this run; skips, or under CI fails, where there is none."""
    found = PostgresServer.found()
    atexit.register(found.close)
    found.start()
    return found


@contextmanager
def database() -> Iterator[str]:
    """Have a database with choreo's tables, all empty, for oneself."""
    url = _free.pop() if _free else _made()
    yield url
    server().script(EMPTY, url=url)
    _free.append(url)


def _made() -> str:
    url = server().database()

    async def migrate() -> None:
        store = PostgresStore(url, clock=ManualClock())
        await store.apply([Plan(None, ())])
        await store.close()

    asyncio.run(migrate())
    return url
