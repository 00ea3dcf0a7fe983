"""A Tx: a user's statements, inside the step's transaction or one of their own."""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import asyncpg

from choreo.adapters.postgres.edge import translated
from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.values import cast, given, readers, shaped, steers
from choreo.errors import HandlerError, TxOpenError
from choreo.ports import Row

__all__ = ["Answer", "PostgresTx", "SectionTx", "Statements", "checked", "driven"]

PREPARED_MAX = 200
SHOWN = 200
Readers = list[Callable[[Any], object]] | None
Answer = tuple[list[Row], int]


class _Prepared(NamedTuple):
    statement: asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]
    kinds: tuple[str, ...]
    names: tuple[str, ...]
    readers: Readers


_prepared: WeakKeyDictionary[Connection, OrderedDict[tuple[object, ...], _Prepared]] = (
    WeakKeyDictionary()
)


def _forget(connection: Any) -> None:
    _prepared.pop(connection, None)


class Statements:
    """Runs a user's statements on a connection; one that fails takes no other with it.

    `saved`: a savepoint stands already before the first of them.
    """

    def __init__(self, connection: Connection, *, saved: str = "") -> None:
        """Run inside the transaction that is open there."""
        self._connection = connection
        known = _prepared.get(connection)
        if known is None:  # a statement knows its connection: neither would go by itself
            known = _prepared[connection] = OrderedDict()
            connection.add_termination_listener(_forget)
        self._known = known
        self._saved = saved
        self._own = False

    async def run(self, sql: str, values: tuple[object, ...]) -> Answer:
        """Give the rows of a statement, and how many it changed."""
        plain = checked(sql, values)
        with translated(_shown(sql)):
            back = await self._save()
            try:
                return await self._run(sql, plain)
            except BaseException:
                if self._connection.is_in_transaction():
                    await self._connection.execute(f"ROLLBACK TO SAVEPOINT {back}")
                raise

    async def run_unsaved(self, sql: str, plain: list[object]) -> Answer:
        """Do the same of checked values; one that fails takes the whole transaction with it."""
        with translated(_shown(sql)):
            return await self._run(sql, plain)

    async def _save(self) -> str:
        """Have a savepoint to go back to: the section's own before its first statement."""
        if self._saved:
            found, self._saved = self._saved, ""
            return found
        again = "RELEASE SAVEPOINT statement; " if self._own else ""
        self._own = True
        await self._connection.execute(f"{again}SAVEPOINT statement")
        return "statement"

    async def _run(self, sql: str, values: list[object]) -> Answer:
        prepared = await self._ready(sql, values)
        shaped_ = [shaped(*pair) for pair in zip(prepared.kinds, values, strict=False)]
        rows = await prepared.statement.fetch(*shaped_, *values[len(shaped_) :])
        status = prepared.statement.get_statusmsg() or ""
        last = status.rpartition(" ")[2]
        count = int(last) if last.isdigit() and not status.startswith("SELECT") else 0
        return [_row(row, prepared) for row in rows], count

    async def _ready(self, sql: str, values: list[object]) -> _Prepared:
        key = (sql, *map(type, values))
        prepared = self._known.get(key)
        if prepared is not None:
            self._known.move_to_end(key)
            return prepared
        statement = await self._connection.prepare(sql)
        kinds = tuple(one.name for one in statement.get_parameters())
        wanted = cast(sql, kinds, values)
        if wanted != sql:
            statement = await self._connection.prepare(wanted)
            kinds = tuple(one.name for one in statement.get_parameters())
        columns = statement.get_attributes()
        prepared = _Prepared(
            statement,
            kinds,
            tuple(one.name for one in columns),
            readers([one.type.name for one in columns]),
        )
        if columns or values:  # what makes a table is not said twice
            self._known[key] = prepared
            if len(self._known) > PREPARED_MAX:
                self._known.popitem(last=False)
        return prepared


def checked(sql: str, values: Sequence[object]) -> list[object]:
    """Give the values as every store keeps them; raises HandlerError for what is refused."""
    if word := steers(sql):
        raise HandlerError(
            "a Tx is begun and ended by the step, not by a statement",
            code="CH5006",
            fix="leave the statement out; raise to roll back",
            statement=word,
        )
    return [given(value) for value in values]


def _shown(sql: str) -> str:
    return " ".join(sql.split())[:SHOWN]


def _row(row: asyncpg.Record, prepared: _Prepared) -> Row:
    if prepared.readers is None:
        return dict(zip(prepared.names, row, strict=True))
    read = (reader(value) for reader, value in zip(prepared.readers, row, strict=True))
    return dict(zip(prepared.names, read, strict=True))


class PostgresTx:
    """A Tx whose owner may await what he likes."""

    def __init__(self, statements: Statements) -> None:
        """Run on these."""
        self._statements = statements

    async def _run(self, sql: str, values: tuple[object, ...]) -> Answer:
        return await self._statements.run(sql, values)

    async def execute(self, sql: str, *values: object) -> int:
        return (await self._run(sql, values))[1]

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return (await self._run(sql, values))[0]

    async def fetchval(self, sql: str, *values: object) -> Any:
        rows, _ = await self._run(sql, values)
        return next(iter(rows[0].values()), None) if rows else None


class _Asked(NamedTuple):
    """A statement that a section waits for: what its coroutine yields to who drives it."""

    sql: str
    values: tuple[object, ...]


@types.coroutine
def _ask(asked: _Asked) -> Generator[_Asked, Answer, Answer]:
    return (yield asked)


class SectionTx(PostgresTx):
    """A Tx inside a step: waiting for it can be told from waiting for anything else."""

    def __init__(self) -> None:
        """Ask whoever drives the section."""

    async def _run(self, sql: str, values: tuple[object, ...]) -> Answer:
        return await _ask(_Asked(sql, values))


async def driven(section: Coroutine[Any, Any, Any], statements: Statements) -> Any:
    """Drive a section to its end, running its statements; give what it returns.

    Raises TxOpenError, inside the section too, when it waits for anything else.
    """
    answer: Any = None
    error: BaseException | None = None
    waited = False
    try:
        while True:
            asked = section.send(answer) if error is None else section.throw(error)
            answer, error = None, None
            if not isinstance(asked, _Asked):
                if waited:
                    break
                waited, error = True, _waited()
                continue
            try:
                answer = await statements.run(*asked)
            except Exception as exc:  # noqa: BLE001 - it is the section's to catch
                error = exc
    except StopIteration as stop:
        return stop.value
    section.close()
    raise _waited()


def _waited() -> TxOpenError:
    return TxOpenError(
        "waited for something else while the Tx was open",
        fix="after the first statement await tx only; make outside calls before it",
    )
