"""Deliveries that only mark: they write a gate or a timer and run no handler."""

from __future__ import annotations

from choreo.codec import binary_mode, pack_record, unpack_record
from choreo.events import TYPE, Record, derived_id
from choreo.plan import (
    CancelTimer,
    Change,
    GateKey,
    Parked,
    Publish,
    SetTimer,
    Settle,
    Status,
)
from choreo.ports import Seen
from choreo.step.delivery import Delivery, Role
from choreo.step.gates import (
    ABSENT,
    UndoGate,
    closed_expectation,
    gate_subject,
    members_of,
    written,
)
from choreo.step.parking import frozen
from choreo.step.publish import as_stamped, note

__all__ = ["decide_mark"]


def decide_mark(d: Delivery, seen: Seen, now: float) -> list[Change]:
    """Decide a delivery whose role is not HANDLE; raises DecodeError for what is no event."""
    if d.route.role is Role.AFTER:
        record = as_stamped(d.record, now)
        return [CancelTimer(*d.timer), Publish(record)] if d.timer else []
    settled = Settle(d.name, d.subject, Status.DONE, d.payload_hash, d.source, d.seen, None)
    if d.route.role is Role.UNREADABLE:  # it was corrected, if it can be read now
        return [settled, Publish(binary_mode(d.record))]
    (key,) = seen.gates
    return [settled, *_DECIDE[d.route.role](d, key, seen, now)]


def _why(d: Delivery, key: GateKey, seen: Seen, now: float) -> list[Change]:
    gate = UndoGate(d.route.handler, key, seen)
    gate.close(d, d.record, now)
    return gate.changes(d)


def _unless(d: Delivery, key: GateKey, seen: Seen, now: float) -> list[Change]:
    del now
    return [written(key, seen.gates[key], {"why": pack_record(d.record)}, closed=True)]


def _open(d: Delivery, key: GateKey, seen: Seen, now: float) -> list[Change]:
    gate = seen.gates.get(key, ABSENT)
    if gate.closed:
        return []
    handler = d.route.handler
    members = members_of(gate)
    timer = derived_id(d.subject, f"{handler.name}/timer".encode())
    members.setdefault("timers", []).append(timer.hex())
    due = now + (handler.within_s or 0.0)
    return [
        written(key, gate, members, closed=False),
        SetTimer(timer, due, handler.name, frozen(d.record), d.source),
    ]


def _close(d: Delivery, key: GateKey, seen: Seen, now: float) -> list[Change]:
    del d, now
    return closed_expectation(key, seen)


# ── joins ────────────────────────────────────────────────────────────────────────────────


def _arrive(d: Delivery, key: GateKey, seen: Seen, now: float) -> list[Change]:
    gate = seen.gates.get(key, ABSENT)
    if gate.closed:
        return []
    kind = d.record.headers[TYPE]
    slot = next(
        slot.name for slot in d.route.slots if kind in {e.__event__.type for e in slot.events}
    )
    members = members_of(gate)
    arrived = members.setdefault("arrived", {})
    if slot in arrived:
        return []
    arrived[slot] = pack_record(d.record)
    changes: list[Change] = []
    within_s = d.route.handler.within_s
    if within_s is not None and "timer" not in members:
        timer = derived_id(gate_subject(key), b"late")
        members["timer"] = timer.hex()
        name = f"{d.route.handler.name}!{Role.LATE.value}"
        changes.append(SetTimer(timer, now + within_s, name, frozen(d.record), d.source))
    return [*changes, *_completed(d, key, seen, members, now)]


def _late(d: Delivery, key: GateKey, seen: Seen, now: float) -> list[Change]:
    gate = seen.gates.get(key, ABSENT)
    changes: list[Change] = [CancelTimer(*d.timer)] if d.timer else []
    if gate.closed:
        return changes
    members = members_of(gate)
    members["late"] = True
    if _missing(d, members):
        missing = ", ".join(_missing(d, members))
        changes.append(Publish(note(d, "overdue", now, reason=f"still waits for {missing}")))
    return [*changes, *_completed(d, key, seen, members, now)]


def _missing(d: Delivery, members: dict[str, dict[str, object]]) -> list[str]:
    arrived = members.get("arrived", {})
    return [s.name for s in d.route.slots if not s.optional and s.name not in arrived]


def _completed(
    d: Delivery, key: GateKey, seen: Seen, members: dict[str, dict[str, object]], now: float
) -> list[Change]:
    """Write the gate; when nothing is missing any more, hand all that came to the handler."""
    gate = seen.gates.get(key, ABSENT)
    arrived: dict[str, Record] = {
        name: unpack_record(packed)  # type: ignore[arg-type]
        for name, packed in members.get("arrived", {}).items()
    }
    waited_for = [s.name for s in d.route.slots if s.name not in arrived]
    if _missing(d, members) or (waited_for and not members.get("late")):
        return [written(key, gate, members, closed=False)]
    slots = [slot.name for slot in d.route.slots if slot.name in arrived]
    payload = frozen(arrived[slots[0]], extras={name: arrived[name] for name in slots})
    parked = Parked(0, 1, now, "", payload, "")
    changes: list[Change] = [
        written(key, gate, members, closed=True),
        Settle(
            d.route.handler.name, gate_subject(key), Status.PARKED, b"", d.source, None, parked,
            spawn=True,
        ),
    ]  # fmt: skip
    if "timer" in members and d.timer is None:
        changes.append(CancelTimer(bytes.fromhex(str(members["timer"]))))
    return changes


_DECIDE = {
    Role.WHY: _why,
    Role.UNLESS: _unless,
    Role.OPEN: _open,
    Role.CLOSE: _close,
    Role.ARRIVE: _arrive,
    Role.LATE: _late,
}
