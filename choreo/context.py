"""What a handler may ask for by parameter type, beside its subject."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol, Self, TypeVar, overload

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from choreo.codec import reasons
from choreo.errors import (
    ConfigurationError,
    HandlerError,
    NotDone,
    SchemaIncompatibleError,
    TxOpenError,
    UnknownOutcomeError,
)
from choreo.plan import Memo

__all__ = ["ANSWER", "UNDO", "AskFirst", "Context", "Failure", "Memory", "State", "UndoFirst"]

T = TypeVar("T")

UNDO = "undo "
"""Begins the name of the call that undoes a call."""
ANSWER = "answer "
"""Begins the name under which an operator's word for what a call gave is kept."""
ANEW = "#"
"""Begins the names of calls that a new run makes anew."""


class State(BaseModel):
    """Base of durable keyed state: `class Basket(State, key="order_id")`.

    A handler that takes one is given the state of its subject's key, changes it, and it is
    saved with the step. All other fields need defaults: that is how a new
    one begins, and how one that was stored before a field was added is read. Deliveries are
    in order per key of the state.

    Two versions of the class may share a row, as in a rolling deployment: what a newer one
    stored and an older one does not know is kept when the older one saves.
    """

    model_config = ConfigDict(validate_assignment=True, extra="ignore", hide_input_in_errors=True)

    __key__: ClassVar[str]

    @classmethod
    def from_stored(cls, value: bytes) -> Self:
        """Read a stored row; raises SchemaIncompatibleError when this class can not."""
        try:
            return cls.model_validate_json(value)
        except ValidationError as exc:
            raise SchemaIncompatibleError(
                f"the stored {cls.__name__} can not be read: {reasons(exc)}",
                fix="let the class read what was stored: a new field has a default, none "
                "changes its type; then redrive. The row was left as it is",
                state=cls.__qualname__,
            ) from None

    def to_stored(self, before: bytes | None) -> bytes:
        """Write the row, with what it had `before` and this class does not know."""
        value = self.model_dump_json().encode()
        if before is None or value == before:
            return value
        known = type(self).from_stored(before).model_dump_json().encode()
        if known == before:
            return value
        return to_json(_with_unknown(from_json(before), from_json(known), from_json(value)))

    def __init_subclass__(cls, *, key: str | None = None, **settings: Any) -> None:
        """Take key= out of the class statement."""
        super().__init_subclass__(**settings)

    @classmethod
    def __pydantic_init_subclass__(cls, *, key: str | None = None, **settings: Any) -> None:
        super().__pydantic_init_subclass__(**settings)
        fields = cls.model_fields
        unset = [name for name, about in fields.items() if about.is_required() and name != key]
        if key is None or key not in fields or unset:
            raise ConfigurationError(
                "a State needs key= naming a field, and a default for every other field",
                code="CH1010",
                fix="correct the class statement",
                state=cls.__qualname__,
                without_default=", ".join(unset) or "none",
            )
        cls.__key__ = key


def _with_unknown(stored: Any, read: Any, now: Any) -> Any:
    """Give `now` with what `stored` had beside `read`, the part of it that the class knows.

    What did not change stays as it was stored; what an object has lost is not brought back.
    """
    if now == read:
        return stored
    if isinstance(stored, dict) and isinstance(read, dict) and isinstance(now, dict):
        unknown = {name: value for name, value in stored.items() if name not in read}
        known = {
            name: _with_unknown(stored[name], read[name], value)
            if name in stored and name in read
            else value
            for name, value in now.items()
        }
        return {**known, **unknown}
    if isinstance(stored, list) and isinstance(read, list) and isinstance(now, list):
        return _elements(stored, read, now)
    return now


