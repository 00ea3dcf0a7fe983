"""Events, the records that carry them, their ids and header names.

An `Event` is what a user declares; a `Record` is its bytes on a topic. Names of headers
are those of CloudEvents 1.0 (Kafka protocol binding, binary mode) plus `choreo-…` ones.
"""

from __future__ import annotations

import hashlib
import math
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from choreo.errors import ConfigurationError

__all__ = [
    "TIMED",
    "Event",
    "EventInfo",
    "Headers",
    "Partition",
    "Record",
    "Secret",
    "born",
    "derived_id",
    "id_bytes",
    "id_text",
    "keyed_root_id",
    "redacted",
    "rfc3339",
    "root_id",
    "scope_of",
]

ID = "ce_id"
SOURCE = "ce_source"
TYPE = "ce_type"
SPEC_VERSION = "ce_specversion"
TIME = "ce_time"
SUBJECT = "ce_subject"
FLOW = "ce_correlationid"
CAUSE = "ce_causationid"
CONTENT_TYPE = "content-type"
STEP = "choreo-step"
ATTEMPT = "choreo-attempt"
STARTED = "choreo-started"
TOOK = "choreo-took"
BRANCH = "choreo-branch"
CAUSES = "choreo-causes"
UNDOES = "choreo-undoes"
VOID = "choreo-void"
FAILURE = "choreo-failure"
TRACEPARENT = "traceparent"  # W3C trace context, of who sent it last
TRACESTATE = "tracestate"
TRACE_ORIGIN = "ce_traceparent"  # the trace context in which the event came to be
REPLAY = "choreo-replay"
EDITED = "choreo-edited"  # the step that runs it; nobody takes it from the topic

STEPS_TOPIC = "choreo.steps"
DEAD_TOPIC = "choreo.dead"
MANIFESTS_TOPIC = "choreo.manifests"
CONTROL_TOPIC = "choreo.control"
CONTROL_TYPE = f"{CONTROL_TOPIC}.Requested"

ROOT, DERIVED = 7, 8
TIMED = frozenset((ROOT, DERIVED))
"""Versions of UUIDs that begin with a time: a root's own, and those derived from a root's."""

_TOPIC = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Headers = dict[str, str]
"""Header names to text. Bytes that are no UTF-8 are kept by `surrogateescape`."""


class Secret:
    """Marks a field as secret: `card: Annotated[str, Secret]`; it is redacted everywhere."""


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


class Record:
    """An event's bytes on a topic. `offset` is -1 until the broker has given one.

    `trusted` says that this very process wrote the bytes: limits need not be checked again;
    `fresh`, that it also published this id for the first time: nobody can have handled it.
    `raw_id` is the event's id as 16 bytes, once somebody has worked it out; `row` its place in
    the outbox of a store that has one.
    """

    __slots__ = (
        "fresh",
        "headers",
        "key",
        "offset",
        "partition",
        "raw_id",
        "row",
        "topic",
        "trusted",
        "value",
    )

    def __init__(
        self,
        topic: str,
        key: bytes | None,
        headers: Headers,
        value: bytes,
        partition: int = -1,
        offset: int = -1,
    ) -> None:
        """Make a record; partition and offset are the broker's to give."""
        self.topic = topic
        self.key = key
        self.headers = headers
        self.value = value
        self.partition = partition
        self.offset = offset
        self.trusted = self.fresh = False
        self.raw_id = b""
        self.row = 0

    def __repr__(self) -> str:
        kind = self.headers.get(TYPE, "?")
        return f"<Record {kind} {self.topic}-{self.partition}-{self.offset}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]  # mutable: offset is set when published

    def _content(self) -> tuple[object, ...]:
        return self.topic, self.partition, self.offset, self.key, self.headers, self.value


@dataclass(frozen=True, slots=True)
class EventInfo:
    """What an event class declares. `key` is the name of the key's field, None in a view."""

    topic: str
    type: str
    key: str | None
    failure: bool
    secrets: frozenset[str]


