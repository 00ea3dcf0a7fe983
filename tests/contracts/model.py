"""A small model of what a store keeps: dicts, one thread, no time but what it is told.

It performs changes as `choreo/plan.py` describes them, one after the other, on a copy that
becomes the truth only when all went through.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from choreo.plan import (
    CancelTimer,
    Change,
    Gate,
    GateKey,
    Memo,
    Publish,
    Remember,
    SaveState,
    SetTimer,
    Settle,
    Status,
)
from choreo.ports import Applied

__all__ = ["NEW", "Model", "Row"]

NEW = -1
"""The seq or version of what this model has just written: the store chooses it."""


class LostError(Exception):
    """A change that can not be made; the plan's outcome."""

    def __init__(self, applied: Applied) -> None:
        super().__init__(applied)
        self.applied = applied


@dataclass
class Row:
    """An inbox row."""

    status: Status
    offset: int
    run: int = 0
    attempt: int = 0
    due: float | None = None
    chain: str | None = None  # a row that has one holds what comes later in it, dead ones too

    @property
    def parked(self) -> bool:
        return self.status is Status.PARKED


@dataclass
class Model:
    """What stands in the store, by its keys."""

    inbox: dict[tuple[str, bytes], Row] = field(default_factory=dict)
    timers: dict[bytes, SetTimer] = field(default_factory=dict)
    gates: dict[GateKey, tuple[int, bool, bytes]] = field(default_factory=dict)
    states: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    memos: dict[tuple[bytes, str], tuple[Memo, bytes]] = field(default_factory=dict)
    log: list[bytes] = field(default_factory=list)

    def apply(self, changes: Sequence[Change]) -> Applied:
        """Perform a plan, as a whole or not at all."""
        before = copy.deepcopy(self.__dict__)
        try:
            for change in changes:
                self._change(change)
        except LostError as lost:
            self.__dict__.update(before)
            return lost.applied
        return Applied.DONE

    def _change(self, change: Change) -> None:
        if isinstance(change, Settle):
            self._settle(change)
        elif isinstance(change, Publish):
            self.log.append(change.record.value)
        elif isinstance(change, SetTimer):
            self.timers[change.id] = change
        elif isinstance(change, CancelTimer):
            self._cancel(change)
        elif isinstance(change, Gate):
            seq, *_ = self.gates.get(change.key, (0, False, b""))
            if seq != change.seq:
                raise LostError(Applied.CONFLICT)
            self.gates[change.key] = (NEW, change.closed, change.members)
        elif isinstance(change, SaveState):
            version, _ = self.states.get((change.type, change.key), (0, b""))
            if version != change.version:
                raise LostError(Applied.CONFLICT)
            self.states[change.type, change.key] = (NEW, change.value)
        elif isinstance(change, Remember):
            self._remember(change)

    def _settle(self, change: Settle) -> None:
        name = (change.handler, change.subject)
        row = self.inbox.get(name)
        if change.seen is None and row is not None:
            if not change.spawn:
                raise LostError(Applied.DUPLICATE)
            return
        if change.seen is not None and (
            row is None or not row.parked or (row.run, row.attempt) != change.seen
        ):
            raise LostError(Applied.DUPLICATE)
        offset = change.source.offset if row is None else row.offset
        kept = change.parked
        if kept is None:
            self.inbox[name] = Row(change.status, offset)
        else:
            due = kept.due
            if change.status is Status.PARKED and due is None:
                due = None if self._ahead(change.handler, kept.chain, offset) else 0.0
            self.inbox[name] = Row(change.status, offset, kept.run, kept.attempt, due, kept.chain)
        if row is not None and row.chain and not (kept is not None and kept.chain):
            self._release(change.handler, row.chain)

    def chain(self, handler: str, chain: str) -> list[Row]:
        """List what holds a chain, or waits in it, in input order."""
        rows = [row for (name, _), row in self.inbox.items() if name == handler]
        found = [row for row in rows if row.chain == chain]
        return sorted(found, key=lambda row: row.offset)

    def _ahead(self, handler: str, chain: str, offset: int) -> bool:
        return any(row.offset < offset for row in self.chain(handler, chain))

    def _release(self, handler: str, chain: str) -> None:
        for row in self.chain(handler, chain)[:1]:
            if row.parked and row.due is None:
                row.due = 0.0

    def _cancel(self, change: CancelTimer) -> None:
        timer = self.timers.get(change.id)
        if change.due is not None and (
            timer is None or (timer.due, timer.payload) != (change.due, change.payload)
        ):
            raise LostError(Applied.DUPLICATE)
        self.timers.pop(change.id, None)

    def _remember(self, change: Remember) -> None:
        name = (change.subject, change.name)
        state = self.memos[name][0] if name in self.memos else Memo.CLOSED
        if change.state is Memo.RESULT and state is Memo.RESULT:
            raise LostError(Applied.CONFLICT)
        follows = {Memo.CLOSED: Memo.INTENT, Memo.INTENT: Memo.CLOSED}
        if change.state is Memo.RESULT or state is follows[change.state] or name not in self.memos:
            self.memos[name] = (change.state, change.result)

    def due(self, now: float) -> list[float]:
        """List the times of all that is due, earliest first."""
        return sorted(time for time in self._times() if time <= now)

    def next_due(self, now: float) -> float | None:
        """Give the time of what is due next."""
        return min((time for time in self._times() if time > now), default=None)

    def _times(self) -> list[float]:
        rows = [row.due for row in self.inbox.values() if row.parked and row.due is not None]
        return [*rows, *(timer.due for timer in self.timers.values())]

    def held(self) -> set[tuple[str, str]]:
        """List the chains in which something is parked, or dead and held."""
        return {(handler, row.chain) for (handler, _), row in self.inbox.items() if row.chain}
