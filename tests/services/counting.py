"""A service whose rows tell in which order a key's events were handled, and how often.

Its first handler takes its time, so that faults meet it at work, and now and then fails once,
so that keys have to wait for an attempt that is parked.
"""

import asyncio

from choreo import Context, Event, Retry, Service, Tx

WORK_S = 0.15
FAILS = 11  # every so many numbers one fails at its first attempt
ROW = "INSERT INTO counting_row (handler, k, n) VALUES ($1, $2, $3)"


class Counted(Event, topic="count.counted", key="k"):
    """A number of a key."""

    k: str
    n: int


class Noted(Event, topic="count.noted", key="k"):
    """The same, once it was handled."""

    k: str
    n: int


counting = Service("counting", migrations="counting_migrations")


@counting.on(Counted, retry=Retry(attempts_max=5, first_s=0.4, factor=2))
async def note(counted: Counted, ctx: Context, tx: Tx) -> Noted:
    await asyncio.sleep(WORK_S)
    if counted.n % FAILS == FAILS - 1 and ctx.attempt == 1:
        raise ConnectionError("not at the first attempt")
    await tx.execute(ROW, "note", counted.k, counted.n)
    return Noted(k=counted.k, n=counted.n)


@counting.on(Noted)
async def again(noted: Noted, tx: Tx) -> None:
    await tx.execute(ROW, "again", noted.k, noted.n)
