"""The fold: what is told of a flow, case by case."""

import json

import pytest

from choreo.events import Record, rfc3339
from choreo.tracker import Catalog, FlowView, Missing, fold
from tests.unit.tracking import (
    CATALOG,
    T0,
    Cancelled,
    Completed,
    Declined,
    Late,
    Log,
    Mailed,
    NoStock,
    NotTaken,
    Paid,
    Placed,
    Refunded,
    Released,
    Reminder,
    Reserved,
    Shipped,
    TimedOut,
    happy,
    uuid,
)


def kinds(view: FlowView) -> list[tuple[str, str]]:
    return [(one.kind, one.handler) for one in view.missing]


def missing(view: FlowView, kind: str) -> Missing:
    (found,) = [one for one in view.missing if one.kind == kind]
    return found


def state(view: FlowView, handler: str) -> str:
    (found,) = [one.state for one in view.steps if one.handler == handler]
    return found


# ── status ───────────────────────────────────────────────────────────────────────────────


def test_an_order_that_goes_well_is_completed() -> None:
    view = happy(Log()).view()
    flow = view.summary
    assert (flow.status, flow.name, flow.key, flow.end) == (
        "completed", "order", "A-1", "t.orders.Completed",
    )  # fmt: skip
    assert (flow.started, flow.ended) == (T0 + 1, T0 + 6)
    assert flow.steps == len(view.steps) == 5
    assert {step.state for step in view.steps} == {"done"}
    assert not view.missing
    assert not view.anomalies
    assert view.at(T0 + 1e6) == (False, False, 5.0)


def test_a_flow_under_way_is_running_until_it_is_overdue_and_stuck() -> None:
    log = Log()
    log.event(1, Placed)
    view = log.view()
    assert view.summary.status == "running"
    assert kinds(view) == [("handler", "stock.reserve")]
    started = T0 + 1
    assert view.at(started + 59) == (False, False, 59)
    assert view.at(started + 61) == (False, True, 61)
    assert view.at(started + 3601) == (True, True, 3601)


def test_a_failed_attempt_shows_as_retrying_with_when_it_goes_on() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    for attempt in (1, 2):
        log.note(
            "pay.capture", 2, "retrying", attempt=attempt, due=T0 + 100 * attempt,
            error="ProviderError", message="500", attempts_max=4,
        )  # fmt: skip
    view = log.view()
    assert view.summary.status == "retrying"
    assert view.summary.error == "pay.capture ProviderError: 500"
    assert view.summary.retries == 2
    waiting = missing(view, "handler")
    assert waiting.types == ("t.pay.Paid", "t.pay.Declined")
    assert waiting.step is not None
    assert (waiting.step.attempt, waiting.step.due, waiting.step.attempts_max) == (2, T0 + 200, 4)
    assert [one.attempt for one in waiting.step.attempts] == [1, 2]
    assert missing(view, "expects").deadline == T0 + 2 + 1800
    assert not view.at(T0 + 259).stuck
    assert view.at(T0 + 261).stuck


def test_success_after_retries_ends_them_and_keeps_their_count() -> None:
    log = Log()
    log.event(1, Placed)
    log.note("stock.reserve", 1, "retrying", attempt=1, due=T0 + 9, error="E", message="m")
    record = log.event(2, Reserved, "stock.reserve", 1)
    record.headers["choreo-attempt"] = "2"
    view = log.view()
    assert view.summary.status == "running"
    assert (view.summary.retries, view.summary.error) == (1, "")
    assert state(view, "stock.reserve") == "done"


def test_an_attempt_inside_the_step_counts_as_a_retry_without_a_note() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1).headers["choreo-attempt"] = "3"
    assert log.view().summary.retries == 2


def test_a_dead_letter_fails_the_flow_and_a_redrive_mends_it() -> None:
    log = Log()
    log.event(1, Placed)
    log.note("stock.reserve", 1, "dead", attempt=5, error="E", message="m", reason="attempts")
    view = log.view()
    assert (view.summary.status, view.summary.dead) == ("failed", 1)
    assert not view.missing
    log.note("stock.reserve", 1, "retrying", run=1, attempt=1, due=T0 + 50, error="E", message="m")
    assert log.view().summary.status == "retrying"
    log.event(2, Reserved, "stock.reserve", 1)
    assert log.view().summary.status == "running"
    assert log.view().summary.dead == 0


