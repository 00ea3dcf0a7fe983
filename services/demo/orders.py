"""Orders for the demo: a file of JSON lines, read one by one.

The demo is a customer of the shop, not a part of it: it declares what it publishes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from choreo import Event

LINE_BYTES_MAX = 1 << 20

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Line(BaseModel):
    """So many units of one article, at a price each."""

    sku: Name
    quantity: int
    unit_price: Money


class OrderPlaced(Event, topic="shop.orders", key="order_id"):
    """A customer wants this."""

    order_id: Name
    customer_id: Name
    placed_at: datetime
    ship_country: str
    lines: list[Line]
    freight: Money
    total: Money


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no order: which field of it, and why."""

    line: int
    field: str
    reason: str


BOM = b"\xef\xbb\xbf"


def read(path: Path) -> Iterator[OrderPlaced | BadLine]:
    """Yield an order or a BadLine for each line that is not empty.

    Raises OSError when the file can not be read.
    """
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if number == 1:
                raw = raw.removeprefix(BOM)
            if len(raw) > LINE_BYTES_MAX:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(LINE_BYTES_MAX)
                yield BadLine(number, "line", f"is longer than {LINE_BYTES_MAX} bytes")
            elif raw.strip():
                yield _order(number, raw.strip(), seen)


def _order(number: int, raw: bytes, seen: dict[str, int]) -> OrderPlaced | BadLine:
    try:
        order = OrderPlaced.model_validate_json(raw)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return BadLine(number, place or "line", first["msg"])
    if order.order_id in seen:
        reason = f"{order.order_id} stands in line {seen[order.order_id]} too"
        return BadLine(number, "order_id", reason)
    seen[order.order_id] = number
    return order
