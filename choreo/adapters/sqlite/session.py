"""Transactions of the user's own, outside of any step."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from choreo.adapters.sqlite.database import TX_HOLD_S, Database
from choreo.adapters.sqlite.tx import SqliteTx, driven
from choreo.errors import StoreError
from choreo.ports import Row

__all__ = ["InlineSession", "Session"]

T = TypeVar("T")


class Session:
    """A Tx outside of any step: the writer waits for its statements until it ends."""

    weight = 256
    again = False

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        """Answer on this loop."""
        self.database = database
        self.after: list[Callable[[], object]] = []
        """What is done once it is committed."""
        self._loop = loop
        self._over = False
        self._asked: SimpleQueue[Any] = SimpleQueue()
        self.done: asyncio.Future[None] = loop.create_future()

    async def execute(self, sql: str, *values: object) -> int:
        return await self.call(lambda c: driven(SqliteTx(c).execute(sql, *values)))

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return await self.call(lambda c: driven(SqliteTx(c).fetch(sql, *values)))

    async def fetchval(self, sql: str, *values: object) -> Any:
        return await self.call(lambda c: driven(SqliteTx(c).fetchval(sql, *values)))

    async def call(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` inside of it, where its connection lives."""
        if self._over:
            raise _is_over()
        answer: asyncio.Future[T] = self._loop.create_future()
        self._asked.put((fn, answer))
        await asyncio.wait((answer, self.done), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            self.done.result()
        return answer.result()

    def end(self, *, rollback: bool) -> None:
        """End it; `done` tells when it is committed."""
        self._over = True
        self._asked.put(rollback)
        if rollback:
            self.done.cancel()

    def perform(self, connection: sqlite3.Connection) -> None:
        """Run what is asked for as it comes, until the end."""
        while not isinstance(asked := self._next(), bool):
            fn, answer = asked
            try:
                result = fn(connection)
            except BaseException as exc:  # noqa: BLE001 - handed over to who asked
                self._answer(answer, None, exc)
            else:
                self._answer(answer, result, None)
        if asked:
            raise _RolledBack

    def _next(self) -> Any:
        try:
            return self._asked.get(timeout=TX_HOLD_S)
        except Empty:
            raise StoreError(
                f"a transaction waited {TX_HOLD_S:g} s for its next statement: rolled back",
                code="CH4007",
                fix="await nothing else inside a transaction; it holds up every writer",
            ) from None

    def _answer(
        self, answer: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        def resolve() -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(resolve)

    def finish(self, error: BaseException | None) -> None:
        """Tell that it is committed, or why it is not."""
        if error is None:
            for then in self.after:
                then()
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class _RolledBack(Exception):  # noqa: N818 - a request, not an error
    pass


class InlineSession(SqliteTx):
    """The same, where statements run at once."""

    def __init__(self, database: Database, connection: sqlite3.Connection) -> None:
        """Run on this connection."""
        super().__init__(connection)
        self.database = database
        self.after: list[Callable[[], object]] = []
        """What is done once it is committed."""
        self._over = False

    async def call(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` inside of it, where its connection lives."""
        if self._over:
            raise _is_over()
        return fn(self._connection)

    def end(self) -> None:
        """Run nothing any more."""
        self._over = True

    def _run(self, sql: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        if self._over:
            raise _is_over()
        return super()._run(sql, values)


def _is_over() -> StoreError:
    return StoreError(
        "the transaction is over", code="CH4014", fix="use a Tx inside of its block only"
    )
