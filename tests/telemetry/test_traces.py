"""Spans: one flow is one trace, whatever becomes of it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from choreo import App, Service, Tx
from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.errors import BrokerClosedError, StoreError
from choreo.events import Record
from services.notifications.mailer import MailError
from services.orders.events import OrderCancelled, OrderCompleted
from tests.bad_input.desk import Desk, headers_of, until
from tests.services.shop import SERVICES, Shop, placed
from tests.telemetry.conftest import Told
from tests.telemetry.desk import Answered, Asked, DeskError, opened, service

FLOW = "messaging.message.conversation_id"
EVENT = "messaging.message.id"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENDER = f"00-{TRACE}-{SPAN}-01"


def about(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


def parent_of(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> ReadableSpan | None:
    """Give the span's parent; it must be known."""
    if span.parent is None:
        return None
    (found,) = [one for one in spans if one.context.span_id == span.parent.span_id]
    return found


def of_flow(told: Told, flow: str) -> list[ReadableSpan]:
    return [span for span in told.spans() if about(span, FLOW) == flow]


def connected(spans: Sequence[ReadableSpan]) -> ReadableSpan:
    """See that the spans are one tree; give its root."""
    assert len({span.context.trace_id for span in spans}) == 1
    (root,) = [span for span in spans if parent_of(span, spans) is None]
    return root


async def test_an_order_is_one_trace_across_six_services(shop: Shop, told: Told) -> None:
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        assert isinstance(await app.outcome(flow, within_s=5), OrderCompleted)
        await shop.clock.advance(1)
        settled = await until_committed(told)
    spans = of_flow(told, flow)
    root = connected(spans)
    assert (root.name, root.kind) == ("send shop.orders", SpanKind.PRODUCER)
    processed = [span for span in spans if span.name.startswith("process ")]
    groups = {about(span, "messaging.consumer.group.name") for span in processed}
    assert groups == {one.name for one in SERVICES}
    for span in processed:
        sender = parent_of(span, spans)
        assert sender is not None
        assert sender.name == f"send {about(span, 'messaging.destination.name')}"
        assert about(sender, EVENT) == about(span, EVENT)
        assert sender.context.span_id in [link.context.span_id for link in span.links]
        assert span.kind is SpanKind.CONSUMER
    for span in spans:
        sender = parent_of(span, spans)
        if span.name.startswith("send ") and sender is not None:
            assert sender.name.startswith("process ")
    joins = [span for span in processed if about(span, "choreo.handler") == "shipping.ship"]
    assert [len({link.context.span_id for link in span.links}) for span in joins] == [3]
    # Batches belong to no flow: their spans have traces of their own, and links.
    sent = {span.context.span_id for span in told.spans("send")}
    for span in told.spans("poll"):
        assert span.parent is None
        assert span.kind is SpanKind.CLIENT
        assert {link.context.span_id for link in span.links} <= sent
        assert len(span.links) == about(span, "messaging.batch.message_count")
    assert {span.kind for span in settled} == {SpanKind.CLIENT}


async def until_committed(told: Told) -> list[ReadableSpan]:
    await until(lambda: told.spans("commit"))
    return told.spans("commit")


async def test_the_headers_lead_from_hop_to_hop(shop: Shop, told: Told) -> None:
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        await app.outcome(flow, within_s=5)
    spans = of_flow(told, flow)
    for record in shop.history():
        if record.headers.get("ce_correlationid") != flow:
            continue
        (sender,) = [
            one for one in spans
            if one.name.startswith("send ") and about(one, EVENT) == record.headers["ce_id"]
        ]  # fmt: skip
        ids = f"{sender.context.trace_id:032x}-{sender.context.span_id:016x}"
        assert record.headers["traceparent"][3:52] == ids
        origin = parent_of(sender, spans) or sender
        assert record.headers["ce_traceparent"][36:52] == f"{origin.context.span_id:016x}"
        assert about(sender, "messaging.kafka.offset") == record.offset


async def test_what_is_undone_is_the_same_trace(shop: Shop, told: Told) -> None:
    shop.bank.mood = lambda path, attempt: "declined"
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        assert isinstance(await app.outcome(flow, within_s=5), OrderCancelled)
        await shop.clock.advance(1)
    spans = of_flow(told, flow)
    connected(spans)
    (undo,) = [one for one in spans if about(one, "choreo.handler") == "inventory.release"]
    trigger = parent_of(undo, spans)
    assert trigger is not None
    assert trigger.name == "send shop.payments"


