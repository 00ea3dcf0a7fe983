"""The relay: what steps have committed, published, where the store does not do that itself.

A line a partition that deliveries come in on: its rows wait in memory as they were committed,
and are forgotten by the store once the broker has acknowledged them. Memory is only the quick
way. What is in the outbox and not on its way here is read again at a takeover, whenever it is
not known what became of a transaction, and now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import count
from typing import cast

from choreo.errors import BrokerClosedError, BrokerError, ChoreoError
from choreo.events import Partition, Record
from choreo.plan import Change, Owned, Plan, Publish, Sent
from choreo.ports import ORPHANS, Applied, Broker, Outbox, Unsent
from choreo.worker.line import Line
from choreo.worker.pipeline import Pipeline

__all__ = ["Relay"]

log = logging.getLogger("choreo.worker")

PAGE = 1000
FORGET_S = 0.5
"""What was published while nothing is committed is forgotten after this long."""
RETRY_MAX_S = 60.0
SWEEP_MAX_S = 3600.0
Batch = list[tuple[Line, list[Record]]]
Results = Sequence[Applied | BaseException]


class Relay:
    """Publishes in the order of commits, per input partition, beside the next transaction."""

    def __init__(self, pipeline: Pipeline, broker: Broker) -> None:
        """Stand between the pipeline's store and this broker."""
        self._pipeline = pipeline
        self._broker = broker
        self._store = pipeline.store
        self._lines: dict[Owned | None, Line] = {}
        self._tickets = count(1)
        self._first = 0  # the line to begin with, so that none is always the last
        self.waiting = 0
        """How many records are committed, as far as is known here, and not acknowledged."""
        self._work = asyncio.Event()
        self._progress = asyncio.Event()
        self._stirred = asyncio.Event()
        self._sent: list[int] = []  # acknowledged; the store is still to forget them
        self._gone: set[int] = set()  # these, and those that a reading may still find
        self._late: list[int] = []
        self._readings = 0
        self._asking = 0
        self._publishing = self._resting = self._down = self._forgetting = False
        pipeline.apply = self.apply

    @property
    def busy(self) -> bool:
        """Tell whether something goes on that needs no time to pass."""
        return self._publishing or bool(self._asking) or (self._work.is_set() and not self._resting)

    def holds(self, claims: Collection[Owned]) -> bool:
        """Tell whether something of these partitions is on its way."""
        return any(claim in self._lines and self._lines[claim].rows for claim in claims)

    # ── committed ────────────────────────────────────────────────────────────────────────

    async def room(self, deliveries: int) -> None:
        """Wait while too much waits for the broker: `deliveries` stand still meanwhile."""
        if self.waiting < self._pipeline.limits.relay_max:
            return
        with self._pipeline.standing("commit", deliveries):
            while self.waiting >= self._pipeline.limits.relay_max:
                self._progress.clear()
                await self._progress.wait()

    async def apply(
        self, plans: Sequence[Plan], left: Callable[[int], Sequence[Change]] | None = None
    ) -> Results:
        """Have the store write the plans, forget what was published; queue what they publish.

        `left` gives what the section of a plan, by its place, has come to.
        """
        sent, self._sent = self._sent, []
        forget = [Plan(None, (Sent(tuple(sent)),))] if sent else []
        ticket = next(self._tickets)
        if plans:
            self._stirred.set()
        lines = {plan.owned: self._line(plan.owned) for plan in plans}
        for line in lines.values():
            line.open[ticket] = None
        results: Results = ()
        try:
            results = await self._store.apply([*plans, *forget] if sent else plans)
        except Exception:
            self.look(lines)  # before the tickets are given back: nothing overtakes
            raise
        finally:
            if list(results[len(plans) :]) == [Applied.DONE]:
                self._forgotten(sent)
            else:
                self._sent += sent
            for line in lines.values():
                del line.open[ticket]
            self._work.set()  # others may have waited for this ticket
        published = defaultdict[Owned | None, list[Record]](list)
        for index, (plan, result) in enumerate(zip(plans, results, strict=False)):
            if result is Applied.DONE:
                changes = plan.changes
                if plan.section is not None and left is not None:
                    changes = tuple(left(index))
                published[plan.owned] += [c.record for c in changes if type(c) is Publish]
            elif isinstance(result, ChoreoError) and result.transient:
                self.look([plan.owned])
        for claim, records in published.items():
            self._add(lines[claim], ticket, records)
        return results[: len(plans)]

    def _line(self, claim: Owned | None) -> Line:
        line = self._lines.get(claim)
        if line is None:
            line = self._lines[claim] = Line(claim)
            if claim is not None and claim.lost:  # with what was left before: its next owner's
                line.drop()
        return line

    def _add(self, line: Line, ticket: int, records: Iterable[Record]) -> None:
        if not line.dropped:
            self.waiting += line.add(ticket, [r for r in records if r.row not in self._gone])

    # ── read again ───────────────────────────────────────────────────────────────────────

    def gain(self, owned: Owned, claims: Iterable[Owned]) -> None:
        """Begin with what former owners of these partitions have left."""
        lines = {next(iter(claim.epochs)): self._line(claim) for claim in claims}
        if lines:
            self._read(Owned(owned.group, dict(owned.epochs)), lines)

    def look(self, claims: Iterable[Owned | None]) -> None:
        """Read again what is unsent of these partitions; nothing newer overtakes it."""
        groups = defaultdict[str, dict[Partition, Line]](dict)
        for claim in claims:
            if claim is None or claim.lost:
                continue
            line = self._line(claim)
            if line.readings:  # it may have looked already: once more, then
                line.again = True
            else:
                groups[claim.group].update(dict.fromkeys(claim.epochs, line))
        for group, lines in groups.items():
            self._read(Owned(group, dict.fromkeys(lines, 0)), lines)

    def drop(self, claims: Collection[Owned]) -> None:
        """Leave what waits to the partitions' next owners."""
        for claim in claims:
            line = self._lines.pop(claim, None)
            if line is not None:
                self.waiting -= line.drop()
        self._moved()

    async def sweep(self) -> None:
        """Look now and then, whatever may have been missed; less often while nothing happens."""
        pipeline = self._pipeline
        rest_s = pipeline.limits.relay_sweep_s
        while True:
            self._stirred.clear()
            await pipeline.sleep_or(self._stirred, rest_s - pipeline.limits.relay_sweep_s)
            if self._stirred.is_set():
                rest_s = pipeline.limits.relay_sweep_s
            await pipeline.sleep(pipeline.limits.relay_sweep_s)
            rest_s = min(2 * rest_s, SWEEP_MAX_S)
            self._tidy()
            if not self._readings and not self._down:
                self.look(list(self._lines))

    def _tidy(self) -> None:
        """Keep no line of a partition that is another's: one is made for what ends after that."""
        for claim, line in list(self._lines.items()):
            if claim is not None and claim.lost and line.idle:
                del self._lines[claim]

    async def listen(self) -> None:
        """Look at once when others have left something: a caller's own transaction."""
        store = cast("Outbox", self._store)
        while True:
            await self._pipeline.outlasting(store.stirred)
            self.look([claim for claim in self._lines if claim and ORPHANS in claim.epochs])

    def _read(self, owned: Owned, lines: dict[Partition, Line]) -> None:
        self._readings += 1
        for line in lines.values():
            line.readings += 1
        self._pipeline.spawn(self._reading(owned, lines), f"relay reads {owned.group}")

    async def _reading(self, owned: Owned, lines: dict[Partition, Line]) -> None:
        """Queue what is unsent, a page after the other: the next once this one is published."""
        after = 0
        try:
            while True:
                rows = await self._pipeline.outlasting(partial(self._unsent, owned, after))
                found = defaultdict[Partition, list[Record]](list)
                for one in rows:
                    place = one.partition if one.partition in lines else ORPHANS
                    found[place].append(one.record)
                for place, records in found.items():
                    if place in lines:
                        self._add(lines[place], 0, records)
                if len(rows) < PAGE or all(line.dropped for line in lines.values()):
                    break
                after = rows[-1].row
                for line in lines.values():
                    line.reached = max(line.reached, after)
                self._work.set()
                while any(line.holds_up_to(after) for line in lines.values()):
                    self._progress.clear()
                    await self._progress.wait()
        finally:
            self._readings -= 1
            for line in lines.values():
                line.readings -= 1
            self._look_again(lines.values())
            if not self._readings:
                self._gone.difference_update(self._late)
                self._late.clear()
            self._work.set()

    def _look_again(self, lines: Iterable[Line]) -> None:
        claims = [line.claim for line in lines if line.again and not line.dropped]
        for line in lines:
            line.again = False
        if not self._pipeline.stopping:
            self.look(claims)

    async def _unsent(self, owned: Owned, after: int) -> Sequence[Unsent]:
        self._asking += 1
        try:
            return await cast("Outbox", self._store).unsent(owned, after=after, most=PAGE)
        finally:
            self._asking -= 1

    # ── publish ──────────────────────────────────────────────────────────────────────────

    async def publish(self) -> None:
        """Publish what may go, a batch after the other, for as long as the worker runs."""
        while True:
            batch = self._take()
            if not batch:
                await self._idle()
                continue
            self._publishing = True
            try:
                await self._send(batch)
            finally:
                self._publishing = False
            if self._down:
                await self._rest()

    def _take(self) -> Batch:
        now = self._pipeline.clock.elapsed()
        room = self._pipeline.limits.relay_batch
        lines = list(self._lines.values())
        batch: Batch = []
        self._first = (self._first + 1) % max(len(lines), 1)
        for line in (*lines[self._first :], *lines[: self._first]):
            if room and line.waiting and now >= line.retry_at and (records := line.take(room)):
                batch.append((line, records))
                room -= len(records)
        return batch

    async def _idle(self) -> None:
        """Wait for work; meanwhile forget what was published."""
        now = self._pipeline.clock.elapsed()
        delays = [line.retry_at - now for line in self._lines.values() if line.waiting]
        delays = [delay for delay in delays if delay > 0]
        if self._sent and not self._forgetting:
            delays.append(FORGET_S)
        self._work.clear()
        if not delays:
            await self._work.wait()
            return
        await self._pipeline.sleep_or(self._work, min(delays))
        if self._sent and not self._work.is_set() and not self._forgetting:
            self._forgetting = True
            self._pipeline.spawn(self._forget_idle(), "relay forgets")

    async def _send(self, batch: Batch) -> bool:
        """Publish a batch; tell whether it was acknowledged. What was not waits again."""
        records = [record for _, part in batch for record in part]
        try:
            await self._broker.publish(records)
        except BrokerClosedError:
            raise
        except ChoreoError as exc:
            if exc.transient:
                self._put_back(batch)
                self._say_down(exc)
            elif len(batch) > 1:
                await self._send_each([[(line, part)] for line, part in batch], go_on=True)
            elif len(records) > 1:
                line = batch[0][0]
                await self._send_each([[(line, [record])] for record in records], go_on=False)
            else:
                self._refused(batch[0][0], records[0], exc)
            return False
        self._acknowledged(batch)
        return True

    async def _send_each(self, parts: list[Batch], *, go_on: bool) -> None:
        """Find out which part is refused: partitions go on without each other, records do not."""
        stopped = False
        for part in parts:
            if stopped:
                self._put_back(part)
            else:
                stopped = not await self._send(part) and (self._down or not go_on)

    def _acknowledged(self, batch: Batch) -> None:
        if self._down:
            log.warning("the broker answers again: what has waited is published")
        self._down = False
        for line, records in batch:
            line.retry_s = 0.0
            rows = [record.row for record in records]
            line.acknowledged(rows)
            self._sent += rows
            self._gone.update(rows)
            if not line.dropped:
                self.waiting -= len(rows)
        self._moved()

    def _put_back(self, batch: Batch) -> None:
        for line, records in batch:
            line.put_back(records)

    def _refused(self, line: Line, record: Record, error: ChoreoError) -> None:
        """Say it loudly: what comes behind it in its partition waits, all others go on."""
        line.put_back([record])
        line.retry_s = min(max(2 * line.retry_s, self._pipeline.limits.outage_s), RETRY_MAX_S)
        line.retry_at = self._pipeline.clock.elapsed() + line.retry_s
        refused = BrokerError(
            f"the broker refuses a record that a step has left: {error.what}",
            code="CH3006",
            fix=error.fix or "see what the broker says, and correct the topic",
            topic=record.topic,
            id=record.headers.get("ce_id", ""),
        )
        log.error("%s; it is tried again in %g s", refused, line.retry_s)

    def _say_down(self, error: ChoreoError) -> None:
        if not self._down:
            log.warning("the broker does not answer, what steps leave waits for it: %s", error)
        self._down = True

    async def _rest(self) -> None:
        self._resting = True
        try:
            await self._pipeline.sleep(self._pipeline.limits.outage_s)
        finally:
            self._resting = False

    def _moved(self) -> None:
        self._progress.set()

    # ── forget ───────────────────────────────────────────────────────────────────────────

    def _forgotten(self, rows: Sequence[int]) -> None:
        """Note that the store has none of these any more."""
        if self._readings:  # one of them may have looked before
            self._late += rows
        else:
            self._gone.difference_update(rows)

    async def _forget_idle(self) -> None:
        try:
            await self.apply(())
        except ChoreoError as exc:
            if not exc.transient:
                raise
            self._pipeline.say_outage(exc)
        finally:
            self._forgetting = False
            self._work.set()

    async def finish(self, within_s: float) -> None:
        """Have the store forget what was published, and tell what stays in it, at the end."""
        if self._sent:
            try:
                async with asyncio.timeout(within_s):
                    await self.apply(())
            except (ChoreoError, TimeoutError) as exc:  # published again: ids are the same
                log.warning("what was published is not forgotten, and comes again: %s", exc)
        if self.waiting:
            left = BrokerError(
                f"{self.waiting} records could not be published within drain_s",
                code="CH3007",
                fix="nothing is lost: the next start publishes them; look at the broker",
            )
            log.warning("%s", left)
