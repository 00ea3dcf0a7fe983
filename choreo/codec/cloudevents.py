"""Events to bytes and back: CloudEvents on a record, JSON values, limits before decoding.

Binary mode (headers) is what choreo writes; structured mode (one JSON document as the
value) is read too. An empty value is no data: an event without fields. Bytes that this
process did not write itself are checked before they are decoded: size, nesting, duplicate
keys, NaN.
Source: CloudEvents 1.0.2, its JSON format and its Kafka protocol binding 1.0.2.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema, from_json, to_json

from choreo.errors import DecodeError
from choreo.events import (
    ATTEMPT,
    CAUSE,
    CONTENT_TYPE,
    FLOW,
    ID,
    SOURCE,
    SPEC_VERSION,
    STARTED,
    STEP,
    SUBJECT,
    TIME,
    TOOK,
    TRACE_ORIGIN,
    TRACEPARENT,
    TRACESTATE,
    TYPE,
    Event,
    Headers,
    Record,
)

__all__ = [
    "DEPTH_MAX",
    "EVENT_BYTES_MAX",
    "binary_mode",
    "check_json",
    "decode",
    "encode",
    "headers_from_pairs",
    "headers_from_text",
    "headers_to_pairs",
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
STRUCTURED_JSON = "application/cloudevents+json"
NO_FIELDS = b"{}"
UNREADABLE = "choreo-unreadable"
"""Stands alone, with `RAW_HEADERS`, on a record whose headers say nothing that can be relied on."""
RAW_HEADERS = "choreo-raw-headers"

_ATTRIBUTE = "ce_"
_NAME = re.compile(r"[a-z0-9]+")
_KNOWN = frozenset((
    ID, SOURCE, TYPE, SPEC_VERSION, TIME, SUBJECT, FLOW, CAUSE, CONTENT_TYPE, STEP, ATTEMPT,
    STARTED, TOOK, TRACEPARENT, TRACESTATE, TRACE_ORIGIN,
))  # fmt: skip
_ONCE = ("ce_", "choreo-", CONTENT_TYPE)
_JSON_MEDIA = re.compile(r"[^;]*[/+]json\s*(;.*)?", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)


def encode(event: Event) -> bytes:
    """Give the event's JSON, by field names; raises DecodeError when nobody would read it."""
    value = type(event).__pydantic_serializer__.to_json(event)
    if len(value) > EVENT_BYTES_MAX:
        raise too_large(value, event=type(event).__event__.type)
    return value


def decode(cls: type[E], record: Record) -> E:
    """Read the record's value as `cls`; raises DecodeError that names field and reason."""
    value = record.value or NO_FIELDS
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
    if _acceptable_at_a_glance(value, flat=brackets == 1):
        return
    try:
        _STRICT.decode(value.decode())
    except ValueError as exc:  # not UTF-8, not JSON, or one of our own two rules
        raise DecodeError(f"value is no acceptable JSON: {exc}", code="CH2002") from None


def _acceptable_at_a_glance(value: bytes, *, flat: bool) -> bool:
    """Tell whether this certainly is what the slow look accepts, which costs four times as much.

    Where no white space stands before a colon, each member of an object has `":` in the text:
    are there as many as there are keys, then none stands twice. Text may have it too; then
    the slow look decides.
    """
    if b" :" in value or b"\n:" in value or b"\t:" in value or b"\r:" in value:
        return False
    try:
        found = from_json(value, allow_inf_nan=False)
    except ValueError:
        return False
    keys = len(found) if flat and type(found) is dict else _keys(found)
    return value.count(b'":') == keys


def _keys(found: object) -> int:
    if isinstance(found, dict):
        return len(found) + sum(map(_keys, found.values()))
    return sum(map(_keys, found)) if isinstance(found, list) else 0


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
    why = _misnamed(headers)
    return _unreadable(why, raw) if why else headers


def _strict_headers(raw: bytes) -> Headers:
    try:
        found = _STRICT.decode(raw.decode())
    except (ValueError, RecursionError) as exc:
        return _unreadable(str(exc), raw)
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        return _unreadable("they are no JSON object of texts", raw)
    why = _misnamed(found)
    return _unreadable(why, raw) if why else found


def headers_to_pairs(headers: Headers) -> list[tuple[str, bytes]]:
    """Give headers as Kafka takes them."""
    return [(name, text.encode("utf-8", "surrogateescape")) for name, text in headers.items()]


