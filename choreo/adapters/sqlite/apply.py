"""Plans, written: in bulk where they are plain, one by one where something decides.

A plan is plain when it settles a delivery that has no row yet, and publishes. Of plain
plans a group writes all inbox rows and all records with a few statements; only when a row
turns out to exist are they written one by one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from choreo.adapters.sqlite.bulk import bound, insert_rows
from choreo.adapters.sqlite.changes import Changes, LostError
from choreo.adapters.sqlite.database import TX_HOLD_S, TakenBackError
from choreo.adapters.sqlite.log import Left, Log
from choreo.adapters.sqlite.outbox import Outbox
from choreo.adapters.sqlite.owning import stale
from choreo.adapters.sqlite.seen import seen_of
from choreo.adapters.sqlite.tx import SqliteTx, driven
from choreo.errors import BrokerClosedError, ChoreoError, StoreError
from choreo.events import Record
from choreo.plan import Change, Plan, Publish, Settle, Status
from choreo.ports import UNWRITTEN, Applied, Seen

__all__ = ["ApplyWork"]

INBOX = "INSERT INTO inbox (handler, subject, status, hash, topic, partition, offset)"
INBOX_COLUMNS = 7
CLAIMS = 16
Write = Callable[[sqlite3.Connection, int], None]
NOTHING = Seen()
SECTIONS_S = 0.003
"""No new Tx section begins in a transaction after this long."""


@contextmanager
def _unwritten() -> Iterator[None]:
    """Tell what the store could not write from what a handler raised."""
    try:
        yield
    except LostError:
        raise
    except Exception as exc:
        if isinstance(exc, ChoreoError) and exc.transient:
            raise
        raise StoreError(
            f"what a step left could not be written: {exc}",
            code=UNWRITTEN,
            fix="look at the cause; it is tried again until it can be written",
        ) from exc


class ApplyWork:
    """One call of `apply`: its plans, and the answer to each."""

    def __init__(
        self,
        log: Log | Outbox,
        names: Mapping[str, int],
        plans: Sequence[Plan],
        done: asyncio.Future[list[Applied | BaseException]],
    ) -> None:
        """Sort the plans and make the rows of the plain ones, on the loop."""
        self.weight = max(len(plans), 1)
        self.again = all(plan.section is None for plan in plans)
        self._log = log
        self._names = names
        self._changes = Changes(names, log.topics, log.now())
        self._plans = plans
        self._done = done
        self._results: list[Applied | BaseException | None] = [None] * len(plans)
        self._records: list[Record] = []
        self._first = 0
        self._rest: list[int] = []
        self._sort()

    def _sort(self) -> None:
        plain: list[int] = []
        other: list[int] = []
        settles: list[Settle] = []
        records: list[Record] = []
        topics = self._log.targets
        for index, plan in enumerate(self._plans):
            if plan.section is None and is_plain(plan.changes, topics):
                plain.append(index)
                settles.append(plan.changes[0])  # type: ignore[arg-type]
                for change in plan.changes[1:]:
                    records.append(change.record)  # type: ignore[union-attr]  # noqa: PERF401
            else:
                other.append(index)
        self._plain = plain
        self._other = other
        self.unusual = [self._plans[index] for index in other]
        self._plain_records = records
        self._inbox_rows = self._settle_rows(settles)
        plans = self._plans
        left = ((plans[index], plans[index].changes) for index in plain)
        self._log_rows = self._log.rows(records, left)

    def _settle_rows(self, settles: Sequence[Settle]) -> list[Any]:
        names, topics = self._names, self._log.topics
        values: list[Any] = []
        for handler, subject, status, payload_hash, source, *_ in settles:
            topic, partition, offset = source
            values += (
                names[handler], bound(subject), status, bound(payload_hash),
                topics[topic][0], partition, offset,
            )  # fmt: skip
        return values

    # ── in the writer's thread ───────────────────────────────────────────────────────────

    def perform(self, connection: sqlite3.Connection) -> None:
        """Write the plans, each as a whole or not at all."""
        self._results = [None] * len(self._plans)
        self._records, self._first, self._rest = [], 0, []
        self._drop_stale(connection)
        plain = [index for index in self._plain if self._results[index] is None]
        one_by_one = [index for index in self._other if self._results[index] is None]
        if plain and (len(plain) < len(self._plain) or not self._bulk(connection, plain)):
            one_by_one = sorted([*plain, *one_by_one])
        sections = [index for index in one_by_one if self._plans[index].section is not None]
        for index in one_by_one:
            if self._plans[index].section is None:
                self._guarded(connection, index, self._write_plan)
        self._sections(connection, sections)

    def _drop_stale(self, connection: sqlite3.Connection) -> None:
        foreign = self._log.database.foreign
        doubted = {
            id(plan.owned): plan.owned
            for plan in self._plans
            if plan.owned is not None and plan.owned.checked is not foreign
        }
        if not doubted:  # nobody else has written since
            return
        lost = stale(connection, doubted.values())
        for index, plan in enumerate(self._plans):
            if id(plan.owned) in lost:
                self._results[index] = Applied.STALE
        for key, owned in doubted.items():
            if key not in lost:
                owned.checked = foreign

    def _bulk(self, connection: sqlite3.Connection, plain: list[int]) -> bool:
        connection.execute("SAVEPOINT bulk")
        tail = "ON CONFLICT DO NOTHING"
        changed, _ = insert_rows(connection, INBOX, INBOX_COLUMNS, self._inbox_rows, tail)
        if changed != len(plain):
            connection.execute("ROLLBACK TO bulk")
            connection.execute("RELEASE bulk")
            return False
        self._append(connection, self._plain_records, self._log_rows)
        connection.execute("RELEASE bulk")
        for index in plain:
            self._results[index] = Applied.DONE
        return True

    def _append(
        self, connection: sqlite3.Connection, records: Sequence[Record], rows: Sequence[Any]
    ) -> None:
        if not records:
            return
        first = self._log.append(connection, rows)
        if not self._records:
            self._first = first
        self._records += records

    def _guarded(
        self, connection: sqlite3.Connection, index: int, write: Write, *, nested: bool = False
    ) -> None:
        """Write one plan: as a whole or not at all, whatever it does.

        `nested` leaves the savepoint open, for an outer one to release it with all others.
        """
        connection.execute("SAVEPOINT plan")
        before = len(self._records)
        try:
            write(connection, index)
        except LostError as lost:
            self._results[index] = lost.applied
        except BaseException as exc:  # noqa: BLE001 - stands in the plan's place
            self._results[index] = exc
        else:
            self._results[index] = Applied.DONE
            if not nested:
                connection.execute("RELEASE plan")
            return
        if not connection.in_transaction:  # SQLite took everything back
            raise TakenBackError("taken back with the step of another", fix="wait")
        connection.execute("ROLLBACK TO plan")
        connection.execute("RELEASE plan")
        del self._records[before:]

    def _write_plan(self, connection: sqlite3.Connection, index: int) -> None:
        with _unwritten():
            plan = self._plans[index]
            self._write(connection, plan, plan.changes)

    def _write(self, connection: sqlite3.Connection, plan: Plan, changes: Sequence[Change]) -> None:
        published = []
        for change in changes:
            if type(change) is Publish:
                published.append(change.record)
            else:
                self._changes.write(connection, plan, change)
        left = [(plan, changes)]
        self._append(connection, published, self._log.rows(published, left))

    # ── Tx sections ──────────────────────────────────────────────────────────────────────

    def _sections(self, connection: sqlite3.Connection, indexes: list[int]) -> None:
        """Run sections one after another, for as long as this transaction may take.

        A plan that brings its claim (the settled row) needs to see nothing else: the claims
        of a piece are written at once, and whoever has none is run; the others look first.
        """
        last = self._log.database.seconds() + SECTIONS_S
        self._log.database.hold_until = self._log.database.seconds() + TX_HOLD_S
        kept: list[Left] = []
        claimed = [index for index in indexes if self._plans[index].changes]
        looking = [index for index in indexes if not self._plans[index].changes]
        while claimed and self._log.database.seconds() < last:
            piece, claimed = claimed[:CLAIMS], claimed[CLAIMS:]
            connection.execute("SAVEPOINT piece")
            if self._claim(connection, piece):
                for index in piece:
                    run = partial(self._run_claimed, kept)
                    self._guarded(connection, index, run, nested=True)
                    if self._results[index] is not Applied.DONE:
                        self._unclaim(connection, index)
            else:
                connection.execute("ROLLBACK TO piece")
                looking += piece
            connection.execute("RELEASE piece")
        self._rest += claimed
        for index in looking:
            if self._log.database.seconds() < last:
                self._guarded(connection, index, self._run_looking)
            else:
                self._rest.append(index)
        records = [
            change.record for _, left in kept for change in left if isinstance(change, Publish)
        ]
        self._log.database.hold_until = None
        self._append(connection, records, self._log.rows(records, kept))

    def _claim(self, connection: sqlite3.Connection, piece: list[int]) -> bool:
        claims = [self._plans[index].changes[0] for index in piece]
        rows = self._settle_rows(claims)  # type: ignore[arg-type]
        changed, _ = insert_rows(connection, INBOX, INBOX_COLUMNS, rows, "ON CONFLICT DO NOTHING")
        return changed == len(piece)

    def _unclaim(self, connection: sqlite3.Connection, index: int) -> None:
        want = self._plans[index].want
        connection.execute(
            "DELETE FROM inbox WHERE handler = ? AND subject = ?",
            (self._names[want.handler], want.subject),
        )

    def _run_claimed(self, kept: list[Left], connection: sqlite3.Connection, index: int) -> None:
        plan = self._plans[index]
        assert plan.section is not None
        changes = driven(plan.section(SqliteTx(connection), NOTHING))
        if changes[:1] == plan.changes and is_plain(changes, self._log.targets):
            kept.append((plan, changes))
            return
        self._unclaim(connection, index)
        with _unwritten():
            self._write(connection, plan, changes)

    def _run_looking(self, connection: sqlite3.Connection, index: int) -> None:
        plan = self._plans[index]
        (seen,) = seen_of(connection, self._names, [plan.want])
        if seen.status not in (None, Status.PARKED):
            raise LostError(Applied.DUPLICATE)
        assert plan.section is not None
        changes = driven(plan.section(SqliteTx(connection), seen))
        with _unwritten():
            self._write(connection, plan, changes)

    # ── in the loop again ────────────────────────────────────────────────────────────────

    def finish(self, error: BaseException | None) -> None:
        """Hand over what was published, and answer."""
        if error is not None:
            self._results = [_own_fault(result) or error for result in self._results]
        else:
            self._log.appended(self._records, self._first)
            if self._rest:
                self._go_on()
                return
        if not self._done.done():
            self._done.set_result(self._results)  # type: ignore[arg-type]

    def _go_on(self) -> None:
        """Run the sections for which there was no time in a transaction of their own."""
        rest = self._rest
        done: asyncio.Future[list[Applied | BaseException]] = self._done.get_loop().create_future()
        plans = [self._plans[index] for index in rest]

        def merge(answered: asyncio.Future[list[Applied | BaseException]]) -> None:
            for index, result in zip(rest, answered.result(), strict=True):
                self._results[index] = result
            if not self._done.done():
                self._done.set_result(self._results)  # type: ignore[arg-type]

        done.add_done_callback(merge)
        try:
            self._log.database.submit(ApplyWork(self._log, self._names, plans, done))
        except BrokerClosedError as exc:  # meanwhile: what is written stays, the rest is not
            done.set_result([exc] * len(rest))


def _own_fault(result: Applied | BaseException | None) -> BaseException | None:
    """Give what a plan has failed by itself, whatever became of the others."""
    return result if isinstance(result, BaseException) else None


def is_plain(changes: Sequence[Change], topics: Container[str]) -> bool:
    """Tell whether this settles a delivery without a row, publishes, and does nothing else."""
    if not changes:
        return False
    first = changes[0]
    if type(first) is not Settle or first.seen is not None or first.parked or first.spawn:
        return False
    for change in changes[1:]:
        if type(change) is not Publish or change.record.topic not in topics:
            return False
    return True
