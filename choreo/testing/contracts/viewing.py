"""What every view store promises, as tests to inherit."""
# ruff: noqa: PLR2004 - these are tests: expected values are literal

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from choreo.errors import BrokerClosedError, StoreConflictError
from choreo.events import STEPS_TOPIC, Event, Partition, Record, id_text, rfc3339
from choreo.ports import Fact, FlowFilter, FlowSummary, ViewBatch, ViewStore
from choreo.service import Service
from choreo.topology import manifest
from choreo.tracker import Catalog, take
from choreo.tracker.fold import summarize

__all__ = ["MakeViews", "ViewStoreContract"]

MakeViews = Callable[[], Awaitable[ViewStore]]
T0 = 1_763_690_000.0


class Placed(Event, topic="views.orders", key="order"):
    """Begins a flow."""

    order: str


class Reserved(Event, topic="views.stock", key="order"):
    """Comes of it."""

    order: str


class Shipped(Event, topic="views.orders", key="order"):
    """Ends it."""

    order: str


def _catalog() -> Catalog:
    stock, orders = Service("stock"), Service("orders")

    @stock.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved(order=placed.order)

    @orders.on(Reserved)
    async def ship(reserved: Reserved) -> Shipped:
        return Shipped(order=reserved.order)

    orders.flow("order", starts=Placed, ends=Shipped, deadline_s=3600)
    return Catalog.of({one.name: manifest(one) for one in (stock, orders)})


CATALOG = _catalog()


def _fold(_: str, facts: Sequence[Fact]) -> FlowSummary:
    return summarize(facts, CATALOG)


def uid(number: int) -> str:
    """Give a UUID."""
    return id_text(number.to_bytes(16, "big"))


@dataclass
class History:
    """Records of one flow, in an order of their own; ids are numbers."""

    flow: int
    records: list[Record] = field(default_factory=list)

    def event(self, id: int, event: type[Event], step: str = "", cause: int = 0) -> Record:
        """Append an event."""
        info = event.__event__
        headers = {
            "ce_id": uid(id), "ce_type": info.type, "ce_correlationid": uid(self.flow),
            "ce_source": step.partition(".")[0] or "app", "ce_subject": f"A-{self.flow}",
            "ce_time": rfc3339(T0 + id),
        }  # fmt: skip
        if step:
            headers |= {"choreo-step": step, "ce_causationid": uid(cause), "choreo-took": "0.25"}
        return self._add(info.topic, headers, b"{}")

    def note(self, step: str, subject: int, state: str, **said: object) -> Record:
        """Append what became of a step."""
        headers = {
            "ce_id": f"note-{subject}", "ce_type": f"{STEPS_TOPIC}.StepNoted",
            "ce_correlationid": uid(self.flow), "ce_causationid": uid(subject),
            "ce_time": rfc3339(T0 + subject), "choreo-step": step,
        }  # fmt: skip
        value = {"state": state, "attempt": 1, "run": 0, "subject": uid(subject), **said}
        return self._add(STEPS_TOPIC, headers, json.dumps(value).encode())

    def _add(self, topic: str, headers: dict[str, str], value: bytes) -> Record:
        offset = self.flow * 100 + len(self.records)
        record = Record(topic, b"k", headers, value, self.flow % 3, offset)
        self.records.append(record)
        return record


def happy(flow: int) -> History:
    """Give a flow that reaches its end."""
    history = History(flow)
    history.event(flow, Placed)
    history.event(flow + 1, Reserved, "stock.reserve", flow)
    history.event(flow + 2, Shipped, "orders.ship", flow + 1)
    return history


def four() -> list[History]:
    """Give four flows: completed, retrying, dead, running; each begins after the last."""
    first, second, third, fourth = happy(10), History(20), History(30), History(40)
    for history in (second, third, fourth):
        history.event(history.flow, Placed)
    second.note("stock.reserve", 20, "retrying", due=T0 + 99, error="Late", message="50% gone_")
    third.event(31, Reserved, "stock.reserve", 30)
    third.note("orders.ship", 31, "dead", error="Broken", message="no box")
    return [first, second, third, fourth]


def batch_of(
    records: Sequence[Record], *, since: int = 0, position: int | None = None, last: str = "last"
) -> ViewBatch:
    """Give what these records add; the position stays where it is, unless told."""
    taken = take(records, CATALOG)
    marks: dict[Partition, int] = {}
    for one in records:
        place = Partition(one.topic, one.partition)
        marks[place] = max(marks.get(place, 0), one.offset + 1)
    return ViewBatch(
        since, since if position is None else position, last, _fold,
        taken.facts, taken.flows, ends=tuple(CATALOG.ends), marks=marks,
    )  # fmt: skip


