"""The proof that effects are undone: a run that shows where one is not, and none where all are."""

# mypy: disable-error-code="empty-body"
# The handlers are declared and checked, and never run.

from choreo import After, Cancel, Event, Failure, Service
from tests.unit.checked import (
    Asked,
    Declined,
    Done,
    Freed,
    Gone,
    Held,
    NotTaken,
    Paid,
    Refused,
    Returned,
    Told,
    TooLate,
    Untold,
    asks,
    findings,
    found,
)


def holds(*triggers: type[Event]) -> Service:
    """Give the service whose effect Held is undone by these."""
    holds = Service("holds")

    @holds.on(Asked)
    async def hold(asked: Asked) -> Held | Refused: ...

    @holds.otherwise(hold)
    async def give_up(asked: Asked, why: Failure) -> Refused: ...

    @holds.compensate(Held, on=triggers)
    async def free(held: Held, why: Event) -> Freed: ...

    @holds.on(Freed, Refused)
    async def close(why: Freed | Refused) -> Gone: ...

    return holds


def pays() -> Service:
    pays = Service("pays")

    @pays.on(Held)
    async def pay(held: Held) -> Paid | Declined: ...

    @pays.otherwise(pay)
    async def give_up(held: Held, why: Failure) -> Declined: ...

    @pays.on(Paid)
    async def finish(paid: Paid) -> Done: ...

    return pays


def undoes(nothing: type[Event] | None = NotTaken, *, late: bool = True) -> Service:
    """Give a service that takes money, and gives it back when Untold, or when it was too late."""
    pays = Service("pays")

    @pays.on(Held)
    async def pay(held: Held) -> Paid | Declined: ...

    if late:

        @pays.expects(Paid, Declined, after=Held, within_s=60)
        async def overdue(held: Held) -> TooLate: ...

    why = (TooLate, Untold) if late else (Untold,)

    @pays.compensate(Paid, on=why, nothing=nothing)
    async def refund(paid: Paid, why: Event) -> Returned: ...

    return pays


def tells() -> Service:
    tells = Service("tells")

    @tells.on(Paid)
    async def tell(paid: Paid) -> Told | Untold: ...

    @tells.on(Told)
    async def finish(told: Told) -> Done: ...

    return tells


# ── every effect is undone ───────────────────────────────────────────────────────────────


def test_an_effect_that_is_undone_is_clean() -> None:
    assert found(asks(), holds(Declined), pays()) == []


def test_a_failure_that_undoes_nothing_is_found_with_the_shortest_way() -> None:
    (one,) = [
        one for one in findings(asks(), holds(Refused), pays()) if one.code == "CH1106"
    ]  # fmt: skip
    assert one.place == "holds.free"
    assert one.at.startswith(f"{__name__}:")
    assert one.what == (
        "Held is not undone when the flow fails with Declined: no Refused comes"
    )  # fmt: skip
    assert one.example == ("Asked", "Held  holds.hold", "Declined  pays.pay")
    assert "add Declined" in one.fix


def test_a_failed_end_with_the_effect_standing_is_found() -> None:
    """The end comes by another way than the undo."""
    other = Service("other")

    @other.on(Declined)
    async def cancel(declined: Declined) -> Gone | None: ...

    @other.on(Told)
    async def drop(told: Told) -> Gone: ...

    tells = Service("tells")

    @tells.on(Held)
    async def tell(held: Held) -> Told | None: ...

    services = [asks(), holds(Declined), pays(), tells, other]
    (one,) = [one for one in findings(*services) if one.code == "CH1106"]
    assert one.place == "holds.free"
    assert one.example == ("Asked", "Held  holds.hold", "Told  tells.tell", "Gone  other.drop")


def test_a_trigger_that_comes_with_the_failure_is_enough() -> None:
    """Declined undoes nothing by itself, but who takes it always says Untold."""
    tells = Service("tells")

    @tells.on(Declined)
    async def tell(declined: Declined) -> Untold: ...

    assert found(asks(), holds(Untold), pays(), tells) == []


