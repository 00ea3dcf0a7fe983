"""Rows of flows, merged record by record: the same as a fold of them all, in whatever order."""

from itertools import combinations, permutations

from choreo import Event, Service
from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.events import Record, rfc3339
from choreo.ports import FlowFilter, FlowMerge
from choreo.ports.merging import PLAIN, FlowRow, merged
from choreo.topology import manifest
from choreo.tracker import Catalog, Tracker, catalog_of, take
from choreo.tracker.fold import summarize
from tests.unit.test_tracker_properties import InMemory, manifest_records, placed
from tests.unit.test_tracker_shared import Quick
from tests.unit.tracking import T0, Completed, Log, Placed

FLOW = "flow"
STATUS = "running", "completed"


class Asked(Event, topic="m.asks", key="n"):
    n: str


class Ordered(Event, topic="m.orders", key="n"):
    n: str


class Answered(Event, topic="m.answers", key="n"):
    n: str


class Sent(Event, topic="m.sends", key="n"):
    n: str


class Refused(Event, topic="m.answers", key="n"):
    n: str


def catalog() -> Catalog:
    """Two flows with different roots; one end is an end of both."""
    service = Service("m")
    service.flow("question", starts=Asked, ends=(Answered, Refused), deadline_s=60)
    service.flow("order", starts=Ordered, ends=(Sent, Refused))
    return Catalog.of({"m": manifest(service)})


CATALOG = catalog()


def record(
    number: int, kind: type[Event], at: float, *, root: bool = False, key: str = "k"
) -> Record:
    headers = {
        "ce_id": FLOW if root else f"event-{number}", "ce_type": kind.__event__.type,
        "ce_correlationid": FLOW, "ce_time": rfc3339(T0 + at), "ce_subject": key,
    }  # fmt: skip
    if not root:
        headers |= {"ce_causationid": FLOW, "choreo-step": "m.answer"}
    return Record(kind.__event__.topic, b"k", headers, b"{}", 0, number)


ASKED, ANSWERED = record(1, Asked, 2, root=True), record(2, Answered, 5)
POOL = [
    ASKED,
    ANSWERED,
    record(3, Asked, 1, root=True),
    record(4, Asked, 2, root=True, key="other"),
    record(5, Ordered, 3, root=True),
    record(6, Answered, 4),
    record(7, Sent, 5),
    record(8, Refused, 6),
]


def fresh(merge: FlowMerge) -> FlowRow:
    return FlowRow(
        merge.flow, merge.root or None, merge.name or None, None, merge.key, merge.end or None,
        merge.started, merge.ended, merge.deadline, int(merge.plain), merge.updated,
        None, frozenset(),
    )  # fmt: skip


def row_of(records: tuple[Record, ...]) -> FlowRow:
    """Merge records one after the other."""
    row = None
    for one in records:
        (merge,) = take([one], CATALOG).flows
        row = merged(row, fresh(merge), CATALOG.ends, STATUS)
    assert row is not None
    return row


def assert_told(row: FlowRow, records: tuple[Record, ...]) -> None:
    """Compare with what a fold tells; a list shows no end without a root."""
    wanted = summarize(take(records, CATALOG).facts, CATALOG)
    end, ended = (row.end or "", row.ended) if row.root else ("", None)
    assert (row.status, row.root or "", row.name or "", row.key, end, row.started, ended) == (
        wanted.status, wanted.root, wanted.name, wanted.key, wanted.end, wanted.started,
        wanted.ended,
    )  # fmt: skip
    assert (row.deadline, row.updated, row.stuck_at) == (
        wanted.deadline, wanted.updated, wanted.stuck_at,
    )  # fmt: skip


def test_a_row_that_is_plain_is_what_a_fold_tells() -> None:
    """All sets of up to four of these records, in all orders, each of them twice as well."""
    plain = 0
    for count in range(1, 5):
        for some in combinations(POOL, count):
            for ordered in permutations(some):
                for records in (ordered, ordered + ordered):
                    row = row_of(records)
                    if row.plain == PLAIN:
                        plain += 1
                        assert_told(row, records)
    assert plain > 900


def test_in_one_batch_or_in_several_makes_no_difference() -> None:
    for some in combinations(POOL, 3):
        for records in permutations(some):  # a batch decides as row after row does
            (merge,) = take(records, CATALOG).flows
            row = merged(None, fresh(merge), CATALOG.ends, STATUS)
            if row.plain == PLAIN:
                assert_told(row, records)


def test_a_flow_on_which_nothing_went_wrong_is_plain_in_any_order() -> None:
    step = record(9, Sent, 3)  # it ends other flows, not this one
    for records in permutations((ASKED, step, ANSWERED, ASKED, ANSWERED)):
        row = row_of(records)
        assert row.plain == PLAIN or step in records[: records.index(ASKED)], records
        if row.plain == PLAIN:
            assert (row.status, row.end) == ("completed", Answered.__event__.type)
    for records in permutations((ASKED, ANSWERED, ASKED, ANSWERED)):
        assert row_of(records).plain == PLAIN


async def test_an_end_read_before_it_was_declared_and_before_its_root_is_found() -> None:
    log = Log(flow=1)
    log.event(2, Completed, "orders.complete", 1)
    log.event(1, Placed)
    end, root = log.records
    records = placed([end, *manifest_records(rich=True), root])
    views, log_so_far = SqliteViewStore(":memory:"), InMemory([], 1)
    tracker = Tracker(log_so_far, views, Quick())  # type: ignore[arg-type]
    for count in range(1, len(records) + 1):
        log_so_far.records = records[:count]
        await tracker.catch_up()
    (row,) = await views.flows(FlowFilter())
    assert row == summarize(await views.facts(row.flow), await catalog_of(views))
    assert (row.status, row.end) == ("completed", Completed.__event__.type)
    await views.close()
