"""What an operator asks of a service, decided: dead letters run again, edited or discarded.

A request is a record on `choreo.control`. It is a delivery like any other, settled in the inbox,
and it names the delivery that it is about, whose row is compared and set in the same plan.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from choreo.codec import EVENT_BYTES_MAX, JSON_TYPE, check_json, is_avro
from choreo.context import ANSWER
from choreo.errors import DecodeError
from choreo.events import (
    ATTEMPT,
    CAUSE,
    CAUSES,
    CONTENT_TYPE,
    CONTROL_TOPIC,
    CONTROL_TYPE,
    EDITED,
    FLOW,
    ID,
    SOURCE,
    SPEC_VERSION,
    STARTED,
    STEP,
    SUBJECT,
    TIME,
    TOOK,
    TYPE,
    UNDOES,
    Record,
    derived_id,
    id_bytes,
    id_text,
    rfc3339,
)
from choreo.plan import Change, Memo, Parked, Publish, Remember, Settle, Status
from choreo.ports import Due, Seen, Want
from choreo.service import Kind
from choreo.step.delivery import Delivery, Role, Route
from choreo.step.failing import quarantine_name, settle
from choreo.step.parking import frozen, frozen_delivery, thawed
from choreo.step.publish import flow_of, note, payload_hash

__all__ = ["NOT_DONE", "control_name", "decide_control", "request", "service_of", "target_of"]

NOT_DONE: Final = object()
"""The answer that a call certainly had no effect."""
NO_EFFECT = "not-done"
SUBJECT_BYTES = 16
ABOUT_MAX = 500
OF_THE_STEP = (STEP, ATTEMPT, STARTED, TOOK, UNDOES, CAUSES)
NOT_RUN_AGAIN = (Role.CONTROL, Role.UNREADABLE)
SETTLED = {
    Status.PARKED: "it waits to be run already",
    Status.DONE: "it is settled: by its handler, or by its `otherwise`",
    Status.VOID: "it was discarded, or its scope was closed",
}


def request(
    letter: Record,
    action: str,
    *,
    reason: str,
    by: str,
    now: float,
    value: bytes | None = None,
    answers: Mapping[str, Any] | None = None,
) -> Record:
    """Make the record that asks the service of a dead letter to redrive or discard it.

    `value` is run in the place of what failed; `answers` say, by the names of outside calls,
    what they gave, or NOT_DONE. Asking twice is harmless: who comes later is refused.
    """
    said: dict[str, Any] = {
        "action": action,
        "service": service_of(letter),
        "step": letter.headers["choreo-dead-step"],
        "subject": letter.headers["choreo-dead-subject"],
        "dead": letter.headers["choreo-dead-id"],
        "run": int(letter.headers["choreo-dead-run"]),
        "reason": reason,
        "by": by,
    }
    if value is not None:
        said["value"] = {"base64": base64.b64encode(value).decode()}
    if answers:
        said["answers"] = {
            name: NO_EFFECT if gave is NOT_DONE else {"gave": gave}
            for name, gave in answers.items()
        }
    data = json.dumps(said, separators=(",", ":")).encode()
    service, flow = said["service"], flow_of(letter)
    salt = b"%d/" % int(now * 1000) + data
    headers = {
        SPEC_VERSION: "1.0",
        ID: id_text(derived_id(id_bytes(said["dead"]), salt)),
        SOURCE: "operator",
        TYPE: CONTROL_TYPE,
        TIME: rfc3339(now),
        SUBJECT: service,
        CONTENT_TYPE: JSON_TYPE,
        FLOW: flow,
    }
    return Record(CONTROL_TOPIC, service.encode(), headers, data)


def service_of(letter: Record) -> str:
    """Name the service whose dead letter this is."""
    step = letter.headers["choreo-dead-step"]
    return step.partition("!")[0].partition(".")[0]


def control_name(service: str) -> str:
    """Name, in the inbox, what operators have asked of a service."""
    return f"{service}!control"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request. `value` is what to run instead, `answers` what became of outside calls."""

    action: str
    step: str
    subject: bytes
    dead: str
    run: int
    reason: str
    by: str
    value: bytes | None
    answers: Mapping[str, Any]


