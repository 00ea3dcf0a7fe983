"""One line of the relay: what has come of one partition, in the order of its commits."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Collection, Sequence
from operator import attrgetter, itemgetter

from choreo.events import Record
from choreo.plan import Owned

__all__ = ["Line"]

ROW = attrgetter("row")
FIRST = itemgetter(0)


class Line:
    """Records that wait, by row, and those that are being published.

    A row may go once no earlier transaction of the partition is open any more (`open`: by
    ticket, in the order in which they began), and no reading may bring one from before it.
    What a reading has brought may go at once: rows rise as they are committed.
    """

    __slots__ = (
        "again",
        "claim",
        "dropped",
        "open",
        "reached",
        "readings",
        "retry_at",
        "retry_s",
        "rows",
        "waiting",
    )

    def __init__(self, claim: Owned | None) -> None:
        """Begin empty; `claim` is what its plans stand on."""
        self.claim = claim
        self.again = False  # to be read once more
        self.waiting: deque[tuple[int, int, Record]] = deque()
        self.rows: set[int] = set()  # of all that are on their way
        self.open: dict[int, None] = {}
        self.readings = 0
        self.reached = 0  # every row up to here was read
        self.retry_at = 0.0
        self.retry_s = 0.0
        self.dropped = False

    def add(self, ticket: int, records: Sequence[Record]) -> int:
        """Queue what is not on its way yet; tell how many that are. Ticket 0: they were read."""
        fresh = sorted((one for one in records if one.row not in self.rows), key=ROW)
        if not fresh:
            return 0
        self.rows.update(one.row for one in fresh)
        self._insert([(one.row, ticket, one) for one in fresh])
        return len(fresh)

    def take(self, most: int) -> list[Record]:
        """Take what may go, in order."""
        waiting = self.waiting
        opened = next(iter(self.open), None)
        found: list[Record] = []
        while waiting and len(found) < most:
            row, ticket, record = waiting[0]
            late = self.readings or (opened is not None and ticket > opened)
            if late and row > self.reached:
                break
            waiting.popleft()
            found.append(record)
        return found

    def put_back(self, records: Sequence[Record]) -> None:
        """Queue again what may or may not have been published; as copies.

        A subscriber in this process may have got the record itself, which knows its offset.
        """
        if not self.dropped:
            self._insert([(one.row, 0, _copy(one)) for one in records])

    def acknowledged(self, rows: Collection[int]) -> None:
        """Forget what is on its topic."""
        self.rows.difference_update(rows)

    def holds_up_to(self, row: int) -> bool:
        """Tell whether something up to this row is still on its way."""
        return not self.dropped and any(one <= row for one in self.rows)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, and nothing that was begun can still bring something."""
        return not (self.rows or self.open or self.readings)

    def drop(self) -> int:
        """Take nothing in any more; tell how many were on their way."""
        self.dropped = True
        left = len(self.rows)
        self.waiting.clear()
        return left

    def _insert(self, entries: Sequence[tuple[int, int, Record]]) -> None:
        waiting = self.waiting
        if not waiting or waiting[-1][0] < entries[0][0]:
            waiting.extend(entries)
        elif entries[-1][0] < waiting[0][0]:
            waiting.extendleft(reversed(entries))
        else:
            merged = list(waiting)
            for entry in entries:
                insort(merged, entry, key=FIRST)
            self.waiting = deque(merged)


def _copy(record: Record) -> Record:
    again = Record(record.topic, record.key, dict(record.headers), record.value)
    again.row = record.row
    again.trusted = record.trusted
    return again
