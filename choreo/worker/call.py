"""Running a handler: its arguments, its Tx, its outside calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from choreo.context import UNDO, Context, Failure, State
from choreo.errors import FencedError, StoreConflictError
from choreo.events import TYPE, derived_id, id_text
from choreo.plan import Change, Memo, Plan, Remember
from choreo.ports import Applied, Clock, Row, Seen, Store, Tx
from choreo.service import Kind, Param, ParamKind
from choreo.step import Delivery, StepVoid, after_run, before_run, claim, final, intent, want
from choreo.step.publish import flow_of
from choreo.telemetry import CURRENT, nobody
from choreo.worker.threads import Threads

__all__ = ["Caller"]

CONFLICTS_MAX = 50


class _Move:
    """What a handler's coroutine yields when it wants to go on inside the transaction."""

    def __await__(self) -> Generator[object, None, None]:
        yield self


MOVE = _Move()


class _MovingTx:
    """The handler's Tx: its first statement moves the handler into the store's transaction."""

    __slots__ = ("_context", "_real")

    def __init__(self, context: Context | None) -> None:
        self._real: Tx | None = None
        self._context = context

    def bind(self, real: Tx) -> None:
        self._real = real

    async def _tx(self) -> Tx:
        if self._real is None:
            if self._context is not None:
                self._context.tx_opened()
            await MOVE
        assert self._real is not None
        return self._real

    async def execute(self, sql: str, *values: object) -> int:
        tx = self._real or await self._tx()
        return await tx.execute(sql, *values)

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        tx = self._real or await self._tx()
        return await tx.fetch(sql, *values)

    async def fetchval(self, sql: str, *values: object) -> Any:
        tx = self._real or await self._tx()
        return await tx.fetchval(sql, *values)


class _UntilTx:
    """Await a handler's coroutine to its end, or to the first statement of its Tx.

    Awaited again, it goes on from there.
    """

    __slots__ = ("coroutine", "moved")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.moved = False

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self.coroutine
        try:
            waits_for = coroutine.send(None)
            while True:
                if waits_for is MOVE:
                    self.moved = True
                    return None
                try:
                    sent = yield waits_for
                except BaseException as exc:  # noqa: BLE001 - it is the handler's to catch
                    waits_for = coroutine.throw(exc)
                else:
                    waits_for = coroutine.send(sent)
        except StopIteration as stop:
            return stop.value


