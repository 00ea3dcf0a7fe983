"""The decisions: before a handler runs, after it ran, after it failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from choreo.codec import decode
from choreo.context import State
from choreo.errors import DecodeError, HandlerError, Later, StoreError, TxOpenError
from choreo.events import ID, TYPE, VOID, Event, Record, derived_id, id_bytes
from choreo.plan import (
    CancelTimer,
    Change,
    Gate,
    GateKey,
    Parked,
    Plan,
    Publish,
    SaveState,
    SetTimer,
    Settle,
    Status,
)
from choreo.policies import UNKNOWN_OUTCOME
from choreo.ports import Seen, Want
from choreo.service import After, Cancel, Handler, Kind
from choreo.step.delivery import Delivery, Role, Route
from choreo.step.gates import UndoGate, closed_expectation, gate_scope, members_of
from choreo.step.marks import decide_mark
from choreo.step.parking import frozen, frozen_delivery
from choreo.step.publish import (
    as_void,
    dead_letter,
    describe,
    event_record,
    flow_of,
    note,
)

__all__ = [
    "INLINE_MAX_S",
    "MoreGates",
    "StepVoid",
    "Verdict",
    "after_run",
    "before_run",
    "claim",
    "failed",
    "final",
    "finish_timer",
    "intent",
    "parked_behind",
    "route_of",
    "skipped",
    "subject_event",
    "void",
    "want",
]

new = tuple.__new__  # half the time of a NamedTuple's own constructor, for what is made per step
INLINE_MAX_S = 0.25
"""Delays up to this are waited for inside the step; longer ones park the delivery."""


class MoreGates(Exception):  # noqa: N818 - a request, not an error
    """The decision needs gates that were not loaded: load these too and ask again."""

    def __init__(self, keys: tuple[GateKey, ...]) -> None:
        """Name them."""
        super().__init__(keys)
        self.keys = keys


class StepVoid(BaseException):
    """The step may not go on: its scope was closed, or it was settled elsewhere."""


class Verdict(NamedTuple):
    """What follows from a failed attempt: a plan, and whether to run again at once."""

    plan: Plan
    again_s: float | None = None


def subject_event(d: Delivery) -> Event:
    """Decode the subject as the handler's own view; raises DecodeError."""
    return decode(d.route.views[d.record.headers[TYPE]], d.record)


# ── before ───────────────────────────────────────────────────────────────────────────────


def want(d: Delivery) -> Want:
    """Say what has to be seen before this delivery can be decided."""
    route = d.route
    if route.unseen:
        return new(Want, (d.name, d.subject, d.more, None, False))
    gates = (*_gates_of(d), *d.more) if route.gated else d.more
    state = None
    if route.state is not None and issubclass(route.state, State):
        field = route.state.__key__
        key = str(getattr(subject_event(d), field, ""))
        state = (f"{route.service}.{route.state.__name__}", key)
    return Want(d.name, d.subject, gates, state, route.memos)


def _gates_of(d: Delivery) -> tuple[GateKey, ...]:
    route, handler = d.route, d.route.handler
    base = handler.of or handler
    others = (*route.effects, *route.triggers, *route.closes)
    event = subject_event(d) if any(h.by for h in (handler, base, *others)) else None
    scope = gate_scope(handler, d.record, event)
    role = route.role
    if role is Role.WHY:
        return (GateKey("undo", handler.name, scope),)
    if role in (Role.ARRIVE, Role.LATE):
        return (GateKey("join", handler.name, scope),)
    if role in (Role.OPEN, Role.CLOSE):
        return (GateKey("expects", handler.name, scope),)
    if role is Role.UNLESS:
        return (GateKey("unless", handler.name, scope),)
    undone = dict.fromkeys((*route.effects, *route.triggers))
    keys = [GateKey("undo", h.name, gate_scope(h, d.record, event)) for h in undone]
    keys += [GateKey("expects", h.name, gate_scope(h, d.record, event)) for h in route.closes]
    if handler.unless:
        keys.append(GateKey("unless", handler.name, scope))
    if base.kind is Kind.EXPECTS:
        keys.append(GateKey("expects", base.name, gate_scope(base, d.record, event)))
    return tuple(keys)


