"""What the tracker shows of orders is what the services' stores say; made anew, it is the same."""

import asyncio
from dataclasses import replace
from pathlib import Path

from choreo.app import open_broker, open_views, system_clock
from choreo.audit import Recovery, Views, judge
from choreo.ports import FlowFilter, FlowSummary
from choreo.tracker import Tracker
from services.notifications.mailer import MailError
from services.shipping.carrier import CarrierRefusedError
from tests.auditing import evidence_of
from tests.services.shop import Shop, placed, plain


async def summaries(log: Path, views: Path) -> list[FlowSummary]:
    """Let a tracker read a log to its end, into these views; give what it shows."""
    broker, store = open_broker(log), open_views(views)
    try:
        await Tracker(broker, store, system_clock()).catch_up()
        return [*await store.flows(FlowFilter())]
    finally:
        await store.close()
        await broker.close()


def declining(path: str, attempt: int) -> str:
    """The mood of a bank that takes nothing."""
    return "declined"


async def test_views_of_every_kind_of_order_are_true(shop: Shop, tmp_path: Path) -> None:
    await shop.stock(A=20, B=5)
    began = shop.clock.now()
    live: list[FlowSummary] = []
    for number in range(1, 7):
        async with shop.open() as app:
            shop.bank.mood = declining if number == 2 else plain
            shop.van.error = CarrierRefusedError("no") if number == 3 else None
            shop.post.error = MailError("full") if number == 4 else None
            lines = {4: [("B", 99)], 5: [("A", 0)]}.get(number, [("A", 2), ("B", 1)])
            await app.publish(placed(str(number), *lines), id=str(number))
            await shop.clock.advance(3600)
        live = await summaries(tmp_path, tmp_path)
    rebuilt = await summaries(tmp_path, tmp_path / "anew")
    assert {one.status for one in live} == {"completed", "compensated"}
    assert any(one.dead for one in live), "a letter that could never be written is a dead letter"
    evidence = replace(
        await evidence_of(tmp_path),
        views=Views(live, rebuilt),
        recovery=Recovery(began, within_s=2 * 3600.0, stopped=True),
    )
    report = await asyncio.to_thread(judge, evidence)
    assert {"views", "rebuilt", "in-time", "caught-up"} <= {*report.judged}
    assert list(report.violations) == []
    wrong = [replace(one, end="", status="running") for one in live]
    lies = await asyncio.to_thread(judge, replace(evidence, views=Views(wrong, rebuilt)))
    assert {one.invariant for one in lies.violations} == {"views", "rebuilt"}
