"""The audit's further evidence: what is not given is not judged, what is given and wrong is told.

Each invariant has a case that it tells of, and one beside it that is right.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from choreo.audit import Committed, Evidence, Recovery, Told, Views, audit, judge, name_of
from choreo.audit.further import FURTHER, FURTHER_AT_REST
from choreo.events import Partition, Record, rfc3339
from choreo.plan import Owned, Source, Status
from choreo.ports import Contents, FlowSummary, InboxRow, OwnerRow
from tests.unit.audited import ACCEPTED, DECLINED, DONE, NOW, OVERDUE, PAID, World

ORDERS = Partition("shop.orders", 0)
SECRET = "4000-1234"
Given = Callable[[World], None]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.completed()
    made.cancelled()
    return made


def told(world: World) -> set[str]:
    return {one.invariant for one in world.audit()}


def begun(world: World, seconds: float) -> Record:
    """Give the key of one order a step that began so long after its event."""
    made = world.completed()
    for name, cause in (("accepted", "placed"), ("reserved", "accepted"), ("paid", "reserved")):
        since = float(made[cause].offset)
        made[cause].headers["ce_time"] = rfc3339(NOW + since)
        made[name].headers["choreo-started"] = f"{NOW + since:.3f}"
    since = float(made["placed"].offset)
    made["accepted"].headers["choreo-started"] = f"{NOW + since + seconds:.3f}"
    return made["placed"]


def summaries(world: World) -> dict[str, FlowSummary]:
    """Show every flow as it is."""
    found: dict[str, FlowSummary] = {}
    for record in world.history:
        flow = record.headers.get("ce_correlationid")
        if flow is None:
            continue
        known = found.get(flow) or FlowSummary(flow, "", "order", "running", "", "", NOW, NOW)
        end = known.end or (record.headers["ce_type"] if is_end(record) else "")
        undone = known.compensations + ("choreo-undoes" in record.headers)
        status = ("compensated" if undone else "completed") if end else "running"
        found[flow] = replace(known, end=end, compensations=undone, status=status)
    return found


def is_end(record: Record) -> bool:
    return record.headers["ce_type"] in (DONE, "shop.orders.Cancelled")


def shown(world: World, **changed: object) -> None:
    """Let a tracker show all flows, the first of them changed."""
    first, *others = summaries(world).values()
    live = [replace(first, **changed), *others]  # type: ignore[arg-type]
    world.further["views"] = Views(live, [first, *others])


def recovery(**about: object) -> Given:
    def give(world: World) -> None:
        world.further["recovery"] = Recovery(NOW, **about)  # type: ignore[arg-type]

    return give


def outside(*keys: str) -> Given:
    def give(world: World) -> None:
        world.further["outside"] = {"bank": keys}

    return give


def commits(*offsets: tuple[str, int]) -> Given:
    def give(world: World) -> None:
        world.further["commits"] = [Committed("pay", ORDERS, who, at) for who, at in offsets]

    return give


def replayed(change: Callable[[Evidence], Evidence]) -> Given:
    def give(world: World) -> None:
        before = replace(world.evidence(), tables={"shop": [1, 2]}, outside={"bank": ["k"]})
        world.further |= {"tables": before.tables, "outside": before.outside}
        world.further["replayed"] = change(before)

    return give


def runs(*hashes: str) -> Given:
    def give(world: World) -> None:
        world.further["runs"] = {"7": hashes}

    return give


def texts(text: str) -> Given:
    def give(world: World) -> None:
        world.further["told"] = Told({"worker.log": text}, [SECRET])

    return give


def note_with(text: str) -> Given:
    def give(world: World) -> None:
        world.append(Record("choreo.steps", b"", {"ce_id": "1"}, text.encode()))
        texts("")(world)

    return give


def dead_letter(value: str, message: str) -> Given:
    def give(world: World) -> None:
        headers = {"ce_id": "1", "choreo-dead-message": message}
        world.append(Record("choreo.dead", b"", headers, value.encode()))
        texts("")(world)

    return give


def views(**changed: object) -> Given:
    return lambda world: shown(world, **changed)


def unseen(world: World) -> None:
    live = [*summaries(world).values()]
    world.further["views"] = Views(live[1:], None)


def shown_dead(world: World) -> None:
    made = world.completed()
    world.settle("stock.reserve", made["accepted"], Status.DEAD)
    shown(world)


def behind(offset: int, holder: str = "") -> Given:
    def give(world: World) -> None:
        last = max(one.offset for one in world.history if one.topic == "shop.orders")
        row = ("pay", *ORDERS, last + offset)
        world.execute("INSERT INTO position (grp, topic, partition, offset) VALUES (?,?,?,?)", *row)
        world.execute("INSERT INTO owner VALUES (?, ?, ?, 1, ?)", "pay", *ORDERS, holder)
        recovery(stopped=True)(world)

    return give


def waiting(seconds: float, *, troubled: bool = False) -> Given:
    def give(world: World) -> None:
        placed = begun(world, seconds)
        if troubled:
            world.note("orders.accept", placed)
        recovery(delay_s_max=2.0)(world)

    return give


def restarts(count: int) -> Given:
    again = [("pay", ORDERS, 7)] * count + [("pay", ORDERS, 8)] * 2
    return recovery(restarts=again, restarts_max=3)


CASES: dict[str, tuple[list[Given], list[Given]]] = {
    "one-row-a-key": ([outside("a", "b", "a")], [outside("a", "b")]),
    "forward": (
        [commits(("m1", 5), ("m1", 4))],
        [commits(("m1", 5), ("m2", 4), ("m2", 4), ("m2", 9))],
    ),
    "replay-changes-nothing": (
        [
            replayed(lambda one: replace(one, history=one.history[:-1])),
            replayed(lambda one: replace(one, stores=[Contents()])),
            replayed(lambda one: replace(one, tables={"shop": [1, 2, 3]})),
            replayed(lambda one: replace(one, tables={})),
            replayed(lambda one: replace(one, outside={"bank": ["k", "l"]})),
            replayed(lambda one: replace(one, positions={("pay", ORDERS): 3})),
        ],
        [replayed(lambda one: one)],
    ),
    "same-seed": ([runs("a", "b")], [runs("a", "a"), runs("a")]),
    "no-secret": (
        [texts(f"card {SECRET}"), note_with(SECRET), dead_letter("{}", f"no {SECRET}")],
        [texts("card ***"), dead_letter(SECRET, "no"), note_with("***")],
    ),
    "views": (
        [
            views(end=""),
            views(end="shop.orders.Cancelled"),
            views(status="compensated"),
            views(compensations=1),
            views(dead=1),
            views(status="running"),
            unseen,
            shown_dead,
        ],
        [views()],
    ),
    "rebuilt": ([views(retries=1)], [views()]),
    "in-time": ([recovery(within_s=0.5)], [recovery(within_s=60.0)]),
    "caught-up": (
        [behind(0), behind(1, holder="host 17")],
        [behind(1)],
    ),
    "unhindered": ([waiting(5.0)], [waiting(1.0), waiting(5.0, troubled=True)]),
    "restarted": ([restarts(4)], [restarts(3)]),
}


@pytest.mark.parametrize(
    ("name", "given"), [(name, one) for name, (wrong, _) in CASES.items() for one in wrong]
)
def test_what_is_wrong_is_told(world: World, name: str, given: Given) -> None:
    given(world)
    assert name in told(world)


@pytest.mark.parametrize(
    ("name", "given"), [(name, one) for name, (_, right) in CASES.items() for one in right]
)
def test_what_is_right_is_not_mentioned(world: World, name: str, given: Given) -> None:
    given(world)
    report = world.judge()
    assert name in report.judged
    assert name not in {one.invariant for one in report.violations}


def test_every_further_invariant_has_its_cases() -> None:
    assert {*CASES} == {name_of(one) for one in (*FURTHER, *FURTHER_AT_REST)}


def test_what_is_not_given_is_not_judged_and_the_report_says_so(world: World) -> None:
    report = world.judge()
    assert {*CASES} == report.unjudged.keys()
    assert report.unjudged["in-time"] == "no evidence: recovery.within_s"
    assert "offsets" in report.judged
    bare = judge(Evidence([], world.rows, world.tmp), at_rest=False)
    assert bare.unjudged["offsets"] == "no evidence: positions"
    assert bare.unjudged["taken"] == "holds at rest only"
    assert not bare.violations


# ── many stores, and a log elsewhere ─────────────────────────────────────────────────────


def split(world: World) -> Evidence:
    """Give every service a store of its own, and each topic its own count of offsets."""
    whole = world.evidence()
    (contents,) = whole.stores
    services = {row.handler.partition(".")[0] for row in contents.inbox}
    stores = [
        Contents([row for row in contents.inbox if row.handler.startswith(f"{name}.")])
        for name in sorted(services)
    ]
    counts: dict[str, int] = {}
    for record in whole.history:
        record.offset = counts.get(record.topic, 0)
        counts[record.topic] = record.offset + 1
    by_topic = sorted(whole.history, key=lambda record: record.topic)
    return replace(whole, history=by_topic, stores=stores, positions={}, ordered=False)


def test_every_service_may_have_a_store_of_its_own(world: World) -> None:
    world.cancelled(OVERDUE)
    world.refunded()
    evidence = split(world)
    assert len(evidence.stores) == 3
    assert audit(evidence) == []
    lost = replace(evidence, stores=evidence.stores[1:])
    assert {one.invariant for one in audit(lost)} >= {"committed", "taken"}


def test_without_an_order_over_partitions_causes_are_judged_by_what_they_rest_on(
    world: World,
) -> None:
    evidence = split(world)
    first, second = [one for one in evidence.history if one.headers.get("ce_type") == ACCEPTED]
    kept = second.headers["ce_causationid"]
    second.headers["ce_causationid"] = second.headers["ce_id"]
    assert "causes" in {one.invariant for one in audit(evidence)}
    second.headers["ce_causationid"] = kept
    placed = next(one for one in evidence.history if one.headers.get("ce_id") == kept)
    placed.headers |= {"ce_causationid": second.headers["ce_id"], "choreo-step": "orders.accept"}
    assert any("its own causes" in one.text for one in audit(evidence))
    del first


def test_the_end_of_a_partition_is_its_own(world: World) -> None:
    evidence = split(world)
    ends = [one.offset for one in evidence.history if one.topic == "shop.orders"]
    here = replace(evidence, positions={("orders", ORDERS): max(ends) + 1})
    assert audit(here) == []
    beyond = replace(evidence, positions={("orders", ORDERS): max(ends) + 2})
    assert {one.invariant for one in audit(beyond)} == {"offsets"}


# ── a system that is at work ─────────────────────────────────────────────────────────────


def test_what_came_while_the_stores_were_read_is_known_and_not_judged(world: World) -> None:
    before = len(world.history)
    world.cancelled()
    evidence = world.evidence()
    torn = replace(evidence, history=evidence.history[:before])
    assert {one.invariant for one in audit(torn, at_rest=False)} == {"undone-for-a-reason"}
    live = replace(torn, meanwhile=evidence.history[before:])
    assert audit(live, at_rest=False) == []


def test_below_its_floor_a_store_may_have_forgotten(world: World) -> None:
    evidence = world.evidence()
    (contents,) = evidence.stores
    last = evidence.history[-1].offset
    topics = {record.topic for record in evidence.history}
    services = ("orders", "stock", "pay")
    floors = {(name, Partition(topic, 0)): last for name in services for topic in topics}
    assert audit(replace(evidence, stores=[Contents()]))
    assert audit(replace(evidence, stores=[Contents(floors=floors)]), at_rest=False) == []
    del contents


def test_of_a_log_that_begins_later_what_it_lost_is_not_asked(world: World) -> None:
    manifests, rest = world.history[:3], world.history[3:]
    evidence = world.evidence()
    cut = replace(evidence, history=[*manifests, *rest[2:]])
    assert "causes" in {one.invariant for one in audit(cut)}
    assert audit(replace(cut, whole=False)) == []


def test_clocks_may_differ_by_as_much_as_is_said(world: World) -> None:
    made = world.cancelled(OVERDUE)
    made["accepted"].headers["ce_time"] = rfc3339(world.now - 58)
    assert {one.invariant for one in world.audit()} == {"not-early"}
    world.further["skew_s"] = 3.0
    assert world.audit() == []


def test_a_handler_that_was_renamed_is_the_same(world: World) -> None:
    about = {"handlers": [{"name": "pay.take", "kind": "on", "inputs": [], "was": ["pay.charge"]}]}
    world.execute("UPDATE name SET text = 'pay.take' WHERE text = 'pay.charge'")
    assert "committed" in told(world)
    world.manifest("pay", about)
    assert "committed" not in told(world)


def test_values_of_any_store_will_do() -> None:
    """What PostgreSQL and a simulation feed it: values alone, no SQLite behind them."""
    row = InboxRow("a.b", b"1" * 16, Status.PARKED, Source("t", 0, 1), due=1.0, chain="t/k")
    contents = Contents([row], owners=[OwnerRow("a", ORDERS, 1, "")])
    evidence = Evidence([], lambda sql, *_: [], Path(), [contents])
    assert audit(evidence, at_rest=False) == []
    assert Owned("a", {ORDERS: 1}).epochs == {one.partition: 1 for one in contents.owners}
    held = Contents([row._replace(due=None)])
    assert [one.invariant for one in audit(replace(evidence, stores=[held]))] == ["held"]


def test_a_late_paid_order_is_no_answer_when_it_is_void(world: World) -> None:
    made = world.begin()
    world.event(PAID, made["reserved"], "pay.charge", **{"choreo-void": "1"})
    assert "answered" not in {one.invariant for one in world.audit(at_rest=False)}
    assert DECLINED != OVERDUE
