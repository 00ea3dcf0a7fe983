"""A delivery, and the routes that lead records to handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from choreo.codec import Codec
from choreo.context import ANEW, ANSWER, UNDO, Context, State
from choreo.events import Event, Headers, Record
from choreo.plan import Change, GateKey, Memo, Owned, Source
from choreo.ports import Seen
from choreo.service import Handler, Param

__all__ = ["NOT_RUN", "Delivery", "OutputSpec", "Role", "Route"]


NOTHING_SEEN = Seen()
NOT_RUN = object()


class Role(Enum):
    """What a service does with a subject on a handler's behalf."""

    HANDLE = "handle"  # run the handler
    WHY = "why"  # a compensation's trigger: close the scope, start the undos
    ARRIVE = "arrive"  # one of what a join waits for
    OPEN = "open"  # begin to expect
    CLOSE = "close"  # what was expected has come
    UNLESS = "unless"  # from now on the handler may not run in this scope
    LATE = "late"  # a join's time is over
    AFTER = "after"  # publish what `After` put off
    UNREADABLE = "unreadable"  # tell of a record that is no event
    CONTROL = "control"  # do what an operator asks for


class OutputSpec:
    """How one handler publishes one event class: all that does not change is made once.

    `effects` are the compensations (qualified names) that an event of this class is an
    effect of, `triggers` those that it triggers, `closes` the `expects` handlers that it
    satisfies: all of this service.
    """

    __slots__ = ("closes", "cls", "dump", "effects", "headers", "key", "salt", "topic", "triggers")

    def __init__(self, cls: type[Event], handler: Handler, headers: Headers, codec: Codec) -> None:
        """Prepare; `headers` are those that every event of this step has."""
        info = cls.__event__
        self.cls = cls
        self.topic = info.topic
        self.key = info.key
        self.headers = headers
        self.salt = f"{handler.name}/{info.type}/".encode()
        self.dump = codec.dumper(cls)
        self.effects: tuple[Handler, ...] = ()
        self.triggers: tuple[Handler, ...] = ()
        self.closes: tuple[Handler, ...] = ()


class Route:
    """One role of one handler, compiled: what a record of some type is delivered to.

    `name` is the delivery's name in the inbox, `former` are those that it had; `views` the
    class to read each event type as; `gated` tells that gates decide beside the inbox,
    `unseen` that the inbox row is all that decides, `plain` that its handler takes nothing
    but the event, too, `pair` that it takes the event and a Tx. `codec` reads and writes values,
    `decode` is its own. For CONTROL alone `find` gives
    the route of a delivery's name, `takers` those that an event type is delivered to.
    """

    __slots__ = (
        "chained_by_scope",
        "closes",
        "codec",
        "context",
        "decode",
        "direct",
        "effects",
        "find",
        "former",
        "gated",
        "handler",
        "memos",
        "name",
        "otherwise",
        "outputs",
        "pair",
        "plain",
        "resources",
        "role",
        "service",
        "slots",
        "state",
        "takers",
        "triggers",
        "tx",
        "unseen",
        "views",
    )

    def __init__(self, name: str, role: Role, handler: Handler, service: str, codec: Codec) -> None:
        """Make an empty route; `step.compiled` fills it."""
        self.codec = codec
        self.decode = codec.decode
        self.name = name
        self.role = role
        self.handler = handler
        self.service = service
        self.former: tuple[str, ...] = ()
        self.views: dict[str, type[Event]] = {}
        self.outputs: dict[type[Event], OutputSpec] = {}
        self.direct: dict[type[object], OutputSpec] = {}
        self.effects: tuple[Handler, ...] = ()
        self.triggers: tuple[Handler, ...] = ()
        self.closes: tuple[Handler, ...] = ()
        self.slots: tuple[Param, ...] = ()
        self.otherwise: Route | None = None
        self.resources: dict[type, Any] = {}
        self.state: type | None = None
        self.tx = False
        self.context = False
        self.memos = False
        self.gated = False
        self.plain = False
        self.pair = False
        self.unseen = False
        self.chained_by_scope = False
        self.find: Callable[[str], Route | None] | None = None
        self.takers: Callable[[str], tuple[Route, ...]] | None = None

    def __repr__(self) -> str:
        return f"<Route {self.name}>"


