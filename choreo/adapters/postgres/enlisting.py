"""Records in a caller's own transaction, and how a relay hears of them.

A row that comes of no delivery is of nobody: one group at a time publishes these, the first by
name that somebody has. Two transactions that publish under one key stand in line from their
publishing to their end, so that the numbers of their rows rise as they are committed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import asyncpg

from choreo.adapters.postgres.edge import translate, translated
from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.names import NOBODY
from choreo.adapters.postgres.tx import PostgresTx, SectionTx
from choreo.codec import headers_to_text
from choreo.errors import ChoreoError, StoreError, StoreUnavailableError
from choreo.events import Record

__all__ = ["Database", "Ear", "Run", "enlist", "identity", "runner"]

SPACE = 0x63686F73  # of the locks by key; another one than that of processes
CHANNEL = "choreo_outbox"
WHICH = (
    "SELECT (SELECT system_identifier FROM pg_control_system())::text,"
    " (SELECT oid FROM pg_database WHERE datname = current_database())::int8,"
    " to_regclass('choreo.outbox') IS NOT NULL"
)
IN_LINE = f"{WHICH}, pg_advisory_xact_lock({SPACE}, $1::int4)::text"
LEFT = (
    "WITH left_ AS (INSERT INTO choreo.outbox (owner, topic, key, headers, value)"
    f" VALUES ({NOBODY}, $1, $2, $3, $4)) SELECT pg_notify('{CHANNEL}', '')::text"
)
LOOK_S = 15.0
ABORTED = "25P02"

Database = tuple[str, int, bool]
"""A server's own number, a database's number in it, and whether it has our tables."""
Run = Callable[..., Awaitable[Sequence[Any]]]
"""Runs a statement in the caller's transaction; gives its first row."""


async def identity(connection: Connection) -> Database:
    """Tell which database this is; a standby that takes over stays the same one."""
    row = await connection.fetchrow(WHICH)
    assert row is not None
    return row[0], row[1], row[2]


async def enlist(run: Run, record: Record, here: Database, where: str) -> None:
    """Write a record's row in a caller's transaction; `where` names the store's database."""
    line = crc32(record.topic.encode() + b"\0" + (record.key or b"")) - 2**31
    found = await run(IN_LINE, line)
    if tuple(found[:3]) != here:
        raise _refused(
            f"the transaction is one of another database than {where}",
            "begin it on the database that CHOREO_STORE names",
        )
    headers = headers_to_text(record.headers)
    await run(LEFT, record.topic, record.key, headers, record.value)


async def runner(tx: object) -> Run:
    """Say how statements run in a caller's transaction; refuse what is none."""
    if isinstance(tx, SectionTx):
        raise _refused(
            "a handler's transaction is its step's", "return the event: that publishes it"
        )
    if isinstance(tx, PostgresTx):
        return _of_tx(tx)
    if isinstance(tx, (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy)):
        return _of_asyncpg(tx)
    alchemy: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if alchemy is not None:
        if isinstance(tx, (alchemy.AsyncSession, alchemy.async_scoped_session)):
            _begun(tx.in_transaction())
            with _alchemy():
                tx = await tx.connection()
        if isinstance(tx, alchemy.AsyncConnection):
            return await _of_alchemy(tx)
    raise _refused(
        f"a {type(tx).__name__} is no transaction of PostgreSQL as choreo knows them",
        "give a connection of asyncpg, a session or connection of SQLAlchemy's asyncio on"
        " asyncpg, or the Tx of app.transaction()",
    )


def _of_tx(tx: PostgresTx) -> Run:
    async def run(sql: str, *values: object) -> Sequence[Any]:
        (row,) = await tx.fetch(sql, *values)
        return list(row.values())

    return run


def _of_asyncpg(connection: Any) -> Run:
    try:
        _begun(not connection.is_closed() and connection.is_in_transaction())
    except asyncpg.InterfaceError as exc:  # it was given back to its pool
        raise _refused(str(exc), "use a connection while it is yours") from exc

    async def run(sql: str, *values: object) -> Sequence[Any]:
        try:
            return await connection.fetchrow(sql, *values)  # type: ignore[no-any-return]
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as exc:
            raise _translated(exc) from exc

    return run


async def _of_alchemy(connection: Any) -> Run:
    """Run by SQLAlchemy: it begins a transaction of the driver's with its first statement."""
    _begun(not connection.closed and connection.in_transaction())
    dialect = connection.dialect
    if (dialect.name, dialect.driver) != ("postgresql", "asyncpg"):
        raise _refused(
            f"SQLAlchemy speaks {dialect.name}+{dialect.driver} here",
            "make the engine of postgresql+asyncpg://…",
        )

    async def run(sql: str, *values: object) -> Sequence[Any]:
        with _alchemy():
            result = await connection.exec_driver_sql(sql, values)
            raw = await connection.get_raw_connection()
            _begun(raw.driver_connection.is_in_transaction())
            return result.one()  # type: ignore[no-any-return]

    return run


@contextmanager
def _alchemy() -> Iterator[None]:
    """Turn SQLAlchemy's errors into choreo's: most have the driver's inside."""
    errors: Any = sys.modules["sqlalchemy.exc"]
    try:
        yield
    except errors.DBAPIError as exc:
        raise _translated(exc.orig.__cause__ or exc.orig) from exc
    except errors.SQLAlchemyError as exc:
        raise _refused(str(exc), "use a session while its transaction is open") from exc


def _translated(error: BaseException) -> ChoreoError:
    if getattr(error, "sqlstate", None) == ABORTED:
        return _refused(str(error), "roll it back: a statement of it has failed before")
    return translate(error, "a caller's own transaction")


def _begun(begun: bool) -> None:  # noqa: FBT001 - the answer to a question
    if not begun:
        raise _refused(
            "no transaction is open",
            "begin one, and publish before it ends: async with connection.transaction(), or"
            " session.begin()",
        )


def _refused(what: str, fix: str) -> StoreError:
    what = f"it can not be published in this transaction: {what}"
    return StoreError(what, code="CH4014", fix=fix)


class Ear:
    """Hears, on a connection of its own, that a transaction has left rows of nobody."""

    def __init__(self) -> None:
        """Hear nothing yet."""
        self._heard = asyncio.Event()

    async def listen(self, connection: Connection) -> None:
        """Hear on a new connection; what was said before, nobody has heard."""
        with translated("listening"):
            await connection.add_listener(CHANNEL, self._hear)
        connection.add_termination_listener(self._hear)
        self._heard.set()

    def _hear(self, *_: object) -> None:
        self._heard.set()

    async def heard(self, connection: Connection) -> None:
        """Wait for word, or for a while: a line that is dead says nothing."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._heard.wait()
        except TimeoutError:
            await connection.fetchval("SELECT 1")
        self._heard.clear()
        if connection.is_closed():
            raise StoreUnavailableError(
                "the connection that is listened on is gone", fix="nothing: it is opened again"
            )