def before_run(d: Delivery, seen: Seen, now: float) -> Plan | None:
    """Decide what can be decided without the handler; None: run it."""
    if seen.status is not None and (
        d.seen is None or seen.status is not Status.PARKED or (seen.run, seen.attempt) != d.seen
    ):
        return skipped(d, seen, now)
    route = d.route
    if route.role is not Role.HANDLE:
        return Plan(d.owned, tuple(decide_mark(d, seen, now)))
    if not route.gated:
        return None
    closed = [key for key, gate in seen.gates.items() if gate.closed]
    mine = route.handler.name
    base = (route.handler.of or route.handler).name
    for key in closed:
        if key.kind == "expects" and key.name == base:  # what was expected has come
            return Plan(d.owned, (_settle(d, Status.DONE), *finish_timer(d)))
        undone = key.kind == "undo" and any(h.name == key.name for h in route.effects)
        if (undone or (key.kind == "unless" and key.name == mine)) and not d.intended:
            reason = f"{'scope closed by' if undone else 'not after'} {_why(seen, key)}"
            changes = [_settle(d, Status.VOID), *finish_timer(d)]
            changes += _release(d, seen)
            changes.append(Publish(note(d, "void", now, reason=reason)))
            return Plan(d.owned, tuple(changes))
    return None


def _why(seen: Seen, key: GateKey) -> str:
    why = members_of(seen.gates[key]).get("why")
    return str(why[4].get(TYPE, "")) if why else key.name


def claim(d: Delivery) -> tuple[Change, ...]:
    """Give the row that a step in a transaction begins with, where only that decides."""
    if not d.route.unseen or d.seen is not None:
        return ()
    return (_settle(d, Status.DONE),)


def skipped(d: Delivery, seen: Seen, now: float) -> Plan:
    """Leave a delivery that was settled before. The same record again leaves no trace."""
    if d.seen is not None or d.timer is not None or seen.source == d.source:
        return Plan(d.owned, ())
    if d.route.role is not Role.HANDLE:
        return Plan(d.owned, ())
    reason = "the event came before"
    if seen.payload_hash not in (b"", d.payload_hash):
        reason = "an event of this id but other content came before"
    place = f"{d.source.topic}-{d.source.partition}-{d.source.offset}"
    return Plan(d.owned, (Publish(note(d, "duplicate", now, reason=reason, place=place)),))


def intent(d: Delivery, seen: Seen, now: float) -> list[Change]:
    """Tell the undo gates that this delivery is about to call the outside.

    Raises StepVoid when its scope was closed meanwhile: the call must not be made.
    """
    if d.intended:
        return []
    if before_run(d, seen, now) is not None:
        raise StepVoid
    changes: list[Change] = []
    for gate in _effect_gates(d, seen):
        gate.intend(d)
        changes += gate.changes(d)
    return changes


def _effect_gates(d: Delivery, seen: Seen) -> Iterator[UndoGate]:
    """Give the scopes, as they were seen, that this step may add an effect to."""
    for handler in d.route.effects:
        for key in seen.gates:
            if key.kind == "undo" and key.name == handler.name:
                yield UndoGate(handler, key, seen)


# ── after ────────────────────────────────────────────────────────────────────────────────


def after_run(
    d: Delivery,
    seen: Seen,
    result: object,
    now: float,
    *,
    flow: str | None = None,
    state: State | None = None,
) -> Plan:
    """Decide what a handler's result leaves.

    Raises HandlerError when the annotation does not name the result, MoreGates when an
    effect's own scope has to be seen.
    """
    route = d.route
    spec = route.direct.get(type(result))
    if spec is not None and not route.gated and state is None and d.timer is None:
        record = event_record(d, spec, result, 0, now, flow=flow)  # type: ignore[arg-type]
        d.simple = d.seen is None and d.due_key is None
        changes = (_settle(d, Status.DONE), new(Publish, (record,)))
        return new(Plan, (d.owned, changes, None, None))
    left = _Left(d, seen, now, flow or flow_of(d.record))
    for n, output in enumerate(route.handler.signature.outputs.take(result)):
        left.take(n, output)
    more: list[Change] = [_settle(d, Status.DONE), *finish_timer(d), *left.changes()]
    if state is not None:
        more += _saved(d, seen, state)
    if not any(type(change) is Publish for change in more):
        dues = [change.due for change in left.timers if isinstance(change, SetTimer)]
        more.append(Publish(note(d, "done", now, due=min(dues, default=None))))
    return Plan(d.owned, tuple(more))