async def fill(views: ViewStore) -> None:
    """Write the four flows."""
    for history in four():
        await views.apply(batch_of(history.records))


async def listed(views: ViewStore, which: FlowFilter) -> list[int]:
    """Give the numbers of the flows of a list."""
    found = await views.flows(which)
    return [int(row.flow.replace("-", ""), 16) for row in found]


@asynccontextmanager
async def opened(make: MakeViews) -> AsyncIterator[ViewStore]:
    """Have a view store, closed at the end."""
    views = await make()
    try:
        yield views
    finally:
        await views.close()


class ViewStoreContract:
    """Inherit it as `TestXViews` and give the fixture `make`: a MakeViews.

    Each call opens the same views, so that a test can close and reopen them, and two
    trackers can feed them; they are empty when a test begins.
    """

    async def test_flows_are_found(self, make: MakeViews) -> None:
        """By each field of a filter, and by several; newest first."""
        async with opened(make) as views:
            await fill(views)
            for which, flows in (
                (FlowFilter(), [40, 30, 20, 10]),
                (FlowFilter(limit=2), [40, 30]),
                (FlowFilter(status=("completed",)), [10]),
                (FlowFilter(status=("completed", "retrying", "retrying")), [20, 10]),
                (FlowFilter(status=("no such",)), []),
                (FlowFilter(name="order"), [40, 30, 20, 10]),
                (FlowFilter(name="order", limit=1), [40]),
                (FlowFilter(name="other"), []),
                (FlowFilter(name="order", status=("running",)), [40]),
                (FlowFilter(since=T0 + 30), [40, 30]),
                (FlowFilter(search="A-30"), [30]),
                (FlowFilter(search=uid(20)), [20]),
                (FlowFilter(search=uid(20)[:-1]), [30, 20]),
                (FlowFilter(search="Shipped"), [10]),
                (FlowFilter(search="views.orders.Placed"), [40, 30, 20, 10]),
                (FlowFilter(search="STOCK"), [30, 20, 10]),
                (FlowFilter(search="late"), [20]),
                (FlowFilter(search="50% gone_"), [20]),
                (FlowFilter(search="50_ gone"), []),
                (FlowFilter(search="%"), [20]),
                (FlowFilter(search="\0"), []),
                (FlowFilter(search="'; DROP TABLE flow; --"), []),
                (FlowFilter(search="Reserved", status=("failed",), name="order", since=T0), [30]),
            ):
                assert await listed(views, which) == flows, which

    async def test_a_row_tells_of_its_flow(self, make: MakeViews) -> None:
        """What is merged and what is folded look alike."""
        async with opened(make) as views:
            await fill(views)
            (failed,) = await views.flows(FlowFilter(status=("failed",)))
            (done,) = await views.flows(FlowFilter(status=("completed",)))
            assert (done.root, done.name, done.key, done.end, done.steps) == (
                Placed.__event__.type, "order", "A-10", Shipped.__event__.type, 2,
            )  # fmt: skip
            assert (done.started, done.updated, done.ended) == (T0 + 10, T0 + 12, T0 + 12)
            assert (failed.status, failed.dead, failed.steps) == ("failed", 1, 2)
            assert failed.error == "orders.ship Broken: no box"
            for row in (done, failed):
                assert summarize(await views.facts(row.flow), CATALOG) == row

    async def test_a_flow_is_found_by_id_key_or_beginning(self, make: MakeViews) -> None:
        """At most 20; of UUIDs in whatever case."""
        async with opened(make) as views:
            await fill(views)
            await views.apply(batch_of([r for n in range(1000, 1030) for r in happy(n).records]))
            assert await views.find(uid(20)) == [uid(20)]
            assert await views.find("A-20") == [uid(20)]
            assert uid(1001) in await views.find(uid(1001)[:-1].upper())
            assert len(await views.find("0000")) == 20
            assert await views.find("ffff") == []
            assert await views.find("") == []

    async def test_facts_come_back_as_they_were(self, make: MakeViews) -> None:
        """Numbers, texts of any kind, what is not known; by their flow."""
        async with opened(make) as views:
            history = happy(7)
            history.note("orders.ship", 8, "retrying", due=T0 + 0.125, error="E", message="ü\u2028")
            history.records[0].headers["ce_subject"] = "\U0001f4e6 'x' \\ \""
            await views.apply(batch_of(history.records))
            wanted = sorted(take(history.records, CATALOG).facts)
            assert sorted(await views.facts(uid(7))) == wanted
            assert await views.facts(uid(8)) == []

    async def test_texts_that_can_not_be_written_are_replaced(self, make: MakeViews) -> None:
        """Bytes that are no UTF-8 in a header, and NUL, hide no flow."""
        async with opened(make) as views:
            history = happy(5)
            history.records[1].headers["ce_source"] = "caf\udce9\0"
            history.records[1].headers["choreo-branch"] = "\udcff"
            await views.apply(batch_of(history.records))
            headers = {"ce_correlationid": "caf\udce9", "ce_time": rfc3339(T0)}
            await views.apply(batch_of([Record("t.x", b"k", headers, b"{}", 0, 1)]))
            assert len(await views.facts(uid(5))) == 3
            for row in await views.flows(FlowFilter()):
                assert f"{row}{await views.facts(row.flow)}".encode()
            assert {row.flow for row in await views.flows(FlowFilter())} == {uid(5), "caf?"}

    async def test_ids_that_are_no_uuids_are_kept_as_they_are(self, make: MakeViews) -> None:
        """Any text can be an id."""
        names = {"order 7", "0" * 36, "Ü-1", uid(0xABC).upper(), "%"}
        async with opened(make) as views:
            for n, name in enumerate(sorted(names)):
                headers = {"ce_correlationid": name, "ce_id": name, "ce_time": rfc3339(T0 + n)}
                await views.apply(batch_of([Record("t.x", b"k", headers, b"{}", 0, n)]))
            assert {row.flow for row in await views.flows(FlowFilter())} == names
            assert await views.find("order") == ["order 7"]
            for name in names:
                (fact,) = await views.facts(name)
                assert fact.id == fact.flow == name

    async def test_the_same_again_changes_nothing(self, make: MakeViews) -> None:
        """In one batch, in several, in another order."""
        async with opened(make) as views:
            await fill(views)
            before = await views.flows(FlowFilter())
            for history in reversed(four()):
                await views.apply(batch_of(history.records[::-1]))
                for record in history.records:
                    await views.apply(batch_of([record]))
            assert await views.flows(FlowFilter()) == before
            assert len(await views.facts(uid(10))) == 3

    async def test_the_order_of_batches_does_not_matter(self, make: MakeViews) -> None:
        """An end before its beginning, a note before its event."""
        async with opened(make) as views:
            records = [record for history in four() for record in history.records]
            for record in reversed(records):
                await views.apply(batch_of([record]))
            backwards = await views.flows(FlowFilter())
            assert [row.status for row in backwards] == [
                "running", "failed", "retrying", "completed",
            ]  # fmt: skip
            for row in backwards:
                assert summarize(await views.facts(row.flow), CATALOG) == row

    async def test_what_can_be_merged_is_not_folded(self, make: MakeViews) -> None:
        """An end before its root, a root twice, all of it again: no fact has to be read."""

        def fold(flow: str, _: object) -> FlowSummary:
            raise LookupError(flow)

        async with opened(make) as views:
            root, step, end = happy(10).records
            order = (end, end, step, root, end, root)
            for n, record in enumerate(order):
                await views.apply(replace(batch_of([record]), fold=fold))
                (row,) = await views.flows(FlowFilter())
                assert summarize(await views.facts(row.flow), CATALOG) == row, order[: n + 1]
            assert (row.status, row.ended, row.steps) == ("completed", T0 + 12, 2)

    async def test_a_position_moves_only_from_where_it_stands(self, make: MakeViews) -> None:
        """Of two trackers that read the same, one has written it."""
        async with opened(make) as views:
            assert await views.position() == (0, "", {})
            first, second = happy(10), happy(20)
            await views.apply(batch_of(first.records, position=3))
            standing = await views.position()
            assert (standing.position, standing.last) == (3, "last")
            try:
                await views.apply(batch_of(second.records, position=6))
            except StoreConflictError:
                pass
            else:
                raise AssertionError("a batch from a former position was taken")
            assert await listed(views, FlowFilter()) == [10]
            await views.apply(batch_of(second.records, since=3, position=6, last="end"))
            assert (await views.position())[:2] == (6, "end")

    async def test_marks_are_written_with_the_batch_and_never_go_back(
        self, make: MakeViews
    ) -> None:
        """A slower tracker of a partition does not hide what a faster one has read."""
        late, early = Partition("views.orders", 1), Partition("views.stock", 1)
        async with opened(make) as views:
            await views.apply(batch_of(happy(10).records))
            assert (await views.position()).marks == {late: 1003, early: 1002}
            await views.apply(replace(batch_of(()), marks={late: 7, early: 2000}))
        async with opened(make) as views:
            assert (await views.position()).marks == {late: 1003, early: 2000}

    async def test_two_feed_the_same_views(self, make: MakeViews) -> None:
        """At once, about the same flows, each with a part of every flow."""
        async with opened(make) as first, opened(make) as second:
            await first.position()  # makes the tables
            flows = [happy(n) for n in range(100, 400, 10)]
            parts = [
                [record for flow in flows for n, record in enumerate(flow.records) if n in mine]
                for mine in ((0, 2), (1,))
            ]

            async def feed(views: ViewStore, records: list[Record]) -> None:
                for start in range(0, len(records), 7):
                    batch = batch_of(records[start : start + 7])
                    while True:
                        try:
                            await views.apply(batch)
                        except StoreConflictError:
                            continue
                        break

            await asyncio.gather(feed(first, parts[0]), feed(second, parts[1]))
            rows = await first.flows(FlowFilter())
            assert {row.status for row in rows} == {"completed"}
            assert {(row.flow, row.steps) for row in rows} == {(uid(f.flow), 2) for f in flows}
            assert rows == await second.flows(FlowFilter())

    async def test_a_batch_that_fails_leaves_nothing(self, make: MakeViews) -> None:
        """Facts, rows, marks and position stand or fall together."""
        async with opened(make) as views:
            await views.position()
            (_, retrying, _, _) = four()

            def fold(flow: str, _: object) -> FlowSummary:
                raise LookupError(flow)

            try:
                await views.apply(replace(batch_of(retrying.records), fold=fold))
            except LookupError:
                pass
            else:
                raise AssertionError("the fold was not asked")
            assert await views.position() == (0, "", {})
            assert await listed(views, FlowFilter()) == []
            assert await views.facts(uid(20)) == []
            await views.apply(batch_of(retrying.records))
            assert await listed(views, FlowFilter()) == [20]

    async def test_of_two_manifests_the_later_one_holds(self, make: MakeViews) -> None:
        """Whichever was written last."""
        async with opened(make) as views:
            for number, (place, text) in enumerate(((5, "five"), (9, "nine"), (7, "seven"))):
                manifests = (("shop", place, text),)
                empty = batch_of((), since=number, position=number + 1)
                await views.apply(replace(empty, manifests=manifests))
            assert await views.manifests() == {"shop": "nine"}

    async def test_what_a_manifest_changes_is_folded_again(self, make: MakeViews) -> None:
        """Flows that have one of its words, in pieces; the last batch tells that none is left."""
        async with opened(make) as views:
            records = [History(n).event(n, Placed) for n in range(600)]
            taken = take(records, Catalog())
            by_nothing = replace(
                batch_of(()), facts=taken.facts, flows=taken.flows, ends=(),
                fold=lambda _, facts: summarize(facts, Catalog()),
            )  # fmt: skip
            await views.apply(by_nothing)
            assert {row.name for row in await views.flows(FlowFilter())} == {""}
            told = replace(batch_of((), position=1), stale=[Placed.__event__.type])
            left = await views.apply(told)
            assert 0 < left < 600
            while left:
                left = await views.apply(batch_of((), since=1))
            assert {row.name for row in await views.flows(FlowFilter())} == {"order"}

    async def test_views_are_emptied_in_one_transaction(self, make: MakeViews) -> None:
        """And can be filled again."""
        async with opened(make) as views:
            await fill(views)
            await views.apply(replace(batch_of(()), position=1, ends=(), reset=True))
            assert await listed(views, FlowFilter()) == []
            assert await views.position() == (1, "last", {})
            assert await views.facts(uid(10)) == []
            for history in four():
                await views.apply(batch_of(history.records, since=1))
            assert len(await listed(views, FlowFilter())) == 4

    async def test_views_outlast_who_wrote_them(self, make: MakeViews) -> None:
        """Closed twice, used no more, opened again."""
        async with opened(make) as views:
            await fill(views)
            await views.close()
            try:
                await views.position()
            except BrokerClosedError:
                pass
            else:
                raise AssertionError("it answered after close")
        async with opened(make) as views:
            assert await listed(views, FlowFilter()) == [40, 30, 20, 10]
            assert (await views.position()).marks
