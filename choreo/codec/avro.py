"""Values as Avro, behind a name of the schema that they were written by.

Two ways to name it are written, a third is read: the fingerprint (single-object encoding), a
registry's id in front of the value, or its GUID in a header. Bytes are read by the schema of
whoever wrote them, resolved to that of the class which a handler declares.
Source: Avro 1.12, "Single-object encoding", "Schema Resolution"; Confluent's wire format.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from choreo.codec.aligning import aligned
from choreo.codec.cloudevents import EVENT_BYTES_MAX, reasons, too_large
from choreo.codec.known import CONFLUENT_MAGIC, SINGLE_OBJECT_MAGIC, Ref, Schemas
from choreo.codec.measuring import measured
from choreo.errors import CodecError, ConfigurationError, DecodeError, SchemaIncompatibleError
from choreo.events import CONTENT_TYPE, Event, Record
from choreo.schemas import (
    AvroSchema,
    NotWritableError,
    avro_library,
    derived,
    examined,
    misread,
)

__all__ = ["Avro", "is_avro"]

E = TypeVar("E", bound=Event)

MEDIA = ("application/avro", "avro/binary", "application/vnd.apache.avro")
VALUE_SCHEMA_ID = "__value_schema_id"
SINGLE, CONFLUENT = "framing=single-object", "framing=confluent"
FINGERPRINT_END, ID_END = 10, 5
GUID_BYTES = 17
WORDS: Mapping[type[Exception], str] = {
    EOFError: "they end too early",
    IndexError: "they name a value of an enum, or a branch of a union, that is not there",
    UnicodeDecodeError: "a text is no UTF-8",
    OverflowError: "a date, or a number, is out of its range",
}


def is_avro(content_type: str) -> bool:
    """Tell whether a content type is one of Avro's."""
    return content_type.lower().startswith(MEDIA)


class _Reading(NamedTuple):
    """How values of one writer are read as one class; without `reader` as they were written."""

    writer: Any
    reader: Any
    recursive: AvroSchema | None


