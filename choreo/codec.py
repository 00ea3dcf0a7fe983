"""Events to bytes and back: CloudEvents on a record, JSON values, limits before decoding.

Binary mode (headers) is what choreo writes; structured mode (one JSON document as the
value) is read too. Bytes that this process did not write itself are checked before they
are decoded: size, nesting, duplicate keys, NaN.
Source: CloudEvents 1.0.2, Kafka protocol binding 1.0.2.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema, to_json

from choreo.errors import DecodeError
from choreo.events import CONTENT_TYPE, SPEC_VERSION, Event, Headers, Record

__all__ = [
    "DEPTH_MAX",
    "EVENT_BYTES_MAX",
    "binary_mode",
    "check_json",
    "decode",
    "encode",
    "headers_from_text",
    "headers_to_text",
    "pack_record",
    "reasons",
    "too_large",
    "unpack_record",
]

E = TypeVar("E", bound=Event)

EVENT_BYTES_MAX = 1 << 20
DEPTH_MAX = 64
JSON_TYPE = "application/json"
STRUCTURED = "application/cloudevents"
UNREADABLE = "choreo-unreadable"
"""Stands alone, with `RAW_HEADERS`, on a record whose headers say nothing that can be relied on."""
RAW_HEADERS = "choreo-raw-headers"

_MARK = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)


def encode(event: Event) -> bytes:
    """Give the event's JSON, by field names; raises DecodeError when nobody would read it."""
    value = type(event).__pydantic_serializer__.to_json(event)
    if len(value) > EVENT_BYTES_MAX:
        raise too_large(value, event=type(event).__event__.type)
    return value


def decode(cls: type[E], record: Record) -> E:
    """Read the record's value as `cls`; raises DecodeError that names field and reason."""
    value = record.value
    if not record.trusted:
        check_json(value)
    try:
        return cls.__pydantic_validator__.validate_json(value)  # type: ignore[no-any-return]
    except ValidationError as exc:
        raise DecodeError(
            f"value is no {cls.__event__.type}: {reasons(exc)}",
            fix="correct the producer, or redrive the record edited",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        ) from None


