"""A service's place in a worker: its subscription, chains, watermarks, what is held."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable

from choreo.events import FLOW, ID, SOURCE, Partition, Record, id_bytes, scope_of
from choreo.plan import Owned, Source
from choreo.ports import Subscription
from choreo.step import Compiled, Delivery, Route, want

__all__ = ["Lane", "Slot"]


class Slot:
    """A polled record and how many of its deliveries are not settled."""

    __slots__ = ("left", "offset")

    def __init__(self, offset: int, left: int) -> None:
        """Count `left` deliveries."""
        self.offset = offset
        self.left = left


class Lane:
    """One service in one worker."""

    def __init__(self, compiled: Compiled, subscription: Subscription, owned: Owned) -> None:
        """Begin with what the takeover found parked."""
        self.compiled = compiled
        self.subscription = subscription
        self.owned = owned
        self.name = compiled.service.name
        self.held: Counter[tuple[str, str]] = Counter(owned.held)
        self.running_due: set[tuple[str, bytes]] = set()
        self.next_due: float | None = 0.0
        self.uncommitted = 0
        self._chains: dict[Hashable, Delivery] = {}
        self._open: dict[tuple[str, int], deque[Slot]] = {}
        self._last: dict[tuple[str, int], int] = {}

    def took(self, record: Record, deliveries: int) -> Slot:
        """Note a polled record."""
        place = (record.topic, record.partition)
        self._last[place] = record.offset
        slot = Slot(record.offset, deliveries)
        if deliveries:
            open_slots = self._open.get(place)
            if open_slots is None:
                open_slots = self._open[place] = deque()
            open_slots.append(slot)
        return slot

    def watermarks(self) -> dict[Partition, int]:
        """Give, per partition, the first offset that is not settled."""
        found = {}
        for place, last in self._last.items():
            slots = self._open.get(place)
            while slots and not slots[0].left:
                slots.popleft()
            found[Partition(*place)] = slots[0].offset if slots else last + 1
        return found

    def delivery(self, route: Route, record: Record, subject: bytes, slot: Slot) -> Delivery:
        """Make the delivery of a polled record."""
        source = Source(record.topic, record.partition, record.offset)
        d = Delivery(route, record, subject, source)
        d.owned = self.owned
        d.lane = self
        d.slot = slot
        return d

    # ── chains ───────────────────────────────────────────────────────────────────────────

    def chained(self, d: Delivery) -> bool:
        """Append to the delivery's chain; true if it is first and may run."""
        key = self._chain_key(d)
        if key is None:
            return True
        d.chain = key
        last = self._chains.get(key)
        self._chains[key] = d
        if last is None:
            return True
        last.following = d
        return False

    def unchained(self, d: Delivery) -> Delivery | None:
        """Take a settled delivery out of its chain; give the one that may run now."""
        key = d.chain
        if key is None:
            return None
        following = d.following
        if following is None:
            del self._chains[key]
        else:
            d.following = None
        return following

    @staticmethod
    def _chain_key(d: Delivery) -> Hashable:
        route = d.route
        record = d.record
        if route.state is not None:
            return want(d).state
        if route.chained_by_scope:
            return route.name, scope_of(record.headers)
        if record.key is None or d.seen is not None or d.timer is not None:
            return None
        return route.name, record.topic, record.partition, record.key

    # ── parked ───────────────────────────────────────────────────────────────────────────

    def is_held(self, d: Delivery) -> bool:
        """Tell whether something before it in its chain is parked."""
        return bool(self.held) and d.seen is None and ((d.route.name, d.chain_text()) in self.held)

    def due_at(self, due: float) -> None:
        """Note that something will be due."""
        if self.next_due is None or due < self.next_due:
            self.next_due = due


def subject_of(record: Record) -> bytes:
    """Give a record's id as 16 bytes; one without is known by its place."""
    headers = record.headers
    if ID not in headers:
        headers[ID] = f"{record.topic}-{record.partition}-{record.offset}"
    headers.setdefault(FLOW, headers[ID])
    return id_bytes(headers[ID], headers.get(SOURCE, ""))