async def test_what_comes_too_late_is_the_same_trace(shop: Shop, told: Told) -> None:
    shop.bank.mood = lambda path, attempt: "error"
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        await shop.clock.advance(1801)
        shop.bank.mood = lambda path, attempt: "refused"
        await shop.clock.advance(1800)
        assert isinstance(await app.outcome(flow, within_s=5), OrderCancelled)
    spans = of_flow(told, flow)
    connected(spans)
    assert [one for one in spans if about(one, "choreo.handler") == "payments.overdue"]


async def test_attempts_that_fail_are_told_and_end(shop: Shop, told: Told) -> None:
    shop.post.error = MailError("no answer")
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        await shop.clock.advance(10)
        assert isinstance(await app.outcome(flow, within_s=5), OrderCompleted)
    spans = of_flow(told, flow)
    connected(spans)
    tried = [one for one in spans if about(one, "choreo.handler") == "notifications.confirm"]
    assert [about(one, "choreo.attempt") for one in tried] == [1, 2, 3]
    assert {about(one, "error.type") for one in tried} == {"MailError"}
    assert {one.status.status_code.name for one in tried} == {"ERROR"}
    (fallback,) = [one for one in spans if about(one, "choreo.handler") == "notifications.skip"]
    assert about(fallback, "error.type") is None


async def test_a_dead_letter_is_sent_by_the_attempt_that_gave_up(told: Told) -> None:
    async with opened(service(), telemetry=told.telemetry) as app:
        flow = await app.publish(Asked(what="fail"))
        await until(lambda: [one for one in told.spans("send") if one.name == "send choreo.dead"])
    spans = of_flow(told, flow)
    connected(spans)
    (dead,) = [one for one in spans if one.name == "send choreo.dead"]
    last = parent_of(dead, spans)
    assert last is not None
    assert about(last, "choreo.attempt") == 2
    assert about(last, "error.type") == DeskError.__qualname__
    assert about(last, "choreo.error.code") is None


async def test_a_later_is_no_failure(told: Told) -> None:
    async with opened(service(), telemetry=told.telemetry) as app:
        flow = await app.publish(Asked(what="later"))
        await app.outcome(flow, within_s=10)
    tried = [one for one in of_flow(told, flow) if one.name == "process desk.asked"]
    assert [about(one, "error.type") for one in tried] == [None, None]
    connected(of_flow(told, flow))


async def test_a_handler_runs_inside_of_its_span(told: Told) -> None:
    tracer = told.tracer_provider.get_tracer("mine")
    desk = Service("desk")

    @desk.on(Asked)
    async def answer(asked: Asked) -> Answered:
        with tracer.start_as_current_span("inner loop"):
            return Answered()

    @desk.on(Answered)
    def file(answered: Answered) -> None:
        with tracer.start_as_current_span("inner thread"):
            pass

    with tracer.start_as_current_span("outer") as outer:
        async with opened(desk, telemetry=told.telemetry) as app:
            flow = await app.publish(Asked())
            await until(lambda: told.spans("inner")[1:])
    spans = told.spans()
    for inner in told.spans("inner"):
        around = parent_of(inner, spans)
        assert around is not None
        assert around.name.startswith("process ")
    root = next(one for one in of_flow(told, flow) if one.name == "send desk.asked")
    assert root.parent is not None
    assert root.parent.span_id == outer.get_span_context().span_id


async def test_a_transaction_runs_inside_of_its_span(told: Told) -> None:
    tracer = told.tracer_provider.get_tracer("mine")
    desk = Service("desk")

    @desk.on(Asked)
    async def answer(asked: Asked, tx: Tx) -> Answered:
        await tx.fetchval("SELECT 1")  # from here on in the store's thread
        with tracer.start_as_current_span("inner"):
            return Answered()

    async with opened(desk, telemetry=told.telemetry) as app:
        flow = await app.publish(Asked())
        await until(lambda: len(of_flow(told, flow)) == 3)
    (inner,) = told.spans("inner")
    asked, processed, answered = sorted(of_flow(told, flow), key=lambda one: one.start_time or 0)
    spans = told.spans()
    assert parent_of(inner, spans) is processed
    assert parent_of(answered, spans) is processed
    assert parent_of(processed, spans) is asked
    assert processed.end_time is not None
    assert inner.end_time is not None
    assert inner.end_time <= processed.end_time


