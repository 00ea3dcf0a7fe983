"""Threads for sync handlers: as many as run at once, and none that a process waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, NamedTuple

__all__ = ["Threads"]


class _Call(NamedTuple):
    fn: Callable[..., Any]
    arguments: Sequence[Any]
    done: asyncio.Future[Any]
    context: Context


class Threads:
    """Runs functions in daemon threads, which are kept for the next one.

    A thread that never ends holds up nobody: each call that finds none idle gets its own,
    and the interpreter ends without it (a ThreadPoolExecutor's are joined).
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    def run(self, fn: Callable[..., Any], arguments: Sequence[Any]) -> asyncio.Future[Any]:
        """Call `fn` in a thread; the future holds what it gives or raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            name = f"choreo-handler-{self._threads}"
            threading.Thread(target=self._work, args=(loop,), name=name, daemon=True).start()
        self._calls.put(_Call(fn, arguments, done, copy_context()))
        return done

    def close(self) -> None:
        """Let idle threads end, and the others once they are done. Waits for none."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (call := self._calls.get()) is not None:
            result, error = _outcome(call)
            try:
                loop.call_soon_threadsafe(self._ended, call.done, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _ended(self, done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)


def _outcome(call: _Call) -> tuple[Any, BaseException | None]:
    try:
        return call.context.run(call.fn, *call.arguments), None
    except StopIteration:  # no future takes it
        return None, RuntimeError("the handler raised StopIteration")
    except BaseException as exc:  # noqa: BLE001 - handed over to who waits
        return None, exc
