"""Values of a user's statements, in and out: one table of them, the same for every store.

PostgreSQL infers what each `$n` is. Where it can not, it takes it for text; then the value
says, and the parameter is cast: `SELECT $1` of 5 gives 5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from choreo.errors import HandlerError

__all__ = ["cast", "given", "readers", "shaped", "steers"]

STEERING = frozenset(
    ("abort", "begin", "commit", "end", "prepare", "release", "rollback", "savepoint", "start")
)
CASTS = {int: "bigint", bool: "bigint", float: "double precision", bytes: "bytea"}
PARTS = re.compile(
    r"""(?P<kept>'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|(?P<tag>\$\w*\$).*?(?P=tag))"""
    r"""|\$(?P<number>\d+)""",
    re.DOTALL,
)
COMMENT = re.compile(r"\s*(--[^\n]*(\n|$)|/\*.*?(\*/|$))", re.DOTALL)
WORD = re.compile(r"[\s;]*(\w*)")
TEXTS = frozenset(("text", "varchar", "bpchar", "name", "unknown", "json", "jsonb", "citext"))
TIMES = frozenset(("timestamptz", "timestamp", "date"))


@lru_cache(maxsize=1024)
def steers(sql: str) -> str:
    """Give the word by which a statement begins or ends a transaction; "" where none does."""
    while (comment := COMMENT.match(sql)) is not None:
        sql = sql[comment.end() :]
    found = WORD.match(sql)
    word = found[1].lower() if found else ""
    return word if word in STEERING else ""


def given(value: object) -> object:
    """Give a value as every store keeps it: Decimal, datetime and UUID as text.

    Raises HandlerError for what no table keeps.
    """
    if value is None or type(value) in (bool, float, bytes):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise _refused("an integer of more than 64 bits", "pass it as text")
        return int(value) if type(value) is not bool else value
    if isinstance(value, str):
        if "\0" in value:
            raise _refused("text with a NUL", "pass it as bytes")
        return value
    if isinstance(value, (float, bytes)):
        return value
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise _refused(
        f"a statement does not take a {type(value).__name__}",
        "pass None, bool, int, float, str, bytes, Decimal, datetime or UUID",
    )


def _refused(what: str, fix: str) -> HandlerError:
    return HandlerError(what, code="CH5006", fix=fix)


def cast(sql: str, inferred: Sequence[str], values: Sequence[object]) -> str:
    """Give the statement with a cast at each parameter that was taken for text and is none."""
    casts = {
        number: CASTS[type(value)]
        for number, (kind, value) in enumerate(zip(inferred, values, strict=False), 1)
        if kind in TEXTS and type(value) in CASTS
    }
    if not casts:
        return sql

    def marked(found: re.Match[str]) -> str:
        number = found["number"]
        wanted = number and casts.get(int(number))
        return f"${number}::{wanted}" if wanted else found[0]

    return PARTS.sub(marked, sql)


def shaped(kind: str, value: object) -> object:
    """Give a value as the client takes it for a parameter of this type."""
    if value is None:
        return None
    if kind == "bool" and type(value) is int and value in (0, 1):
        return bool(value)
    if kind in TIMES and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return moment.date() if kind == "date" else moment
    if kind == "numeric" and isinstance(value, (str, int, float)):
        return Decimal(str(value))
    if kind in TEXTS and isinstance(value, (int, float)):
        return str(value)
    return value


def readers(kinds: Sequence[str]) -> list[Callable[[Any], object]] | None:
    """Give, by column, what makes a value of the table of what the client reads; None: as is."""
    found = [READERS.get(kind, _same) for kind in kinds]
    return None if all(one is _same for one in found) else found


def _same(value: Any) -> object:
    return value


def _number(value: Decimal | None) -> object:
    """Give a sum of integers as one; an amount as text, with the places that it is kept with."""
    if value is None:
        return None
    text = format(value, "f")
    return text if "." in text or not value.is_finite() else int(text)


def _moment(value: date | None) -> object:
    return None if value is None else value.isoformat()


def _text(value: object) -> object:
    return None if value is None else str(value)


READERS: dict[str, Callable[[Any], object]] = {
    "numeric": _number,
    "timestamptz": _moment,
    "timestamp": _moment,
    "date": _moment,
    "time": _moment,
    "uuid": _text,
    "interval": _text,
    "inet": _text,
}