def test_not_yet_is_waiting() -> None:
    log = Log()
    log.event(1, Placed)
    log.note("stock.reserve", 1, "waiting", due=T0 + 500)
    view = log.view()
    assert view.summary.status == "waiting"
    assert not view.at(T0 + 559).stuck


def test_an_event_put_off_is_waited_for_without_being_stuck() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, NoStock, "stock.reserve", 1, failure="1")
    log.event(3, Cancelled, "orders.cancel", 2)
    log.note("mail.remind", 3, "done", due=T0 + 500)
    view = log.view()
    later = missing(view, "later")
    assert (later.types, later.deadline) == (("t.mail.Reminder",), T0 + 500)
    log.event(4, Reminder, "mail.remind", 3)
    assert not log.view().missing


def test_a_handler_that_was_given_up_hands_over_to_its_stand_in() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.note("pay.capture", 2, "given_up", attempt=4, error="E", message="m")
    view = log.view()
    assert view.summary.status == "running"
    assert ("handler", "pay.gave_up") in kinds(view)
    log.event(3, Declined, "pay.gave_up", 2)
    view = log.view()
    assert view.summary.status == "compensating"
    assert kinds(view) == [("undo", "stock.release")]


# ── compensation ─────────────────────────────────────────────────────────────────────────


def declined(log: Log) -> Log:
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.event(3, Declined, "pay.capture", 2)
    return log


def test_a_trigger_shows_as_compensating_until_its_effects_are_undone() -> None:
    log = declined(Log())
    view = log.view()
    assert view.summary.status == "compensating"
    undo = missing(view, "undo")
    assert (undo.handler, undo.subject, undo.types) == (
        "stock.release", uuid(2), ("t.stock.Released",),
    )  # fmt: skip
    log.event(4, Released, "stock.release", 3, undoes=uuid(2), causes=uuid(2))
    log.event(5, Cancelled, "orders.cancel", 4)
    view = log.view()
    assert (view.summary.status, view.summary.compensations) == ("compensated", 1)
    assert kinds(view) == [("handler", "mail.remind")]
    (step,) = [one for one in view.steps if one.handler == "stock.release"]
    assert (step.subject, step.undoes, step.outputs) == (uuid(2), uuid(2), (uuid(4),))


def test_an_undo_that_is_tried_again_is_compensating_and_soon_stuck() -> None:
    log = declined(Log())
    log.note(
        "stock.release", 2, "retrying", cause=3, undoes=uuid(2), attempt=1, due=T0 + 10,
        error="E", message="m",
    )  # fmt: skip
    assert not log.view().at(T0 + 20).stuck
    log.note(
        "stock.release", 2, "retrying", cause=3, undoes=uuid(2), attempt=3, due=T0 + 30,
        error="E", message="m",
    )  # fmt: skip
    view = log.view()
    assert view.summary.status == "compensating"
    assert view.at(T0 + 20).stuck
    log.note("stock.release", 2, "done", cause=3, undoes=uuid(2), attempt=4)
    view = log.view()
    assert (view.summary.status, view.summary.compensations) == ("running", 1)


def test_an_end_with_an_undo_still_open_is_no_end_yet() -> None:
    log = declined(Log())
    log.event(5, Cancelled, "orders.cancel", 3)
    view = log.view()
    assert (view.summary.status, view.summary.end) == ("compensating", "t.orders.Cancelled")


def test_nothing_to_undo_is_awaited_too() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.event(3, TimedOut, "pay.overdue", 2)
    log.note("pay.capture", 2, "void", reason="scope closed by TimedOut")
    view = log.view()
    assert view.summary.status == "compensating"
    assert view.summary.voids == 1
    assert missing(view, "nothing").types == ("t.pay.NotTaken",)
    log.event(4, NotTaken, "pay.refund", 3)
    assert kinds(log.view()) == [("undo", "stock.release")]


def test_an_event_of_a_closed_scope_is_marked_and_its_takers_are_not_waited_for() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.event(3, TimedOut, "pay.overdue", 2)
    log.event(4, Paid, "pay.capture", 2, void="1")
    view = log.view()
    assert [one.kind for one in view.anomalies] == ["void"]
    assert kinds(view) == [("undo", "pay.refund")]
    log.event(5, Refunded, "pay.refund", 3, undoes=uuid(4), causes=uuid(4))
    assert kinds(log.view()) == [("undo", "stock.release")]