class Delivery:
    """One subject given to one handler. What the worker's scheduling needs stands at the end.

    `seen` is the (run, attempt) of the parked row it came from, None for a record that was
    just polled. `extras` are further records: the trigger of an undo (`why`), what a join
    gathered (by parameter), the failure that an `otherwise` stands in for.
    """

    run = 0
    attempt = 1
    gave_up = False  # its last attempt has failed: what it did outside is being undone
    unknowns = 0  # attempts that ended with an outcome unknown: they do not use up any
    crashes = 0  # how often a process has ended while it ran, as far as that was counted
    calls = 0  # the run with which its outside calls began anew: those before were undone
    kept_chain: str | None = None  # as its parked row has it
    looked_again = False  # its plan lost: somebody settled it meanwhile
    doubted = False  # its plan may have been written, and nobody was told
    seen: tuple[int, int] | None = None
    timer: tuple[bytes, float, bytes] | None = None
    payload_hash = b""
    extras: Mapping[str, Record] = MappingProxyType({})
    failure: Mapping[str, Any] | None = None
    memos: Mapping[str, tuple[Memo, bytes]] = MappingProxyType({})
    answers: Mapping[str, bytes] = MappingProxyType({})
    owned: Owned | None = None
    carries: Headers | None = None  # the trace context that all it publishes goes out with
    trace: Any = None  # telemetry's own book of the attempt
    # what its handler did, until that is committed
    loaded: Seen = NOTHING_SEEN
    more: tuple[GateKey, ...] = ()
    started = 0.0
    took = 0.0
    result: object = NOT_RUN
    error: BaseException | None = None
    flow: str | None = None
    context: Context | None = None
    changes: tuple[Change, ...] = ()
    state: State | None = None
    # scheduling
    spilled = False  # parked while it runs: its chain, its offset and its runner are free
    writing: Callable[[], None] | None = None  # its row is being written: what to do then
    simple = False  # settled with one event, from no parked row: no book to keep
    chain: Any = None
    following: Delivery | None = None
    due_key: tuple[str, bytes] | None = None
    batch: Any = None
    lane: Any = None

    def __init__(self, route: Route, record: Record, subject: bytes, source: Source) -> None:
        """Begin at attempt 1 of run 0; what most deliveries never need stays in the class."""
        self.route = route
        self.name = route.name  # in the inbox: a former name, for what was parked under it
        self.record = record
        self.subject = subject
        self.source = source

    def see_more(self, keys: tuple[GateKey, ...]) -> None:
        """Have these gates loaded, too, from now on."""
        self.more = (*self.more, *keys)

    @property
    def call_prefix(self) -> str:
        """Begin the names that its outside calls are remembered by."""
        return f"{ANEW}{self.calls} " if self.calls else ""

    def recall(self, memos: Mapping[str, tuple[Memo, bytes]]) -> None:
        """Take over what is remembered of its outside calls, since they began anew."""
        if not memos:
            self.memos = memos
            return
        prefix = self.call_prefix
        own = {
            name.removeprefix(prefix): memo
            for name, memo in memos.items()
            if name.startswith(prefix)
        }
        self.memos = {name: memo for name, memo in own.items() if not name.startswith(ANSWER)}
        self.answers = {
            name.removeprefix(ANSWER): answer
            for name, (state, answer) in own.items()
            if name.startswith(ANSWER) and state is Memo.CLOSED and answer
        }

    @property
    def intended(self) -> bool:
        """Tell whether this delivery ever began an outside call."""
        return bool(self.memos)

    @property
    def undoing(self) -> bool:
        """Tell whether undoing its outside calls has begun: it can only fail now."""
        return any(
            name.startswith(UNDO) and state is not Memo.CLOSED
            for name, (state, _) in self.memos.items()
        )

    @property
    def owes_undo(self) -> bool:
        """Tell whether an outside call that is to be undone is not undone yet, undoing begun."""
        return self.gave_up and any(
            name.startswith(UNDO) and state is not Memo.RESULT
            for name, (state, _) in self.memos.items()
        )

    @property
    def unknown(self) -> bool:
        """Tell whether an outside call was begun whose outcome is not known."""
        return bool(self.unanswered)

    @property
    def unanswered(self) -> list[str]:
        """Name the outside calls whose outcome nobody knows, not even an operator."""
        open_calls = [name for name, (state, _) in self.memos.items() if state is Memo.INTENT]
        return [name for name in open_calls if name not in self.answers]

    def chain_text(self) -> str:
        """Name, for the store, the chain whose later deliveries wait behind this one."""
        if self.kept_chain is not None:
            return self.kept_chain
        if self.route.role is not Role.HANDLE or self.record.key is None or self.seen_alone:
            return ""
        key = self.record.key.decode("utf-8", "backslashreplace")
        return f"{self.source.topic}/{self.source.partition}/{key}"

    @property
    def seen_alone(self) -> bool:
        """Tell whether this is an undo, a fallback, a join or a timer: nothing waits behind it."""
        return bool(self.extras) or self.failure is not None or self.timer is not None