class Avro:
    """Writes and reads values as Avro."""

    def __init__(self, schemas: Schemas) -> None:
        """Take the schemas; `open` has to name what is to be written."""
        library = avro_library()
        self._read = library.schemaless_reader
        self._write = library.schemaless_writer
        self._unresolved = library.read.SchemaResolutionError
        self.schemas = schemas
        self.content_type = f"{MEDIA[0]};framing={schemas.framing}"
        self._dumpers: dict[type[Event], Callable[[Event], bytes]] = {}
        self._readers: dict[type[Event], AvroSchema] = {}
        self._readings: dict[tuple[Ref, type[Event]], _Reading] = {}

    async def open(self, events: Iterable[type[Event]]) -> None:
        """Prepare for these classes; raises ConfigurationError for one that has no Avro form.

        Also when the schema of an owned one is not where readers would look for it.
        """
        for event in events:
            schema = self._schema_of(event)
            if event.__event__.key is not None and event not in self._dumpers:
                self._dumpers[event] = self._dumper(
                    event, schema, await self.schemas.prefix(event.__event__, schema)
                )

    def _schema_of(self, event: type[Event]) -> AvroSchema:
        found = self._readers.get(event)
        if found is None:
            where = event.__event__.type
            schema = derived(event).schema
            try:
                found = examined(schema, recursive=self.schemas.recursive, where=where)
            except DecodeError as exc:
                raise ConfigurationError(
                    exc.what, code="CH1040", fix=exc.fix, event=where
                ) from None
            self._readers[event] = found
        return found

    # ── writing ──────────────────────────────────────────────────────────────────────────

    def dumper(self, event: type[Event]) -> Callable[[Event], bytes]:
        """Give what writes instances of a class; it was opened."""
        return self._dumpers[event]

    def _dumper(
        self, event: type[Event], schema: AvroSchema, prefix: bytes
    ) -> Callable[[Event], bytes]:
        ready, write = schema.ready, self._write
        datum_of = derived(event).convert
        assert datum_of is not None

        def dump(one: Event) -> bytes:
            out = io.BytesIO()
            out.write(prefix)
            try:
                write(out, ready, datum_of(one))
            except Exception as exc:  # noqa: BLE001 - whatever the library makes of a value
                raise self._unwritable(one, schema, exc) from None
            value = out.getvalue()
            if len(value) > EVENT_BYTES_MAX:
                raise too_large(value, event=event.__event__.type)
            return value

        return dump

    def _unwritable(self, event: Event, schema: AvroSchema, error: Exception) -> CodecError:
        """Name the field, never its value: it may be secret."""
        return CodecError(
            "a value has no Avro form",
            code="CH2005",
            fix="keep to what the field's type can hold in Avro: points in time with a zone, "
            "numbers of 64 bits, decimals of the declared digits",
            event=type(event).__event__.type,
            field=self._culprit(event, schema, error),
        )

    def _culprit(self, event: Event, schema: AvroSchema, error: Exception) -> str:
        """Find the first field with which it can not be written."""
        if isinstance(error, NotWritableError):
            return error.field
        fields = schema.root["fields"]
        datum = self._datum_of(event)
        for count, field in enumerate(fields, 1):
            part = avro_library().parse_schema({**schema.root, "fields": fields[:count]})
            try:
                self._write(io.BytesIO(), part, datum)
            except Exception:  # noqa: BLE001 - the very error that is looked for
                return str(field["name"])
        return ""

    @staticmethod
    def _datum_of(event: Event) -> Any:
        convert = derived(type(event)).convert
        assert convert is not None
        return convert(event)

    # ── reading ──────────────────────────────────────────────────────────────────────────

    def refs(self, records: Iterable[Record]) -> list[Ref]:
        """Name the schemas of those records that are Avro; what names none is left out."""
        found: dict[Ref, None] = {}
        for record in records:
            if is_avro(record.headers.get(CONTENT_TYPE, "")):
                try:
                    found[_framed(record)[0]] = None
                except DecodeError:  # told where it is decoded
                    continue
        return list(found)

    def decode(self, cls: type[E], record: Record) -> E:
        """Read the record's value as `cls`; raises DecodeError that names field and reason."""
        ref, start = _framed(record)
        reading = self._readings.get((ref, cls))
        if reading is None:
            reading = self._reading(ref, cls)
        try:
            datum = self._datum(reading, record, start)
            found: E = cls.__pydantic_validator__.validate_python(datum, strict=False)
        except ValidationError as exc:
            raise self._not_read(record, cls, reasons(exc), ref) from None
        except self._unresolved as exc:
            raise self._not_read(record, cls, str(exc), ref) from None
        return found

    def _not_read(self, record: Record, cls: type[Event], why: str, ref: Ref) -> CodecError:
        """Tell a value that is wrong from a view that can read none of this schema."""
        kind = cls.__event__.type
        where: dict[str, Any] = {
            "topic": record.topic, "partition": record.partition, "offset": record.offset,
        }  # fmt: skip
        names = ("the writer's", "the view")
        writer, reader = self.schemas.get(ref), self._schema_of(cls)
        if clash := misread(writer.root, reader.root, names, view=True):
            return SchemaIncompatibleError(
                f"the view of {kind} can not read its schema: {'; '.join(r.text for r in clash)}",
                fix="change the view to what the owner publishes, or give the field a default",
                **where,
            )
        return DecodeError(
            f"value is no {kind}: {why}",
            fix="correct the producer, or redrive the record edited",
            **where,
        )

    def plain(self, record: Record) -> Any:
        """Read the record's value as its writer's schema says, as JSON would have it."""
        ref, start = _framed(record)
        schema = self.schemas.get(ref)
        reading = _Reading(schema.ready, None, schema if schema.recursive else None)
        return to_jsonable_python(self._datum(reading, record, start), bytes_mode="base64")

    def _reading(self, ref: Ref, cls: type[Event]) -> _Reading:
        parse = avro_library().parse_schema
        writer = self.schemas.get(ref)
        if not isinstance(writer.root, dict) or writer.root.get("type") != "record":
            raise DecodeError("the schema of the value is no record", code="CH2007")
        writes, reads = aligned(writer, self._schema_of(cls))
        recursive = writer if writer.recursive else None
        canonical = avro_library().schema.to_parsing_canonical_form
        same = canonical(writes) == canonical(reads)  # then there is nothing to resolve
        found = _Reading(parse(writes), None if same else parse(reads), recursive)
        self._readings[ref, cls] = found
        return found

    def _datum(self, reading: _Reading, record: Record, start: int) -> Any:
        value = record.value
        if not record.trusted:
            if len(value) > EVENT_BYTES_MAX:
                raise too_large(value, topic=record.topic, offset=record.offset)
            if reading.recursive is not None:
                measured(reading.recursive, value, start)
        # The library passes over a text without looking whether it is all there: whoever goes
        # beyond the end finds one byte there, and is found.
        stream = io.BytesIO(value + b"\0")
        stream.seek(start)
        try:
            datum = self._read(stream, reading.writer, reading.reader)
        except self._unresolved:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever the library makes of hostile bytes
            words = next((text for kind, text in WORDS.items() if isinstance(exc, kind)), "")
            why = words or type(exc).__name__
            raise DecodeError(f"value is no Avro of its schema: {why}", code="CH2002") from None
        end = stream.tell()
        if end != len(value):
            why = "has bytes behind its end" if end < len(value) else "breaks off"
            raise DecodeError(f"value is no Avro of its schema: it {why}", code="CH2002")
        return datum


def _framed(record: Record) -> tuple[Ref, int]:
    """Give what names the schema, and where the value begins; raises DecodeError."""
    value = record.value
    kind = record.headers.get(CONTENT_TYPE, "").lower()
    header = record.headers.get(VALUE_SCHEMA_ID)
    if header is not None:
        return _named_in_header(header.encode("utf-8", "surrogateescape")), 0
    single = value[:2] == SINGLE_OBJECT_MAGIC and len(value) >= FINGERPRINT_END
    if single and CONFLUENT not in kind:
        return value[2:FINGERPRINT_END], FINGERPRINT_END
    if value[:1] == CONFLUENT_MAGIC and len(value) >= ID_END and SINGLE not in kind:
        return int.from_bytes(value[1:ID_END], "big"), ID_END
    raise _unnamed("value does not begin with the name of its schema")


def _named_in_header(raw: bytes) -> Ref:
    if raw[:1] == b"\x01" and len(raw) == GUID_BYTES:
        return str(uuid.UUID(bytes=raw[1:]))
    if raw[:1] == CONFLUENT_MAGIC and len(raw) == ID_END:
        return int.from_bytes(raw[1:], "big")
    raise _unnamed(f"the header {VALUE_SCHEMA_ID} is neither a GUID nor an id")


def _unnamed(what: str) -> DecodeError:
    return DecodeError(
        what,
        code="CH2008",
        fix="let the producer write Avro's single-object encoding or Confluent's framing",
    )