def test_an_unknown_outcome_is_stuck_from_the_third_attempt_on() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    for attempt in (1, 2, 3):
        assert not log.view().at(T0 + 5).stuck
        due = T0 + 90 * attempt
        said = {"error": "E", "message": "m", "unknown": True}
        log.note("pay.capture", 2, "retrying", attempt=attempt, due=due, **said)
    view = log.view()
    assert view.at(T0 + 5).stuck
    assert view.steps[-1].unknown


# ── joins, expectations ──────────────────────────────────────────────────────────────────


def test_a_join_says_what_it_waits_for_and_until_when() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.event(3, Paid, "pay.capture", 2)
    view = log.view()
    wait = missing(view, "join")
    assert (wait.types, wait.optional, wait.deadline) == (("t.mail.Mailed",), True, T0 + 3 + 60)
    log.event(4, Mailed, "mail.confirm", 3)
    assert kinds(log.view()) == [("handler", "ship.send")]
    log.note("ship.send", 3, "retrying", due=T0 + 90, error="E", message="m")
    log.event(5, Shipped, "ship.send", 3, causes=uuid(4))
    view = log.view()
    assert [one.state for one in view.steps if one.handler == "ship.send"] == ["done"]
    assert kinds(view) == [("handler", "orders.complete")]


def test_a_join_whose_time_is_over_is_overdue() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(4, Mailed, "mail.confirm", 1)
    log.note("stock.reserve", 1, "done")
    log.note("ship.send", 4, "overdue", reason="still waits for paid")
    view = log.view()
    assert view.summary.status == "running"
    assert view.at(T0 + 10).overdue
    assert missing(view, "join").types == ("t.pay.Paid",)


def test_what_is_expected_is_missing_until_it_or_the_time_out_comes() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    assert missing(log.view(), "expects").types == ("t.pay.Paid", "t.pay.Declined")
    log.event(3, TimedOut, "pay.overdue", 2)
    assert "expects" not in dict(kinds(log.view()))


# ── causes and order ─────────────────────────────────────────────────────────────────────


def test_causes_come_first_whatever_the_clocks_said() -> None:
    log = happy(Log())
    for record, at in zip(log.records, (60, 50, 40, 30, 20, 10), strict=True):
        record.headers["ce_time"] = rfc3339(T0 + at)
    view = log.view()
    assert [event.id for event in view.events] == [uuid(n) for n in range(1, 7)]
    assert not any(event.guessed for event in view.events)
    assert view.events[4].causes == (uuid(3), uuid(4))


def test_events_without_order_are_placed_by_time_and_marked() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Paid, "pay.capture", 1)
    log.event(3, Mailed, "mail.confirm", 1)
    assert [(e.id, e.guessed) for e in log.view().events] == [
        (uuid(1), False), (uuid(2), True), (uuid(3), False),
    ]  # fmt: skip


def test_causes_in_a_circle_do_no_harm() -> None:
    log = Log()
    log.event(2, Reserved, "stock.reserve", 3)
    log.event(3, Paid, "pay.capture", 2)
    view = log.view()
    assert [event.id for event in view.events] == [uuid(2), uuid(3)]
    assert view.summary.root == ""


# ── anomalies ────────────────────────────────────────────────────────────────────────────


def test_one_event_at_two_places_is_shown() -> None:
    log = happy(Log())
    log.event(3, Paid, "pay.capture", 2)
    view = log.view()
    assert [(one.kind, one.event) for one in view.anomalies] == [("duplicate", uuid(3))]
    assert view.summary.steps == 5


def test_a_skipped_duplicate_is_counted() -> None:
    log = happy(Log())
    log.note("pay.capture", 2, "duplicate", reason="the event came before")
    (step,) = [one for one in log.view().steps if one.handler == "pay.capture"]
    assert (step.state, step.duplicates) == ("done", 1)


def test_an_unknown_cause_is_shown() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 99)
    assert [one.kind for one in log.view().anomalies] == ["unknown_cause"]


