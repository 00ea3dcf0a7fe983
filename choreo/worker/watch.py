"""What holds up others: who blocks the event loop, who does not come back, a clock that was set.

A thread of its own looks, four times a second: a loop that is blocked can not look after
itself. What runs is seen from outside, in the stacks of threads and the slots of runners, so
that a step pays nothing for it. Time is the machine's: it is about real waiting.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import CodeType, FrameType

from choreo.errors import ChoreoError, HandlerError, HandlerTimeoutError, StoreError
from choreo.step import Delivery
from choreo.worker.call import Caller
from choreo.worker.pipeline import Pipeline
from choreo.worker.runners import Runners

__all__ = ["Watch"]

log = logging.getLogger("choreo.worker")

LOOK_S = 0.25
JUMP_S = 0.5
"""By which a clock must have been set to be noticed; less is its daily correction."""
GRACE_S = 1.0
"""For a handler that was told to end, before it is said that it goes on."""
_ATTEMPT: CodeType = Runners._attempt.__code__  # noqa: SLF001 - one piece with Runners
_SECTION: CodeType = next(
    code
    for code in Caller._section.__code__.co_consts  # noqa: SLF001 - one piece with Caller
    if isinstance(code, CodeType) and code.co_name == "section"
)


class Watch:
    """Says in one line, once for each, which handler holds up what."""

    def __init__(self, runners: Runners, pipeline: Pipeline, jumped: Callable[[], None]) -> None:
        """Watch nothing yet. `jumped` is called, in the loop, when the clock was set."""
        self._runners = runners
        self._limits = pipeline.limits
        self._clock = pipeline.clock
        self._jumped = jumped
        self._offset: float | None = None
        self._stop = threading.Event()
        self._beats = 0
        self._beating: asyncio.TimerHandle | None = None
        self._since: dict[tuple[Delivery, int], float] = {}
        self._told: set[Delivery] = set()
        self._writing: tuple[Delivery | None, int] = (None, 0)

    def start(self) -> None:
        """Begin; the loop that calls is the one that is watched."""
        loop = asyncio.get_running_loop()
        self._beat(loop)
        self._clock_was_set()
        watching = threading.get_ident()
        threading.Thread(
            target=self._look, args=(watching, loop), name="choreo-watch", daemon=True
        ).start()

    def stop(self) -> None:
        """End. May be called twice, and before start."""
        self._stop.set()
        if self._beating is not None:
            self._beating.cancel()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beats += 1
        self._beating = loop.call_later(LOOK_S, self._beat, loop)

    def _look(self, watched: int, loop: asyncio.AbstractEventLoop) -> None:
        """Look until stopped. Counted are our own looks: a process that slept blocks nobody."""
        beats = missed = 0
        while not self._stop.wait(LOOK_S):
            missed = missed + 1 if self._beats == beats else 0
            beats = self._beats
            frames = sys._current_frames()  # noqa: SLF001 - there is no other way
            if self._too_long(missed):
                self._blocked(frames.get(watched))
            self._look_at_sections(frames.values())
            del frames  # a stack that is kept keeps what it had
            self._look_at_runners()
            if self._clock_was_set():
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._jumped)

    def _clock_was_set(self) -> bool:
        """Tell whether time of day and time that passes have come apart since the last look."""
        before = self._clock.elapsed()
        offset = self._clock.now() - before
        if self._clock.elapsed() - before > JUMP_S / 4:  # we were held up between the two
            return False
        last, self._offset = self._offset, offset
        if last is None or abs(offset - last) < JUMP_S:
            return False
        if offset < last:
            error = StoreError(
                f"the clock was set back by {last - offset:.3g} s: what is to come at a time"
                " waits until the clock is there again; it is never early",
                code="CH4010",
                fix="correct the clock, if that is wrong; all goes on by itself",
            )
            log.warning("%s", error)
        return True

    def _too_long(self, looks: int) -> bool:
        """Tell, for the first look at which it is so, that something lasts for too long."""
        return looks * LOOK_S >= self._limits.blocked_s > (looks - 1) * LOOK_S

    # ── the loop ─────────────────────────────────────────────────────────────────────────

    def _blocked(self, frame: FrameType | None) -> None:
        if frame is None:
            return
        d = _delivery_in(frame, _ATTEMPT)
        self._say_held(
            "the event loop is held", "nothing else of this process goes on",
            "make the handler sync (def), then it has a thread; or await what it waits for",
            d, frame,
        )  # fmt: skip

    def _look_at_sections(self, frames: Iterable[FrameType]) -> None:
        """Look at who is inside the store's transaction, which everybody's commit waits for."""
        for frame in frames:
            d = _delivery_in(frame, _SECTION)
            if d is not None:
                break
        else:
            self._writing = (None, 0)
            return
        before, looks = self._writing
        self._writing = (d, looks + 1 if d is before else 0)
        if self._too_long(self._writing[1]):
            self._say_held(
                "the store's transaction is held", "nothing is committed",
                "wait for nothing after the first statement of Tx; what takes long comes before",
                d, frame,
            )  # fmt: skip

    def _say_held(self, what: str, so: str, fix: str, d: Delivery | None, frame: FrameType) -> None:
        handler = {} if d is None else {"handler": d.route.name, **_about(d)}
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        text = f"{what} for more than {self._limits.blocked_s:g} s: {so}"
        log.error("%s", HandlerError(text, code="CH5008", fix=fix, **handler, at=where))

    # ── the runners ──────────────────────────────────────────────────────────────────────

    def _look_at_runners(self) -> None:
        now = time.monotonic()
        running = {(d, d.attempt): d for d in tuple(self._runners.slots) if d is not None}
        self._since = {key: self._since.get(key, now) for key in running}
        self._told.intersection_update(running.values())
        late = self._runners.late
        for key, d in running.items():
            for_s = now - self._since[key]
            if d in self._told:
                continue
            told = late.get(d)
            if told is not None:
                if now - told >= GRACE_S:
                    self._tell(d, _goes_on(d))
            elif for_s >= self._limits.stuck_s:
                self._tell(d, _stuck(d, for_s))

    def _tell(self, d: Delivery, error: ChoreoError) -> None:
        self._told.add(d)
        log.warning("%s", error)


def _delivery_in(frame: FrameType, code: CodeType) -> Delivery | None:
    """Find what the innermost call of `code` in a stack is about."""
    outer: FrameType | None = frame
    while outer is not None:
        if outer.f_code is code:
            d = outer.f_locals.get("d")
            return d if isinstance(d, Delivery) else None
        outer = outer.f_back
    return None


def _goes_on(d: Delivery) -> ChoreoError:
    sync = d.route.handler.signature.sync
    fix = (
        "let it end by itself: a thread can not be ended from outside"
        if sync
        else "let it raise CancelledError on, and wait for nothing afterwards"
    )
    return HandlerTimeoutError(
        f"its time is over and it goes on{' in its thread' if sync else ''}; its key waits for it",
        code="CH5009",
        fix=fix,
        handler=d.route.name,
        **_about(d),
    )


def _stuck(d: Delivery, for_s: float) -> ChoreoError:
    return HandlerError(
        f"it has been running for {for_s:.3g} s; its key waits for it",
        code="CH5010",
        fix="find out what it waits for, and give it timeout_s",
        handler=d.route.name,
        **_about(d),
    )


def _about(d: Delivery) -> dict[str, object]:
    key = d.record.key
    where = f"{d.source.topic}-{d.source.partition}-{d.source.offset}"
    return {"key": None if key is None else key.decode("utf-8", "replace"), "event": where}
