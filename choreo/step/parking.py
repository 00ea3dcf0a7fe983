"""Deliveries as bytes: what parked rows and timers keep, and how it becomes a delivery again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from choreo.codec import pack_record, unpack_record
from choreo.events import Record
from choreo.plan import Owned
from choreo.ports import Due
from choreo.step.delivery import Delivery, Route

__all__ = ["frozen", "frozen_delivery", "thawed", "unfrozen_record", "unfrozen_records"]


def frozen(
    record: Record,
    *,
    extras: Mapping[str, Record] | None = None,
    failure: Mapping[str, Any] | None = None,
    unknowns: int = 0,
    crashes: int = 0,
    calls: int = 0,
) -> bytes:
    """Write what a delivery is about."""
    kept: dict[str, Any] = {"record": pack_record(record)}
    if extras:
        kept["extras"] = {name: pack_record(extra) for name, extra in extras.items()}
    if failure:
        kept["failure"] = dict(failure)
    if unknowns:
        kept["unknowns"] = unknowns
    if crashes:
        kept["crashes"] = crashes
    if calls:
        kept["calls"] = calls
    return json.dumps(kept, separators=(",", ":")).encode()


def frozen_delivery(d: Delivery) -> bytes:
    """Write a delivery, to be run later."""
    return frozen(
        d.record, extras=d.extras, failure=d.failure,
        unknowns=d.unknowns, crashes=d.crashes, calls=d.calls,
    )  # fmt: skip


def unfrozen_record(payload: bytes) -> Record:
    """Read the record that a frozen delivery is about."""
    return unpack_record(json.loads(payload)["record"])


def unfrozen_records(payload: bytes) -> list[Record]:
    """Read all records that a frozen delivery is about: the subject, and what came with it."""
    kept = json.loads(payload)
    return [unpack_record(one) for one in (kept["record"], *kept.get("extras", {}).values())]


def thawed(route: Route, due: Due, owned: Owned) -> Delivery:
    """Make the delivery that a due row or timer keeps."""
    kept = json.loads(due.payload)
    d = Delivery(route, unpack_record(kept["record"]), due.subject, due.source)
    d.owned = owned
    d.name = due.handler if due.parked is not None else route.name
    d.extras = {name: unpack_record(extra) for name, extra in kept.get("extras", {}).items()}
    d.failure = kept.get("failure")
    d.unknowns = kept.get("unknowns", 0)
    d.crashes = kept.get("crashes", 0)
    d.calls = kept.get("calls", 0)
    d.payload_hash = due.payload_hash
    if due.parked is not None:
        d.run = due.parked.run
        d.attempt = due.parked.attempt
        d.seen = (due.parked.run, due.parked.attempt)
        d.kept_chain = due.parked.chain
    else:
        d.timer = (due.subject, due.due, due.payload)
    return d
