"""Failures: what follows from an attempt that failed, and how a delivery is put off or given up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from choreo.context import ANSWER
from choreo.errors import (
    CodecError,
    HandlerError,
    Later,
    RegistryUnavailableError,
    StoreError,
    TxOpenError,
    UnknownOutcomeError,
)
from choreo.events import ID, Record, born, derived_id
from choreo.plan import (
    CancelTimer,
    Change,
    Gate,
    Memo,
    Parked,
    Plan,
    Publish,
    Remember,
    Settle,
    Status,
)
from choreo.policies import UNKNOWN_OUTCOME
from choreo.ports import Floor, GateSeen, Seen
from choreo.service import Kind
from choreo.step.delivery import Delivery
from choreo.step.gates import UndoGate, members_of
from choreo.step.parking import frozen, frozen_delivery
from choreo.step.publish import dead_letter, describe, note

__all__ = [
    "INLINE_MAX_S",
    "Verdict",
    "effect_gates",
    "failed",
    "final",
    "finish_timer",
    "forgotten",
    "given_up",
    "killed",
    "not_again",
    "parked_behind",
    "parked_running",
    "quarantine_name",
    "quarantined",
    "release",
    "settle",
    "visited",
    "visits",
]

new = tuple.__new__  # half the time of a NamedTuple's own constructor, for what is made per step
KILLED = "CH5012"
INLINE_MAX_S = 0.25
"""Delays up to this are waited for inside the step; longer ones park the delivery."""


class Verdict(NamedTuple):
    """What follows from a failed attempt: a plan, and whether to run again at once."""

    plan: Plan
    again_s: float | None = None


def failed(d: Delivery, seen: Seen, error: BaseException, now: float, *, draw: float) -> Verdict:
    """Decide what follows from an exception of the handler; `draw` in [0, 1) spreads retries."""
    handler = d.route.handler
    if isinstance(error, Later):
        due = error.due(now)
        plan = _park(d, due, d.attempt, "", note(d, "waiting", now, due=due))
        return Verdict(plan)
    name, text = describe(error)
    about: dict[str, Any] = {"error": name, "message": text}
    if isinstance(error, UnknownOutcomeError):
        unfit = _answer_forgotten(d, str(error.fields.get("call", "")))
        changes = (*finish_timer(d), *unfit, *_dead(d, now, "outcome unknown", about))
        return Verdict(Plan(d.owned, changes))
    down = isinstance(error, (RegistryUnavailableError, StoreError)) and error.transient
    was_killed = isinstance(error, HandlerError) and error.code == KILLED
    if was_killed and (d.intended or handler.kind is Kind.COMPENSATE):
        # What it has begun outside has to come to an end: it is tried for ever, but seldom.
        d.crashes = 0
        d.unknowns += 1
        delay = UNKNOWN_OUTCOME.longest_s
    elif d.unknown or d.owes_undo or down or handler.kind is Kind.COMPENSATE:
        d.unknowns += 1
        delay = UNKNOWN_OUTCOME.delay_s(d.attempt, draw)
    elif d.undoing:
        return Verdict(given_up(d, seen, now, "attempts used up", about))
    elif not _retryable(d, error):
        reason = "killed" if was_killed else "not retryable"
        return Verdict(given_up(d, seen, now, reason, about))
    elif final(d, error):
        return Verdict(given_up(d, seen, now, "attempts used up", about))
    else:
        delay = handler.retry.delay_s(d.attempt - d.unknowns, draw)
    due = now + delay
    said = note(d, "retrying", now, due=due, **about)
    if delay <= INLINE_MAX_S:
        return Verdict(Plan(d.owned, (Publish(said),)), delay)
    return Verdict(_park(d, due, d.attempt + 1, text, said))


def _answer_forgotten(d: Delivery, call: str) -> list[Change]:
    """Take back an operator's word that did not fit: the outcome is as unknown as before."""
    if call not in d.answers:
        return []
    d.answers = {name: answer for name, answer in d.answers.items() if name != call}
    name = f"{d.name}/{d.call_prefix}{ANSWER}{call}"
    return [Remember(d.subject, name, Memo.INTENT, b"")]


def _retryable(d: Delivery, error: BaseException) -> bool:
    """A bug in the code, or bytes that are wrong, does not get better by trying again."""
    if isinstance(error, (CodecError, HandlerError, TxOpenError)) and not error.transient:
        return False
    return d.route.handler.retry.retryable(error)


def final(d: Delivery, error: BaseException) -> bool:
    """Tell whether this failure is the step's last: its outside calls are to be undone."""
    if isinstance(error, Later):
        return False
    if d.undoing:
        return True
    if d.unknown or d.route.handler.kind is Kind.COMPENSATE:
        return False
    used_up = d.attempt - d.unknowns >= d.route.handler.retry.attempts_max
    return used_up or not _retryable(d, error)


def given_up(
    d: Delivery,
    seen: Seen,
    now: float,
    reason: str,
    about: dict[str, Any],
    *,
    counted: bool = True,
) -> Plan:
    """Hand a delivery over to its `otherwise`; without one it is a dead letter.

    `counted`: it has run, which is a visit.
    """
    stand_in = d.route.otherwise
    changes: list[Change] = finish_timer(d)
    changes += release(d, seen)
    if counted:
        changes += visited(d, seen)
    if stand_in is not None:
        why = {"reason": reason, "attempts": d.attempt, **about}
        payload = frozen(d.record, extras=d.extras, failure=why)
        parked = Parked(d.run, 1, now, "", payload, "")
        changes += [
            settle(d, Status.DONE),
            Settle(
                stand_in.name, d.subject, Status.PARKED, d.payload_hash, d.source, None, parked,
                spawn=True,
            ),
            Publish(note(d, "given_up", now, reason=reason, **about)),
        ]  # fmt: skip
        return Plan(d.owned, tuple(changes))
    return Plan(d.owned, (*changes, *_dead(d, now, reason, about)))


