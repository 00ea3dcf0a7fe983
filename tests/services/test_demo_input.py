"""What the demo reads and makes up: orders, stock, the folder that it starts from."""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from services.demo import orders as demo
from services.demo.folder import FolderError, make_empty
from services.demo.generator import FAULTS, write
from services.demo.orders import BadLine, read
from services.demo.report import percentile, report, status_of
from services.inventory import stock
from services.orders import events
from services.orders.handlers import objections

GOOD = {
    "order_id": "1",
    "customer_id": "C",
    "placed_at": "1996-07-04T00:00:00Z",
    "ship_country": "France",
    "lines": [{"sku": "A", "quantity": 2, "unit_price": "14.00"}],
    "freight": "2.00",
    "total": "30.00",
}


def lines_of(tmp_path: Path, *lines: str | bytes) -> list[demo.OrderPlaced | BadLine]:
    file = tmp_path / "orders.jsonl"
    file.write_bytes(b"\n".join(one if isinstance(one, bytes) else one.encode() for one in lines))
    return list(read(file))


def test_a_good_line_is_an_order(tmp_path: Path) -> None:
    (order,) = lines_of(tmp_path, json.dumps(GOOD))
    assert isinstance(order, demo.OrderPlaced)
    assert order.total == Decimal("30.00")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"order_id": None}, "order_id"),
        ({"order_id": ""}, "order_id"),
        ({"total": "much"}, "total"),
        ({"total": "NaN"}, "total"),
        ({"total": "1.005"}, "total"),
        ({"placed_at": "yesterday"}, "placed_at"),
        ({"lines": None}, "lines"),
        ({"lines": [{"sku": "A", "quantity": "x", "unit_price": "1"}]}, "lines.0.quantity"),
    ],
)
def test_a_bad_line_names_its_field_and_the_rest_goes_on(
    tmp_path: Path, change: dict[str, object], field: str
) -> None:
    first, second = lines_of(tmp_path, json.dumps(GOOD | change), json.dumps(GOOD))
    assert isinstance(first, BadLine)
    assert (first.line, first.field) == (1, field)
    assert first.reason
    assert isinstance(second, demo.OrderPlaced)


