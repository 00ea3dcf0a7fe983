"""Tx sections: users' statements and what their steps leave, in one serializable transaction.

Before a section runs, its epochs are locked and its inbox row is claimed or seen; each has a
savepoint of its own. What could not be serialized is told as transient in the place of every
plan whose section had begun: only running the handler again gives another result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import asyncpg

from choreo.adapters.postgres.apply import (
    CONFLICTS_MAX,
    EVERYBODYS,
    PAUSE_S,
    Results,
    perform,
    unwritten,
)
from choreo.adapters.postgres.board import Board, InboxRow, inbox_row, output_place
from choreo.adapters.postgres.edge import translate, translated
from choreo.adapters.postgres.lines import Connection, Lines
from choreo.adapters.postgres.names import Names
from choreo.adapters.postgres.plain import is_plain
from choreo.adapters.postgres.rows import NEW_ROWS, ROWS_GONE, columns, lock_claims, publish
from choreo.adapters.postgres.tx import Answer, SectionTx, Statements, checked, driven
from choreo.errors import (
    ChoreoError,
    StoreConflictError,
    StoreError,
    StoreUnavailableError,
)
from choreo.events import Record
from choreo.plan import Change, Plan, Publish, Settle, Status
from choreo.ports import Applied, Clock, Seen, Want

__all__ = ["Sections"]

MOST = 32
"""Sections in one transaction: PostgreSQL keeps no more than 64 of what they save at hand."""
SECTIONS_S = 0.1
"""No new section begins in a transaction after this long."""
TOO_LONG = "CH4007"
NOTHING = Seen()
Learn = Callable[[Sequence[Plan]], Awaitable[None]]
Key = tuple[int, bytes]
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


class _Said(NamedTuple):
    """A statement of a section, and what it was answered."""

    sql: str
    values: list[object]
    answer: Answer


@dataclass(slots=True)
class _Run:
    """One transaction of sections: what is known of each, by index.

    It begins boldly, without savepoints: they cost as much as the statements. When something
    has to be taken back, it begins anew and `careful`: what was said is said again, and has to
    be answered as it was; from then on each section and statement has its savepoint.
    """

    plans: Sequence[Plan]
    results: dict[int, Applied | BaseException] = field(default_factory=dict)
    claimed: dict[Key, InboxRow] = field(default_factory=dict)
    waiting: set[Key] = field(default_factory=set)  # claims whose section has not run
    published: list[tuple[int, Record]] = field(default_factory=list)
    said: list[_Said] = field(default_factory=list)  # in sections that are done
    saying: list[_Said] = field(default_factory=list)  # in the one that runs
    begun: bool = False
    careful: bool = False
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
            run = _Run(plans)
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
            for index in await self._stale(connection, plans):
                run.results[index] = Applied.STALE
            await self._claim(connection, run)
            last = time.perf_counter() + SECTIONS_S
            for index, plan in enumerate(plans):
                if index in run.results:
                    continue
                if run.begun and time.perf_counter() > last:
                    plans = plans[:index]
                    break
                run.results[index] = await self._one(connection, run, plan)
                run.said += run.saying
                run.saying.clear()
            done = [run.results[index] for index in range(len(plans))]
            await self._unclaim(connection, run, run.waiting)
            await publish(connection, run.published)
            await connection.execute("COMMIT")
        except asyncpg.IntegrityConstraintViolationError as exc:
            if len(plans) > 1 or connection.is_in_transaction():
                raise
            return [translate(exc, self._where)]  # a deferred constraint of the service's own
        except BaseException:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
            raise
        return done

    async def _stale(self, connection: Connection, plans: Sequence[Plan]) -> list[int]:
        stale = await lock_claims(connection, self._names, plans)
        return [index for index, plan in enumerate(plans) if id(plan.owned) in stale]

    # ── claims ───────────────────────────────────────────────────────────────────────────

    def _key(self, plan: Plan) -> Key:
        return self._names.handlers[plan.want.handler], plan.want.subject

    async def _claim(self, connection: Connection, run: _Run) -> None:
        """Insert the rows of those that bring them, at once; whoever has none looks."""
        wanted: dict[Key, InboxRow] = {}
        for index, plan in enumerate(run.plans):
            if plan.changes and index not in run.results:
                claim = plan.changes[0]
                assert isinstance(claim, Settle)
                wanted.setdefault(self._key(plan), inbox_row(self._names, claim))
        run.claimed = {key: wanted[key] for key in await self._inserted(connection, wanted)}
        run.waiting = set(run.claimed)

    @staticmethod
    async def _inserted(connection: Connection, wanted: Mapping[Key, InboxRow]) -> set[Key]:
        if not wanted:
            return set()
        rows = [(*key, *wanted[key][:-1]) for key in sorted(wanted)]
        return {(row[0], row[1]) for row in await connection.fetch(NEW_ROWS, *columns(rows))}

    @staticmethod
    async def _unclaim(connection: Connection, run: _Run, keys: Collection[Key]) -> None:
        if keys:
            await connection.execute(ROWS_GONE, *columns(sorted(keys)))
        for key in tuple(keys):
            run.claimed.pop(key, None)
            run.waiting.discard(key)

    # ── one section ──────────────────────────────────────────────────────────────────────

    async def _one(self, connection: Connection, run: _Run, plan: Plan) -> Applied | BaseException:
        key = self._key(plan)
        claimed = bool(plan.changes) and key in run.waiting
        run.waiting.discard(key)
        if run.careful:
            again = "RELEASE SAVEPOINT plan; " if run.saved else ""
            await connection.execute(f"{again}SAVEPOINT plan")
            run.saved = True
        try:
            if not claimed:
                await self._begin_anew(connection, run)
            return await self._run(connection, run, plan, claimed=claimed)
        except _DoomedError as doomed:
            raise doomed.why from doomed
        except _LostError as lost:
            result: Applied | BaseException = lost.applied
        except Exception as exc:  # noqa: BLE001 - stands in the plan's place
            result = exc
        boldly = not run.careful
        if boldly and run.saying:
            run.saying.clear()
            if claimed:
                del run.claimed[key]
            await self._begin_anew(connection, run)
            return result
        run.saying.clear()
        if not boldly:
            await connection.execute("ROLLBACK TO SAVEPOINT plan")
        if claimed:
            await self._unclaim(connection, run, [key])
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
        anew = partial(self._begin_anew, connection, run)
        statements = _Guarded(connection, run, anew, self._hold_s)
        try:
            changes: tuple[Change, ...] = await driven(plan.section(SectionTx(), seen), statements)
        finally:
            if statements.doomed is not None:  # whatever the section makes of it
                raise _DoomedError(statements.doomed)
        if claimed and changes[:1] == plan.changes and is_plain(changes):
            place = output_place(self._names, plan._replace(changes=changes))
            run.published += [(place, one.record) for one in changes if isinstance(one, Publish)]
            return Applied.DONE
        await self._begin_anew(connection, run)
        await self._left(connection, plan, changes, claimed=claimed)
        return Applied.DONE

    async def _left(
        self, connection: Connection, plan: Plan, changes: tuple[Change, ...], *, claimed: bool
    ) -> None:
        """Write what the step leaves, where it is not what it brought."""
        try:
            if claimed:
                await connection.execute(ROWS_GONE, *columns([self._key(plan)]))
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

    async def _begin_anew(self, connection: Connection, run: _Run) -> None:
        """Be careful from now on: say all that was said in a transaction with savepoints."""
        if run.careful:
            return
        run.careful = run.saved = True
        try:
            with translated(self._where):
                if not run.said and not run.saying and not run.begun:
                    await connection.execute("SAVEPOINT plan")
                    return
                await connection.execute(f"ROLLBACK; {self._begin}")
                stale = set(await self._stale(connection, run.plans))
                known = {i for i, one in run.results.items() if one is Applied.STALE}
                if stale != known or await self._inserted(connection, run.claimed) != set(
                    run.claimed
                ):
                    raise StoreConflictError("others have written meanwhile", fix="nothing")
                statements = Statements(connection)
                await self._say(statements, run.said)
                await connection.execute("SAVEPOINT plan")
                await self._say(statements, run.saying)
        except ChoreoError as exc:
            raise _DoomedError(exc if exc.transient else _again(exc)) from exc

    @staticmethod
    async def _say(statements: Statements, said: Sequence[_Said]) -> None:
        for sql, values, answer in said:
            if await statements.run_unsaved(sql, values) != answer:
                raise StoreConflictError("others have written meanwhile", fix="nothing")


class _Guarded(Statements):
    """Statements of a section: how long it may last, and whether all is lost with one."""

    def __init__(
        self,
        connection: Connection,
        run: _Run,
        begin_anew: Callable[[], Awaitable[None]],
        hold_s: float,
    ) -> None:
        super().__init__(connection, saved="plan")
        self._all = run
        self._begin_anew = begin_anew
        self._last = time.perf_counter() + hold_s
        self._hold_s = hold_s
        self.doomed: ChoreoError | None = None

    async def run(self, sql: str, values: tuple[object, ...]) -> Answer:
        if self.doomed is not None:
            raise self.doomed
        if time.perf_counter() > self._last:
            raise StoreError(
                f"a Tx was open for more than {self._hold_s:g} s: rolled back",
                code=TOO_LONG,
                fix="make it shorter; it holds up every writer of this process",
            )
        try:
            answer = await self._answer(sql, values)
        except (StoreConflictError, StoreUnavailableError) as exc:
            self.doomed = exc
            raise
        except _DoomedError as doomed:
            self.doomed = doomed.why
            raise doomed.why from doomed
        return answer

    async def _answer(self, sql: str, values: tuple[object, ...]) -> Answer:
        run = self._all
        if run.careful:
            return await super().run(sql, values)
        plain = checked(sql, values)
        try:
            answer = await self.run_unsaved(sql, plain)
        except ChoreoError as exc:
            if exc.transient:
                raise
            await self._begin_anew()
            if exc.code == TOO_LONG:
                raise
            if run.saying:
                self._saved = ""
            return await super().run(sql, values)
        run.saying.append(_Said(sql, plain, answer))
        return answer


def _again(error: ChoreoError) -> StoreConflictError:
    """Say that a step was rolled back with another's, and is to be run again."""
    conflict = StoreConflictError(
        f"taken back with the step of another: {error}", fix="nothing: it is run again"
    )
    conflict.__cause__ = error
    return conflict