def _elements(stored: list[Any], read: list[Any], now: list[Any]) -> list[Any]:
    """Give a list's elements: those that are as before as they were stored, wherever they stand.

    A changed one is known again by its place, if the list is as long as it was.
    """
    if len(stored) != len(read):
        return now
    found = []
    for at, value in enumerate(now):
        if len(now) == len(read) and value not in read:
            found.append(_with_unknown(stored[at], read[at], value))
        elif value in read:
            same = at if at < len(read) and read[at] == value else read.index(value)
            found.append(stored[same])
        else:
            found.append(value)
    return found


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a delivery was given up: what `otherwise` handlers take.

    `reason` is "attempts used up", "not retryable", "killed" or "visits used up"; `error` is
    the name of the last exception's class, `message` its text, `attempts` how many were made.
    """

    reason: str
    error: str
    message: str
    attempts: int


class Memory(Protocol):
    """Where a delivery's outside calls are written down."""

    @property
    def undoing(self) -> bool:
        """Tell whether undoing them has begun."""
        ...

    def recall(self, name: str) -> tuple[Memo, bytes] | None:
        """Give what is known of the call."""
        ...

    def answer(self, name: str) -> bytes | None:
        """Give what an operator says that the call gave."""
        ...

    async def remember(
        self, name: str, state: Memo, result: bytes, *, undo: bool = False
    ) -> tuple[Memo, bytes]:
        """Write it down durably; give what stands now (the first result wins).

        `undo` says that it is to be undone when the step finally fails.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Undo:
    name: str
    run: Callable[[], Awaitable[object]]


class UndoFirst(BaseException):
    """Undoing this step's outside calls has begun: its handler may do nothing more."""


class AskFirst(BaseException):
    """The step may not go on before an operator has said what became of a call."""

    def __init__(self, error: UnknownOutcomeError) -> None:
        """Say which call, and why it is not known."""
        super().__init__(str(error))
        self.error = error


