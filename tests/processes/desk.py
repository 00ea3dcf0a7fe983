"""A service for processes to run; what it does depends on files in the folder DESK."""

import asyncio
import os
import signal
from pathlib import Path

from choreo import Event, Later, Retry, Service

FOLDER = Path(os.environ.get("DESK", "."))

desk = Service("desk")


class Asked(Event, topic="desk.asked", key="who"):
    """Somebody asks; `what` says how the answer is found."""

    who: str
    n: int = 0
    what: str = ""


class Answered(Event, topic="desk.answered", key="who"):
    """The answer, and the process that gave it."""

    who: str
    n: int
    pid: int


def note(asked: Asked) -> None:
    """Write down, for the test, that a run has begun."""
    with (FOLDER / "runs").open("a", encoding="utf-8") as runs:
        runs.write(f"{os.getpid()} {asked.who} {asked.n}\n")


@desk.on(Asked, retry=Retry(attempts_max=3, first_s=0.5, factor=1))
async def answer(asked: Asked) -> Answered:
    """Answer: at once, or when a file named like the question is there."""
    await asyncio.to_thread(note, asked)
    waits_for = FOLDER / asked.what
    if asked.what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if asked.what == "later":
        if not await asyncio.to_thread((FOLDER / "now").exists):
            raise Later(after_s=0.3)
    elif asked.what:
        while not await asyncio.to_thread(waits_for.exists):  # noqa: ASYNC110 - it is a file
            await asyncio.sleep(0.01)
    return Answered(who=asked.who, n=asked.n, pid=os.getpid())
