"""Lines that are logged while an event is handled say which: without any OpenTelemetry."""

import logging
from collections.abc import Iterator

import pytest

from choreo import App, Service, Tx
from choreo.telemetry import LOG_FIELDS, LogFields
from tests.bad_input.desk import until
from tests.telemetry.desk import Answered, Asked

log = logging.getLogger("tests.mine")


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(LogFields())
        self.lines: dict[str, logging.LogRecord] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.lines[record.getMessage()] = record

    def fields(self, line: str) -> dict[str, object]:
        return {name: getattr(self.lines[line], name) for name in LOG_FIELDS}


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    log.addHandler(kept)
    log.setLevel(logging.INFO)
    yield kept
    log.removeHandler(kept)


async def test_each_kind_of_handler(kept: Kept) -> None:
    desk = Service("desk")

    @desk.on(Asked)
    async def plain(asked: Asked) -> Answered:
        log.info("plain")
        return Answered()

    @desk.on(Asked)
    def thread(asked: Asked) -> None:
        log.info("thread")

    @desk.on(Asked)
    async def transaction(asked: Asked, tx: Tx) -> None:
        await tx.fetchval("SELECT 1")
        log.info("transaction")

    log.info("outside")
    async with App(desk, folder=":memory:") as app:
        flow = await app.publish(Asked())
        await until(lambda: len(kept.lines) == 4)
    log.info("after")
    for name in ("plain", "thread", "transaction"):
        expected = {"flow_id": flow, "event_id": flow, "handler": f"desk.{name}", "attempt": 1}
        assert kept.fields(name) == expected
    nothing = {"flow_id": "", "event_id": "", "handler": "", "attempt": 0}
    assert kept.fields("outside") == kept.fields("after") == nothing


async def test_two_at_once_are_not_mixed_up(kept: Kept) -> None:
    desk = Service("desk")
    waiting: list[str] = []

    @desk.on(Asked)
    async def answer(asked: Asked) -> None:
        waiting.append(asked.k)
        await until(lambda: len(waiting) == 2)
        log.info("%s", asked.k)

    async with App(desk, folder=":memory:") as app:
        flows = {k: await app.publish(Asked(k=k)) for k in ("a", "b")}
        await until(lambda: len(kept.lines) == 2)
    assert {k: kept.fields(k)["flow_id"] for k in ("a", "b")} == flows


async def test_what_the_line_says_itself_stands(kept: Kept) -> None:
    log.info("mine", extra={"handler": "another"})
    assert kept.fields("mine")["handler"] == "another"


async def test_the_workers_own_lines_have_the_fields(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("choreo.worker").warning("something")
    (record,) = caplog.records
    assert {name: getattr(record, name) for name in LOG_FIELDS} == {
        "flow_id": "", "event_id": "", "handler": "", "attempt": 0,
    }  # fmt: skip
