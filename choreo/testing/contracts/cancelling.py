"""Cancellation at every await, as a caller's time-out or a stop may bring it."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Cancelled", "cancelled_at"]

T = TypeVar("T")
AWAITS_MAX = 500


class Cancelled(Generic[T]):
    """What became of a cancelled call: was the await reached, and what came out, if anything."""

    def __init__(self) -> None:
        """Begin with nothing reached."""
        self.reached = False
        self.result: T | None = None


async def cancelled_at(
    call: Callable[[], Coroutine[Any, Any, T]], at: int, *, turns: int = 0
) -> Cancelled[T]:
    """Make the call and cancel it at its await number `at` (from 1), `turns` of the loop later.

    A call that is over before is left alone, with `reached` false: the caller who counts
    `at` up has then seen every await. What the call raises, other than the cancellation,
    is raised.
    """
    assert at < AWAITS_MAX, f"the call still waits after {AWAITS_MAX} awaits"
    told: Cancelled[T] = Cancelled()

    async def run() -> T:
        return await _watched(call(), at, turns, told)

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not task.cancelled():
        told.result = task.result()
    return told


@types.coroutine
def _watched(
    call: Coroutine[Any, Any, T], at: int, turns: int, told: Cancelled[T]
) -> Generator[Any, Any, T]:
    awaits = 0
    error: BaseException | None = None
    while True:
        try:
            waiting = call.send(None) if error is None else call.throw(error)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        awaits += 1
        if awaits == at:
            told.reached = True
            task = asyncio.current_task()
            assert task is not None
            _cancel_in(task, turns)
        error = None
        try:
            yield waiting
        except BaseException as exc:  # noqa: BLE001 - it is thrown into the call
            error = exc


def _cancel_in(task: asyncio.Task[Any], turns: int) -> None:
    if turns == 0:
        task.cancel()
    else:
        asyncio.get_running_loop().call_soon(_cancel_in, task, turns - 1)