def headers_from_pairs(pairs: Iterable[tuple[str, bytes | None]]) -> Headers:
    """Read headers as Kafka gives them: names may repeat, and a value may be missing.

    An attribute, or a header of ours, that stands twice makes all of them unreadable, as
    does an attribute whose name CloudEvents does not allow. Of any other the last one holds.
    """
    found = list(pairs)
    try:
        headers = {name: value.decode() for name, value in found}  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):  # none at all, or bytes that are no UTF-8
        headers = {
            name: "" if value is None else value.decode("utf-8", "surrogateescape")
            for name, value in found
        }
    if len(headers) != len(found):
        counts = Counter(name for name, _ in found)
        twice = [name for name, n in counts.items() if n > 1 and name.startswith(_ONCE)]
        if twice:
            return _unreadable(f"header {twice[0]!r} stands twice", _listed(found))
    why = _misnamed(headers)
    return _unreadable(why, _listed(found)) if why else headers


def _misnamed(headers: Headers) -> str:
    """Say what is wrong with the name of an attribute, if anything is."""
    if _KNOWN.issuperset(headers):
        return ""
    for name in headers:
        if name.startswith(_ATTRIBUTE) and not _NAME.fullmatch(name, len(_ATTRIBUTE)):
            return f"{name!r} is no attribute: their names have a-z and 0-9 only"
    return ""


def _unreadable(why: str, raw: bytes) -> Headers:
    return {UNREADABLE: why, RAW_HEADERS: raw.decode("utf-8", "backslashreplace")}


def _listed(pairs: list[tuple[str, bytes | None]]) -> bytes:
    texts = [(n, None if v is None else v.decode("utf-8", "backslashreplace")) for n, v in pairs]
    return json.dumps(texts, ensure_ascii=False).encode("utf-8", "backslashreplace")


_TEXT = core_schema.str_schema(strict=True)
_HEADERS = SchemaValidator(core_schema.dict_schema(_TEXT, _TEXT))


def binary_mode(record: Record) -> Record:
    """Give the record in binary mode; one in structured mode is taken apart.

    What the document says goes before headers that say otherwise. Raises DecodeError when
    the structured document is not one, or the headers say nothing.
    """
    if UNREADABLE in record.headers:
        raise _no_event(record, f"its headers can not be read: {record.headers[UNREADABLE]}")
    media = record.headers.get(CONTENT_TYPE, "").lower()
    if not media.startswith(STRUCTURED):
        return record
    if media.partition(";")[0].rstrip() != STRUCTURED_JSON:
        raise _no_event(record, f"of structured CloudEvents only {STRUCTURED_JSON} is read")
    check_json(record.value)
    document = json.loads(record.value)
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise _no_event(record, "a structured CloudEvent must be a JSON object with a type")
    if b"\\u" in record.value:  # so it may hold half a character
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _no_event(record, "a text of it is no Unicode: half a character") from None
    headers = {name: text for name, text in record.headers.items() if name != CONTENT_TYPE}
    value = _data(record, document)
    content_type = document.pop("datacontenttype", None) or JSON_TYPE
    for name, said in document.items():
        if said is not None:  # null is an attribute that is not there
            headers[f"ce_{name}"] = _attribute(record, name, said)
    if headers.setdefault(SPEC_VERSION, "1.0") != "1.0":
        raise _no_event(record, f"CloudEvents {headers[SPEC_VERSION]!r} is not read, 1.0 is")
    headers[CONTENT_TYPE] = _attribute(record, "datacontenttype", content_type)
    plain = Record(record.topic, record.key, headers, value, record.partition, record.offset)
    plain.trusted = record.trusted
    return plain


def _attribute(record: Record, name: str, said: object) -> str:
    """Write a text, a whole number or a truth as a header; there are no others."""
    if not _NAME.fullmatch(name):
        raise _no_event(record, f"{name!r} is no attribute: their names have a-z and 0-9 only")
    if isinstance(said, str):
        return said
    if isinstance(said, int):  # bool is one
        return json.dumps(said)
    raise _no_event(record, f"attribute {name!r} is neither text, whole number nor truth")


def _data(record: Record, document: dict[str, Any]) -> bytes:
    """Take the data out of a structured document; empty when there is none."""
    encoded = document.pop("data_base64", None)
    if encoded is not None:
        if "data" in document:
            raise _no_event(record, "a structured CloudEvent has data or data_base64, not both")
        try:
            return base64.b64decode(encoded, validate=True)
        except (ValueError, TypeError):
            raise _no_event(record, "data_base64 of a structured CloudEvent is none") from None
    data = document.pop("data", None)
    if data is None:
        return b""
    media = document.get("datacontenttype")
    if isinstance(data, str) and isinstance(media, str) and not _JSON_MEDIA.fullmatch(media):
        return data.encode()
    return json.dumps(data, separators=(",", ":")).encode()


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