def test_a_trigger_that_may_not_come_is_not() -> None:
    tells = Service("tells")

    @tells.on(Declined)
    async def tell(declined: Declined) -> Untold | None: ...

    assert found(asks(), holds(Untold), pays(), tells) == [("CH1106", "holds.free")]


def test_what_stands_in_may_fail_the_flow_too() -> None:
    pays = Service("pays")

    @pays.on(Held)
    async def pay(held: Held) -> Paid: ...

    @pays.otherwise(pay)
    async def give_up(held: Held, why: Failure) -> Declined: ...

    @pays.on(Paid)
    async def finish(paid: Paid) -> Done: ...

    assert found(asks(), holds(Declined), pays) == []
    services = [asks(Done, Gone, Declined), holds(Refused), pays]
    (one,) = [one for one in findings(*services) if one.code == "CH1106"]
    assert one.place == "holds.free"
    assert one.example[-1] == "Declined  pays.give_up (otherwise)"


def test_a_failure_that_the_flow_lives_with_is_clean() -> None:
    """Untold is marked as a failure, and the flow is done all the same."""
    tells = Service("tells")

    @tells.on(Paid)
    async def tell(paid: Paid) -> Told | Untold: ...

    @tells.on(Told, Untold)
    async def note(told: Told | Untold) -> None: ...

    assert found(asks(), holds(Declined), pays(), tells) == []


def test_a_failure_before_the_effect_is_clean() -> None:
    """Refused and Held never come in one flow."""
    assert found(asks(), holds(Declined), pays()) == []


def test_a_failure_beside_the_effect_is_found() -> None:
    """Two handlers of one event: one succeeds, the other fails the flow."""
    other = Service("other")

    @other.on(Asked)
    async def judge(asked: Asked) -> Untold | None: ...

    @other.on(Untold)
    async def end(untold: Untold) -> Gone: ...

    found_ = [
        one for one in findings(asks(), holds(Declined), pays(), other) if one.code == "CH1106"
    ]  # fmt: skip
    assert [one.place for one in found_] == ["holds.free"]
    assert "Untold  other.judge" in found_[0].example
    assert "Held  holds.hold" in found_[0].example
    with_trigger = [asks(), holds(Declined, Untold), pays(), other]
    assert [code for code, _ in found(*with_trigger) if code == "CH1106"] == []


def test_both_of_a_pair_come() -> None:
    """What is published together can not be told apart by luck."""
    pays = Service("pays")

    @pays.on(Held)
    async def pay(held: Held) -> Paid | tuple[Untold, Declined]: ...

    @pays.on(Paid)
    async def finish(paid: Paid) -> Done: ...

    @pays.on(Untold)
    async def note(untold: Untold) -> None: ...

    assert found(asks(), holds(Declined), pays) == []


def test_a_time_out_undoes_what_silence_leaves() -> None:
    pays = Service("pays")

    @pays.on(Held)
    async def pay(held: Held) -> Paid | Untold: ...

    @pays.expects(Paid, after=Held, within_s=60)
    async def overdue(held: Held) -> TooLate: ...

    @pays.on(Untold)
    async def note(untold: Untold) -> None: ...

    @pays.on(Paid)
    async def finish(paid: Paid) -> Done: ...

    assert found(asks(), holds(TooLate), pays) == []


def test_a_deadline_undoes_too() -> None:
    late = Service("asks")
    late.flow("ask", starts=Asked, ends=(Done, Gone), deadline_s=60, overdue=TooLate)
    pays = Service("pays")

    @pays.on(Held)
    async def pay(held: Held) -> Paid | Untold: ...

    @pays.on(Untold)
    async def note(untold: Untold) -> None: ...

    @pays.on(Paid)
    async def finish(paid: Paid) -> Done: ...

    assert found(late, holds(TooLate), pays) == []


