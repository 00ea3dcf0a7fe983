"""Avro through choreo, beside fastavro and pydantic alone: an order with three lines, both ways."""

from __future__ import annotations

import asyncio
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import fastavro
from pydantic import BaseModel, Field

from bench.figure import Figure
from choreo.codec import Avro, Codec, Schemas
from choreo.events import CONTENT_TYPE, Event, Record
from choreo.schemas import SchemaFolder, derived, written

__all__ = ["codec_avro"]

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


class Line(BaseModel):
    """An article of the order."""

    sku: str
    quantity: int
    price: Money


class Ordered(Event, topic="bench.orders", key="order_id"):
    """An order, of some 120 bytes as Avro."""

    order_id: str
    customer_id: str
    at: datetime
    lines: list[Line]
    total: Money
    note: str | None = None


def codec_avro(events: int = 20_000, rounds: int = 7) -> list[Figure]:
    """Time a round trip, choreo and bare in turns; the medians count."""
    lines = [Line(sku=f"A-{n}", quantity=n, price=Decimal("9.50")) for n in range(1, 4)]
    event = Ordered(
        order_id="order-1", customer_id="customer-1", at=datetime(2026, 1, 1, tzinfo=UTC),
        lines=lines, total=Decimal("57.00"),
    )  # fmt: skip
    bare, choreo = _bare(event), _choreo(event)
    assert bare() == choreo() == event
    took: dict[Callable[[], Event], list[float]] = {bare: [], choreo: []}
    for _ in range(rounds):
        for trip, times in took.items():
            begun = time.perf_counter()
            for _ in range(events):
                trip()
            times.append((time.perf_counter() - begun) / events * 1e6)
    value, baseline = (statistics.median(took[trip]) for trip in (choreo, bare))
    about = "an Avro round trip; fastavro + pydantic alone"
    return [Figure("codec_avro", value, "µs", baseline, about)]


def _bare(event: Ordered) -> Callable[[], Event]:
    schema = fastavro.parse_schema(derived(Ordered).schema)

    def trip() -> Event:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, event.model_dump())
        out.seek(0)
        return Ordered.model_validate(fastavro.schemaless_reader(out, schema, None))

    return trip


def _choreo(event: Ordered) -> Callable[[], Event]:
    with tempfile.TemporaryDirectory(prefix="choreo-bench-") as folder:
        path = Path(folder)
        (path / "bench.orders.Ordered.v1.avsc").write_text(written(derived(Ordered).schema))
        schemas = Schemas(SchemaFolder(path), None, elapsed=time.monotonic)
        codec = Codec(Avro(schemas), writes_avro=True)
        asyncio.run(codec.open([Ordered]))
    headers = {CONTENT_TYPE: codec.content_type}
    encode, decode = codec.encode, codec.decode

    def trip() -> Event:
        record = Record("bench.orders", b"order-1", headers, encode(event))
        return decode(Ordered, record)

    return trip
