"""Many rows in one statement, without preparing a new statement for every number of rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar

__all__ = ["bound", "insert_rows", "select_rows"]

T = TypeVar("T")

SIZES = (256, 64, 16, 4, 1)


def bound(value: T) -> T | bytearray:
    """Give bytes as what the driver binds at once.

    For `bytes` (and None) it first asks for an adapter, in vain, by way of an exception: with
    four to six of them a row that was a tenth of the time.
    """
    return bytearray(value) if isinstance(value, bytes) else value


@lru_cache(maxsize=256)
def _sql(head: str, columns: int, rows: int, tail: str) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return f"{head} VALUES {','.join([row] * rows)} {tail}"


def _pieces(rows: int) -> Iterator[tuple[int, int]]:
    start = 0
    for size in SIZES:
        while rows - start >= size:
            yield start, size
            start += size


def insert_rows(
    connection: sqlite3.Connection, head: str, columns: int, values: Sequence[Any], tail: str = ""
) -> tuple[int, int]:
    """Insert `values` (row after row); give how many rows changed, and the last row id."""
    changed = last = 0
    for start, size in _pieces(len(values) // columns):
        piece = values[start * columns : (start + size) * columns]
        cursor = connection.execute(_sql(head, columns, size, tail), piece)
        changed += cursor.rowcount
        last = cursor.lastrowid or last
    return changed, last


def select_rows(
    connection: sqlite3.Connection, select: str, columns: int, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """Look up the rows of the given keys, one by one in an index.

    `select` reads `FROM asked CROSS JOIN table ON …`, where `asked` has columns `column1`,
    `column2` and so on; the order of a CROSS JOIN is SQLite's promise not to scan the table.
    """
    found: list[tuple[Any, ...]] = []
    for start, size in _pieces(len(values) // columns):
        piece = values[start * columns : (start + size) * columns]
        sql = _sql("WITH asked AS (", columns, size, ") " + select)
        found += connection.execute(sql, piece).fetchall()
    return found
