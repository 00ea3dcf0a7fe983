"""Commit: all that is finished in one transaction, then the next of each chain."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from choreo.errors import (
    ChoreoError,
    DecodeError,
    FencedError,
    StoreConflictError,
    StoreError,
)
from choreo.plan import Change, Owned, Plan, SetTimer, Settle
from choreo.ports import UNWRITTEN, Applied, Seen, Want
from choreo.step import NOT_RUN, Delivery, MoreGates, StepVoid, after_run, before_run, want
from choreo.worker.lane import Lane
from choreo.worker.pipeline import Pipeline
from choreo.worker.relay import Relay
from choreo.worker.runners import Runners

__all__ = ["Committer"]

log = logging.getLogger("choreo.worker")
REVOKED_WITHIN_S = 15.0
CONFLICT_S = 0.02
"""Until a step is run again that wanted the rows of another process."""

USELESS = frozenset(("CH4003", "CH4009"))
"""What makes a store useless for good: its file is damaged, or gone."""


Group = Sequence[tuple[Delivery | None, Plan]]


class Committer:
    """Writes plans, in groups as large as the store is slow, and keeps book of the result."""

    def __init__(self, pipeline: Pipeline, runners: Runners, relay: Relay | None) -> None:
        """`runners` decide on attempts that fail inside the transaction."""
        self._pipeline = pipeline
        self._runners = runners
        self._relay = relay
        self._fenced: set[Owned] = set()
        pipeline.settled = self._settled
        pipeline.drop = self._drop
        pipeline.decide_again = self._look_and_decide

    async def commit(self) -> None:
        """Write what is finished. Two of these run, so that one prepares while one waits."""
        pipeline = self._pipeline
        finished = pipeline.finished
        most = pipeline.limits.batch_max
        while True:
            while not finished:
                pipeline.finished_added.clear()
                await pipeline.finished_added.wait()
            if len(finished) <= most:
                group = list(finished)
                finished.clear()
            else:
                group = [finished.popleft() for _ in range(most)]
            waiting = sum(d is not None for d, _ in group)
            if self._relay is not None:
                await self._relay.room(waiting)
            apply = partial(self._applied, group)
            results = await pipeline.outlasting(apply, loop="commit", waiting=waiting)
            if Applied.DONE in results:  # also after an error of one plan, for which no loop waited
                pipeline.say_back("store")
            for (d, plan), result in zip(group, results, strict=True):
                if d is None:
                    continue
                if result is Applied.DONE:
                    self._committed(d, d.changes if plan.section else plan.changes)
                else:
                    self._not_applied(d, plan, result)
            if pipeline.fresh:
                pipeline.fresh_added.set()

    async def _applied(self, group: Group) -> Sequence[Applied | BaseException]:
        """Ask the store; raises when all can be asked for again: no section has run."""
        plans = [plan for _, plan in group]
        once_only = any(plan.section for plan in plans)
        try:
            if self._relay is None:
                results = await self._pipeline.store.apply(plans)
            else:
                results = await self._relay.apply(plans, partial(_left, group))
        except ChoreoError as exc:
            if not exc.transient or not once_only:
                raise
            return [exc] * len(plans)
        useless = (r for r in results if isinstance(r, StoreError) and r.code in USELESS)
        if (why := next(useless, None)) is not None:
            raise why  # trying again would go on for ever
        down = [r for r in results if isinstance(r, ChoreoError) and r.transient]
        if down and len(down) == len(results) and not once_only:
            raise down[0]
        return results

    # ── what did not work ────────────────────────────────────────────────────────────────

    def _not_applied(self, d: Delivery, plan: Plan, result: Applied | BaseException) -> None:
        if result is Applied.STALE:
            self._drop(d)
        elif result is Applied.DUPLICATE:
            self._pipeline.spawn(self._look_what_became(d), "look what became")
        elif isinstance(result, MoreGates):
            self._runners.look_again(d, result)
        elif isinstance(result, ChoreoError) and _not_the_handlers(plan, result):
            self._pipeline.spawn(self._write_again(d, plan, result), "write again")
        elif result is Applied.CONFLICT or isinstance(result, StepVoid):
            self._changed(d, plan)
        else:
            assert isinstance(result, BaseException), result
            self._pipeline.spawn(self._runners.undo_and_fail(d, result), "fail")

    async def _look_what_became(self, d: Delivery) -> None:
        """It was settled before: perhaps by this very plan, whose answer was lost.

        What is parked or due by it has to be known all the same.
        """
        pipeline = self._pipeline
        look = partial(pipeline.store.load, [Want(d.name, d.subject)])
        (seen,) = await pipeline.outlasting(look, waiting=1)
        fresh = d.seen is None and d.timer is None and not d.looked_again
        if fresh and seen.status is not None and seen.source != d.source:
            d.looked_again = True  # another record of this id: is it the same event?
            self._look_and_decide(d)
            return
        self._found(d.lane, d, holds=seen.kept is not None and bool(seen.kept.chain))
        d.simple = True
        self._read_what_it_left(d)
        self._committed(d, ())

    def _read_what_it_left(self, d: Delivery) -> None:
        """Its records may wait in the outbox: they go before what follows in its chain."""
        if self._relay is not None:
            self._relay.look([d.owned])

    async def _write_again(self, d: Delivery, plan: Plan, error: Exception) -> None:
        """What the store could not write is no failure of the handler: it costs no attempt."""
        pipeline = self._pipeline
        delay_s = pipeline.limits.outage_s
        if isinstance(error, StoreConflictError):
            delay_s = CONFLICT_S  # the store answers, and has written nothing
        elif isinstance(error, ChoreoError) and error.transient:
            pipeline.say_outage(error)
            d.doubted = True
        else:
            log.error("%s could not be recorded, it is tried again: %s", d.route.name, error)
        await pipeline.put_off(delay_s)
        if plan.section is not None:
            pipeline.load(d)
        else:
            pipeline.finish(d, plan)

    def _changed(self, d: Delivery, plan: Plan) -> None:
        """A gate, state or memo changed since it was seen.

        The handler is run again only where its result stands on what changed.
        """
        stands_on_it = plan.section is not None or d.route.state is not None
        if d.error is None and (stands_on_it or d.result is NOT_RUN):
            self._pipeline.load(d)
        else:
            self._look_and_decide(d)

    def _look_and_decide(self, d: Delivery) -> None:
        self._pipeline.spawn(self._decide_again(d), "decide again")

    async def _decide_again(self, d: Delivery) -> None:
        """Look, and decide again on what the handler did."""
        pipeline = self._pipeline
        if d.writing is not None:
            d.writing = partial(self._look_and_decide, d)
            return
        load = partial(pipeline.store.load, [want(d)])
        (d.loaded,) = await pipeline.outlasting(load, waiting=1)
        if d.route.memos:
            d.memos = dict(d.loaded.memos)
        now = pipeline.clock.now()
        try:
            again = before_run(d, d.loaded, now)
        except DecodeError as exc:
            self._runners.fail(d, exc)
            return
        if again is not None:
            pipeline.finish(d, again)
        elif d.error is not None:
            self._runners.fail(d, d.error)
        else:
            try:
                plan = after_run(d, d.loaded, d.result, now, flow=d.flow, state=d.state)
            except MoreGates as more:
                d.see_more(more.keys)
                self._look_and_decide(d)
            except Exception as exc:  # noqa: BLE001 - as if the handler had raised it
                await self._runners.undo_and_fail(d, exc)
            else:
                pipeline.finish(d, plan)

    # ── what did ─────────────────────────────────────────────────────────────────────────

    def _settled(self, d: Delivery) -> None:
        """End a delivery that left nothing to write."""
        if d.doubted:
            self._read_what_it_left(d)
        self._committed(d, ())

    def _committed(self, d: Delivery, changes: Sequence[Change]) -> None:
        """Let the chain go on, and count the delivery's batch down."""
        lane: Lane = d.lane
        if not d.simple:
            self._noted(lane, d, changes)
        d.batch.left -= 1
        if not lane.uncommitted:
            lane.uncommitted = True
            self._pipeline.moved.set()
        self._ended(lane, d)

    def _drop(self, d: Delivery) -> None:
        """Leave a delivery to the process that has its partition now."""
        if d.writing is not None:
            d.writing = partial(self._drop, d)
            return
        lane: Lane = d.lane
        lane.drop(d)
        if d.owned is not None and not d.owned.lost and d.owned not in self._fenced:
            self._fenced.add(d.owned)
            self._pipeline.spawn(self._until_revoked(d.owned), "fenced")
        self._ended(lane, d)

    async def _until_revoked(self, claim: Owned) -> None:
        """The store says that a partition is another one's: soon the broker has to say so, too."""
        await self._pipeline.sleep(REVOKED_WITHIN_S)
        self._fenced.discard(claim)
        if not claim.lost:
            raise FencedError(
                "another process has taken a partition over that the broker says is ours",
                fix="give each deployment a broker and a store of its own; then start again",
                service=claim.group,
                partition=", ".join(f"{p.topic}-{p.number}" for p in claim.epochs),
            )

    def _ended(self, lane: Lane, d: Delivery) -> None:
        pipeline = self._pipeline
        following = lane.unchained(d)
        if following is not None and not pipeline.stopping:  # else it comes at the next start
            pipeline.behind -= 1
            pipeline.load(following)
        d.owned.open -= 1  # type: ignore[union-attr]
        pipeline.in_flight -= 1
        if d.spilled:
            pipeline.spilled -= 1
        if pipeline.crowded:
            pipeline.make_room()

    @staticmethod
    def _found(lane: Lane, d: Delivery, *, holds: bool) -> None:
        """Keep book of a delivery as it stands in the store, whoever wrote it."""
        if d.due_key is not None:
            lane.running_due.discard(d.due_key)
        if d.owned is None or d.owned.lost:
            return
        chain = (d.route.name, d.chain_text())
        if chain[1] and holds and d.seen is None:
            lane.held[chain] += 1
        elif chain[1] and not holds and d.seen is not None:
            lane.let_go(chain)
        lane.due_at(0.0)
        lane.due_added.set()

    @staticmethod
    def _noted(lane: Lane, d: Delivery, changes: Sequence[Change]) -> None:
        """Keep book of what is parked and due."""
        if d.due_key is not None:
            lane.running_due.discard(d.due_key)
        if d.owned is None or d.owned.lost:
            return
        chain = (d.route.name, d.chain_text())
        own = _own_settle(changes)
        dues = [
            change.parked.due
            for change in changes
            if type(change) is Settle and change.parked and change.parked.due is not None
        ]
        dues += [change.due for change in changes if type(change) is SetTimer]
        if d.timer is not None and not changes:
            dues.append(0.0)  # set anew while it fired, perhaps for this very moment: look again
        parked = own.parked if own is not None and own.holds else None
        if chain[1] and d.seen is None and parked is not None:
            if parked.due is None:
                dues.append(0.0)  # what it was to wait for may have been settled meanwhile
            lane.held[chain] += 1
        elif chain[1] and d.seen is not None and own is not None and parked is None:
            dues += [0.0] if lane.let_go(chain) else []  # the store let the next one go
        if d.loaded.target is not None:
            dues += _of_target(lane, d.loaded.target, changes)
        if dues:
            lane.due_at(min(dues))
            lane.due_added.set()

    # ── offsets ──────────────────────────────────────────────────────────────────────────

    async def offsets(self, lanes: Sequence[Lane]) -> None:
        """Commit watermarks, now and then: the inbox makes it safe to be late."""
        pipeline = self._pipeline
        while True:
            pipeline.moved.clear()
            if not any(lane.uncommitted for lane in lanes):
                await pipeline.moved.wait()
            await pipeline.sleep(pipeline.limits.commit_every_s)
            for lane in lanes:
                if lane.uncommitted:
                    lane.uncommitted = False
                    marks = lane.watermarks()
                    await pipeline.outlasting(partial(lane.subscription.commit, marks))


def _left(group: Group, index: int) -> Sequence[Change]:
    """Give what the section of a delivery came to."""
    d = group[index][0]
    return () if d is None else d.changes


def _of_target(lane: Lane, target: Seen, changes: Sequence[Change]) -> list[float]:
    """Keep book of the dead letter that an operator had run again, edited or discarded."""
    chain = "" if target.kept is None else target.kept.chain
    if not chain or target.source is None or lane.claim_of(target.source) is None:
        return []
    dues: list[float] = []
    for change in changes:
        if type(change) is Settle and change.spawn:
            lane.held[change.handler, chain] += 1
        elif type(change) is Settle and change.dead and not change.holds:
            dues += [0.0] if lane.let_go((change.handler, chain)) else []
    return dues


def _not_the_handlers(plan: Plan, error: ChoreoError) -> bool:
    return plan.section is None or error.transient or error.code == UNWRITTEN


def _own_settle(changes: Sequence[Change]) -> Settle | None:
    """Give what these changes make of the delivery itself; it may have ended before."""
    for change in changes:
        if type(change) is Settle and not change.spawn:
            return change
    return None
