"""Tx sections: users' statements and what their steps leave, in one serializable transaction.

Before a section runs, its epochs are locked and its inbox row is claimed or seen; each has a
savepoint of its own. What could not be serialized is told as transient in the place of every
plan whose section had begun: only running the handler again gives another result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from choreo.adapters.postgres.apply import (
    CONFLICTS_MAX,
    EVERYBODYS,
    PAUSE_S,
    Results,
    perform,
    unwritten,
)
from choreo.adapters.postgres.board import Board, InboxRow, inbox_row
from choreo.adapters.postgres.edge import translated
from choreo.adapters.postgres.lines import Connection, Lines
from choreo.adapters.postgres.names import Names
from choreo.adapters.postgres.plain import is_plain
from choreo.adapters.postgres.rows import NEW_ROWS, ROWS_GONE, columns, lock_claims, publish
from choreo.adapters.postgres.tx import SectionTx, Statements, driven
from choreo.errors import (
    ChoreoError,
    StoreConflictError,
    StoreError,
    StoreUnavailableError,
)
from choreo.events import Record
from choreo.plan import Change, Plan, Publish, Settle, Status
from choreo.ports import Applied, Clock, Row, Seen, Want

__all__ = ["Sections"]

MOST = 32
"""Sections in one transaction: PostgreSQL keeps no more than 64 of what they save at hand."""
SECTIONS_S = 0.1
"""No new section begins in a transaction after this long."""
NOTHING = Seen()
Learn = Callable[[Sequence[Plan]], Awaitable[None]]
Look = Callable[[Connection, Sequence[Want]], Awaitable[Sequence[Seen]]]


class _LostError(Exception):
    def __init__(self, applied: Applied) -> None:
        super().__init__(applied)
        self.applied = applied


class _DoomedError(Exception):
    """The transaction can not be committed any more, and why."""

    def __init__(self, why: ChoreoError) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class _Run:
    """One transaction of sections: what is known of each, by index."""

    results: dict[int, Applied | BaseException] = field(default_factory=dict)
    claimed: dict[tuple[int, bytes], InboxRow] = field(default_factory=dict)
    unclaimed: list[tuple[int, bytes]] = field(default_factory=list)
    published: list[tuple[int, Record]] = field(default_factory=list)
    begun: bool = False
    saved: bool = False


class Sections:
    """Runs plans with sections."""

    def __init__(
        self, names: Names, clock: Clock, where: str, *, look: Look, learn: Learn, hold_s: float
    ) -> None:
        """Share the store's names and clock.

        `look` reads what a section is to see, `learn` has the names of changes known.
        """
        self._names = names
        self._clock = clock
        self._where = where
        self._look = look
        self._learn = learn
        self._hold_s = hold_s
        self._begin = (  # in one round trip
            "BEGIN ISOLATION LEVEL SERIALIZABLE;"
            f" SET LOCAL statement_timeout = {int(hold_s * 1000)}"
        )

    async def write(self, lines: Lines, plans: Sequence[Plan]) -> Results:
        """Run and write them, some at a time; in each one's place what became of it."""
        results: Results = []
        while len(results) < len(plans):
            part = plans[len(results) : len(results) + MOST]
            results += await self._part(lines, part)
        return results

    async def _part(self, lines: Lines, plans: Sequence[Plan]) -> Results:
        """Run the first of these, as many as there is time for."""
        for turn in range(CONFLICTS_MAX):
            run = _Run()
            try:
                async with lines.one() as connection:
                    with translated(self._where):
                        return await self._transaction(connection, run, plans)
            except ChoreoError as exc:
                once_more = turn < CONFLICTS_MAX - 1 and not run.begun
                if once_more and isinstance(exc, StoreConflictError):
                    await asyncio.sleep(PAUSE_S * turn)
                    continue
                if run.begun:
                    return self._failed(run, plans, exc)
                if exc.transient or exc.code in EVERYBODYS:
                    raise
                if len(plans) == 1:
                    return [unwritten(exc)]
                return await self._part(lines, plans[:1])  # one of them can not be written
        raise AssertionError("the last turn raises")

    @staticmethod
    def _failed(run: _Run, plans: Sequence[Plan], error: ChoreoError) -> Results:
        """Nothing is written: what has failed by itself stands, the others are run again.

        Also those that had not begun: their own transaction would have had no place for them.
        """
        told = error if error.transient or len(plans) == 1 else _again(error)
        own = {i: r for i, r in run.results.items() if isinstance(r, BaseException)}
        if len(plans) == 1 and not error.transient and not own:
            return [unwritten(error)]
        return [own.get(index, told) for index in range(len(plans))]

    async def _transaction(
        self, connection: Connection, run: _Run, plans: Sequence[Plan]
    ) -> Results:
        await connection.execute(self._begin)
        try:
            stale = await lock_claims(connection, self._names, plans)
            for index, plan in enumerate(plans):
                if id(plan.owned) in stale:
                    run.results[index] = Applied.STALE
            await self._claim(connection, run, plans)
            last = time.perf_counter() + SECTIONS_S
            for index, plan in enumerate(plans):
                if index in run.results:
                    continue
                if run.begun and time.perf_counter() > last:
                    plans = plans[:index]
                    break
                run.results[index] = await self._one(connection, run, plan)
            done = [run.results[index] for index in range(len(plans))]
            await self._write(connection, run)
            await connection.execute("COMMIT")
        except BaseException:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
            raise
        return done

    # ── before ───────────────────────────────────────────────────────────────────────────

    async def _claim(self, connection: Connection, run: _Run, plans: Sequence[Plan]) -> None:
        """Insert the rows of those that bring them, at once; whoever has none looks."""
        wanted: dict[tuple[int, bytes], InboxRow] = {}
        for index, plan in enumerate(plans):
            if plan.changes and index not in run.results:
                claim = plan.changes[0]
                assert isinstance(claim, Settle)
                key = (self._names.handlers[claim.handler], claim.subject)
                wanted.setdefault(key, inbox_row(self._names, claim))
        if wanted:
            rows = [(*key, *wanted[key][:-1]) for key in sorted(wanted)]
            for row in await connection.fetch(NEW_ROWS, *columns(rows)):
                run.claimed[row[0], row[1]] = wanted[row[0], row[1]]

    # ── one section ──────────────────────────────────────────────────────────────────────

    async def _one(self, connection: Connection, run: _Run, plan: Plan) -> Applied | BaseException:
        key = (self._names.handlers[plan.want.handler], plan.want.subject)
        claimed = bool(plan.changes) and run.claimed.pop(key, None) is not None
        again = "RELEASE SAVEPOINT plan; " if run.saved else ""
        await connection.execute(f"{again}SAVEPOINT plan")
        run.saved = True
        try:
            return await self._run(connection, run, plan, claimed=claimed)
        except _DoomedError as doomed:
            raise doomed.why from doomed
        except _LostError as lost:
            result: Applied | BaseException = lost.applied
        except Exception as exc:  # noqa: BLE001 - stands in the plan's place
            result = exc
        await connection.execute("ROLLBACK TO SAVEPOINT plan")
        if claimed:
            run.unclaimed.append(key)
            await self._unclaim(connection, run)
        return result

    async def _run(
        self, connection: Connection, run: _Run, plan: Plan, *, claimed: bool
    ) -> Applied:
        seen = NOTHING
        if not claimed:
            (seen,) = await self._look(connection, [plan.want])
            if seen.status not in (None, Status.PARKED):
                raise _LostError(Applied.DUPLICATE)
        assert plan.section is not None
        run.begun = True
        statements = _Guarded(connection, self._hold_s)
        changes: tuple[Change, ...] = await driven(plan.section(SectionTx(), seen), statements)
        if statements.doomed is not None:
            raise _DoomedError(statements.doomed)
        await self._left(connection, run, plan, changes, claimed=claimed)
        return Applied.DONE

    async def _left(
        self,
        connection: Connection,
        run: _Run,
        plan: Plan,
        changes: tuple[Change, ...],
        *,
        claimed: bool,
    ) -> None:
        """Write what the step leaves; of a plain one that brought its row, at the end."""
        if claimed and changes[:1] == plan.changes and is_plain(changes):
            first = changes[0]
            assert isinstance(first, Settle)
            owner = self._names.place(first.handler, *first.source[:2])
            run.published += [
                (owner, change.record) for change in changes if isinstance(change, Publish)
            ]
            return
        try:
            if claimed:
                key = (self._names.handlers[plan.want.handler], plan.want.subject)
                await connection.execute(ROWS_GONE, [key[0]], [key[1]])
            left = [plan._replace(changes=changes)]
            await self._learn(left)
            board = Board(self._names, self._clock.now())
            with translated(self._where):
                (applied,) = await perform(connection, board, left)
        except ChoreoError as exc:
            if exc.transient:
                raise _DoomedError(exc) from exc
            raise unwritten(exc) from exc
        if applied is not Applied.DONE:
            raise _LostError(applied)

    @staticmethod
    async def _unclaim(connection: Connection, run: _Run) -> None:
        await connection.execute(ROWS_GONE, *columns(run.unclaimed))
        run.unclaimed.clear()

    # ── after ────────────────────────────────────────────────────────────────────────────

    async def _write(self, connection: Connection, run: _Run) -> None:
        """Take back the claims that were not run, and publish."""
        run.unclaimed += run.claimed
        if run.unclaimed:
            await self._unclaim(connection, run)
        await publish(connection, run.published)


class _Guarded(Statements):
    """Statements of a section: how long it may last, and whether all is lost with one."""

    def __init__(self, connection: Connection, hold_s: float) -> None:
        super().__init__(connection, saved="plan")
        self._last = time.perf_counter() + hold_s
        self._hold_s = hold_s
        self.doomed: ChoreoError | None = None

    async def run(self, sql: str, values: tuple[object, ...]) -> tuple[list[Row], int]:
        if self.doomed is not None:
            raise self.doomed
        if time.perf_counter() > self._last:
            raise StoreError(
                f"a Tx was open for more than {self._hold_s:g} s: rolled back",
                code="CH4007",
                fix="make it shorter; it holds up every writer of this process",
            )
        try:
            return await super().run(sql, values)
        except (StoreConflictError, StoreUnavailableError) as exc:
            self.doomed = exc
            raise


def _again(error: ChoreoError) -> StoreConflictError:
    """Say that a step was rolled back with another's, and is to be run again."""
    conflict = StoreConflictError(
        f"taken back with the step of another: {error}", fix="nothing: it is run again"
    )
    conflict.__cause__ = error
    return conflict
