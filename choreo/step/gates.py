"""Gates: what two parties may decide at once, one row each, one function a side.

    undo     effects of a scope, who may still add one, and the trigger that closed it
    expects  open from `after` to one of the expected events, or to the time-out
    join     what has arrived, by parameter
    unless   closed: the handler may not run any more
    visits   how often a handler with `visits_max` has run; never closed

What was seen is a hint. The row is written by compare-and-set on its `seq`: whoever loses
reads again and decides again.
"""

from __future__ import annotations

import json
from typing import Any

from choreo.codec import pack_record, unpack_record
from choreo.events import (
    CONTENT_TYPE,
    ID,
    SOURCE,
    SPEC_VERSION,
    STEP,
    TIME,
    TYPE,
    Event,
    Record,
    derived_id,
    id_bytes,
    rfc3339,
    scope_of,
)
from choreo.plan import CancelTimer, Change, Gate, GateKey, Parked, Publish, Settle, Status
from choreo.ports import GateSeen, Seen
from choreo.service import Handler
from choreo.step.delivery import Delivery
from choreo.step.parking import frozen
from choreo.step.publish import nothing_record

__all__ = [
    "ABSENT",
    "UndoGate",
    "closed_expectation",
    "gate_scope",
    "gate_subject",
    "members_of",
    "written",
]

ABSENT = GateSeen(0, closed=False, members=b"")


def gate_scope(handler: Handler, record: Record, event: Event | None) -> str:
    """Name the scope: the fields named by `by=`, else flow and branch."""
    if handler.by and event is not None:
        return "by:" + json.dumps([str(getattr(event, field, "")) for field in handler.by])
    return scope_of(record.headers)


def gate_subject(key: GateKey) -> bytes:
    """Give the id of a gate as the subject of a delivery, in time order with its flow."""
    return derived_id(id_bytes(key.scope.partition("/")[0], "gate"), "\0".join(key).encode())


def members_of(seen: GateSeen) -> dict[str, Any]:
    """Read a gate's members."""
    return json.loads(seen.members) if seen.members else {}


def written(key: GateKey, seen: GateSeen, members: dict[str, Any], *, closed: bool) -> Gate:
    """Write a gate, if it is still as it was seen."""
    data = json.dumps(members, separators=(",", ":")).encode() if members else b""
    return Gate(key, seen.seq, closed, data)


def _delivery(d: Delivery) -> str:
    return f"{d.name} {d.subject.hex()}"


def _also_formerly(d: Delivery) -> set[str]:
    """Name a delivery as it may have been noted, by whatever name its handler had then."""
    return {f"{name} {d.subject.hex()}" for name in (d.name, d.route.name, *d.route.former)}


class UndoGate:
    """The effects of one scope that one compensation undoes.

    Members: `effects` (id → record), `intents` (deliveries that called the outside and
    have not ended), `why` (the trigger that closed it), `nothing` (published).
    """

    def __init__(self, handler: Handler, key: GateKey, seen: Seen) -> None:
        """Read it."""
        self.handler = handler
        self.key = key
        self.seen = seen.gates.get(key, ABSENT)
        self.closed = self.seen.closed
        self._members = members_of(self.seen)
        self._changed = False
        self._more: list[Change] = []

    def intend(self, d: Delivery) -> None:
        """Note that a delivery is about to call the outside."""
        intents = self._members.setdefault("intents", [])
        if (name := _delivery(d)) not in intents:
            intents.append(name)
            self._changed = True

    def ended(self, d: Delivery) -> None:
        """Note that the delivery has ended: what it did, if anything, is known."""
        intents = self._members.get("intents", [])
        if over := _also_formerly(d).intersection(intents):
            self._members["intents"] = [name for name in intents if name not in over]
            self._changed = True

    def add(self, d: Delivery, effect: Record, now: float) -> None:
        """Add an effect; in a closed scope it is undone at once."""
        self._members.setdefault("effects", {})[effect.headers[ID]] = pack_record(effect)
        self._changed = True
        if self.closed:
            self._undo(d, effect, unpack_record(self._members["why"]), now)

    def close(self, d: Delivery, why: Record, now: float) -> None:
        """Close the scope because of `why`: each effect is undone by its own delivery."""
        if self.closed:
            return
        self.closed = self._changed = True
        self._members["why"] = pack_record(why)
        for effect in self._members.get("effects", {}).values():
            self._undo(d, unpack_record(effect), why, now)

    def changes(self, d: Delivery) -> list[Change]:
        """Give what is to be written; publishes `nothing` when it is certain."""
        members = self._members
        nothing = self.handler.nothing
        certain = self.closed and not members.get("effects") and not members.get("intents")
        if nothing is not None and certain and not members.get("nothing"):
            members["nothing"] = self._changed = True
            self._more.append(Publish(self._nothing(d, nothing)))
        if not self._changed:
            return []
        return [written(self.key, self.seen, members, closed=self.closed), *self._more]

    def _undo(self, d: Delivery, effect: Record, why: Record, now: float) -> None:
        subject = id_bytes(effect.headers[ID])
        row = frozen(effect, extras={"why": why})
        parked = Parked(0, 1, now, "", row, "")
        self._more.append(
            Settle(
                self.handler.name, subject, Status.PARKED, b"", d.source, None, parked, spawn=True
            )
        )

    def _nothing(self, d: Delivery, made: type[Event]) -> Record:
        why = unpack_record(self._members["why"])
        views = {event.__event__.type: event for event in self.handler.on}
        trigger = d.route.decode(views[why.headers[TYPE]], why)
        fields = {
            name: getattr(trigger, name) for name in made.model_fields if hasattr(trigger, name)
        }
        headers = {
            SPEC_VERSION: "1.0",
            SOURCE: d.route.service,
            TYPE: made.__event__.type,
            CONTENT_TYPE: d.route.codec.content_type,
            STEP: self.handler.name,
        }
        if d.started:  # an open call may have kept it back for long
            headers[TIME] = rfc3339(d.started)
        subject = gate_subject(self.key)
        nothing = made.model_validate(fields)
        return nothing_record(headers, nothing, d.route.codec.encode(nothing), why, subject)


def closed_expectation(key: GateKey, seen: Seen) -> list[Change]:
    """Close an `expects` gate, and take its timers back."""
    gate = seen.gates.get(key, ABSENT)
    if gate.closed:
        return []
    members = members_of(gate)
    timers = [CancelTimer(bytes.fromhex(timer)) for timer in members.get("timers", ())]
    return [written(key, gate, members, closed=True), *timers]