class _Left:
    """What the outputs of one step leave, gate by gate."""

    def __init__(self, d: Delivery, seen: Seen, now: float, flow: str) -> None:
        self.d = d
        self.seen = seen
        self.now = now
        self.flow = flow
        self.records: list[tuple[Record, Event]] = []
        self.timers: list[Change] = []

    def take(self, n: int, output: Event | After[Event] | Cancel) -> None:
        """Add one output."""
        d = self.d
        if isinstance(output, Cancel):
            self.timers.append(CancelTimer(self._timer_id(output.name)))
            return
        event = output.event if isinstance(output, After) else output
        record = event_record(d, d.route.outputs[type(event)], event, n, self.now, flow=self.flow)
        if isinstance(output, After):
            timer = self._timer_id(output.name or f"\0{record.headers[ID]}")
            name = f"{d.route.handler.name}!{Role.AFTER.value}"
            due = output.due(self.now)
            self.timers.append(SetTimer(timer, due, name, frozen(record), d.source))
        else:
            self.records.append((record, event))

    def _timer_id(self, name: str) -> bytes:
        return derived_id(id_bytes(self.flow), f"{self.d.route.service}/after/{name}".encode())

    def changes(self) -> list[Change]:
        """Give all changes; an effect of a closed scope makes the whole step void."""
        d, route = self.d, self.d.route
        changes: list[Change] = []
        gates = self._undo_gates()
        void = any(gate.closed for gate, _ in gates if gate.handler in route.effects)
        for gate, effects in gates:
            gate.ended(d)
            for effect in effects:
                gate.add(d, as_void(effect) if gate.closed else effect, self.now)
        if not void:
            for gate, _ in gates:
                for record, event in self.records:
                    if gate.handler in route.outputs[type(event)].triggers and (
                        gate_scope(gate.handler, record, event) == gate.key.scope
                    ):
                        gate.close(d, record, self.now)
        for gate, _ in gates:
            changes += gate.changes(d)
        if not void:
            changes += self._closings()
            changes += self.timers
        if route.handler.unless:
            changes += self._touched("unless", route.handler)
        if (base := route.handler.of or route.handler).kind is Kind.EXPECTS:
            changes += self._touched("expects", base, closed=True)
        # A step's own events come before what follows from them, on every topic.
        events = [Publish(as_void(record) if void else record) for record, _ in self.records]
        return [*events, *changes]

    def _undo_gates(self) -> list[tuple[UndoGate, list[Record]]]:
        """Give the scopes that this step adds effects to, lets go of, or closes."""
        route = self.d.route
        found: dict[tuple[Handler, GateKey], list[Record]] = {
            (gate.handler, gate.key): [] for gate in _effect_gates(self.d, self.seen)
        }
        for record, event in self.records:
            spec = route.outputs[type(event)]
            for handler in (*spec.effects, *spec.triggers):
                key = GateKey("undo", handler.name, gate_scope(handler, record, event))
                effects = found.setdefault((handler, key), [])
                if handler in spec.effects:
                    effects.append(record)
        self._need([key for _, key in found])
        return [
            (UndoGate(handler, key, self.seen), effects)
            for (handler, key), effects in found.items()
        ]

    def _closings(self) -> list[Change]:
        changes: list[Change] = []
        done: set[GateKey] = set()
        for record, event in self.records:
            for handler in self.d.route.outputs[type(event)].closes:
                key = GateKey("expects", handler.name, gate_scope(handler, record, event))
                self._need((key,))
                if key not in done:
                    done.add(key)
                    changes += closed_expectation(key, self.seen)
        return changes

    def _touched(self, kind: str, handler: Handler, *, closed: bool = False) -> Iterable[Change]:
        for key, gate in self.seen.gates.items():
            if key.kind == kind and key.name == handler.name:
                yield Gate(key, gate.seq, closed or gate.closed, gate.members)

    def _need(self, keys: Iterable[GateKey]) -> None:
        missing = tuple(key for key in keys if key not in self.seen.gates)
        if missing:
            raise MoreGates(missing)


def finish_timer(d: Delivery) -> list[Change]:
    """Take away the timer that a delivery came from."""
    return [] if d.timer is None else [CancelTimer(*d.timer)]


def _saved(d: Delivery, seen: Seen, state: State) -> list[Change]:
    value = state.model_dump_json().encode()
    stored = seen.state
    if stored is not None and stored.value == value:
        return []
    key = str(getattr(state, type(state).__key__))
    kind = f"{d.route.service}.{type(state).__name__}"
    return [SaveState(kind, key, stored.version if stored else 0, value)]