class Context:
    """One delivery, as its handler may see it.

    `flow_id` may be set: what the handler returns then belongs to that flow.
    `idempotency_key` is the same in every attempt of this step, and only there.
    """

    __slots__ = (
        "_asking",
        "_called",
        "_memory",
        "_tx_open",
        "_undoing",
        "_undos",
        "attempt",
        "flow_id",
        "idempotency_key",
        "time",
    )

    def __init__(
        self, *, flow_id: str, idempotency_key: str, attempt: int, time: float, memory: Memory
    ) -> None:
        """Made by the worker; `time` in epoch seconds."""
        self.flow_id = flow_id
        self.idempotency_key = idempotency_key
        self.attempt = attempt
        self.time = time
        self._memory = memory
        self._undos: list[_Undo] = []
        self._tx_open = False
        self._undoing = memory.undoing
        self._called: set[str] = set()
        self._asking: AskFirst | None = None

    @property
    def now(self) -> datetime:
        """The time of this attempt, in UTC; use it instead of `datetime.now`."""
        return datetime.fromtimestamp(self.time, UTC)

    def tx_opened(self) -> None:
        """Note that the Tx has had its first statement: from now on only `tx` may be awaited."""
        self.go_on()
        self._tx_open = True

    def go_on(self) -> None:
        """Raise UndoFirst, or AskFirst, when the handler may do nothing more."""
        if self._asking is not None:
            raise self._asking
        if self._undoing:
            raise UndoFirst

    @property
    def undos(self) -> bool:
        """Tell whether any call asked to be undone when the step finally fails."""
        return bool(self._undos)

    @overload
    async def once(
        self,
        name: str,
        fn: Callable[[], T | Awaitable[T]],
        *,
        returns: type[T],
        undo: Callable[[T], object] | None = None,
        at_most: bool = False,
    ) -> T: ...

    @overload
    async def once(
        self,
        name: str,
        fn: Callable[[], object],
        *,
        undo: Callable[[None], object] | None = None,
        at_most: bool = False,
    ) -> None: ...

    async def once(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        returns: Any = None,
        undo: Callable[[Any], object] | None = None,
        at_most: bool = False,
    ) -> Any:
        """Call the outside: intent before, result after, and after that never again.

        Until a result is written down, `fn` may be called again, with the same
        `idempotency_key`: give it to the other side. An exception leaves the outcome
        unknown and is tried again until it is known; `NotDone` says that nothing happened.
        `undo(result)` runs, in reverse order of the calls, when the step finally fails.
        `at_most`: a call whose outcome is not known is never made again; the delivery
        becomes a dead letter until an operator says what came of it.
        Raises TxOpenError after the first statement of a Tx, HandlerError for a name that
        another call of the step has, or that begins like one of choreo's own.
        """
        if name.startswith((UNDO, ANSWER, ANEW)):
            raise HandlerError(
                f"names that begin with {UNDO!r}, {ANSWER!r} or {ANEW!r} are choreo's own",
                code="CH5015",
                fix="give the call another name",
                call=name,
            )
        return await self._once(name, fn, returns=returns, undo=undo, at_most=at_most)

    async def _once(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        returns: Any = None,
        undo: Callable[[Any], object] | None = None,
        at_most: bool = False,
    ) -> Any:
        if self._tx_open:
            raise TxOpenError(
                "an outside call while the Tx is open",
                fix="make outside calls before the first statement",
                call=name,
            )
        if name in self._called:
            raise HandlerError(
                "two outside calls of one name in one step",
                code="CH5007",
                fix="give each its own name: it is what the call is remembered by",
                call=name,
            )
        self._called.add(name)
        known = self._memory.recall(name)
        if known is None or known[0] is not Memo.RESULT:
            self.go_on()
        adapter: TypeAdapter[Any] = TypeAdapter(returns or type(None))
        answer = self._memory.answer(name)
        if known is not None and known[0] is Memo.INTENT and answer is not None:
            known = await self._answered(name, answer, adapter, undo=undo is not None)
        if known is None or known[0] is not Memo.RESULT:
            if at_most and known is not None and known[0] is Memo.INTENT:
                raise self._ask(name, "it was begun, and no result was written down")
            if known is None or known[0] is Memo.CLOSED:
                known = await self._memory.remember(name, Memo.INTENT, b"")
            if known[0] is not Memo.RESULT:
                known = await self._call(name, fn, adapter, undo=undo is not None, at_most=at_most)
        try:
            result = adapter.validate_json(known[1])
        except ValidationError as exc:
            raise SchemaIncompatibleError(
                f"what is remembered of the call is no {returns}: {reasons(exc)}",
                fix="name a type in returns= that reads what an earlier version was given",
                call=name,
            ) from None
        if undo is not None:
            self._undos.append(_Undo(name, lambda: _maybe_await(undo(result))))
        return result

    async def _call(
        self,
        name: str,
        fn: Callable[[], Any],
        adapter: TypeAdapter[Any],
        *,
        undo: bool,
        at_most: bool,
    ) -> tuple[Memo, bytes]:
        try:
            result = await _maybe_await(fn())
        except NotDone:
            await self._memory.remember(name, Memo.CLOSED, b"")
            raise
        except Exception as exc:
            if at_most:
                raise self._ask(name, f"{type(exc).__name__}: {exc}") from exc
            raise
        try:
            adapter.validate_python(result, strict=False)
            data = adapter.dump_json(result)
        except ValueError as exc:
            if at_most:
                what = f"it gave {type(result).__name__}, which returns= does not name"
                raise self._ask(name, what) from exc
            raise HandlerError(
                f"once: the call gave {type(result).__name__}, which returns= does not name",
                code="CH5005",
                fix="name the result's type in returns=; the call is made again",
                call=name,
            ) from exc
        return await self._memory.remember(name, Memo.RESULT, data, undo=undo)

    async def _answered(
        self, name: str, answer: bytes, adapter: TypeAdapter[Any], *, undo: bool
    ) -> tuple[Memo, bytes]:
        """Take an operator's word for what the call gave."""
        try:
            data = adapter.dump_json(adapter.validate_json(answer))
        except ValueError as exc:
            what = "the answer given is not what returns= names"
            raise self._ask(name, what) from exc
        return await self._memory.remember(name, Memo.RESULT, data, undo=undo)

    def _ask(self, name: str, what: str) -> AskFirst:
        self._asking = AskFirst(
            UnknownOutcomeError(
                f"a call that may be made once at most may have had its effect: {what}",
                fix="find out from the other side, then"
                f" `choreo dead redrive ID --answer {name}=…`: what it gave as JSON, or not-done",
                call=name,
            )
        )
        return self._asking

    async def undo_all(self) -> None:
        """Undo, in reverse, what asked for it; each undo is itself made once."""
        self._undoing = self._tx_open = False
        while self._undos:
            undo = self._undos[-1]
            await self._once(f"{UNDO}{undo.name}", undo.run)
            self._undos.pop()


async def _maybe_await(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