# ── strangers ────────────────────────────────────────────────────────────────────────────


async def passed(told: Told | None, folder: Path, **headers: str) -> list[Record]:
    """Let a stranger ask, with these headers; give the log once it is answered."""
    telemetry = None if told is None else told.telemetry
    desk = Desk(folder)
    async with opened(service(), telemetry=telemetry, folder=str(folder)):
        desk.write(Asked.__event__.topic, headers_of(Asked.__event__.type, "1", **headers), "{}")
        await until(lambda: desk.log("desk.answered"))
        if told is not None:
            await until(lambda: told.spans("process")[1:])
    return desk.log()


async def test_a_service_without_telemetry_passes_the_trace_on(tmp_path: Path) -> None:
    log = await passed(None, tmp_path, traceparent=SENDER, tracestate="a=1")
    (answered,) = [one for one in log if one.topic == "desk.answered"]
    assert answered.headers["traceparent"] == SENDER
    assert answered.headers["tracestate"] == "a=1"


async def test_a_strangers_trace_goes_on(told: Told, tmp_path: Path) -> None:
    log = await passed(told, tmp_path, traceparent=SENDER, tracestate="a=1")
    (first, _) = told.spans("process")
    assert f"{first.context.trace_id:032x}" == TRACE
    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == SPAN
    (answered,) = [one for one in log if one.topic == "desk.answered"]
    assert TRACE in answered.headers["traceparent"]
    assert SPAN not in answered.headers["traceparent"]
    assert answered.headers["tracestate"] == "a=1"


async def test_the_origin_stands_in_for_a_hop_that_says_nothing(told: Told, tmp_path: Path) -> None:
    await passed(told, tmp_path, ce_traceparent=SENDER)
    first = told.spans("process")[0]
    assert f"{first.context.trace_id:032x}" == TRACE


async def test_what_is_replayed_begins_a_trace_and_links(told: Told, tmp_path: Path) -> None:
    await passed(told, tmp_path, traceparent=SENDER, **{"choreo-replay": "1"})
    first = told.spans("process")[0]
    assert first.parent is None
    assert f"{first.context.trace_id:032x}" != TRACE
    assert [f"{link.context.trace_id:032x}" for link in first.links] == [TRACE]


@pytest.mark.parametrize(
    "wrong",
    ["", "x", SENDER[:-1], f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "\u0000" * 55,
     SENDER * 20_000, "00-é-é-01"],
    ids=range(8),
)  # fmt: skip
async def test_a_trace_context_that_is_none_begins_one(
    told: Told, tmp_path: Path, wrong: str
) -> None:
    log = await passed(told, tmp_path, traceparent=wrong, tracestate="," * 10_000)
    first = told.spans("process")[0]
    assert first.parent is None
    assert not first.links
    (answered,) = [one for one in log if one.topic == "desk.answered"]
    assert f"{first.context.trace_id:032x}" in answered.headers["traceparent"]
    assert "tracestate" not in answered.headers


# ── what does not work ───────────────────────────────────────────────────────────────────


async def test_a_send_that_fails_is_told_and_the_record_is_as_before(told: Told) -> None:
    inner = SqliteBroker(Log(Database(":memory:")))
    broker = told.telemetry.broker(inner)
    await broker.close()
    headers = {"ce_type": "a.B", "ce_id": "1", "traceparent": SENDER}
    record = Record("a", b"k", dict(headers), b"{}")
    for _ in range(2):
        with pytest.raises(BrokerClosedError):
            await broker.publish([record])
        assert record.headers == headers
    for span in told.spans("send"):
        assert about(span, "error.type") == "BrokerClosedError"
        assert about(span, "choreo.error.code") == BrokerClosedError.code
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == SPAN
    assert told.count("messaging.client.sent.messages") == 0


async def test_a_start_that_is_tried_again_tells_each_record_once(
    told: Told, tmp_path: Path
) -> None:
    file = tmp_path / "0001.sql"
    file.write_text("CREATE TABEL desk_x (a);")
    app = App(Service("desk", migrations=tmp_path), folder=":memory:")
    app.telemetry = told.telemetry
    with pytest.raises(StoreError, match="syntax error"):
        await app.start()
    file.write_text("CREATE TABLE desk_x (a);")
    await app.start()
    await app.publish(Asked())
    await app.stop()
    assert [span.name for span in told.spans("send")].count("send desk.asked") == 1
