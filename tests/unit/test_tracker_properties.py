"""The fold and the views agree, whatever came in whatever order, how often and in what bits."""

import asyncio
import json
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.events import MANIFESTS_TOPIC, Record, rfc3339
from choreo.ports import FlowFilter, FlowSummary
from choreo.tracker import Catalog, Tracker, fold, take
from tests.unit.tracking import (
    CATALOG,
    T0,
    Cancelled,
    Completed,
    Placed,
    Shipped,
    manifests,
    uuid,
)

FLOWS = [uuid(1), uuid(2), "a flow of strangers", "caf\udce9"]
TYPES = sorted({kind for one in CATALOG.handlers.values() for kind in (*one.inputs, *one.gives)})
PLACED = Placed.__event__.type
SMOOTH = [PLACED, PLACED, Shipped.__event__.type, Completed.__event__.type,
          Cancelled.__event__.type]  # fmt: skip
STEPS = [*sorted(CATALOG.handlers), "un.known"]
STATES = ["done", "done", "retrying", "waiting", "parked", "void", "dead", "given_up", "overdue",
          "duplicate", "strange"]  # fmt: skip

ids = st.integers(1, 6).map(uuid)
times = st.integers(0, 5).map(lambda second: rfc3339(T0 + second))


@st.composite
def events(draw: st.DrawFn, flow: str) -> Record:
    kind = draw(st.sampled_from(TYPES))
    headers = {
        "ce_id": draw(st.one_of(st.just(flow), ids)),
        "ce_type": kind,
        "ce_correlationid": flow,
        "ce_subject": draw(st.sampled_from(["k", ""])),
        "ce_time": draw(times),
    }
    if draw(st.integers(0, 9)) == 0:
        del headers[draw(st.sampled_from(["ce_id", "ce_time", "ce_type"]))]
    if draw(st.integers(0, 3)):
        headers |= {
            "ce_causationid": draw(st.one_of(st.just(flow), ids)),
            "choreo-step": draw(st.sampled_from(STEPS)),
            "choreo-attempt": draw(st.sampled_from(["1", "1", "1", "2"])),
            "choreo-started": draw(st.sampled_from(["1.5", "2.25", "nan", ""])),
            "choreo-took": "0.125",
        }
    if draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(["undoes", "void", "failure", "causes", "branch"]))
        headers[f"choreo-{name}"] = draw(ids)
    return Record(kind.rpartition(".")[0], b"key", headers, b"{}")


@st.composite
def notes(draw: st.DrawFn, flow: str) -> Record:
    headers = {
        "ce_correlationid": flow,
        "ce_type": "choreo.steps.StepNoted",
        "ce_causationid": draw(ids),
        "ce_time": draw(times),
        "choreo-step": draw(st.sampled_from(STEPS)),
        "choreo-started": "1.5",
    }
    said = {
        "state": draw(st.sampled_from(STATES)),
        "run": draw(st.integers(0, 1)),
        "attempt": draw(st.integers(1, 3)),
        "subject": draw(ids),
        "due": draw(st.sampled_from([None, T0 + 3, T0 + 9])),
        "error": draw(st.sampled_from([None, "E"])),
        "message": "what it said",
        "unknown": draw(st.booleans()),
    }
    if draw(st.integers(0, 3)) == 0:
        said["undoes"] = said["subject"]
    return Record("choreo.steps", flow.encode("utf-8", "replace"), headers,
                  json.dumps(said).encode())  # fmt: skip


def placed(records: Sequence[Record]) -> list[Record]:
    """Give records their places, in the order of one log."""
    for offset, record in enumerate(records, 1):
        record.partition = offset % 3
        record.offset = offset
    return list(records)


