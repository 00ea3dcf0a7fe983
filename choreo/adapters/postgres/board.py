"""What a group's rows become, decided in memory on rows that are locked.

The transaction first locks and reads every row that a change of the group compares with, each
table in one statement; then the plans are decided one after the other, here; then what has
become of the rows is written, each table in one statement again. So the outcome is that of
plans applied one by one, and the number of statements does not grow with the group.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from choreo.adapters.postgres.names import NOBODY, Names
from choreo.adapters.postgres.text import kept, shown
from choreo.events import Record
from choreo.plan import (
    CancelTimer,
    Change,
    Gate,
    Memo,
    Passed,
    Plan,
    Publish,
    Remember,
    SaveState,
    Sent,
    SetTimer,
    Settle,
    Status,
)
from choreo.ports import ORPHANS, Applied

__all__ = [
    "ABSENT",
    "Board",
    "InboxRow",
    "LostError",
    "Timer",
    "inbox_row",
    "memo_key",
    "output_place",
]

Key = tuple[int, bytes]
NO_GATE = (0, False, b"")
UNREAD: Any = object()
"""In place of a row that was neither locked nor read: what is set is not compared."""
BIGINT = range(-(2**63), 2**63)
ABSENT = -1
"""State of a memo that is only there because it was locked."""


class LostError(Exception):
    """A plan that can not be applied; its outcome."""

    def __init__(self, applied: Applied) -> None:
        """Say what became of it."""
        super().__init__(applied)
        self.applied = applied


class InboxRow(NamedTuple):
    """An inbox row, as its columns are; `loaded` without what only readers need."""

    status: int
    hash: bytes
    owner: int
    offset: int
    run: int | None = None
    attempt: int | None = None
    due: float | None = None
    chain: str | None = None
    record: bytes | None = None
    error: str | None = None
    loaded: bool = False


class Timer(NamedTuple):
    """A timer's row, but for its id."""

    due: float
    handler: int
    payload: bytes
    owner: int
    offset: int


def inbox_row(names: Names, change: Settle) -> InboxRow:
    """Make the row of a settle, as if nothing were ahead of it in its chain."""
    topic, partition, offset = change.source
    owner = names.place(change.handler, topic, partition)
    parked = change.parked
    if parked is None:
        return InboxRow(change.status, change.payload_hash, owner, offset)
    return InboxRow(
        change.status, change.payload_hash, owner, offset,
        parked.run, parked.attempt, parked.due, kept(parked.chain), parked.record,
        shown(parked.error),
    )  # fmt: skip


def memo_key(names: Names, change: Remember) -> tuple[bytes, int, str]:
    """Give the key of a memo's row."""
    handler, _, call = change.name.partition("/")
    return change.subject, names.handlers[handler], kept(call)


def output_place(names: Names, plan: Plan) -> int:
    """Give the place whose owner publishes what a plan leaves: where its delivery came in."""
    if plan.owned is None:
        return NOBODY
    group = plan.owned.group
    for change in plan.changes:
        if isinstance(change, (Settle, SetTimer)):
            return names.places[group, *change.source[:2]]
    return names.places[group, *min(plan.owned.epochs, default=ORPHANS)]