def _asked(record: Record) -> _Asked:
    """Read a request; raises DecodeError when it is none."""
    check_json(record.value)
    said = json.loads(record.value)
    try:
        value = said.get("value") if said["action"] == "redrive" else None
        if isinstance(value, dict):
            value = base64.b64decode(value["base64"], validate=True)
        elif value is not None:
            value = str(value).encode()
        asked = _Asked(
            said["action"], str(said["step"]), bytes.fromhex(said["subject"]), str(said["dead"]),
            int(said["run"]), str(said.get("reason", ""))[:ABOUT_MAX],
            str(said.get("by", ""))[:ABOUT_MAX], value, dict(said.get("answers") or {}),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise DecodeError(f"value is no request: {type(exc).__name__}: {exc}") from None
    wrong = [
        answer for answer in asked.answers.values()
        if answer != NO_EFFECT and not (isinstance(answer, dict) and answer.keys() == {"gave"})
    ]  # fmt: skip
    known = asked.action in ("redrive", "discard") and len(asked.subject) == SUBJECT_BYTES
    if wrong or not known:
        raise DecodeError(f"value is no request: {asked.action} of {said['subject']}")
    return asked


def target_of(d: Delivery) -> Want | None:
    """Say which delivery a request is about; None when this service has no such step."""
    asked = _asked(d.record)
    if _route_of(d, asked) is None:
        return None
    return Want(asked.step, asked.subject, memos=True)


def _route_of(d: Delivery, asked: _Asked) -> Route | None:
    assert d.route.find is not None
    return d.route.find(asked.step)


def decide_control(d: Delivery, seen: Seen, now: float) -> list[Change]:
    """Do what is asked, or note why not. The same request again is a duplicate."""
    asked = _asked(d.record)
    route = _route_of(d, asked)
    own = settle(d, Status.DONE)
    found = seen.target
    target = None
    if route is not None and found is not None and found.status is Status.DEAD:
        target = _target(d, asked, route, found)
    refusal = _refusal(asked, route, found)
    if target is not None and not refusal:
        refusal = _unfit(asked, target)
    about = {"dead": asked.dead, "reason": asked.reason, "by": asked.by}
    if refusal or target is None or found is None:
        about["reason"] = refusal
        said = note(
            d, "refused", now, step=asked.step, run=asked.run, action=asked.action,
            request=d.record.headers.get(ID, ""), **about,
        )  # fmt: skip
        return [own, Publish(said)]
    about["request"] = d.record.headers.get(ID, "")
    if asked.value is not None:
        return [own, *_edited(d, asked, target, found, now, about)]
    if asked.action == "discard":
        return [own, *_discarded(target, found, now, about)]
    return [own, *_redriven(asked, target, found, now, about)]


def _target(d: Delivery, asked: _Asked, route: Route, found: Seen) -> Delivery:
    assert found.source is not None
    assert found.kept is not None
    due = Due(
        asked.step, asked.subject, 0.0, found.source, found.kept.record, found.kept,
        found.payload_hash,
    )  # fmt: skip
    target = thawed(route, due, d.owned)  # type: ignore[arg-type]
    target.recall(found.memos)
    return target


# ── what can not be done ─────────────────────────────────────────────────────────────────


def _refusal(asked: _Asked, route: Route | None, found: Seen | None) -> str:
    if route is None:
        return "the service has no such handler"
    if found is None or found.status is None:
        return "no such delivery"
    if found.status is not Status.DEAD:
        return SETTLED[found.status]
    if found.run != asked.run:
        return f"it was run again since, and is dead once more: run {found.run + 1}"
    return ""


def _unfit(asked: _Asked, target: Delivery) -> str:
    """Say why this dead letter can not be treated so."""
    aside = target.name == quarantine_name(target.route.service)
    if asked.action == "redrive" and aside and asked.value is None:
        return "it can not be run under its id: edit it, or discard it"
    if asked.action == "redrive" and not aside and target.route.role in NOT_RUN_AGAIN:
        return "it is no event that could be run: publish a correct one, and discard this"
    again = asked.action == "redrive" and asked.value is None
    unknown = [name for name in target.unanswered if not again or name not in asked.answers]
    if unknown:
        return f"the outcome of {', '.join(unknown)} is unknown: redrive it with an answer"
    strange = [
        name for name in asked.answers if target.memos.get(name, ("",))[0] is not Memo.INTENT
    ]
    if strange:
        return f"no outcome of a call {', '.join(strange)} is unknown"
    if asked.value is not None:
        if len(asked.value) > EVENT_BYTES_MAX:
            return f"the new value of {len(asked.value)} bytes exceeds {EVENT_BYTES_MAX}"
        of_one_event = aside or target.route.role is not Role.HANDLE
        of_one_event = of_one_event or target.route.handler.kind is Kind.ON
        if not of_one_event or target.subject != _own_subject(target) or target.intended:
            return "it is not about one event alone, or has called the outside: not to be edited"
    return ""


def _own_subject(target: Delivery) -> bytes:
    if target.route.role is Role.CONTROL:
        return target.subject
    return id_bytes(target.record.headers.get(ID, ""), target.record.headers.get(SOURCE, ""))


# ── what is done ─────────────────────────────────────────────────────────────────────────


def _replaced(target: Delivery, found: Seen, status: Status, parked: Parked | None) -> Settle:
    assert found.source is not None
    return Settle(
        target.name, target.subject, status, found.payload_hash, found.source,
        (found.run, found.attempt), parked, dead=True,
    )  # fmt: skip


def _redriven(
    asked: _Asked, target: Delivery, found: Seen, now: float, about: dict[str, Any]
) -> list[Change]:
    """Park it, due at once, as a new run in its old place."""
    changes: list[Change] = []
    names = f"{target.name}/{target.call_prefix}"
    for name, answer in asked.answers.items():
        data = b""
        if answer == NO_EFFECT:
            changes.append(Remember(target.subject, f"{names}{name}", Memo.CLOSED, b""))
        else:  # the handler knows whether it fits: it may have to be given again
            data = json.dumps(answer["gave"], separators=(",", ":")).encode()
        beside = f"{names}{ANSWER}{name}"
        changes.append(Remember(target.subject, beside, Memo.INTENT, b""))
        changes.append(Remember(target.subject, beside, Memo.CLOSED, data))
    if asked.answers:
        about["answers"] = sorted(asked.answers)
    target.run, target.attempt = found.run + 1, 1
    target.unknowns = target.crashes = 0
    if target.undoing:  # what it did outside is undone: a new run does it anew, under new keys
        target.calls = target.run
    row = Parked(target.run, 1, now, target.chain_text(), frozen_delivery(target), "")
    said = note(target, "redriven", now, **about)
    return [_replaced(target, found, Status.PARKED, row), *changes, Publish(said)]


def _discarded(target: Delivery, found: Seen, now: float, about: dict[str, Any]) -> list[Change]:
    said = note(target, "discarded", now, **about)
    return [_replaced(target, found, Status.VOID, None), Publish(said)]


def _edited(
    d: Delivery,
    asked: _Asked,
    target: Delivery,
    found: Seen,
    now: float,
    about: dict[str, Any],
) -> list[Change]:
    """Run another value, as an event of its own, in the place of the dead letter.

    The event is published, so that what follows from it has its cause on the log; only the
    step that failed is given it, from its row: others may have handled the original.
    """
    assert asked.value is not None
    record = _with_value(target, asked, now)
    subject = id_bytes(record.headers[ID])
    routes = [target.route]
    if target.route.role is Role.CONTROL:
        assert d.route.takers is not None
        routes = list(d.route.takers(record.headers.get(TYPE, "")))
    parked = Parked(0, 1, now, target.chain_text(), frozen(record), "")
    changes: list[Change] = [Publish(record)]
    changes += [
        Settle(
            target.name if route is target.route else route.name, subject, Status.PARKED,
            payload_hash(record.value), target.source, None, parked, spawn=True,
        )
        for route in routes
    ]  # fmt: skip
    about["edited"] = record.headers[ID]
    said = note(target, "discarded", now, **about)
    # The new row stands in the chain before the old one leaves it.
    return [*changes, _replaced(target, found, Status.VOID, None), Publish(said)]


def _with_value(target: Delivery, asked: _Asked, now: float) -> Record:
    assert asked.value is not None
    old = target.record
    headers = {name: text for name, text in old.headers.items() if name not in OF_THE_STEP}
    new_id = derived_id(id_bytes(asked.dead), b"edit/" + asked.value)
    headers[ID] = id_text(new_id)
    headers[SOURCE] = target.route.service
    headers[CAUSE] = old.headers.get(ID, "")
    headers[TIME] = rfc3339(now)
    headers[EDITED] = target.name
    if is_avro(headers.get(CONTENT_TYPE, "")):  # operators write JSON
        headers[CONTENT_TYPE] = JSON_TYPE
    return Record(old.topic, old.key, headers, asked.value)