def reasons(error: ValidationError) -> str:
    """Say what pydantic found, field by field, without the values (they may be secret)."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(str(part) for part in one['loc']) or 'value'}: {one['msg']}" for one in found
    )


def check_json(value: bytes) -> None:
    """Refuse JSON that is too large, too deep, ambiguous, or not JSON at all."""
    if len(value) > EVENT_BYTES_MAX:
        raise too_large(value)
    brackets = value.count(b"[") + value.count(b"{")
    if brackets > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise DecodeError(f"value is nested deeper than {DEPTH_MAX}", code="CH2002")
    try:
        _STRICT.decode(value.decode())
    except ValueError as exc:  # not UTF-8, not JSON, or one of our own two rules
        raise DecodeError(f"value is no acceptable JSON: {exc}", code="CH2002") from None


def too_large(value: bytes, **fields: object) -> DecodeError:
    """Make the error for a value that no reader takes."""
    return DecodeError(
        f"value of {len(value)} bytes exceeds {EVENT_BYTES_MAX}",
        code="CH2002",
        fix="put large payloads elsewhere and pass a reference",
        **fields,
    )


def _depth(value: bytes) -> int:
    """Count how deep brackets are nested, in one pass; those inside of strings do not count."""
    deepest = level = 0
    quoted = False
    for mark in _MARK.findall(value):
        if mark == b'"':
            quoted = not quoted
        elif quoted:
            continue
        elif mark in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif mark in b"]}":
            level -= 1
    return deepest


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = Counter(name for name, _ in pairs)
        twice = names.most_common(1)[0][0]
        msg = f"key {twice!r} stands twice in one object"
        raise ValueError(msg)
    return found


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


_STRICT = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


# ── headers ──────────────────────────────────────────────────────────────────────────────


def headers_to_text(headers: Headers) -> str:
    """Write headers as one JSON object."""
    try:
        return to_json(headers).decode()
    except ValueError:  # text that stands for bytes which are no UTF-8
        return json.dumps(headers)


def headers_from_text(text: str | bytes) -> Headers:
    """Read headers that `headers_to_text` wrote.

    Of anything else (a header that stands twice, one that is no text) only the text itself
    is given, and why: whichever of two values one took, somebody would rely on the other.
    """
    raw = text.encode() if isinstance(text, str) else text
    try:
        headers: Headers = _HEADERS.validate_json(raw)
    except ValidationError:  # not ours, or text that stands for bytes which are no UTF-8
        return _strict_headers(raw)
    if raw.count(b'"') != 4 * len(headers):  # a name twice, or a quote in a text
        return _strict_headers(raw)
    return headers


def _strict_headers(raw: bytes) -> Headers:
    why = ""
    try:
        found = _STRICT.decode(raw.decode())
    except (ValueError, RecursionError) as exc:
        why = str(exc)
    else:
        if isinstance(found, dict) and all(isinstance(one, str) for one in found.values()):
            return found
        why = "they are no JSON object of texts"
    return {UNREADABLE: why, RAW_HEADERS: raw.decode("utf-8", "backslashreplace")}


_TEXT = core_schema.str_schema(strict=True)
_HEADERS = SchemaValidator(core_schema.dict_schema(_TEXT, _TEXT))


def binary_mode(record: Record) -> Record:
    """Give the record in binary mode; one in structured mode is taken apart.

    Raises DecodeError when the structured document is not one, or the headers say nothing.
    """
    if UNREADABLE in record.headers:
        raise _no_event(record, f"its headers can not be read: {record.headers[UNREADABLE]}")
    if not record.headers.get(CONTENT_TYPE, "").startswith(STRUCTURED):
        return record
    check_json(record.value)
    document = json.loads(record.value)
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise _no_event(record, "a structured CloudEvent must be a JSON object with a type")
    headers = {name: text for name, text in record.headers.items() if name != CONTENT_TYPE}
    value = _data(record, document)
    content_type = document.pop("datacontenttype", JSON_TYPE)
    for name, attribute in document.items():
        headers[f"ce_{name}"] = attribute if isinstance(attribute, str) else json.dumps(attribute)
    headers.setdefault(SPEC_VERSION, "1.0")
    headers[CONTENT_TYPE] = str(content_type)
    plain = Record(record.topic, record.key, headers, value, record.partition, record.offset)
    plain.trusted = record.trusted
    return plain


def _data(record: Record, document: dict[str, Any]) -> bytes:
    """Take the data out of a structured document."""
    data = document.pop("data", None)
    encoded = document.pop("data_base64", None)
    if encoded is None:
        return json.dumps(data, separators=(",", ":")).encode()
    try:
        return base64.b64decode(encoded, validate=True)
    except (ValueError, TypeError):
        raise _no_event(record, "data_base64 of a structured CloudEvent is none") from None


def _no_event(record: Record, what: str) -> DecodeError:
    return DecodeError(
        what,
        code="CH2004",
        fix="correct the producer: CloudEvents 1.0, each header once",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )


# ── records inside rows ──────────────────────────────────────────────────────────────────


def pack_record(record: Record) -> list[Any]:
    """Give a record as JSON values."""
    return [
        record.topic,
        record.partition,
        record.offset,
        None if record.key is None else record.key.decode("utf-8", "surrogateescape"),
        record.headers,
        record.value.decode("utf-8", "surrogateescape"),
    ]


def unpack_record(packed: list[Any]) -> Record:
    """Read what `pack_record` gave."""
    topic, partition, offset, key, headers, value = packed
    raw_key = None if key is None else key.encode("utf-8", "surrogateescape")
    return Record(
        topic, raw_key, headers, value.encode("utf-8", "surrogateescape"), partition, offset
    )
