"""What the log of a process says while something does not answer: what it is, and once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from choreo import App, Service
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.errors import (
    BrokerUnavailableError,
    ChoreoError,
    StoreConflictError,
    StoreUnavailableError,
)
from choreo.events import Partition
from choreo.health import ServicesProbe
from choreo.worker import Limits
from choreo.worker.pipeline import FORGOTTEN_S, Pipeline
from choreo.worker.pruning import SOON_S
from tests.semantics.events import Placed
from tests.semantics.lab import Lab

LOOPS = 3
UNWATCHED = Limits(blocked_s=3600)
"""Nobody tells beside it that the machine gave the event loop no time."""


def desk() -> Service:
    service = Service("desk")

    @service.on(Placed)
    async def see(placed: Placed) -> None: ...

    return service


class Part:
    """Something that is asked for, and answers or does not."""

    def __init__(self) -> None:
        self.error: ChoreoError | None = None

    async def ask(self) -> bool:
        if self.error is not None:
            raise self.error
        return True


@pytest.fixture
async def pipeline(lab: Lab) -> AsyncIterator[Pipeline]:
    async with lab.open(desk(), limits=UNWATCHED) as app:
        assert app.worker is not None
        yield app.worker._pipeline


async def outlasted(lab: Lab, pipeline: Pipeline, part: Part, error: ChoreoError) -> None:
    """Have some loops ask for what fails with this error for a while."""
    part.error = error
    asking = [asyncio.ensure_future(pipeline.outlasting(part.ask)) for _ in range(LOOPS)]
    await lab.clock.advance(10 * pipeline.limits.outage_s)
    assert not any(one.done() for one in asking)
    part.error = None
    await lab.clock.advance(pipeline.limits.outage_s)
    assert await asyncio.gather(*asking) == [True] * LOOPS


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreUnavailableError("a"), ["the store does not answer", "the store answers again"]),
        (BrokerUnavailableError("a"), ["the log does not answer", "the log answers again"]),
        (StoreConflictError("a"), ["another transaction wants the same rows"]),
    ],
)
async def test_an_outage_is_told_once_by_what_does_not_answer(
    lab: Lab,
    pipeline: Pipeline,
    caplog: pytest.LogCaptureFixture,
    error: ChoreoError,
    said: list[str],
) -> None:
    """However many loops wait for it, and again when it comes again."""
    with caplog.at_level(logging.WARNING, "choreo.worker"):
        await outlasted(lab, pipeline, Part(), error)
        await lab.clock.advance(FORGOTTEN_S)
        await outlasted(lab, pipeline, Part(), error)
    assert len(caplog.messages) == 2 * len(said)
    for message, begin in zip(caplog.messages, 2 * said, strict=True):
        assert message.startswith(begin)


class Unasked(SqliteBroker):
    """A log that can not always be asked where it ends."""

    away = False

    async def ends(self, topics: Sequence[str] | None) -> Mapping[Partition, int]:
        if self.away:
            raise BrokerUnavailableError("nobody answers")
        return await super().ends(topics)


async def test_a_log_that_is_away_while_the_store_forgets_is_told_as_the_log(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Unasked(Log(Database(lab.folder / "choreo.db")))
    own = Log(Database(lab.folder / "store.db"))
    store = SqliteStore(own, clock=lab.clock, publishes=False)
    async with App(desk(), broker=broker, store=store, clock=lab.clock, limits=UNWATCHED) as app:
        caplog.set_level(logging.WARNING, "choreo.worker")
        broker.away = True
        await lab.clock.advance(SOON_S + 1)
        assert [(one.part, one.code) for one in await ServicesProbe(app).problems()] == [
            ("log", "CH3001")
        ]
        broker.away = False
        await lab.clock.advance(1)
        await lab.until(lambda: len(caplog.messages) > 1)
    away, back = caplog.messages
    assert away.startswith("the log does not answer, what needs it waits: CH3001")
    assert back == "the log answers again"


async def test_what_one_delivery_met_is_over_with_the_next_commit(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async with lab.open(desk()) as app:
        assert app.worker is not None
        app.worker._pipeline.say_outage(StoreUnavailableError("away", fix="wait"))
        await app.publish(Placed(k="a"))
        await lab.clock.advance(1)
    assert [one.message for one in caplog.records if "store" in one.message] == [
        "the store does not answer, everything waits for it: CH4001 away Fix: wait",
        "the store answers again",
    ]
