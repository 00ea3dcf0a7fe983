"""The audit: a clean history is clean, and each thing that may not be is found."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from choreo.audit import GUARANTEES, Evidence, Violation, name_of, rules
from choreo.audit.invariants import ALWAYS
from choreo.audit.resting import AT_REST
from choreo.events import Partition, Record, id_text, rfc3339
from choreo.plan import Memo, Status
from choreo.ports import Unsent
from tests.unit.audited import (
    ACCEPTED,
    CANCELLED,
    DECLINED,
    DONE,
    MANIFESTS,
    NOW,
    OVERDUE,
    PAID,
    PLACED,
    RELEASED,
    RESERVED,
    World,
    handler,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def kinds(found: Iterable[Violation]) -> set[str]:
    return {one.invariant for one in found}


# ── clean ────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_clean(world: World) -> None:
    world.history.clear()
    assert world.audit() == []


def test_all_ways_of_an_order_are_clean(world: World) -> None:
    for _ in range(3):
        world.completed()
        world.cancelled()
        world.cancelled(OVERDUE)
        world.refunded()
    assert world.audit() == []
    assert world.audit(at_rest=False) == []


def test_an_order_on_its_way_is_clean_unless_at_rest(world: World) -> None:
    world.begin()
    assert world.audit(at_rest=False) == []
    assert kinds(world.audit()) == {"reached-an-end", "taken"}


def test_that_nothing_was_to_be_undone_is_said_by_the_trigger(world: World) -> None:
    placed = world.event(PLACED)
    world.settle("orders.order.deadline!open", placed)
    world.settle("orders.accept", placed)
    declined = world.event(DECLINED, placed, "orders.accept")
    world.settle("stock.release!why", declined)
    nothing = world.event(RELEASED, declined, "stock.release")
    world.event(CANCELLED, nothing, "orders.cancel")
    world.settle("orders.cancel", nothing)
    assert world.audit() == []
    world.forget("stock.release!why")
    assert kinds(world.audit()) == {"committed", "taken"}


def test_a_void_step_may_publish_what_is_marked(world: World) -> None:
    made = world.cancelled(OVERDUE)
    void = {"choreo-void": "1"}
    world.event(PAID, made["reserved"], "pay.charge", **void)
    assert world.audit() == []


def test_records_of_others_need_no_step(world: World) -> None:
    record = Record("legacy", None, {}, b"\xff not ours")
    world.append(record)
    world.append(
        Record("legacy", None, {"content-type": "application/cloudevents+json"}, b"broken")
    )
    world.event("legacy.Told", world.event("legacy.Said"), "")
    assert world.audit() == []


def test_ten_thousand_records_take_seconds(world: World) -> None:
    for number in range(2000):
        if number % 4:
            world.completed()
        else:
            world.cancelled(OVERDUE if number % 8 else DECLINED)
    assert len(world.history) > 10_000
    began = time.process_time()  # of this process alone: others may be at work
    assert world.audit() == []
    assert time.process_time() - began < 5


# ── each invariant ───────────────────────────────────────────────────────────────────────


def two_ends(world: World) -> None:
    made = world.completed()
    world.event(CANCELLED, made["placed"], "orders.accept")


def two_ends_of_one_type(world: World) -> None:
    made = world.completed()
    world.event(DONE, made["placed"], "orders.accept")


def no_inbox_row(world: World) -> None:
    made = world.completed()
    world.event("shop.else.Thing", made["paid"], "stock.reserve")


def parked_step(world: World) -> None:
    made = world.cancelled()
    world.settle("orders.cancel", made["released"], Status.PARKED, due=NOW + 1e9)


def dead_step(world: World) -> None:
    made = world.cancelled()
    world.settle("orders.cancel", made["released"], Status.DEAD)


def undo_without_a_row(world: World) -> None:
    world.cancelled()
    world.forget("stock.release")


def other_content(world: World) -> None:
    made = world.completed()
    done = made["done"]
    world.append(Record(done.topic, done.key, dict(done.headers), b'{"other": 1}'))


def missing_cause(world: World) -> None:
    made = world.completed()
    made["done"].headers["choreo-causes"] = id_text(b"?" * 16)


def late_cause(world: World) -> None:
    made = world.completed()
    made["accepted"].headers["choreo-causes"] = made["paid"].headers["ce_id"]


def own_cause(world: World) -> None:
    made = world.completed()
    made["done"].headers["choreo-causes"] = made["done"].headers["ce_id"]


def out_of_order(world: World) -> None:
    placed = [world.event(PLACED), world.event(PLACED)]
    placed[1].key = placed[0].key
    for one in reversed(placed):
        world.event(ACCEPTED, one, "orders.accept")
        world.settle("orders.accept", one)


def void_that_counts(world: World) -> None:
    made = world.completed()
    world.settle("pay.charge", made["reserved"], Status.VOID)


def undone_for_nothing(world: World) -> None:
    made = world.completed()
    world.settle("stock.release", made["reserved"])


def undone_out_of_the_air(world: World) -> None:
    world.settle("stock.release", b"?" * 16)


def too_early(world: World) -> None:
    made = world.cancelled(OVERDUE)
    began = made["accepted"].headers["ce_time"]
    made["accepted"].headers["ce_time"] = rfc3339(NOW + 30)
    assert began < made["accepted"].headers["ce_time"]


def held_behind_nothing(world: World) -> None:
    made = world.completed()
    world.settle("stock.reserve", made["paid"], Status.PARKED, chain="shop.orders/k")


def offset_passed(world: World) -> None:
    made = world.completed()
    world.forget("stock.reserve")
    world.settle("pay.charge", made["reserved"])
    row = ("stock", "shop.orders", 0, made["accepted"].offset + 1)
    world.execute("INSERT INTO position (grp, topic, partition, offset) VALUES (?, ?, ?, ?)", *row)


def offset_beyond(world: World) -> None:
    world.completed()
    row = ("stock", "shop.orders", 0, len(world.history) + 2)
    world.execute("INSERT INTO position (grp, topic, partition, offset) VALUES (?, ?, ?, ?)", *row)


def unknown_service(world: World) -> None:
    world.event("shop.else.Thing", world.completed()["placed"], "unheard.of")


def unsent_of_nobody(world: World) -> None:
    made = world.completed()
    world.outbox.append(Unsent(7, Partition("shop.pay", 0), made["done"]))
    world.forget("orders.finish")


def run_twice(world: World) -> None:
    made = world.completed()
    made["paid"].headers["choreo-started"] = "1.000"
    world.event(PAID, made["reserved"], "pay.charge", **{"choreo-started": "2.000"})


def void_and_unknown(world: World) -> None:
    made = world.cancelled(OVERDUE)
    world.call("pay.charge", made["reserved"], "charge", Memo.INTENT)


def completed_and_undone(world: World) -> None:
    made = world.completed()
    declined = world.event(DECLINED, made["reserved"], "pay.charge")
    world.settle("stock.release!why", declined)
    undoes = {"choreo-undoes": made["reserved"].headers["ce_id"]}
    world.event(RELEASED, declined, "stock.release", **undoes)
    world.settle("stock.release", made["reserved"])


def undone_in_another_order(world: World) -> None:
    made = world.refunded()
    declined = world.event(DECLINED, made["paid"])
    world.history.remove(declined)
    world.history.insert(world.history.index(made["released"]), declined)
    made["released"].headers["ce_causationid"] = declined.headers["ce_id"]


def answered_before(world: World) -> None:
    made = world.begin()
    world.event(PAID, made["reserved"], "pay.charge")
    world.settle("pay.charge", made["reserved"])
    world.now += 60
    world.event(OVERDUE, made["accepted"], "pay.overdue")


def joined_with_too_little(world: World) -> None:
    made = world.completed()
    made["paid"].headers["choreo-void"] = "1"


FAULTS: list[tuple[Callable[[World], None], str]] = [
    (two_ends, "one-end"),
    (two_ends_of_one_type, "one-end"),
    (no_inbox_row, "committed"),
    (parked_step, "committed"),
    (dead_step, "committed"),
    (undo_without_a_row, "committed"),
    (other_content, "contents"),
    (missing_cause, "causes"),
    (late_cause, "causes"),
    (own_cause, "causes"),
    (out_of_order, "order"),
    (void_that_counts, "void"),
    (undone_for_nothing, "undone-for-a-reason"),
    (undone_out_of_the_air, "undone-for-a-reason"),
    (too_early, "not-early"),
    (held_behind_nothing, "held"),
    (offset_passed, "offsets"),
    (offset_beyond, "offsets"),
    (unknown_service, "manifests"),
    (unsent_of_nobody, "committed"),
    (run_twice, "once"),
    (void_and_unknown, "known"),
    (completed_and_undone, "completed"),
    (undone_in_another_order, "undone-in-reverse"),
    (answered_before, "answered"),
    (joined_with_too_little, "joined"),
]


@pytest.mark.parametrize(("fault", "invariant"), FAULTS)
def test_a_fault_is_found_at_any_moment(
    world: World, fault: Callable[[World], None], invariant: str
) -> None:
    world.completed()
    world.cancelled()
    fault(world)
    assert invariant in kinds(world.audit(at_rest=False))
    assert invariant in kinds(world.audit())


def no_end(world: World) -> None:
    made = world.completed()
    world.history.remove(made["done"])


def not_taken(world: World) -> None:
    world.completed()
    world.forget("orders.finish!arrive")


def not_opened(world: World) -> None:
    world.completed()
    world.forget("orders.order.deadline!open")


def not_undone(world: World) -> None:
    world.cancelled()
    world.forget("stock.release")


def undo_stuck(world: World) -> None:
    made = world.cancelled()
    world.settle("stock.release", made["reserved"], Status.PARKED, due=NOW + 1e9)


def void_effect_not_undone(world: World) -> None:
    made = world.cancelled()
    world.event(RESERVED, made["accepted"], "stock.reserve", **{"choreo-void": "1"})


def timer_left(world: World) -> None:
    world.completed()
    world.execute(
        "INSERT INTO timer SELECT x'01', ?, id, x'', '', 0, 0 FROM name LIMIT 1", world.now - 2
    )


def parked_left(world: World) -> None:
    made = world.completed()
    world.settle("stock.reserve", made["paid"], Status.PARKED, due=world.now - 2)


def nothing_left(world: World) -> None:
    made = world.completed()
    world.history.remove(made["accepted"])


def not_sent(world: World) -> None:
    made = world.completed()
    world.outbox.append(Unsent(7, Partition("shop.pay", 0), made["done"]))


REST_FAULTS: list[tuple[Callable[[World], None], str]] = [
    (no_end, "reached-an-end"),
    (not_taken, "taken"),
    (not_opened, "taken"),
    (not_undone, "undone"),
    (undo_stuck, "undone"),
    (void_effect_not_undone, "undone"),
    (timer_left, "fired"),
    (parked_left, "fired"),
    (nothing_left, "published"),
    (not_sent, "sent"),
]


@pytest.mark.parametrize(("fault", "invariant"), REST_FAULTS)
def test_what_is_unfinished_is_found_at_rest_alone(
    world: World, fault: Callable[[World], None], invariant: str
) -> None:
    world.completed()
    world.cancelled()
    fault(world)
    assert invariant in kinds(world.audit())
    assert invariant not in kinds(world.audit(at_rest=False))


def test_every_invariant_has_its_fault() -> None:
    from_store = {name_of(rule) for rule in (*ALWAYS, *AT_REST)}
    assert {name for _, name in (*FAULTS, *REST_FAULTS)} == from_store


def test_every_guarantee_is_judged_by_an_invariant_and_every_invariant_judges_one() -> None:
    judged = {name for names in GUARANTEES.values() for name in names}
    assert judged == {name_of(invariant) for invariant, _, _ in rules()}
    assert [int(words.split()[0]) for words in GUARANTEES] == [*range(4, 23)]


# ── finer points ─────────────────────────────────────────────────────────────────────────


def test_a_violation_says_what_and_where(world: World) -> None:
    made = world.completed()
    world.forget("stock.reserve")
    (one, *_) = [found for found in world.audit() if found.invariant == "committed"]
    reserved = made["reserved"]
    assert f"Reserved {reserved.headers['ce_id']} at shop.stock-0-{reserved.offset}" in one.text
    assert "stock.reserve is not in the inbox" in one.text


def test_a_handler_that_is_new_takes_what_comes_after_it(world: World) -> None:
    world.completed()
    about = json.loads(json.dumps(MANIFESTS["stock"]))
    about["handlers"].append(handler("stock.count", "on", [ACCEPTED]))
    world.manifest("stock", about)
    assert world.audit() == []
    made = world.completed()
    assert kinds(world.audit()) == {"taken"}
    world.settle("stock.count", made["accepted"])
    world.note("stock.count", made["accepted"])
    assert world.audit() == []


def test_a_service_that_is_new_takes_all_from_the_beginning(world: World) -> None:
    made = world.completed()
    world.manifest("late", {"handlers": [handler("late.see", "on", [PAID])]})
    assert kinds(world.audit()) == {"taken"}
    world.settle("late.see", made["paid"])
    world.note("late.see", made["paid"])
    assert world.audit() == []


def test_manifests_may_be_given(world: World) -> None:
    world.completed()
    world.history[:] = [one for one in world.history if one.topic != "choreo.manifests"]
    assert "manifests" in kinds(world.audit())
    given = [{"x-choreo": {"service": name, **about}} for name, about in MANIFESTS.items()]
    assert world.audit(manifests=given) == []


def test_a_scope_may_be_named_by_fields(world: World) -> None:
    about = json.loads(json.dumps(MANIFESTS["stock"]))
    about["handlers"][1]["by"] = ["sku"]
    world.manifest("stock", about)
    made = world.cancelled()
    for one in (made["reserved"], made["why"]):
        one.value = b'{"sku": 7}'
    assert world.audit() == []
    made["why"].value = b'{"sku": 8}'
    assert kinds(world.audit()) == {"undone-for-a-reason"}


def test_a_dead_letter_that_was_run_again_is_out_of_order_by_right(world: World) -> None:
    out_of_order(world)
    last = world.history[-1].headers["ce_causationid"]
    assert "order" in kinds(world.audit(at_rest=False))
    dead = {"ce_id": last, "choreo-dead-step": "orders.accept"}
    world.append(Record("choreo.dead", b"", dead, b""))
    assert "order" not in kinds(world.audit(at_rest=False))


def test_a_copy_of_an_event_may_stand_anywhere(world: World) -> None:
    placed = [world.event(PLACED), world.event(PLACED)]
    placed[1].key = placed[0].key
    made = [world.event(ACCEPTED, one, "orders.accept") for one in placed]
    for one in placed:
        world.settle("orders.accept", one)
    world.append(Record(made[0].topic, made[0].key, made[0].headers, made[0].value))
    assert world.audit(at_rest=False) == []


def test_broken_manifests_say_nothing(world: World) -> None:
    for value in (
        b"\xff", b"[]", b"{}", b'{"x-choreo": 7}', b'{"x-choreo": {"service": 7}}',
        b'{"x-choreo": {"service": "x", "handlers": [{"kind": "on"}]}}',
        b'{"x-choreo": {"service": "x", "handlers": 7, "flows": [{}]}}',
    ):  # fmt: skip
        world.append(Record("choreo.manifests", b"x", {}, value))
    world.completed()
    assert world.audit() == []


def test_users_add_their_own(world: World) -> None:
    def money(evidence: Evidence) -> Iterable[str]:
        (row,) = evidence.rows("SELECT count(*) AS n FROM inbox WHERE status = $1", 2)
        yield f"{row['n']} of {len(evidence.history)} in {evidence.folder.name}"

    def broken(evidence: Evidence) -> Iterable[str]:
        yield "first"
        yield str(evidence.rows("SELECT * FROM shop_missing"))

    world.completed()
    found = world.audit(invariants=[money, broken])
    assert found[0] == Violation("money", f"8 of {len(world.history)} in {world.tmp.name}")
    assert found[-1].invariant == "broken"
    assert "could not be judged: OperationalError" in found[-1].text
    assert Violation("broken", "first") in found
