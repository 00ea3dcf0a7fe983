"""The way in: poll records into chains, take what is due, look up what is first of its chain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from choreo.codec import binary_mode
from choreo.errors import DecodeError
from choreo.events import CONTROL_TOPIC, EDITED, TYPE, VOID, Record
from choreo.ports import Due
from choreo.step import (
    Delivery,
    Role,
    before_run,
    parked_behind,
    payload_hash,
    route_of,
    thawed,
    unfrozen_records,
    want,
)
from choreo.worker.lane import Batch, Lane, subject_of
from choreo.worker.pipeline import Pipeline

__all__ = ["Intake"]

log = logging.getLogger("choreo.worker")


class Intake:
    """Feeds the pipeline."""

    def __init__(self, pipeline: Pipeline, fail: Callable[[Delivery, BaseException], None]) -> None:
        """`fail` decides on a delivery whose bytes can not be read."""
        self._pipeline = pipeline
        self._fail = fail

    # ── poll ─────────────────────────────────────────────────────────────────────────────

    async def poll(self, lane: Lane) -> None:
        """Take records for as long as the subscription gives any."""
        pipeline = self._pipeline
        poll = partial(lane.subscription.poll, pipeline.limits.poll_max)
        codec = lane.compiled.codec
        while records := await pipeline.outlasting(poll):
            if codec.learns:
                await codec.learn(records)
            self._arrive(lane, records)
            await pipeline.wait_for_room()

    def _arrive(self, lane: Lane, records: Sequence[Record]) -> None:
        pipeline = self._pipeline
        by_type = lane.compiled.by_type
        careful = lane.careful
        batch = Batch()
        added = 0
        for polled in records:
            record = polled
            readable = True
            if TYPE not in record.headers:
                record, readable = _unwrapped(record)
            headers = record.headers
            claim = lane.took(record, batch)
            if claim is None:  # revoked since it was polled
                continue
            if readable:
                routes = by_type.get(headers.get(TYPE, ""), ())
            else:
                routes = (lane.compiled.unreadable,)
            if not routes or VOID in headers or EDITED in headers:
                continue
            if record.topic == CONTROL_TOPIC and record.key != lane.key:
                continue  # asked of another service
            subject = subject_of(record)
            hashed = payload_hash(record.value)
            for route in routes:
                d = lane.delivery(route, record, subject, claim, batch)
                d.payload_hash = hashed
                added += 1
                if careful and _is_suspect(lane, d):
                    lane.suspect(d)
                    continue
                if not _first_of_chain(lane, d):
                    pipeline.behind += 1
                    continue
                if route.unseen and record.fresh and not lane.held:
                    pipeline.ready.append(d)  # published for the first time: no row can be there
                else:
                    pipeline.fresh.append(d)
        batch.left += added
        pipeline.in_flight += added
        lane.arrived(batch)
        pipeline.moved.set()
        if pipeline.fresh:
            pipeline.fresh_added.set()
        pipeline.wake_runner()

    # ── due ──────────────────────────────────────────────────────────────────────────────

    async def due(self, lane: Lane) -> None:
        """Take parked deliveries and timers when their time has come."""
        pipeline = self._pipeline
        most = pipeline.limits.batch_max
        codec = lane.compiled.codec
        while not pipeline.stopping:
            lane.due_added.clear()
            lane.next_due = None
            rows, after = await pipeline.outlasting(
                partial(pipeline.store.due, lane.owned, skip=lane.running_due, most=most)
            )
            if codec.learns:
                kept = [record for row in rows for record in unfrozen_records(row.payload)]
                await codec.learn(kept)
            for row in rows:
                self._take_due(lane, row)
            if after is not None:
                lane.due_at(after)
            if len(rows) == most:
                await pipeline.wait_for_room()
            else:
                await self._until_due(lane)

    async def _until_due(self, lane: Lane) -> None:
        """Wait for the next due time. Where others share the group they may add what is due."""
        sweep_s = self._pipeline.limits.sweep_s if lane.subscription.shared else None
        if lane.next_due is None and sweep_s is None:
            await lane.due_added.wait()
            return
        delays = [] if sweep_s is None else [sweep_s]
        if lane.next_due is not None:
            delays.append(lane.next_due - self._pipeline.clock.now())
        if min(delays) > 0:
            await self._pipeline.sleep_or(lane.due_added, min(delays))

    def _take_due(self, lane: Lane, row: Due) -> None:
        claim = lane.claim_of(row.source)
        due_key = (row.handler, row.subject)
        if due_key in lane.running_due:  # it has begun since the rows were read
            return
        lane.running_due.add(due_key)
        if claim is None:
            lane.others_due.add(due_key)
            return
        route = route_of(lane.compiled.by_name, row.handler, lane.compiled.former)
        if route is None:
            log.error(
                "CH1013 a delivery is parked for %s, which this service does not have."
                " Fix: name the handler so again, or give the new one was=",
                row.handler,
            )
            return
        d = thawed(route, row, claim)
        claim.open += 1
        d.lane = lane
        d.batch = Batch(left=1)
        d.due_key = due_key
        self._pipeline.in_flight += 1
        if lane.careful and _is_suspect(lane, d):
            lane.suspect(d)
        elif _first_of_chain(lane, d):
            self._pipeline.load(d)
        else:
            self._pipeline.behind += 1

    # ── load ─────────────────────────────────────────────────────────────────────────────

    async def load(self) -> None:
        """Look up, in bulk, what is first of its chain; decide what needs no handler."""
        pipeline = self._pipeline
        fresh = pipeline.fresh
        while True:
            while not fresh:
                pipeline.fresh_added.clear()
                await pipeline.fresh_added.wait()
            count = min(len(fresh), pipeline.limits.batch_max)
            await self._load([fresh.popleft() for _ in range(count)])

    async def _load(self, batch: list[Delivery]) -> None:
        pipeline = self._pipeline
        wants = []
        loading = []
        for d in batch:
            if d.owned.lost:  # type: ignore[union-attr]
                pipeline.drop(d)
                continue
            try:
                wants.append(want(d))
            except Exception as exc:  # noqa: BLE001 - bytes that no decision can be made on
                self._fail(d, _undecided(exc))
            else:
                loading.append(d)
        load = partial(pipeline.store.load, wants)
        found = await pipeline.outlasting(load, loop="load", waiting=len(wants))
        now = pipeline.clock.now()
        for d, seen in zip(loading, found, strict=True):
            d.loaded = seen
            if d.route.memos:
                d.recall(seen.memos)
            try:
                plan = before_run(d, seen, now)
            except Exception as exc:  # noqa: BLE001 - bytes that no decision can be made on
                self._fail(d, _undecided(exc))
                continue
            if plan is not None:
                pipeline.finish(d, plan)
            elif d.lane.is_held(d):
                pipeline.finish(d, parked_behind(d, now))
            else:
                pipeline.ready.append(d)
        pipeline.wake_runner()


def _undecided(error: Exception) -> DecodeError:
    """What can not be decided now can not be decided later: it becomes a dead letter."""
    if isinstance(error, DecodeError):
        return error
    return DecodeError(
        f"nothing can be decided on it: {type(error).__name__}: {error}",
        fix="correct the record, or the classes that it is read as",
    )


def _unwrapped(record: Record) -> tuple[Record, bool]:
    """Give a record that does not name its type in binary mode, and whether it is an event."""
    try:
        return binary_mode(record), True
    except DecodeError:
        return record, False


def _is_suspect(lane: Lane, d: Delivery) -> bool:
    return d.route.role is Role.HANDLE and d.source[:2] in lane.careful


def _first_of_chain(lane: Lane, d: Delivery) -> bool:
    try:
        return lane.chained(d)
    except Exception:  # noqa: BLE001 - bytes without a key: told when it is loaded
        return True
