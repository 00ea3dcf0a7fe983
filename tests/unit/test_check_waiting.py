"""Circles, joins that wait for ever, and times that do not fit."""

# mypy: disable-error-code="empty-body"
# The handlers are declared and checked, and never run.

import pytest

from choreo import After, Event, Failure, Retry, Service
from tests.unit.checked import (
    Asked,
    Declined,
    Done,
    Gone,
    Held,
    Paid,
    Refused,
    Told,
    TooLate,
    Untold,
    asks,
    findings,
    found,
)


class Lost(Event, topic="c.ships", key="id"):
    id: str


# ── circles ──────────────────────────────────────────────────────────────────────────────


def circle(*, unless: type[Event] | tuple[()] = ()) -> Service:
    """Give a service in which Told and Untold follow from each other, until Done."""
    tells = Service("tells")

    @tells.on(Asked)
    async def begin(asked: Asked) -> Told: ...

    @tells.on(Told)
    async def check(told: Told) -> Untold | Done: ...

    @tells.on(Untold, unless=unless)
    async def again(untold: Untold) -> Told: ...

    return tells


def test_a_circle_without_a_guard_is_found() -> None:
    (one,) = findings(asks(Done), circle())
    assert (one.code, one.place) == ("CH1105", "tells.again")
    assert one.example == ("Told", "Untold  tells.check", "Told  tells.again")
    assert one.at.startswith(f"{__name__}:")


def test_a_handler_that_takes_what_it_gives_is_a_circle() -> None:
    tells = Service("tells")

    @tells.on(Asked, Told)
    async def again(told: Asked | Told) -> Told | Done: ...

    assert found(asks(Done), tells) == [("CH1105", "tells.again")]


def test_unless_an_event_of_the_circle_is_a_guard() -> None:
    assert found(asks(Done), circle(unless=Told)) == []
    assert found(asks(Done), circle(unless=Done)) == [("CH1105", "tells.again")]


def test_a_number_of_visits_is_a_guard() -> None:
    tells = Service("tells")

    @tells.on(Asked, Told, visits_max=3)
    async def again(told: Asked | Told) -> Told | Done: ...

    assert found(asks(Done), tells) == []


def test_a_timer_is_a_guard() -> None:
    tells = Service("tells")

    @tells.on(Asked)
    async def begin(asked: Asked) -> Told: ...

    @tells.on(Told)
    async def check(told: Told) -> Untold | Done: ...

    @tells.on(Untold)
    async def again(untold: Untold) -> After[Told]: ...

    assert found(asks(Done), tells) == []


def test_a_time_out_is_a_guard() -> None:
    tells = Service("tells")

    @tells.on(Asked)
    async def begin(asked: Asked) -> Told: ...

    @tells.on(Told)
    async def check(told: Told) -> Done | None: ...

    @tells.expects(Done, after=Told, within_s=60)
    async def again(told: Told) -> Told: ...

    assert found(asks(Done), tells) == []


def test_a_guard_of_one_circle_is_none_of_another() -> None:
    """Told → Untold → Told is guarded; Told → Held → Told is not."""
    tells = circle(unless=Told)

    @tells.on(Told)
    async def look(told: Told) -> Held | None: ...

    @tells.on(Held)
    async def back(held: Held) -> Told: ...

    assert found(asks(Done), tells) == [("CH1105", "tells.back")]


# ── joins ────────────────────────────────────────────────────────────────────────────────


def ships() -> Service:
    ships = Service("ships")

    @ships.join(within_s=60)
    async def ship(held: Held, paid: Paid) -> Done: ...

    @ships.otherwise(ship)
    async def give_up(held: Held | Paid, why: Failure) -> Lost: ...

    return ships