def test_what_comes_after_the_end_has_to_be_declared() -> None:
    log = happy(Log())
    log.event(7, Late, "orders.order", 1)
    log.note("mail.confirm", 3, "duplicate")
    assert not log.view().anomalies
    log.event(8, Declined, "strange.handler", 3)
    assert [(one.kind, one.event) for one in log.view().anomalies] == [("undeclared", uuid(8))]


# ── strangers ────────────────────────────────────────────────────────────────────────────


def test_a_foreign_producer_needs_only_the_correlation_header() -> None:
    log = Log()
    log.event(1, Placed)
    log.add("legacy.audit", {"ce_correlationid": uuid(1)})
    view = log.view()
    assert view.events[0].id == "legacy.audit-0-2" or view.events[1].id == "legacy.audit-0-2"
    assert (view.summary.name, view.summary.root) == ("order", "t.orders.Placed")


def test_a_structured_event_is_read() -> None:
    log = Log()
    document = {
        "specversion": "1.0", "id": uuid(1), "source": "x", "type": "t.orders.Placed",
        "correlationid": uuid(1), "time": rfc3339(T0), "data": {"order": "A-1"},
    }  # fmt: skip
    log.add("t.orders", {"content-type": "application/cloudevents+json"}, document)
    assert log.view().summary.name == "order"


@pytest.mark.parametrize(
    "headers",
    [
        {"ce_time": "yesterday"},
        {"ce_time": ""},
        {"ce_time": "0001-01-01T00:00:00"},
        {"choreo-attempt": "many"},
        {"choreo-attempt": "9" * 40},
        {"choreo-started": "nan", "choreo-took": "inf"},
        {"choreo-causes": ",,"},
    ],
)
def test_headers_of_no_sense_do_not_stop_the_fold(headers: dict[str, str]) -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1).headers.update(headers)
    assert log.view().summary.root == "t.orders.Placed"


@pytest.mark.parametrize(
    "value",
    [
        b"", b"[]", b"{}", b"null", b"\xff", b'{"state": 7}', b'{"state": ""}',
        b'{"state": "retrying", "due": "soon", "attempt": [], "subject": 5, "run": {}}',
        b'{"state": "retrying", "due": NaN, "message": 5, "error": {}, "undoes": 1}',
        b'{"state": "unheard of"}',
    ],
)  # fmt: skip
def test_notes_of_no_sense_do_not_stop_the_fold(value: bytes) -> None:
    log = Log()
    log.event(1, Placed)
    log.note("stock.reserve", 1, "done").value = value
    view = log.view()
    assert view.summary.root == "t.orders.Placed"
    json.dumps([step.state for step in view.steps])


def test_a_record_without_any_id_belongs_to_no_flow() -> None:
    log = Log()
    log.add("legacy.audit", {})
    log.add("choreo.dead", {"ce_correlationid": uuid(1)})
    log.add("choreo.steps", {"ce_correlationid": uuid(1)})
    assert not log.facts()


def test_a_manifest_that_is_broken_says_nothing() -> None:
    good: dict[str, object] = {
        "x-choreo": {"service": "a", "flows": [{"name": "f", "starts": "A", "ends": ["B"]}]}
    }
    bad: list[dict[str, object]] = [
        {},
        {"x-choreo": None},
        {"x-choreo": {"service": 7}},
        {"x-choreo": {"handlers": 1}},
    ]
    catalog = Catalog.of({"a": good, **{f"b{n}": one for n, one in enumerate(bad)}})
    assert list(catalog.flows) == ["A"]


def test_an_empty_flow_has_a_view_too() -> None:
    assert fold([], CATALOG).summary.status == "running"


def test_without_manifests_a_flow_is_shown_without_a_name() -> None:
    view = happy(Log()).view(Catalog())
    assert (view.summary.name, view.summary.status, view.missing) == ("", "running", ())
    assert not view.at(T0 + 1e9).stuck


def test_a_record_of_another_topic_named_like_ours_is_an_event() -> None:
    record = Record("choreography.x", None, {"ce_correlationid": uuid(1)}, b"", 0, 1)
    log = Log(records=[record])
    assert log.view().events[0].topic == "choreography.x"


def test_the_latest_end_does_not_replace_the_first() -> None:
    log = happy(Log())
    log.event(7, Cancelled, "orders.cancel", 2)
    assert log.view().summary.end == Completed.__event__.type