class Board:
    """The rows, as they were found and as they are by now."""

    def __init__(self, names: Names, now: float) -> None:
        """Begin with no rows; `now` is when gates and memos are written."""
        self.names = names
        self.now = now
        self.inbox: dict[Key, InboxRow | None] = {}
        self.gates: dict[tuple[str, int, str], tuple[int, bool, bytes]] = {}
        self.states: dict[tuple[str, str], tuple[int, bytes | None]] = {}
        self.memos: dict[tuple[bytes, int, str], tuple[int, bytes]] = {}
        self.timers: dict[bytes, Timer | None] = {}
        self.chains: dict[tuple[int, str], set[Key]] = {}
        self.published: list[tuple[int, Record]] = []
        self.sent: list[int] = []
        self.passed: dict[int, tuple[int, int] | None] = {}
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []

    def apply(self, plan: Plan) -> Applied:
        """Apply a plan as a whole, or not at all."""
        self._undo.clear()
        published, sent = len(self.published), len(self.sent)
        try:
            for change in plan.changes:
                self._change(plan, change)
        except LostError as lost:
            for table, key, before in reversed(self._undo):
                if before is UNREAD:
                    del table[key]  # not None: that would be a row that is to go
                else:
                    table[key] = before
            del self.published[published:], self.sent[sent:]
            return lost.applied
        return Applied.DONE

    def _set(self, table: dict[Any, Any], key: Any, row: Any) -> None:
        self._undo.append((table, key, table.get(key, UNREAD)))
        table[key] = row

    def _change(self, plan: Plan, change: Change) -> None:
        if isinstance(change, Settle):
            self._settle(change)
        elif isinstance(change, Publish):
            self.published.append((output_place(self.names, plan), change.record))
        elif isinstance(change, Gate):
            self._gate(change)
        elif isinstance(change, SetTimer):
            self._set_timer(change)
        elif isinstance(change, CancelTimer):
            self._cancel_timer(change)
        elif isinstance(change, Remember):
            self._remember(change)
        elif isinstance(change, SaveState):
            self._save(change)
        elif isinstance(change, Sent):
            self.sent += change.rows
        elif isinstance(change, Passed):
            assert plan.owned is not None
            place = self.names.places[plan.owned.group, *change.partition]
            self._set(self.passed, place, (change.offset, change.end))

    # ── inbox ────────────────────────────────────────────────────────────────────────────

    def _settle(self, change: Settle) -> None:
        handler = self.names.handlers[change.handler]
        key = (handler, change.subject)
        before = self.inbox[key]
        row = inbox_row(self.names, change)
        if change.seen is None:
            if before is not None:
                if change.spawn:
                    return
                raise LostError(Applied.DUPLICATE)
        else:
            wanted = Status.DEAD if change.dead else Status.PARKED
            if (
                before is None
                or before.status != wanted
                or (before.run, before.attempt) != change.seen
            ):
                raise LostError(Applied.CONFLICT if change.dead else Applied.DUPLICATE)
            row = row._replace(hash=before.hash, owner=before.owner, offset=before.offset)
        if row.status == Status.PARKED and row.due is None and not self._ahead(handler, row):
            row = row._replace(due=0.0)  # nobody before it holds the chain any more
        self._set(self.inbox, key, row)
        if row.chain:
            self.chains.setdefault((handler, row.chain), set()).add(key)
        if before is not None and before.chain and not change.holds:
            self._release(handler, before.chain)

    def _in_chain(self, handler: int, chain: str) -> Iterable[tuple[int, bytes, Key, InboxRow]]:
        for key in self.chains.get((handler, chain), ()):
            row = self.inbox[key]
            if row is not None and row.chain == chain:
                yield row.offset, key[1], key, row

    def _ahead(self, handler: int, row: InboxRow) -> bool:
        if not row.chain:
            return False
        return any(offset < row.offset for offset, *_ in self._in_chain(handler, row.chain))

    def _release(self, handler: int, chain: str) -> None:
        """Let the delivery that waits next in this chain run, unless a dead letter holds it."""
        first = min(self._in_chain(handler, chain), default=None)
        if first is not None:
            _, _, key, row = first
            if row.status == Status.PARKED and row.due is None:
                self._set(self.inbox, key, row._replace(due=0.0))

    # ── what is compared, then set ───────────────────────────────────────────────────────

    def _gate(self, change: Gate) -> None:
        kind, name, scope = change.key
        key = (kept(kind), self.names.handlers[name], kept(scope))
        seq, *_ = self.gates.get(key, NO_GATE)
        if seq != change.seq:
            raise LostError(Applied.CONFLICT)
        self._set(self.gates, key, (seq + 1, change.closed, change.members))

    def _save(self, change: SaveState) -> None:
        key = (kept(change.type), kept(change.key))
        version, _ = self.states[key]
        if change.version not in BIGINT:
            raise OverflowError(f"no row has the version {change.version}")
        if version != change.version:
            raise LostError(Applied.CONFLICT)
        self._set(self.states, key, (version + 1, change.value))

    def _remember(self, change: Remember) -> None:
        key = memo_key(self.names, change)
        state, _ = self.memos[key]
        if change.state is Memo.RESULT:
            if state == Memo.RESULT:  # the first result wins, whoever had the intent
                raise LostError(Applied.CONFLICT)
        elif state != ABSENT:
            follows = Memo.CLOSED if change.state is Memo.INTENT else Memo.INTENT
            if state != follows:
                return
        self._set(self.memos, key, (int(change.state), change.result))

    def _set_timer(self, change: SetTimer) -> None:
        topic, partition, offset = change.source
        handler = self.names.handlers[change.handler]
        owner = self.names.place(change.handler, topic, partition)
        timer = Timer(change.due, handler, change.payload, owner, offset)
        self._set(self.timers, change.id, timer)

    def _cancel_timer(self, change: CancelTimer) -> None:
        if change.due is not None:
            timer = self.timers.get(change.id)
            if timer is None or (timer.due, timer.payload) != (change.due, change.payload):
                raise LostError(Applied.DUPLICATE)
        self._set(self.timers, change.id, None)