def holds_and_pays(*, safe: bool = True) -> Service:
    does = Service("does")

    @does.on(Asked)
    async def hold(asked: Asked) -> Held: ...

    @does.otherwise(hold)
    async def unheld(asked: Asked, why: Failure) -> Refused: ...

    @does.on(Asked)
    async def pay(asked: Asked) -> Paid: ...

    @does.on(Refused, Declined)
    async def fail(why: Refused | Declined) -> Gone: ...

    if safe:

        @does.otherwise(pay)
        async def unpaid(asked: Asked, why: Failure) -> Declined: ...

    else:

        @does.on(Told)
        async def decline(told: Told) -> Declined: ...

        @does.on(Asked)
        async def tell(asked: Asked) -> Told | None: ...

    return does


def test_a_join_of_what_always_comes_or_ends_the_flow_is_clean() -> None:
    assert found(asks(Done, Gone, Lost), holds_and_pays(), ships()) == []


def test_a_dead_letter_on_the_way_to_a_join_is_found() -> None:
    (one,) = findings(asks(Done, Gone, Lost), holds_and_pays(safe=False), ships())
    assert (one.code, one.place) == ("CH1109", "ships.ship")
    assert one.what == "it can wait for Paid for ever: does.pay may end with: dead letter"
    assert one.example == ("Asked", "Held  does.hold", "–  does.pay (dead letter)")
    assert one.at.startswith(f"{__name__}:")


def test_another_event_in_its_place_is_found_where_it_does_not_end_the_flow() -> None:
    does = Service("does")

    @does.on(Asked)
    async def hold(asked: Asked) -> Held: ...

    @does.otherwise(hold)
    async def unheld(asked: Asked, why: Failure) -> Refused: ...

    @does.on(Refused)
    async def fail(why: Refused) -> Gone: ...

    @does.on(Asked)
    async def pay(asked: Asked) -> Paid | Declined: ...

    @does.otherwise(pay)
    async def unpaid(asked: Asked, why: Failure) -> Declined: ...

    @does.on(Declined)
    async def note(declined: Declined) -> None: ...

    (one,) = findings(asks(Done, Gone, Lost), does, ships())
    assert (one.code, one.place) == ("CH1109", "ships.ship")
    assert one.what == "it can wait for Paid for ever: does.pay may publish Declined instead"


def test_silence_on_the_way_to_a_join_is_found() -> None:
    does = Service("does")

    @does.on(Asked)
    async def both(asked: Asked) -> tuple[Held, Paid | None] | Gone: ...

    @does.otherwise(both)
    async def neither(asked: Asked, why: Failure) -> Gone: ...

    (one,) = findings(asks(Done, Gone, Lost), does, ships())
    assert (one.code, one.place) == ("CH1109", "ships.ship")


def test_what_may_be_missing_is_not_waited_for() -> None:
    ships = Service("ships")

    @ships.join(within_s=60)
    async def ship(held: Held, paid: Paid | None) -> Done: ...

    @ships.otherwise(ship)
    async def give_up(held: Held, why: Failure) -> Lost: ...

    assert found(asks(Done, Gone, Lost), holds_and_pays(safe=False), ships) == []


def test_a_time_out_that_says_something_else_is_clean() -> None:
    ships = Service("ships")

    @ships.join(within_s=60)
    async def ship(held: Held, paid: Paid | TooLate) -> Done: ...

    @ships.otherwise(ship)
    async def give_up(held: Held, why: Failure) -> Lost: ...

    @ships.expects(Paid, after=Held, within_s=60)
    async def overdue(held: Held) -> TooLate: ...

    assert found(asks(Done, Gone, Lost), holds_and_pays(safe=False), ships) == []


def test_a_join_that_never_opens_is_clean() -> None:
    """What it takes comes after one event, or not at all."""
    does = Service("does")

    @does.on(Asked)
    async def both(asked: Asked) -> tuple[Held, Paid]: ...

    assert found(asks(Done, Lost), does, ships()) == []


