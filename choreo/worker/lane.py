"""A service's place in a worker: its subscription, chains, watermarks, what is held."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable

from choreo.events import BRANCH, CAUSE, FLOW, ID, SOURCE, Partition, Record, id_bytes, scope_of
from choreo.plan import Owned, Source
from choreo.ports import ORPHANS, Subscription
from choreo.step import Compiled, Delivery, Route, want

new = tuple.__new__  # half the time of a NamedTuple's own constructor

__all__ = ["Batch", "Lane", "subject_of"]


class Batch:
    """Records polled at once: how many of their deliveries are not settled, and where it began."""

    __slots__ = ("firsts", "left", "number")

    def __init__(self, left: int = 0) -> None:
        """Count `left` deliveries."""
        self.left = left
        self.number = 0
        self.firsts: dict[tuple[str, int], int] = {}


class Lane:
    """One service in one worker."""

    subscription: Subscription

    def __init__(self, compiled: Compiled) -> None:
        """Begin with no partition."""
        self.compiled = compiled
        self.name = compiled.service.name
        self.key = self.name.encode()
        self.owned = Owned(self.name, {})
        self.owned.topics = frozenset(compiled.topics)
        self.claims: dict[tuple[str, int], Owned] = {}
        self.held: Counter[tuple[str, str]] = Counter()
        self.running_due: set[tuple[str, bytes]] = set()
        self.others_due: set[tuple[str, bytes]] = set()  # of these, what is another member's
        self.next_due: float | None = 0.0
        self.uncommitted = False
        self.due_added = asyncio.Event()
        self._chains: dict[Hashable, Delivery] = {}  # the last of each
        self._long: dict[Hashable, int] = {}  # how many there are, where more than one
        self._open: deque[Batch] = deque()
        self._last: dict[tuple[str, int], int] = {}
        self._dropped: list[Delivery] = []
        self._batches = 0
        self.careful: dict[tuple[str, int], int] = {}  # after how many crashes
        self.suspect: Callable[[Delivery], None] = lambda _: None

    # ── partitions ───────────────────────────────────────────────────────────────────────

    def gain(self, owned: Owned) -> None:
        """Go on with partitions that are ours now."""
        for partition, epoch in owned.epochs.items():
            self.owned.epochs[partition] = epoch
            self.claims[partition] = owned.only(partition)
        for chain, parked in Counter(owned.held).items():
            self.held[chain] = parked
        self.running_due -= self.others_due
        self.others_due.clear()
        self.due_at(0.0)
        self.due_added.set()

    def lose(self, partitions: Collection[Partition]) -> list[Owned]:
        """Take nothing new of these partitions; give the claims that may have something open."""
        lost = []
        for partition in partitions:
            if self.owned.epochs.pop(partition, None) is not None:
                claim = self.claims.pop(partition)
                claim.lost = True
                lost.append(claim)
            self.careful.pop(partition, None)
            prefix = f"{partition.topic}/{partition.number}/"
            for chain in [chain for chain in self.held if chain[1].startswith(prefix)]:
                del self.held[chain]
        return lost

    def forget(self, partitions: Collection[Partition]) -> None:
        """Keep no book of these partitions any more; they have been committed."""
        places = frozenset(partitions)
        for place in places:
            self._last.pop(place, None)
            for batch in self._open:
                batch.firsts.pop(place, None)
        kept = []
        for d in self._dropped:
            if (d.source.topic, d.source.partition) in places:
                d.batch.left -= 1
            else:
                kept.append(d)
        self._dropped = kept

    def drop(self, d: Delivery) -> None:
        """Leave a delivery to the partition's next owner: its offset may not be passed."""
        if d.source[:2] in d.batch.firsts:
            self._dropped.append(d)
        else:  # it came from a row, or its partition has been forgotten
            d.batch.left -= 1
        if d.due_key is not None:
            self.running_due.discard(d.due_key)
            if d.owned is not None and d.owned.lost:  # its row may be ours again by now
                self.due_at(0.0)
                self.due_added.set()

    def claim_of(self, source: Source) -> Owned | None:
        """Give what a delivery stands on; None when its partition is not ours.

        Where nobody is who had it, another member is given it soon, and publishes first what was
        left there to be published: only what comes of a topic that the service has no more is
        for whoever has ORPHANS.
        """
        claim = self.claims.get(source[:2])
        if claim is None and source.topic not in self.owned.topics:
            claim = self.claims.get(ORPHANS)
        return claim

    # ── watermarks ───────────────────────────────────────────────────────────────────────

    def took(self, record: Record, batch: Batch) -> Owned | None:
        """Note a polled record; give its partition's claim, None if that is not ours any more."""
        place = (record.topic, record.partition)
        claim = self.claims.get(place)
        if claim is not None:
            self._last[place] = record.offset
            if place not in batch.firsts:
                batch.firsts[place] = record.offset
        return claim

    def arrived(self, batch: Batch) -> None:
        """Note a batch; its deliveries are counted now."""
        self.uncommitted = True
        if batch.left:
            self._batches += 1
            batch.number = self._batches
            self._open.append(batch)

    def mark(self) -> tuple[int, frozenset[tuple[str, bytes]]]:
        """Say how far we are: batches that came, parked deliveries that run."""
        return self._batches, frozenset(self.running_due - self.others_due)

    def beyond(self, mark: tuple[int, frozenset[tuple[str, bytes]]]) -> bool:
        """Tell whether all that was on its way at `mark` is settled."""
        batches, running = mark
        settled = not any(batch.left and batch.number <= batches for batch in self._open)
        return settled and self.running_due.isdisjoint(running)

    def watermarks(self) -> dict[Partition, int]:
        """Give, per partition, an offset before which all is settled."""
        while self._open and not self._open[0].left:
            self._open.popleft()
        found = {Partition(*place): last + 1 for place, last in self._last.items()}
        for batch in reversed(self._open):
            if batch.left:
                for place, first in batch.firsts.items():
                    found[Partition(*place)] = first
        return found

    def delivery(
        self, route: Route, record: Record, subject: bytes, claim: Owned, batch: Batch
    ) -> Delivery:
        """Make the delivery of a polled record."""
        source = new(Source, (record.topic, record.partition, record.offset))
        d = Delivery(route, record, subject, source)
        d.owned = claim
        claim.open += 1
        d.lane = self
        d.batch = batch
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
        self._long[key] = self._long.get(key, 1) + 1
        return False

    def unchained(self, d: Delivery) -> Delivery | None:
        """Take a settled delivery out of its chain; give the one that may run now."""
        key = d.chain
        if key is None:
            return None
        following = d.following
        if following is None:
            del self._chains[key]
            if self._long:
                self._long.pop(key, None)
        else:
            d.following = None
            self._long[key] -= 1
        return following

    def length(self, d: Delivery) -> int:
        """Give how many are in the chain of `d`."""
        return self._long.get(d.chain, 1)

    def followers(self, d: Delivery) -> list[Delivery]:
        """Cut off all that wait behind `d` in its chain, in order."""
        found: list[Delivery] = []
        if d.following is None:
            return found
        self._chains[d.chain] = d
        del self._long[d.chain]
        one: Delivery | None = d.following
        d.following = None
        while one is not None:
            found.append(one)
            one.chain = None
            following, one.following = one.following, None
            one = following
        return found

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

    def hold(self, d: Delivery) -> None:
        """Note that a delivery is parked; not of a partition that is not ours any more."""
        chain = d.chain_text()
        if chain and d.owned is not None and not d.owned.lost:
            self.held[d.route.name, chain] += 1

    def let_go(self, chain: tuple[str, str]) -> bool:
        """Note that one less is parked in a chain; true if others are."""
        self.held[chain] -= 1
        if self.held[chain] > 0:
            return True
        del self.held[chain]
        return False

    def due_at(self, due: float) -> None:
        """Note that something will be due."""
        if self.next_due is None or due < self.next_due:
            self.next_due = due


def subject_of(record: Record) -> bytes:
    """Give a record's id as 16 bytes; one without is known by its place."""
    if record.raw_id:
        return record.raw_id
    headers = record.headers
    for name in (ID, FLOW, CAUSE, BRANCH):
        text = headers.get(name, "")
        if not text.isascii():  # bytes that are no UTF-8 are no key of any table
            headers[name] = text.encode("utf-8", "backslashreplace").decode()
    if not headers.get(ID):
        headers[ID] = f"{record.topic}-{record.partition}-{record.offset}"
    if not headers.get(FLOW):
        headers[FLOW] = headers[ID]
    return id_bytes(headers[ID], headers.get(SOURCE, ""))
