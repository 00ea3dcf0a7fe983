"""A desk at which everything happens that telemetry tells of, run by the machine's clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from choreo import App, Event, Later, Retry, Secret, Service, Tx
from choreo.telemetry import Telemetry

SECRET = "4000-0012-3456-7899"
PRIVATE = "Mme. Dupont, 12 rue des Lilas"


class Asked(Event, topic="desk.asked", key="k"):
    """What is asked; `what` says what becomes of it."""

    k: str = "x"
    what: str = ""
    who: str = PRIVATE
    card: Annotated[str, Secret] = SECRET


class Answered(Event, topic="desk.answered", key="k"):
    """The end."""

    k: str = "x"
    who: str = PRIVATE


class DeskError(Exception):
    """Something that a handler raises, with what it had in hand."""


def service(seen: list[int] | None = None) -> Service:
    """Make the service; `seen` counts its attempts."""
    attempts = [] if seen is None else seen
    desk = Service("desk")

    @desk.on(Asked, retry=Retry(attempts_max=2, first_s=0.001))
    async def answer(asked: Asked) -> Answered:
        attempts.append(1)
        if asked.what == "fail" or (asked.what == "retry" and len(attempts) == 1):
            raise DeskError(f"{asked.who} pays with {asked.card}")
        if asked.what == "later" and len(attempts) == 1:
            raise Later(after_s=0.05)
        return Answered(k=asked.k)

    @desk.on(Answered)
    async def file(answered: Answered, tx: Tx) -> None:
        await tx.execute("CREATE TABLE IF NOT EXISTS desk_file (k TEXT, who TEXT)")
        await tx.execute("INSERT INTO desk_file VALUES ($1, $2)", answered.k, answered.who)

    desk.flow("asking", starts=Asked, ends=Answered)
    return desk


@asynccontextmanager
async def opened(
    *services: Service, telemetry: Telemetry | None, folder: str = ":memory:"
) -> AsyncIterator[App]:
    """Run services with this telemetry."""
    app = App(*services, folder=folder)
    app.telemetry = telemetry
    async with app:
        yield app