class Event(BaseModel):
    """Base of all events: an immutable pydantic model with a topic.

    With `key=` the class is owned: it defines the type. Without, it is a view: another
    service's event, with only the fields that this service uses.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    __event__: ClassVar[EventInfo]

    def __init_subclass__(cls, **settings: Any) -> None:
        """Take topic=, key=, name=, failure= out of the class statement."""
        for ours in ("topic", "key", "name", "failure"):
            settings.pop(ours, None)
        super().__init_subclass__(**settings)

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        topic: str | None = None,
        key: str | None = None,
        name: str | None = None,
        failure: bool = False,
        **settings: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**settings)
        if topic is None:
            inherited = getattr(cls, "__event__", None)
            if inherited is not None:
                raise _bad(cls, "a subclass of an event needs a topic= of its own")
            return  # an abstract base: shared fields, no topic
        if not _TOPIC.fullmatch(topic):
            raise _bad(cls, f"topic={topic!r} is no dotted name of letters, digits, - and _")
        if topic.startswith("choreo."):
            raise _bad(cls, "topics that begin with 'choreo.' belong to the framework")
        secrets = frozenset(
            field
            for field, about in cls.model_fields.items()
            if _is_marked(about.metadata) or _has_secret(about.annotation)
        )
        if key is not None and key not in cls.model_fields:
            raise _bad(cls, f"key={key!r} names no field")
        if key in secrets:
            raise _bad(cls, f"key={key!r} is a Secret field; a key is visible everywhere")
        cls.__event__ = EventInfo(topic, f"{topic}.{name or cls.__name__}", key, failure, secrets)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        info = getattr(type(self), "__event__", None)
        secrets = info.secrets if info else frozenset()
        for field, value in super().__repr_args__():
            yield field, ("***" if field in secrets else value)


def _bad(cls: type, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what}", code="CH1010", fix="correct the class statement", event=cls.__qualname__
    )


def _is_marked(metadata: Iterable[object]) -> bool:
    return any(mark is Secret or isinstance(mark, Secret) for mark in metadata)


def _has_secret(annotation: object, above: tuple[object, ...] = ()) -> bool:
    """Tell whether a secret stands anywhere inside: in a union, a list, a nested model."""
    if _is_marked(getattr(annotation, "__metadata__", ())):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation not in above and any(
            _is_marked(field.metadata) or _has_secret(field.annotation, (*above, annotation))
            for field in annotation.model_fields.values()
        )
    return any(_has_secret(inner, above) for inner in typing.get_args(annotation))


def redacted(event: Event) -> dict[str, Any]:
    """Give the event's fields for people to see, secret ones as `***`."""
    secrets = type(event).__event__.secrets
    fields: dict[str, Any] = event.model_dump(mode="json")
    return {name: "***" if name in secrets else value for name, value in fields.items()}


# ── ids ──────────────────────────────────────────────────────────────────────────────────


def id_text(raw: bytes) -> str:
    """Write 16 bytes as a UUID."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_bytes(text: str, source: str = "") -> bytes:
    """Give the 16 bytes of an id; one that is no UUID is hashed together with its source."""
    if len(text) == 36 and _UUID.fullmatch(text):  # noqa: PLR2004 - the length of a UUID
        return bytes.fromhex(text.replace("-", ""))
    named = f"{source}\0{text}".encode("utf-8", "surrogatepass")
    return _hashed(named)


def derived_id(subject: bytes, salt: bytes) -> bytes:
    """Make the UUID (version 8) of what follows from `subject`.

    The first 48 bits are the subject's, so from the root's time: an index on ids stays
    local. The rest is a hash of subject and salt: a step that runs again gives the same id.
    """
    digest = hashlib.sha1(subject + salt, usedforsecurity=False).digest()
    return b"%b%c%c%c%b" % (
        subject[:6],
        0x80 | digest[0] & 0x0F,
        digest[1],
        0x80 | digest[2] & 0x3F,
        digest[3:10],
    )


def root_id(now: float, draw: bytes) -> str:
    """Make a UUIDv7 (RFC 9562) from epoch seconds and 10 random bytes."""
    ms = int(now * 1000).to_bytes(6, "big")
    rest = bytes((0x70 | draw[0] & 0x0F, draw[1], 0x80 | draw[2] & 0x3F)) + draw[3:10]
    return id_text(ms + rest)


def keyed_root_id(event_type: str, key: str) -> str:
    """Make the root id for a caller's own key: the same key gives the same flow."""
    return id_text(_hashed(f"{event_type}\0{key}".encode("utf-8", "surrogatepass")))


def _hashed(named: bytes) -> bytes:
    """Make a UUID of version 5, which tells everybody that it does not begin with a time."""
    raw = bytearray(hashlib.sha1(named, usedforsecurity=False).digest()[:16])
    raw[6] = 0x50 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


def born(subject: bytes, headers: Headers) -> float | None:
    """Tell when the event of this id came to be, in epoch seconds; None if nothing says so.

    Its own time, or that of a root's id if it is earlier: a producer that sends an event
    again may give it another time, but not another id. An id that does not begin with a
    time is no event of ours: what its producer calls its time may be anything.
    """
    version = subject[6] >> 4
    if version not in TIMED:
        return None
    try:
        told = datetime.fromisoformat(headers.get(TIME, "")).timestamp()
    except (ValueError, OverflowError):
        told = math.inf
    root = int.from_bytes(subject[:6], "big") / 1000 if version == ROOT else math.inf
    earliest = min(told, root)
    return None if earliest == math.inf else earliest


def scope_of(headers: Headers) -> str:
    """Name the scope of an event that no `by=` narrows: its flow, and its branch if any."""
    branch = headers.get(BRANCH)
    flow = headers.get(FLOW) or headers.get(ID, "")
    return f"{flow}/{branch}" if branch else flow


def rfc3339(now: float) -> str:
    """Write epoch seconds as RFC 3339 text in UTC, to the millisecond."""
    return _rfc3339(int(now * 1000))


@lru_cache(maxsize=64)
def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
