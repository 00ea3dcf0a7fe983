"""Lists of flows, newest first, in a time that hardly grows with the number of flows.

Every filter is answered from an index that has `started` at its end, so a list looks at
no more flows than it shows, for each status and shape that fits.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable

from choreo.adapters.sqlite.bulk import select_rows
from choreo.adapters.sqlite.viewrows import Key, packed, ranges, unpacked
from choreo.adapters.sqlite.viewwords import Words
from choreo.ports import FlowFilter

__all__ = ["Listing", "beginning", "found"]

FOUND_MAX = 20
ALL = -1
EVER = -1e18

AMONG = (
    "SELECT flow.flow, started, status, name FROM asked"
    " CROSS JOIN flow ON flow.flow = asked.column1"
)
NEWEST = "SELECT flow, started FROM flow WHERE started >= ?1 ORDER BY started DESC LIMIT ?2"
BY_STATUS = (
    "SELECT flow, started FROM flow WHERE status = ?3 AND started >= ?1"
    " ORDER BY started DESC LIMIT ?2"
)
BY_SHAPE = (
    "SELECT flow, started FROM flow WHERE shape = ?4 AND status = ?3 AND started >= ?1"
    " ORDER BY started DESC LIMIT ?2"
)
BY_ERROR = (
    "SELECT flow, started FROM flow INDEXED BY flow_error WHERE error IS NOT NULL"
    " AND started >= ?1 AND error LIKE ?3 ESCAPE '\\'"
    " AND (?4 IS NULL OR status = ?4) AND (?5 IS NULL OR name = ?5)"
    " ORDER BY started DESC LIMIT ?2"
)


class Listing:
    """The newest flows that fit a filter, gathered from several indexes."""

    def __init__(self, c: sqlite3.Connection, words: Words, which: FlowFilter) -> None:
        """Nothing is gathered yet."""
        self._c = c
        self._words = words
        self._which = which
        self._since = EVER if which.since is None else which.since
        self._limit = which.limit or ALL
        self._name = words.numbers.get(which.name, ALL) if which.name else None
        self._found: dict[Key, float] = {}
        self._newest: list[float] = []  # a heap of the starts of the newest, as many as asked for

    def flows(self) -> list[Key]:
        """Give them, newest first."""
        which = self._which
        statuses = [self._words.numbers.get(one, ALL) for one in dict.fromkeys(which.status)]
        if which.search:
            self._search(which.search, statuses)
        elif self._name is not None:
            self._shaped(self._words.shaped(name=self._name), statuses or self._present())
        elif statuses:
            for status in statuses:
                self._take(BY_STATUS, status)
        else:
            self._take(NEWEST)
        ordered = sorted(self._found, key=lambda flow: self._found[flow], reverse=True)
        return ordered[: which.limit or None]

    def _take(self, sql: str, *values: object) -> None:
        """Gather more; what is older than the last that can be shown is not looked at."""
        full = self._limit != ALL and len(self._newest) >= self._limit
        since = max(self._since, self._newest[0]) if full else self._since
        for flow, started in self._c.execute(sql, (since, self._limit, *values)).fetchall():
            self._add(flow, started)

    def _add(self, flow: Key, started: float) -> None:
        if flow in self._found:
            return
        self._found[flow] = started
        if self._limit != ALL:
            heapq.heappush(self._newest, started)
            if len(self._newest) > self._limit:
                heapq.heappop(self._newest)

    def _shaped(self, shapes: Iterable[int], statuses: list[int]) -> None:
        for shape in shapes:
            for status in statuses:
                self._take(BY_SHAPE, status, shape)

    def _search(self, text: str, statuses: list[int]) -> None:
        """Look for a flow id, a key, an event type, a service or handler, or an error."""
        ids = dict.fromkeys((*found(self._c, text), *beginning(self._c, text)))
        for flow, started, status, name in select_rows(self._c, AMONG, 1, [*ids]):
            if (
                started >= self._since
                and (not statuses or status in statuses)
                and self._name in (None, name)
            ):
                self._add(flow, started)
        like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        for status in statuses or (None,):
            self._take(BY_ERROR, like, status, self._name)
        mask = self._words.containing(self._c, like)
        if mask:
            shapes = self._words.shaped(name=self._name, mask=mask)
            self._shaped(shapes, statuses or self._present())

    def _present(self) -> list[int]:
        """Give the statuses that flows have, by leaps in their index."""
        present: list[int] = []
        last = -1
        while True:
            (last,) = self._c.execute(
                "SELECT min(status) FROM flow WHERE status > ?", (last,)
            ).fetchone()
            if last is None:
                return present
            present.append(last)


# ── one flow ─────────────────────────────────────────────────────────────────────────────


def found(c: sqlite3.Connection, text: str) -> list[Key]:
    """Give the flow of this id; else those with this key; else those that begin so."""
    key = packed(text)
    if c.execute("SELECT 1 FROM flow WHERE flow = ?", (key,)).fetchone():
        return [key]
    keyed = c.execute(
        "SELECT flow FROM flow WHERE key = ? AND key <> '' ORDER BY started DESC LIMIT ?",
        (text, FOUND_MAX),
    ).fetchall()
    if keyed:
        return [flow for (flow,) in keyed]
    return beginning(c, text)


def beginning(c: sqlite3.Connection, text: str) -> list[Key]:
    """Give flows whose ids begin so."""
    flows: list[Key] = []
    for low, high in ranges(text):
        flows += [flow for (flow,) in c.execute(
            "SELECT flow FROM flow WHERE flow BETWEEN ? AND ? LIMIT ?", (low, high, FOUND_MAX)
        ) if unpacked(flow).startswith(text.lower() if isinstance(flow, bytes) else text)
        ]  # fmt: skip
    return flows[:FOUND_MAX]