def _dead(d: Delivery, now: float, reason: str, about: dict[str, Any]) -> list[Change]:
    """Give the delivery up; with `hold` what comes later in its chain goes on waiting."""
    chain = d.chain_text() if d.route.handler.hold else ""
    row = Parked(d.run, d.attempt, None, chain, frozen_delivery(d), about["message"])
    if d.unanswered:
        about = {**about, "calls": d.unanswered}
    return [
        settle(d, Status.DEAD, row),
        Publish(dead_letter(d, now, {**about, "reason": reason})),
        Publish(note(d, "dead", now, reason=reason, **about)),
    ]


def quarantined(d: Delivery, seen: Seen, now: float) -> Plan:
    """Set aside an event whose id another one had: once for all handlers of the service."""
    subject = derived_id(d.subject, b"quarantine/" + d.payload_hash)
    aside = Delivery(d.route, d.record, subject, d.source)
    aside.name, aside.payload_hash = quarantine_name(d.route.service), d.payload_hash
    first = "-".join(map(str, seen.source)) if seen.source is not None else "?"
    message = f"same id, other payload: {'-'.join(map(str, d.source))} is not what came at {first}"
    about = {"error": "Quarantined", "message": message}
    row = Parked(0, 1, None, "", frozen(d.record), message)
    said = note(
        aside, "quarantined", now, step=aside.name, reason=message, subject=d.record.headers[ID]
    )
    changes: tuple[Change, ...] = (
        settle(aside, Status.DEAD, row),
        Publish(dead_letter(aside, now, {**about, "reason": "quarantined"})),
        Publish(said),
    )
    return Plan(d.owned, changes)


def quarantine_name(service: str) -> str:
    """Name, in the inbox, what a service has set aside."""
    return f"{service}!quarantine"


def forgotten(d: Delivery, floor: Floor) -> bool:
    """Tell whether a record without a row may have been handled before, its row being gone.

    It lies below the floor; or it was appended later, and is older than what lies below.
    """
    if d.source.offset <= floor.offset:
        return True
    at = born(d.subject, d.record.headers)
    return at is not None and at <= floor.at


def not_again(d: Delivery, now: float) -> Plan:
    """Make a dead letter of a record that may have been handled before: nobody can tell."""
    error = StoreError(
        "it is older than what the inbox remembers: it may have been handled before",
        code="CH4020",
        fix="redrive it if you know that it was not, or discard it",
        handler=d.route.name,
    )
    name, text = describe(error)
    return Plan(d.owned, tuple(_dead(d, now, "too old", {"error": name, "message": text})))


def release(d: Delivery, seen: Seen) -> list[Change]:
    """Let go of the undo gates: this delivery will not add an effect any more."""
    changes: list[Change] = []
    for gate in effect_gates(d, seen):
        gate.ended(d)
        changes += gate.changes(d)
    return changes


def _park(d: Delivery, due: float, attempt: int, error: str, said: Record) -> Plan:
    row = Parked(d.run, attempt, due, d.chain_text(), frozen_delivery(d), error)
    changes = (settle(d, Status.PARKED, row), *finish_timer(d), Publish(said))
    return Plan(d.owned, changes)


def parked_running(d: Delivery, now: float) -> Plan:
    """Park a delivery that runs: should this process end before it, it is due at once."""
    row = Parked(d.run, d.attempt, now, d.chain_text(), frozen_delivery(d), "")
    return Plan(d.owned, (settle(d, Status.PARKED, row), *finish_timer(d)))


def killed(d: Delivery) -> HandlerError:
    """Say why a delivery is given up that never comes to an end with its process alive."""
    return HandlerError(
        f"the process ended {d.crashes} times while it ran",
        code=KILLED,
        fix="look for what kills the process (memory, a native library), then redrive it",
        handler=d.route.name,
    )


def parked_behind(d: Delivery, now: float) -> Plan:
    """Hold a delivery, without an attempt, behind the one before it in its chain."""
    row = Parked(d.run, d.attempt, None, d.chain_text(), frozen_delivery(d), "")
    said = note(d, "parked", now, reason="waits behind an earlier event of its key")
    return Plan(d.owned, (settle(d, Status.PARKED, row), Publish(said)))


def visited(d: Delivery, seen: Seen) -> list[Change]:
    """Count a run of a handler with `visits_max`; a redrive is the same visit."""
    if d.route.handler.visits_max is None or d.run:
        return []
    return [
        Gate(key, gate.seq, gate.closed, json.dumps({"visits": visits(gate) + 1}).encode())
        for key, gate in seen.gates.items()
        if key.kind == "visits" and key.name == d.route.handler.name
    ]


def visits(gate: GateSeen) -> int:
    """Read how often a handler has run in a scope."""
    return int(members_of(gate).get("visits", 0))


# ── what every decision may need ─────────────────────────────────────────────────────────


def settle(d: Delivery, status: Status, parked: Parked | None = None) -> Settle:
    """Set the delivery's own state."""
    return new(
        Settle,
        (d.name, d.subject, status, d.payload_hash, d.source, d.seen, parked, False, False),
    )


def finish_timer(d: Delivery) -> list[Change]:
    """Take away the timer that a delivery came from."""
    return [] if d.timer is None else [CancelTimer(*d.timer)]


def effect_gates(d: Delivery, seen: Seen) -> Iterator[UndoGate]:
    """Give the scopes, as they were seen, that this step may add an effect to."""
    for handler in d.route.effects:
        for key in seen.gates:
            if key.kind == "undo" and key.name == handler.name:
                yield UndoGate(handler, key, seen)