@pytest.mark.parametrize("raw", [b"{", b"[]", b"3", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_line_that_is_no_object_is_bad(tmp_path: Path, raw: bytes) -> None:
    first, second = lines_of(tmp_path, raw, json.dumps(GOOD))
    assert isinstance(first, BadLine)
    assert first.line == 1
    assert isinstance(second, demo.OrderPlaced)


def test_a_line_without_its_field_is_bad(tmp_path: Path) -> None:
    (bad,) = lines_of(tmp_path, json.dumps({k: v for k, v in GOOD.items() if k != "order_id"}))
    assert bad == BadLine(1, "order_id", "Field required")


def test_an_order_stands_once_in_a_file(tmp_path: Path) -> None:
    _, second = lines_of(tmp_path, json.dumps(GOOD), json.dumps(GOOD | {"total": "31.00"}))
    assert second == BadLine(2, "order_id", "1 stands in line 1 too")


def test_an_endless_line_is_bad_and_costs_no_memory(tmp_path: Path) -> None:
    long = b" " * (3 * demo.LINE_BYTES_MAX)
    first, second = lines_of(tmp_path, long, json.dumps(GOOD))
    assert isinstance(first, BadLine)
    assert isinstance(second, demo.OrderPlaced)


def test_empty_lines_are_counted_and_skipped(tmp_path: Path) -> None:
    (bad,) = lines_of(tmp_path, "", "  ", "{")
    assert isinstance(bad, BadLine)
    assert bad.line == 3


def test_customer_and_shop_mean_the_same_order() -> None:
    assert demo.OrderPlaced.__event__ == events.OrderPlaced.__event__
    theirs = demo.OrderPlaced.model_json_schema(mode="serialization")
    ours = events.OrderPlaced.model_json_schema(mode="serialization")
    for schema in (theirs, ours):
        schema.pop("description")
    assert theirs == ours


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        made[name] = [file.read_bytes() for file in write(tmp_path / name, 50, seed)]
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


@pytest.mark.parametrize("count", [1, 2, 12, 20, 300])
def test_made_up_orders_hold_every_fault(tmp_path: Path, count: int) -> None:
    orders_file, stock_file = write(tmp_path, count, seed=1)
    orders = list(read(orders_file))
    assert len(orders) == count
    on_hand = {
        one.sku: one.units for one in stock.read(stock_file) if isinstance(one, stock.Article)
    }
    found: Counter[str] = Counter()
    for order in orders:
        assert isinstance(order, demo.OrderPlaced)
        placed = events.OrderPlaced.model_validate_json(order.model_dump_json())
        reasons = " ".join(objections(placed))
        skus = [line.sku for line in placed.lines]
        found["no lines"] += "no lines" in reasons
        found["no quantity"] += "quantity is 0" in reasons
        found["wrong total"] += "the total is" in reasons
        found["unknown article"] += any(sku not in on_hand for sku in skus)
        found["too many"] += any(line.quantity > 12 for line in placed.lines)
        found["twice"] += len(skus) != len(set(skus))
        found["good"] += not reasons
    if count >= 12:
        assert all(found[fault] for fault in FAULTS)
        assert found["good"] >= count / 2


def test_an_empty_folder_is_made(tmp_path: Path) -> None:
    make_empty(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_of_ours_is_emptied(tmp_path: Path) -> None:
    for name in ("choreo.db", "choreo.db-wal", "views.db", "demo.json", "services.log"):
        (tmp_path / name).write_text("x")
    make_empty(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["thesis.doc", "choreo.db2", ".git"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "choreo.db").write_text("x")
    (tmp_path / name).write_text("x")
    with pytest.raises(FolderError, match=name):
        make_empty(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"choreo.db", name}


def test_a_folder_with_a_folder_named_like_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "choreo.db").mkdir()
    with pytest.raises(FolderError):
        make_empty(tmp_path)
    with pytest.raises(FolderError, match="is no folder"):
        make_empty(Path(__file__))


def test_a_report_sums_up() -> None:
    flows: list[dict[str, object]] = [
        {"flow": "a", "end": "shop.orders.OrderCompleted", "retries": 1, "duration_s": 1.0},
        {"flow": "b", "end": "shop.orders.OrderRejected", "retries": 0, "duration_s": 2.0},
        {"flow": "c", "end": "shop.orders.OrderCancelled", "compensations": 2, "dead": 1},
        {"flow": "d", "end": None},
    ]
    made = report(flows, ["ledger: order 1: booked"], 2.0, deployment="embedded")
    assert made.by_status == {"completed": 1, "rejected": 1, "cancelled": 1, "open": 1}
    assert (made.flows, made.retries, made.compensations, made.dead_letters) == (4, 1, 2, 1)
    assert not made.ledger_equal
    assert not made.good
    assert report(flows[:3], [], 2.0, deployment="embedded").good
    assert status_of({}) == "open"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.99, 3.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([1, 2], 0.99, 2)],
)
def test_a_percentile_is_one_of_the_values(
    values: list[float], share: float, expected: float | None
) -> None:
    assert percentile(values, share) == expected


def articles(tmp_path: Path, text: bytes) -> list[stock.Article | stock.BadLine]:
    file = tmp_path / "stock.csv"
    file.write_bytes(text)
    return list(stock.read(file))


def test_stock_is_read_with_every_bad_line_named(tmp_path: Path) -> None:
    text = (
        b"sku,name,units\nA,Cup,3\nB,Cup\n,Cup,1\nC,Cup,-1\nA,Cup,4\nD,Cup,1.5\n"
        b'\nE,"Pan, big",99999999999999\nF,Caf\xe9,0\n'
    )
    found = articles(tmp_path, text)
    bad = [(one.line, one.field) for one in found if isinstance(one, stock.BadLine)]
    good = [(one.line, one.sku, one.units) for one in found if isinstance(one, stock.Article)]
    assert bad == [(3, "line"), (4, "sku"), (5, "units"), (6, "sku"), (7, "units"), (9, "units")]
    assert good == [(2, "A", 3), (10, "F", 0)]


@pytest.mark.parametrize("text", [b"", b"a,b,c\nA,Cup,1\n", b"\x00\xff"])
def test_a_file_that_is_no_stock_is_one_bad_line(tmp_path: Path, text: bytes) -> None:
    (bad,) = articles(tmp_path, text)
    assert isinstance(bad, stock.BadLine)
    assert bad.line == 1
