"""The codec of a deployment: what its values are written as, and how any value is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from choreo.codec.avro import Avro, is_avro
from choreo.codec.cloudevents import (
    EVENT_BYTES_MAX,
    JSON_TYPE,
    NO_FIELDS,
    check_json,
    decode,
    encode,
    too_large,
)
from choreo.errors import DecodeError
from choreo.events import CONTENT_TYPE, Event, Record

__all__ = ["Codec"]

E = TypeVar("E", bound=Event)


class Codec:
    """Writes JSON, unless told to write Avro; reads whatever a record says that its value is."""

    def __init__(self, avro: Avro | None = None, *, writes_avro: bool = False) -> None:
        """Without `avro`, records whose values are Avro can not be read."""
        assert avro is not None or not writes_avro
        self._avro = avro
        self._writes = avro if writes_avro else None
        self.content_type = self._writes.content_type if self._writes is not None else JSON_TYPE
        """What the header `content-type` says of values that are written."""
        self.learns = avro is not None
        """Whether `learn` does anything."""

    @property
    def busy(self) -> int:
        """How many questions about schemas are under way."""
        return 0 if self._avro is None else self._avro.schemas.busy

    async def open(self, events: Iterable[type[Event]]) -> None:
        """Prepare to write the owned ones of these classes, and to read the others.

        Raises ConfigurationError when one has no Avro form, or its schema can not be found by
        readers. May be called again, with more.
        """
        if self._writes is not None:
            await self._writes.open(events)

    async def close(self) -> None:
        """Release what was opened. May be called twice."""
        if self._avro is not None:
            await self._avro.schemas.close()

    def dumper(self, event: type[Event]) -> Callable[[Event], bytes]:
        """Give what writes instances of one class, which was opened."""
        if self._writes is not None:
            return self._writes.dumper(event)
        return event.__pydantic_serializer__.to_json

    def encode(self, event: Event) -> bytes:
        """Write an event; raises DecodeError when nobody would read it."""
        if self._writes is None:
            return encode(event)
        value = self._writes.dumper(type(event))(event)
        if len(value) > EVENT_BYTES_MAX:
            raise too_large(value, event=type(event).__event__.type)
        return value

    async def learn(self, records: Sequence[Record]) -> None:
        """Ask for the schemas that these records name, so that they can be decoded.

        Raises nothing: `decode` tells what could not be had.
        """
        if self._avro is not None:
            await self._avro.schemas.learn(self._avro.refs(records))

    def decode(self, cls: type[E], record: Record) -> E:
        """Read the record's value as `cls`; raises DecodeError that names field and reason."""
        if record.trusted and self._writes is None:  # the hot path: we wrote it, as JSON
            return decode(cls, record)
        if is_avro(record.headers.get(CONTENT_TYPE, JSON_TYPE)):
            return self._reader(record).decode(cls, record)
        return decode(cls, record)

    def plain(self, record: Record) -> Any:
        """Read the record's value without a class, as JSON would have it."""
        if is_avro(record.headers.get(CONTENT_TYPE, "")):
            return self._reader(record).plain(record)
        value = record.value or NO_FIELDS
        check_json(value)
        return json.loads(value)

    def _reader(self, record: Record) -> Avro:
        if self._avro is None:
            raise DecodeError(
                "value is Avro, and this process has no schemas",
                code="CH2006",
                fix="set CHOREO_SCHEMAS or SCHEMA_REGISTRY_URL, and redrive",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )
        return self._avro