@st.composite
def smooth(draw: st.DrawFn, flow: str) -> list[Record]:
    """Draw a flow on which nothing went wrong: roots, steps and ends, as a rule one of each.

    Most such flows are merged; none that is drawn from all kinds of events is.
    """
    types = draw(st.lists(st.sampled_from(SMOOTH), min_size=1, max_size=5))
    found = []
    for number, kind in enumerate(types):
        root = kind == PLACED and draw(st.integers(0, 3)) > 0
        headers = {
            "ce_id": flow if root else uuid(50 + number),
            "ce_type": kind,
            "ce_correlationid": flow,
            "ce_subject": draw(st.sampled_from(["k", "k", "other"])),
            "ce_time": draw(times),
        }
        if not root:
            headers |= {"ce_causationid": flow, "choreo-step": "orders.complete"}
        found.append(Record(kind.rpartition(".")[0], b"key", headers, b"{}"))
    return found


flow_records = st.sampled_from(FLOWS).flatmap(
    lambda flow: st.one_of(
        st.lists(st.one_of(events(flow), events(flow), notes(flow)), max_size=12), smooth(flow)
    )
)
histories = st.lists(flow_records, min_size=1, max_size=3).map(
    lambda lists: [record for records in lists for record in records]
)


class InMemory:
    """A log that is a list; it is read in batches of a size."""

    def __init__(self, records: Sequence[Record], size: int) -> None:
        self.records = records
        self.size = size

    async def read(self, topics: object, *, since: int = 0, follow: bool = False):  # type: ignore[no-untyped-def]  # noqa: ANN201
        rest = [record for record in self.records if record.offset >= since]
        for start in range(0, len(rest), self.size):
            yield rest[start : start + self.size]


@given(flow_records.map(placed), st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_matters(records: list[Record], chance) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    facts = take(records, CATALOG).facts
    again = [*facts, *chance.sample(facts, len(facts) // 2)]
    chance.shuffle(again)
    assert fold(again, CATALOG) == fold(facts, CATALOG)


@given(flow_records.map(placed))
def test_a_view_is_made_of_plain_values(records: list[Record]) -> None:
    view = fold(take(records, CATALOG).facts, CATALOG)
    assert len({event.id for event in view.events}) == len(view.events)
    assert all(0 <= view.at(now).duration_s < 1e12 for now in (0.0, T0, T0 + 1e6))


def manifest_records(rich: bool) -> list[Record]:  # noqa: FBT001 - a column of a table
    """Give the shop's manifests; poor ones name no flow and no compensation."""
    found = []
    for service, document in manifests().items():
        ours = dict(document["x-choreo"])
        if not rich:
            ours["flows"] = []
            ours["handlers"] = [one for one in ours["handlers"] if one["kind"] == "on"]
        value = json.dumps({"x-choreo": ours}).encode()
        found.append(Record(MANIFESTS_TOPIC, service.encode(), {"ce_id": service}, value))
    return found


async def lists_of(log: list[Record], size: int) -> tuple[list[FlowSummary], list[FlowSummary]]:
    """Give what the views list, and what a fold of each flow's facts says."""
    views = SqliteViewStore(":memory:")
    tracker = Tracker(InMemory(log, size), views, clock=None)  # type: ignore[arg-type]
    await tracker.catch_up()
    listed = await views.flows(FlowFilter())
    catalog = Catalog.of({k: json.loads(v) for k, v in (await views.manifests()).items()})
    folded = [fold(await views.facts(row.flow), catalog).summary for row in listed]
    await views.close()
    return list(listed), folded


@settings(max_examples=150)
@given(histories, st.integers(0, 40), st.booleans(), st.sampled_from([1, 2, 5, 1000]))
def test_the_list_agrees_with_the_fold(
    records: list[Record],
    at: int,
    first_poor: bool,  # noqa: FBT001 - drawn
    size: int,
) -> None:
    log = [*records]
    log[at:at] = manifest_records(rich=True)
    if first_poor:
        log[:0] = manifest_records(rich=False)
    listed, folded = asyncio.run(lists_of(placed(log), size))
    assert listed == folded
    flows = {fact.flow.encode("utf-8", "replace").decode() for fact in take(log, CATALOG).facts}
    assert {row.flow for row in listed} == flows