class Caller:
    """Calls handlers on behalf of a worker."""

    def __init__(
        self, store: Store, clock: Clock, rng: random.Random, *, threads: bool = True
    ) -> None:
        """Share what the worker has. Without `threads` sync handlers run on the loop."""
        self._store = store
        self._clock = clock
        self._rng = rng
        self._threads = Threads() if threads else None

    def draw(self) -> float:
        """Draw a number in [0, 1), by which retries are spread."""
        return self._rng.random()

    def close(self) -> None:
        """Wait for no thread."""
        if self._threads is not None:
            self._threads.close()

    async def run(self, d: Delivery, begun: float) -> Plan:
        """Run the handler of `d`; raises what it raises. `begun` by `clock.elapsed`."""
        route = d.route
        if route.unseen and route.pair:  # nothing else to be made: straight on
            pair = _MovingTx(None)
            called = route.handler.fn(self._event(d, 0), pair)
            return await self._in_tx(d, None, pair, called, begun)
        context = self._context(d) if route.context else None
        tx = _MovingTx(context) if route.tx else None
        state = self._state(d) if route.state is not None else None
        arguments = self._arguments(d, context, tx, state)
        fn = route.handler.fn
        d.state = state
        d.context = context
        if route.handler.signature.sync:
            result = await self._in_thread(fn, arguments)
        elif tx is None:
            result = await fn(*arguments)
        else:
            return await self._in_tx(d, context, tx, fn(*arguments), begun)
        return self._decided(d, context, result, begun)

    async def _in_tx(
        self,
        d: Delivery,
        context: Context | None,
        tx: _MovingTx,
        coroutine: Coroutine[Any, Any, Any],
        begun: float,
    ) -> Plan:
        """Run a handler up to its Tx's first statement; the rest is the plan's section."""
        until = _UntilTx(coroutine)
        result = await until
        if until.moved:
            return self._section(d, context, tx, until, begun)
        return self._decided(d, context, result, begun)

    def _decided(self, d: Delivery, context: Context | None, result: object, begun: float) -> Plan:
        if context is not None:
            context.go_on()
        d.took = self._clock.elapsed() - begun
        d.result = result
        d.flow = context.flow_id if context is not None else None
        return after_run(d, d.loaded, result, self._clock.now(), flow=d.flow, state=d.state)

    def _section(
        self,
        d: Delivery,
        context: Context | None,
        tx: _MovingTx,
        handler: _UntilTx,
        begun: float,
    ) -> Plan:
        unseen = claim(d)

        async def section(real: Tx, seen: Seen) -> tuple[Change, ...]:
            plan = None if unseen else before_run(d, seen, self._clock.now())
            if plan is not None:
                handler.coroutine.close()
                d.changes = plan.changes
                return plan.changes
            if d.state is not None and seen.state != d.loaded.state:
                handler.coroutine.close()
                raise StepVoid  # the state has changed since the handler was given it: again
            tx.bind(real)
            d.loaded = seen
            CURRENT.set(lambda: d)  # in the store's thread
            try:
                result = await handler
            finally:
                CURRENT.set(nobody)
            d.changes = self._decided(d, context, result, begun).changes
            return d.changes

        return Plan(d.owned, unseen, section, want(d))

    # ── arguments ────────────────────────────────────────────────────────────────────────

    def _arguments(
        self, d: Delivery, context: Context | None, tx: Tx | None, state: State | None
    ) -> list[Any]:
        given: list[Any] = []
        route = d.route
        gathered = Kind.JOIN in (route.handler.kind, route.handler.of and route.handler.of.kind)
        events = 0
        for param in route.handler.signature.params:
            kind = param.kind
            if kind is ParamKind.EVENT:
                given.append(self._gathered(d, param) if gathered else self._event(d, events))
                events += 1
            elif kind is ParamKind.CONTEXT:
                given.append(context)
            elif kind is ParamKind.TX:
                given.append(tx)
            elif kind is ParamKind.STATE:
                given.append(state)
            elif kind is ParamKind.FAILURE:
                given.append(self._failure(d))
            else:
                given.append(route.resources[param.of])  # type: ignore[index]
        return given

    @staticmethod
    def _event(d: Delivery, index: int) -> Any:
        """Give the subject, then what triggered its undo."""
        if index == 0:
            return d.route.decode(d.route.views[d.record.headers[TYPE]], d.record)
        why = d.extras["why"]
        views = {event.__event__.type: event for event in d.route.handler.on}
        return d.route.decode(views[why.headers[TYPE]], why)

    @staticmethod
    def _gathered(d: Delivery, param: Param) -> Any:
        views = {event.__event__.type: event for event in param.events}
        for record in d.extras.values():
            if record.headers[TYPE] in views:
                return d.route.decode(views[record.headers[TYPE]], record)
        return None

    @staticmethod
    def _failure(d: Delivery) -> Failure:
        why = d.failure or {}
        return Failure(
            str(why.get("reason", "")),
            str(why.get("error", "")),
            str(why.get("message", "")),
            int(why.get("attempts", 0)),
        )

    @staticmethod
    def _state(d: Delivery) -> State:
        kind = d.route.state
        assert kind is not None
        assert issubclass(kind, State)
        seen = d.loaded.state
        if seen is not None and seen.value is not None:
            return kind.from_stored(seen.value)
        return kind.model_validate({kind.__key__: want(d).state[1]})  # type: ignore[index]

    def _context(self, d: Delivery) -> Context:
        handler = d.route.handler.of or d.route.handler
        named = handler.name if d.route.handler.of else d.name
        for state, kept in d.memos.values():  # renamed with a call under way: its key stays
            if state is Memo.INTENT and kept:
                named = kept.decode()
        key = id_text(derived_id(d.subject, f"{d.call_prefix}{named}".encode()))
        return Context(
            flow_id=flow_of(d.record),
            idempotency_key=key,
            attempt=d.attempt,
            time=d.started,
            memory=_Memory(d, self._store, self._clock, named),
        )

    # ── outside calls, threads ───────────────────────────────────────────────────────────

    @staticmethod
    async def undo_calls(d: Delivery, error: BaseException) -> None:
        """When the step finally fails, undo what `once(undo=)` did, in reverse."""
        context = d.context
        d.gave_up = final(d, error)
        if context is not None and d.gave_up:
            await context.undo_all()

    async def _in_thread(self, fn: Callable[..., Any], arguments: list[Any]) -> Any:
        """Run a sync handler in a thread. Cancelled, it waits for the thread all the same."""
        if self._threads is None:
            return fn(*arguments)
        running = self._threads.run(fn, arguments)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # Whatever it comes to, its time was over: nobody asks.
            running.add_done_callback(asyncio.Future.exception)
            await asyncio.wait([running])
            raise


class _Memory:
    """Outside calls of one delivery, written down before and after."""

    def __init__(self, d: Delivery, store: Store, clock: Clock, named: str) -> None:
        self._d = d
        self._named = named  # what the key of its calls derives from
        self._store = store
        self._clock = clock

    @property
    def undoing(self) -> bool:
        return self._d.undoing

    def recall(self, name: str) -> tuple[Memo, bytes] | None:
        return self._d.memos.get(name)

    def answer(self, name: str) -> bytes | None:
        return self._d.answers.get(name)

    async def remember(
        self, name: str, state: Memo, result: bytes, *, undo: bool = False
    ) -> tuple[Memo, bytes]:
        d = self._d
        for _ in range(CONFLICTS_MAX):
            changes: list[Change] = []
            if state is Memo.INTENT:
                result = self._named.encode()
                changes += intent(d, d.loaded, self._clock.now())
            memo = f"{d.name}/{d.call_prefix}"
            changes.append(Remember(d.subject, f"{memo}{name}", state, result))
            if undo:  # owed from now on, whatever later attempts come to
                changes.append(Remember(d.subject, f"{memo}{UNDO}{name}", Memo.CLOSED, b""))
            (applied,) = await self._store.apply([Plan(d.owned, tuple(changes))])
            if isinstance(applied, BaseException):
                raise applied
            if applied is Applied.STALE:
                raise FencedError("another process owns the partition", handler=d.route.name)
            if applied is Applied.DONE and len(changes) == 1 and state is not Memo.INTENT:
                d.memos = {**d.memos, name: (state, result)}
                return state, result
            await self._reload()
            if applied is not Applied.CONFLICT or state is Memo.RESULT:
                return d.memos.get(name, (state, result))
        raise StoreConflictError("an outside call could not be written down", call=name)

    async def _reload(self) -> None:
        d = self._d
        (d.loaded,) = await self._store.load([want(d)])
        d.recall(d.loaded.memos)
