"""The decisions before a handler runs and after it ran."""

from __future__ import annotations

from collections.abc import Iterable

from choreo.context import State
from choreo.events import ID, TYPE, VOID, Event, Record, derived_id, id_bytes
from choreo.plan import (
    CancelTimer,
    Change,
    Gate,
    GateKey,
    Plan,
    Publish,
    SaveState,
    SetTimer,
    Source,
    Status,
)
from choreo.ports import Seen, Want
from choreo.service import After, Cancel, Handler, Kind
from choreo.step.control import decide_control, target_of
from choreo.step.delivery import Delivery, Role
from choreo.step.failing import (
    effect_gates,
    finish_timer,
    forgotten,
    given_up,
    not_again,
    quarantined,
    release,
    settle,
    visited,
    visits,
)
from choreo.step.gates import UndoGate, closed_expectation, gate_scope, members_of
from choreo.step.marks import decide_mark
from choreo.step.parking import frozen
from choreo.step.publish import as_void, event_record, flow_of, note

__all__ = [
    "MoreGates",
    "StepVoid",
    "after_run",
    "before_run",
    "claim",
    "intent",
    "skipped",
    "subject_event",
    "void",
    "want",
]

new = tuple.__new__  # half the time of a NamedTuple's own constructor, for what is made per step


class MoreGates(Exception):  # noqa: N818 - a request, not an error
    """The decision needs gates that were not loaded: load these too and ask again."""

    def __init__(self, keys: tuple[GateKey, ...]) -> None:
        """Name them."""
        super().__init__(keys)
        self.keys = keys


class StepVoid(BaseException):
    """The step may not go on: its scope was closed, or it was settled elsewhere."""


def subject_event(d: Delivery) -> Event:
    """Decode the subject as the handler's own view; raises DecodeError."""
    return d.route.decode(d.route.views[d.record.headers[TYPE]], d.record)


# ── before ───────────────────────────────────────────────────────────────────────────────


def want(d: Delivery) -> Want:
    """Say what has to be seen before this delivery can be decided."""
    route = d.route
    if route.role is Role.CONTROL:
        return Want(d.name, d.subject, target=target_of(d))
    if route.unseen:
        return new(Want, (d.name, d.subject, d.more, None, False, (), _polled(d), None))
    gates = (*_gates_of(d), *d.more) if route.gated else d.more
    state = None
    if route.state is not None and issubclass(route.state, State):
        field = route.state.__key__
        key = str(getattr(subject_event(d), field, ""))
        state = (f"{route.service}.{route.state.__name__}", key)
    return Want(d.name, d.subject, gates, state, route.memos, (), _polled(d))


def _polled(d: Delivery) -> Source | None:
    return d.source if d.seen is None and d.timer is None else None


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
    if handler.visits_max is not None:
        keys.append(GateKey("visits", handler.name, scope))
    if base.kind is Kind.EXPECTS:
        keys.append(GateKey("expects", base.name, gate_scope(base, d.record, event)))
    return tuple(keys)


def before_run(d: Delivery, seen: Seen, now: float) -> Plan | None:
    """Decide what can be decided without the handler; None: run it."""
    if seen.status is not None and (
        d.seen is None or seen.status is not Status.PARKED or (seen.run, seen.attempt) != d.seen
    ):
        return skipped(d, seen, now)
    if seen.floor is not None and forgotten(d, seen.floor):
        return not_again(d, now)
    route = d.route
    if route.role is Role.CONTROL:
        return Plan(d.owned, tuple(decide_control(d, seen, now)))
    if route.role is not Role.HANDLE:
        return Plan(d.owned, tuple(decide_mark(d, seen, now)))
    if not route.gated:
        return None
    closed = [key for key, gate in seen.gates.items() if gate.closed]
    mine = route.handler.name
    base = (route.handler.of or route.handler).name
    for key in closed:
        if key.kind == "expects" and key.name == base:  # what was expected has come
            return Plan(d.owned, (settle(d, Status.DONE), *finish_timer(d)))
        undone = key.kind == "undo" and any(h.name == key.name for h in route.effects)
        if (undone or (key.kind == "unless" and key.name == mine)) and not d.intended:
            reason = f"{'scope closed by' if undone else 'not after'} {_why(seen, key)}"
            changes = [settle(d, Status.VOID), *finish_timer(d)]
            changes += release(d, seen)
            changes.append(Publish(note(d, "void", now, reason=reason)))
            return Plan(d.owned, tuple(changes))
    return _used_up(d, seen, now)


def _used_up(d: Delivery, seen: Seen, now: float) -> Plan | None:
    """Give up a visit beyond `visits_max`; not one that has called the outside, nor a redrive."""
    most = d.route.handler.visits_max
    if most is None or d.run or d.intended:
        return None
    for key, gate in seen.gates.items():
        if key.kind == "visits" and key.name == d.route.handler.name and visits(gate) >= most:
            message = f"CH5014 it has run {most} times in {key.scope}, as often as it may"
            about = {"error": "HandlerError", "message": message}
            return given_up(d, seen, now, "visits used up", about, counted=False)
    return None


def _why(seen: Seen, key: GateKey) -> str:
    why = members_of(seen.gates[key]).get("why")
    return str(why[4].get(TYPE, "")) if why else key.name


def claim(d: Delivery) -> tuple[Change, ...]:
    """Give the row that a step in a transaction begins with, where only that decides."""
    if not d.route.unseen or d.seen is not None:
        return ()
    return (settle(d, Status.DONE),)


def skipped(d: Delivery, seen: Seen, now: float) -> Plan:
    """Leave a delivery that was settled before. The same record again leaves no trace."""
    if d.seen is not None or d.timer is not None or seen.source == d.source:
        return Plan(d.owned, ())
    if seen.payload_hash not in (b"", d.payload_hash):
        return quarantined(d, seen, now)
    if d.route.role is not Role.HANDLE:
        return Plan(d.owned, ())
    reason = "the event came before"
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
    for gate in effect_gates(d, seen):
        gate.intend(d)
        changes += gate.changes(d)
    return changes


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
        changes = (settle(d, Status.DONE), new(Publish, (record,)))
        return new(Plan, (d.owned, changes, None, None))
    left = _Left(d, seen, now, flow or flow_of(d.record))
    for n, output in enumerate(route.handler.signature.outputs.take(result)):
        left.take(n, output)
    more: list[Change] = [settle(d, Status.DONE), *finish_timer(d), *left.changes()]
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
        if not void:
            changes += visited(d, self.seen)
        if (base := route.handler.of or route.handler).kind is Kind.EXPECTS:
            changes += self._touched("expects", base, closed=True)
        # A step's own events come before what follows from them, on every topic.
        events = [Publish(as_void(record) if void else record) for record, _ in self.records]
        return [*events, *changes]

    def _undo_gates(self) -> list[tuple[UndoGate, list[Record]]]:
        """Give the scopes that this step adds effects to, lets go of, or closes."""
        route = self.d.route
        found: dict[tuple[Handler, GateKey], list[Record]] = {
            (gate.handler, gate.key): [] for gate in effect_gates(self.d, self.seen)
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


def _saved(d: Delivery, seen: Seen, state: State) -> list[Change]:
    stored = seen.state
    value = state.to_stored(stored.value if stored is not None else None)
    if stored is not None and stored.value == value:
        return []
    key = str(getattr(state, type(state).__key__))
    kind = f"{d.route.service}.{type(state).__name__}"
    return [SaveState(kind, key, stored.version if stored else 0, value)]


def void(record: Record) -> bool:
    """Tell whether handlers skip this record: its scope was closed when it was published."""
    return VOID in record.headers