def test_a_loop_ends_by_one_of_its_exits() -> None:
    """Untold is tried again until it is Told: no failure in the end."""
    tells = Service("tells")

    @tells.on(Paid, Returned)
    async def tell(paid: Paid | Returned) -> Told | Untold: ...

    @tells.on(Untold)
    async def again(untold: Untold) -> After[Returned]: ...

    @tells.on(Told)
    async def finish(told: Told) -> Done: ...

    pays = Service("pays")

    @pays.on(Held)
    async def pay(held: Held) -> Paid | Declined: ...

    assert found(asks(), holds(Declined), pays, tells) == []


def test_what_is_taken_back_undoes_nothing() -> None:
    def service(*, cancels: bool) -> Service:
        pays = Service("pays")

        @pays.on(Held)
        async def pay(held: Held) -> tuple[Paid, After[TooLate]]: ...

        if cancels:

            @pays.on(Untold)
            async def calm(untold: Untold) -> Cancel: ...

        else:

            @pays.on(Untold)
            async def note(untold: Untold) -> None: ...

        @pays.on(Paid)
        async def tell(paid: Paid) -> Done | Untold: ...

        return pays

    assert found(asks(), holds(TooLate), service(cancels=False)) == []
    assert found(asks(), holds(TooLate), service(cancels=True)) == [("CH1106", "holds.free")]


# ── chains of undos ──────────────────────────────────────────────────────────────────────


def test_a_chain_that_says_so_when_there_was_nothing_is_clean() -> None:
    chain = [asks(), holds(Declined, Returned, NotTaken), undoes(), tells()]
    assert found(*chain) == []


def test_a_chain_that_may_say_nothing_is_found() -> None:
    chain = [asks(), holds(Declined, Returned), undoes(nothing=None), tells()]
    (one,) = findings(*chain)
    assert (one.code, one.place) == ("CH1107", "pays.refund")
    assert one.what == (
        "holds.free waits for Returned, which pays.refund does not publish when TooLate comes"
        " and Paid never did"
    )
    assert one.example == (
        "Asked", "Held  holds.hold", "TooLate  pays.overdue (time-out)",
        "–  pays.pay (void)", "–  pays.refund (nothing to undo)",
    )  # fmt: skip


def test_a_chain_whose_trigger_only_follows_the_effect_is_clean() -> None:
    """Untold comes after Paid: there always is something to undo."""
    chain = [asks(), holds(Declined, Returned), undoes(nothing=None, late=False), tells()]
    assert found(*chain) == []


def test_a_chain_that_is_told_by_other_means_is_clean() -> None:
    chain = [asks(), holds(Declined, Returned, TooLate), undoes(nothing=None), tells()]
    assert found(*chain) == []


# ── an undo that triggers itself ─────────────────────────────────────────────────────────


def test_an_undo_on_its_own_word_is_found() -> None:
    holds = Service("holds")

    @holds.on(Asked)
    async def hold(asked: Asked) -> Held | Refused: ...

    @holds.compensate(Held, on=(Declined, Freed))
    async def free(held: Held, why: Event) -> Freed: ...

    @holds.on(Freed, Refused)
    async def close(why: Freed | Refused) -> Gone: ...

    (one,) = findings(asks(), holds, pays())
    assert (one.code, one.place) == ("CH1108", "holds.free")
    assert one.what == "its own Freed triggers it"


def test_an_undo_on_what_only_follows_from_it_is_found() -> None:
    other = Service("other")

    @other.on(Freed)
    async def note(freed: Freed) -> Told: ...

    said = found(asks(), holds(Told), pays(), other)
    assert ("CH1108", "holds.free") in said


def test_an_undo_on_what_follows_from_it_and_from_elsewhere_is_clean() -> None:
    """A customer may cancel, and every undo ends in the same event."""
    other = Service("other")

    @other.on(Declined)
    async def cancel(declined: Declined) -> Untold: ...

    @other.on(Freed)
    async def note(freed: Freed) -> Untold | None: ...

    assert found(asks(), holds(Untold), pays(), other) == []
