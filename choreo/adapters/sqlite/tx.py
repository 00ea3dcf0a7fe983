"""A Tx on the writer's connection: each statement runs at once, nothing is waited for."""

from __future__ import annotations

import re
import sqlite3
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from choreo.adapters.sqlite.database import translate
from choreo.errors import HandlerError, TxOpenError
from choreo.ports import Row

__all__ = ["SqliteTx", "driven"]

NUMBERS = tuple(str(number) for number in range(1, 1000))
STEERING = frozenset(("begin", "commit", "end", "rollback", "savepoint", "release"))
COMMENT = re.compile(r"\s*(--[^\n]*(\n|$)|/\*.*?(\*/|$))", re.DOTALL)
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
ROLLBACK = re.compile(r"\brollback\b", re.IGNORECASE)
WORD = re.compile(r"[\s;]*(\w*)")


class SqliteTx:
    """What a handler's statements run on, inside the group's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use this connection, in its thread only."""
        self._connection = connection

    async def execute(self, sql: str, *values: object) -> int:
        return max(self._run(sql, values).rowcount, 0)

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        cursor = self._run(sql, values)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    async def fetchval(self, sql: str, *values: object) -> Any:
        row = self._run(sql, values).fetchone()
        return None if row is None else row[0]

    def _run(self, sql: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        if steers(sql):
            raise HandlerError(
                "a Tx is begun and ended by the step, not by a statement",
                code="CH5006",
                fix="leave the statement out; raise to roll back",
                statement=first_word(sql),
            )
        named = dict(zip(NUMBERS, map(plain, values), strict=False))
        try:
            return self._connection.execute(sql, named)
        except sqlite3.Error as exc:
            raise translate(exc, sql) from exc


@lru_cache(maxsize=1024)
def steers(sql: str) -> bool:
    """Tell whether a statement begins or ends a transaction, or may (`OR ROLLBACK`)."""
    return first_word(sql) in STEERING or bool(ROLLBACK.search(QUOTED.sub("", sql)))


@lru_cache(maxsize=1024)
def first_word(sql: str) -> str:
    """Give the word that a statement begins with, in lower case, comments aside."""
    while (comment := COMMENT.match(sql)) is not None:
        sql = sql[comment.end() :]
    found = WORD.match(sql)
    return found[1].lower() if found else ""


def plain(value: object) -> object:
    """Give a value as SQLite keeps it: Decimal, datetime and UUID as text."""
    if type(value) is str or value is None:
        if value and "\0" in value:
            raise HandlerError("text with a NUL", code="CH5006", fix="pass it as bytes")
        return value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise HandlerError(
            "an integer of more than 64 bits", code="CH5006", fix="pass it as text", value=value
        )
    if value is None or isinstance(value, (int, float, str, bytes)):
        return value
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise HandlerError(
        f"a statement does not take a {type(value).__name__}",
        code="CH5006",
        fix="pass None, bool, int, float, str, bytes, Decimal, datetime or UUID",
    )


def driven(coroutine: Any) -> Any:
    """Drive a coroutine that awaits nothing but its Tx to its end; give what it returns.

    Raises TxOpenError, inside the coroutine too, when it waits for anything else.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    except RuntimeError as exc:
        if "no running event loop" in str(exc):  # asyncio's own waiting, in the store's thread
            raise _waited() from exc
        raise
    try:
        coroutine.throw(_waited())
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise _waited()


def _waited() -> Exception:
    return TxOpenError(
        "waited for something else while the Tx was open",
        fix="after the first statement await tx only; make outside calls before it",
    )