# ── failed ───────────────────────────────────────────────────────────────────────────────


def failed(d: Delivery, seen: Seen, error: BaseException, now: float, *, draw: float) -> Verdict:
    """Decide what follows from an exception of the handler; `draw` in [0, 1) spreads retries."""
    handler = d.route.handler
    if isinstance(error, Later):
        due = error.due(now)
        plan = _park(d, due, d.attempt, "", note(d, "waiting", now, due=due))
        return Verdict(plan)
    name, text = describe(error)
    about: dict[str, Any] = {"error": name, "message": text}
    down = isinstance(error, StoreError) and error.transient
    if d.unknown or d.owes_undo or down or handler.kind is Kind.COMPENSATE:
        d.unknowns += 1
        delay = UNKNOWN_OUTCOME.delay_s(d.attempt, draw)
    elif d.undoing:
        return Verdict(_given_up(d, seen, now, "attempts used up", about))
    elif not _retryable(d, error):
        return Verdict(_given_up(d, seen, now, "not retryable", about))
    elif final(d, error):
        return Verdict(_given_up(d, seen, now, "attempts used up", about))
    else:
        delay = handler.retry.delay_s(d.attempt - d.unknowns, draw)
    due = now + delay
    said = note(d, "retrying", now, due=due, **about)
    if delay <= INLINE_MAX_S:
        return Verdict(Plan(d.owned, (Publish(said),)), delay)
    return Verdict(_park(d, due, d.attempt + 1, text, said))


def _retryable(d: Delivery, error: BaseException) -> bool:
    """A bug in the code, or bytes that are wrong, does not get better by trying again."""
    if isinstance(error, (DecodeError, HandlerError, TxOpenError)) and not error.transient:
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


def _given_up(d: Delivery, seen: Seen, now: float, reason: str, about: dict[str, Any]) -> Plan:
    stand_in = d.route.otherwise
    changes: list[Change] = finish_timer(d)
    changes += _release(d, seen)
    if stand_in is not None:
        why = {"reason": reason, "attempts": d.attempt, **about}
        payload = frozen(d.record, extras=d.extras, failure=why)
        parked = Parked(d.run, 1, now, "", payload, "")
        changes += [
            _settle(d, Status.DONE),
            Settle(
                stand_in.name, d.subject, Status.PARKED, d.payload_hash, d.source, None, parked,
                spawn=True,
            ),
            Publish(note(d, "given_up", now, reason=reason, **about)),
        ]  # fmt: skip
        return Plan(d.owned, tuple(changes))
    row = Parked(d.run, d.attempt, None, d.chain_text(), frozen_delivery(d), about["message"])
    changes += [
        _settle(d, Status.DEAD, row),
        Publish(dead_letter(d, now, about)),
        Publish(note(d, "dead", now, reason=reason, **about)),
    ]
    return Plan(d.owned, tuple(changes))


def _release(d: Delivery, seen: Seen) -> list[Change]:
    """Let go of the undo gates: this delivery will not add an effect any more."""
    changes: list[Change] = []
    for gate in _effect_gates(d, seen):
        gate.ended(d)
        changes += gate.changes(d)
    return changes


def _park(d: Delivery, due: float, attempt: int, error: str, said: Record) -> Plan:
    row = Parked(d.run, attempt, due, d.chain_text(), frozen_delivery(d), error)
    changes = (_settle(d, Status.PARKED, row), *finish_timer(d), Publish(said))
    return Plan(d.owned, changes)


def parked_behind(d: Delivery) -> Plan:
    """Hold a delivery, without an attempt, behind the one before it in its chain."""
    row = Parked(d.run, d.attempt, None, d.chain_text(), frozen_delivery(d), "")
    return Plan(d.owned, (_settle(d, Status.PARKED, row),))


def _settle(d: Delivery, status: Status, parked: Parked | None = None) -> Settle:
    return new(Settle, (d.name, d.subject, status, d.payload_hash, d.source, d.seen, parked, False))


def void(record: Record) -> bool:
    """Tell whether handlers skip this record: its scope was closed when it was published."""
    return VOID in record.headers


def route_of(routes: dict[str, Route], name: str, former: dict[str, str]) -> Route | None:
    """Find the route of a parked row or timer, by its present or a former name."""
    if name in routes:
        return routes[name]
    base, mark, role = name.partition("!")
    return routes.get(f"{former.get(base, base)}{mark}{role}")
