"""Waiting for what has to come, with an end to it."""

import asyncio
from typing import Any

ANSWER_S = 10.0


async def answered(
    task: "asyncio.Future[Any]", *, within_s: float = ANSWER_S
) -> BaseException | None:
    """Give what a task has raised; it has to end."""
    await asyncio.wait([task], timeout=within_s)
    assert task.done(), f"{task!r} waits for ever"
    return asyncio.CancelledError() if task.cancelled() else task.exception()
