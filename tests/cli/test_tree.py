"""How a flow is drawn, and how texts, times and durations are written."""

import io
import json

import pytest
from rich.console import Console

from choreo.cli.output import ago, cleaned, duration, moment, short
from choreo.cli.reading import view_json
from choreo.cli.tree import CHILDREN_MAX, tree_of
from tests.unit.tracking import (
    T0,
    Cancelled,
    Declined,
    Log,
    Mailed,
    NoStock,
    Paid,
    Placed,
    Released,
    Reserved,
    Shipped,
    TimedOut,
    happy,
    uuid,
)


def drawn(log: Log, *, at: float = 10.0, width: int = 120) -> str:
    out = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    view = log.view()
    out.print(tree_of(view, T0 + at))
    json.dumps(view_json(view, T0 + at))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_a_good_order() -> None:
    assert drawn(happy(Log())).splitlines() == [
        "✔ completed  order  A-1  → Completed",
        uuid(1),
        "started 2025-11-21T01:53:21.000Z (9 s ago), took 5 s",
        "● Placed  app",
        "└── ● Reserved  stock.reserve  250 ms",
        "    └── ● Paid  pay.capture  250 ms",
        "        └── ● Mailed  mail.confirm  250 ms",
        "            └── ● Shipped  ship.send  250 ms  joins Paid, Mailed",
        "                └── ● Completed  orders.complete  250 ms",
    ]


def test_what_retries_and_what_is_missing() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.note(
        "pay.capture", 2, "retrying", attempt=2, due=T0 + 35, error="ProviderError",
        message="500", attempts_max=4, unknown=True,
    )  # fmt: skip
    lines = drawn(log).splitlines()
    assert lines[0] == "↻ retrying  order  A-1"
    assert lines[3] == "✘ pay.capture: ProviderError: 500"
    effort = "pay.capture  250 ms  attempt 2 of 4"
    known = "outcome unknown, tried until it is known"
    assert lines[-3].endswith(f"↻ retrying  {effort}  {known}  next in 25 s")
    reason = "handler pay.capture is at attempt 3, next in 25 s"
    assert lines[-2] == f"◌ waiting for Paid or Declined since 8 s; {reason}"
    assert lines[-1] == (
        "◌ Paid or Declined expected since 8 s, due in 29 min; otherwise pay.overdue"
    )
    assert drawn(log, at=2000).splitlines()[-1].endswith("otherwise pay.overdue  overdue")


def test_what_is_undone_and_what_comes_later() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.event(3, Declined, "pay.capture", 2, failure="1")
    assert drawn(log).splitlines()[-1] == (
        "◌ waiting for Released since 6 s; undo of Reserved; handler stock.release has not been "
        "heard of"
    ).replace("6 s", "7 s")
    log.event(4, Released, "stock.release", 3, undoes=uuid(2), causes=uuid(2))
    log.event(5, Cancelled, "orders.cancel", 4, failure="1")
    log.note("mail.remind", 5, "done", due=T0 + 70)
    text = drawn(log)
    assert text.startswith("↩ compensated  order  A-1  → Cancelled")
    assert "● Released  stock.release  250 ms  undoes Reserved" in text
    assert "✘ Cancelled  orders.cancel" in text
    assert "◌ Reminder scheduled by mail.remind since" in text
    assert "due in 1 min" in text


def test_joins_voids_and_anomalies() -> None:
    log = Log()
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.event(3, TimedOut, "pay.overdue", 2)
    log.note("pay.capture", 2, "void", reason="scope closed by TimedOut")
    log.event(4, Mailed, "mail.confirm", 9, branch="b")
    text = drawn(log)
    assert "∅ void  pay.capture  250 ms  scope closed by TimedOut" in text
    assert "⚠ unknown cause: Mailed: its cause" in text
    assert "ship.send waits for Paid since" in text
    assert "pay.refund says it when there was nothing to undo" in text
    log.event(5, Paid, "pay.capture", 2, void="1")
    assert "∅ void" in drawn(log)


def test_of_a_wide_fan_some_are_shown() -> None:
    log = Log()
    log.event(1, Placed)
    for number in range(200):
        log.event(100 + number, Reserved, "stock.reserve", 1)
    text = drawn(log)
    assert text.count("● Reserved") == CHILDREN_MAX
    assert f"… {200 - CHILDREN_MAX} more" in text


def test_a_long_chain_and_a_circle_are_drawn() -> None:
    log = Log()
    log.event(1, Placed)
    for number in range(2, 2000):
        log.event(number, Reserved, "stock.reserve", number - 1)
    assert drawn(log, width=20)
    circle = Log()
    circle.event(2, Reserved, "stock.reserve", 3)
    circle.event(3, Paid, "pay.capture", 2)
    assert drawn(circle).count("●") == 2


def test_nothing_steers_the_terminal() -> None:
    log = Log()
    log.event(1, Placed).headers["ce_subject"] = "A\x1b[31m[bold]\x07\u202e\r1"
    log.event(2, NoStock, "stock.reserve", 1).headers["choreo-branch"] = "\x9b31m"
    log.note("orders.cancel", 2, "dead", error="E\x1b]0;x", message="m\x00\ud800\nline 2")
    text = drawn(log)
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\x00", "\r", "\u202e"}
    assert "[bold]" in text


def test_a_flow_of_nobody_has_a_tree_too() -> None:
    log = Log()
    log.add("legacy.audit", {"ce_correlationid": uuid(1)})
    log.event(5, Shipped, "ship.send", 4)
    assert "unnamed flow" in drawn(log)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""), (0, "0 ms"), (0.0000123, "0.0123 ms"), (0.0434, "43.4 ms"), (0.208, "208 ms"),
        (0.9994, "999 ms"), (0.9999, "1 s"), (1.394, "1.39 s"), (59.94, "59.9 s"),
        (61, "1 min 1 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min"), (90_000, "25 h 0 min"),
        (864_000, "10 days"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("then", "text"),
    [(0, "unknown"), (T0, "now"), (T0 - 5, "5 s ago"), (T0 + 25, "in 25 s"),
     (T0 - 125, "2 min ago"), (T0 - 7300, "2 h ago"), (T0 + 1e6, "in 11 d")],
)  # fmt: skip
def test_moments(then: float, text: str) -> None:
    assert ago(then, T0) == text


def test_texts() -> None:
    assert short("shop.orders.Placed") == "Placed"
    assert cleaned("a\tb\nc") == "a b c"
    assert moment(0.0) is None
    assert moment(None) is None
    assert moment(T0) == "2025-11-21T01:53:20.000Z"