# ── times ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("deadline_s", "fits"), [(61, True), (60, False), (30, False)])
def test_a_time_out_has_to_fit_the_deadline(deadline_s: float, *, fits: bool) -> None:
    does = Service("does")

    @does.on(Asked)
    async def hold(asked: Asked) -> Done: ...

    @does.expects(Done, after=Asked, within_s=60)
    async def overdue(asked: Asked) -> Gone: ...

    said = findings(asks(deadline_s=deadline_s), does)
    assert [(one.code, one.place) for one in said] == [("CH1110", "does.overdue")][fits:]


def test_time_outs_add_up() -> None:
    does = Service("does")

    @does.on(Asked)
    async def hold(asked: Asked) -> Done: ...

    @does.expects(Done, after=Asked, within_s=60)
    async def late(asked: Asked) -> TooLate: ...

    @does.expects(Done, after=TooLate, within_s=60)
    async def later(late: TooLate) -> Gone: ...

    assert found(asks(deadline_s=121), does) == []
    (one,) = findings(asks(deadline_s=120), does)
    assert (one.code, one.place) == ("CH1110", "does.later")
    assert "after the 60 s that come first" in one.what


def test_a_handler_and_its_stand_in_have_to_fit_the_deadline() -> None:
    does = Service("does")

    @does.on(Asked, timeout_s=40, retry=Retry(attempts_max=3, first_s=5, factor=2))
    async def hold(asked: Asked) -> Done: ...

    @does.otherwise(hold)
    async def unheld(asked: Asked, why: Failure) -> Gone: ...

    assert found(asks(deadline_s=41), does) == []
    assert found(asks(deadline_s=40), does) == [("CH1110", "does.hold")]
    assert len(findings(asks(deadline_s=15), does)) == 2
    assert "its otherwise of 15 s" in "".join(one.what for one in findings(
        asks(deadline_s=15), does))  # fmt: skip


def test_a_service_has_to_remember_longer_than_the_flow_lasts() -> None:
    def does(flow_keep_s: float) -> Service:
        does = Service("does", inbox_keep_s=60, flow_keep_s=flow_keep_s)

        @does.on(Asked)
        async def hold(asked: Asked) -> Done | Gone: ...

        return does

    assert found(asks(deadline_s=3600), does(3600)) == []
    (one,) = findings(asks(deadline_s=3600), does(3599))
    assert (one.code, one.place) == ("CH1113", "asks.ask")
    assert "longer than does remembers a flow: 59.9833 min" in one.what
    assert len(findings(asks(deadline_s=401 * 86_400), does(3600))) == 2


# ── flows ────────────────────────────────────────────────────────────────────────────────


def test_a_dead_letter_that_nothing_shows_is_found() -> None:
    does = Service("does")

    @does.on(Asked)
    async def hold(asked: Asked) -> Done | Gone: ...

    (one,) = findings(asks(deadline_s=None), does)
    assert (one.code, one.place) == ("CH1111", "asks.ask")
    assert "does.hold" in one.what
    assert found(asks(deadline_s=60), does) == []


def test_a_dead_letter_beside_the_way_to_the_end_is_clean() -> None:
    does = Service("does")

    @does.on(Asked)
    async def hold(asked: Asked) -> Done: ...

    @does.otherwise(hold)
    async def unheld(asked: Asked, why: Failure) -> Gone: ...

    @does.on(Asked)
    async def note(asked: Asked) -> None: ...

    assert found(asks(deadline_s=None), does) == []


def long_flow(steps: int) -> list[Service]:
    fields = {"__module__": __name__, "__annotations__": {"id": str}}
    between: list[type[Event]] = [
        type(f"Step{n}", (Event,), dict(fields), topic="c.steps", key="id")
        for n in range(steps - 1)
    ]
    kinds: list[type[Event]] = [Asked, *between, Done]
    does = Service("does")
    for n in range(steps):

        async def step(event: Event) -> None: ...

        step.__annotations__["return"] = kinds[n + 1]
        does.on(kinds[n], name=f"step{n}")(step)
    return [asks(Done), does]


def test_a_flow_of_more_than_fifty_steps_is_found() -> None:
    assert found(*long_flow(50)) == []
    assert found(*long_flow(51)) == [("CH1112", "asks.ask")]
