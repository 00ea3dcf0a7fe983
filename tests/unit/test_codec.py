"""The codec: round trips, limits before decoding, hostile bytes, structured mode."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from choreo.codec import (
    DEPTH_MAX,
    EVENT_BYTES_MAX,
    binary_mode,
    check_json,
    decode,
    encode,
    headers_from_text,
    headers_to_text,
    pack_record,
    unpack_record,
)
from choreo.errors import DecodeError
from choreo.events import CONTENT_TYPE, ID, SPEC_VERSION, TYPE, Event, Record, Secret


class Line(BaseModel):
    sku: str
    count: int


class Placed(Event, topic="unit.orders", key="order_id"):
    order_id: str
    lines: tuple[Line, ...] = ()
    total: Decimal = Decimal(0)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    note: str | None = None
    card: Annotated[str, Secret] = ""


def record(value: bytes, headers: dict[str, str] | None = None) -> Record:
    return Record("unit.orders", b"1", headers or {}, value, 2, 40)


LINES = st.builds(Line, sku=st.text(), count=st.integers())
EVENTS = st.builds(
    Placed,
    order_id=st.text(),
    lines=st.lists(LINES, max_size=3).map(tuple),
    total=st.decimals(allow_nan=False, allow_infinity=False),
    at=st.datetimes(timezones=st.just(UTC)),
    note=st.none() | st.text(),
    card=st.text(),
)
# Any bytes at all can stand in a header; those that are no UTF-8 are kept by surrogateescape.
HEADER = st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
HEADERS = st.dictionaries(
    HEADER.filter(lambda name: not name.startswith("ce_")), HEADER, max_size=5
)
KEYS = st.none() | st.binary(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


# ── values ───────────────────────────────────────────────────────────────────────────────


@given(EVENTS)
def test_an_event_comes_back_as_it_went(event: Placed) -> None:
    assert decode(Placed, record(encode(event))) == event


@given(JSON)
def test_every_plain_json_is_acceptable(value: object) -> None:
    check_json(json.dumps(value).encode())
    check_json(json.dumps(value, ensure_ascii=False, indent=1).encode())


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_raise_a_decode_error(value: bytes) -> None:
    try:
        decode(Placed, record(value))
    except DecodeError as exc:
        assert not exc.transient  # noqa: PT017 - that it may pass, too, is the point


def test_fields_and_reasons_are_named_and_values_are_not() -> None:
    value = b'{"order_id": 7, "lines": [{"sku": "a"}], "card": ["4111"]}'
    with pytest.raises(DecodeError) as caught:
        decode(Placed, record(value))
    text = str(caught.value)
    assert caught.value.code == "CH2001"
    assert "unit.orders.Placed" in text
    assert "order_id: " in text
    assert "lines.0.count: " in text
    assert "offset=40" in text
    assert "4111" not in text


@pytest.mark.parametrize(
    "value",
    [
        b" ",
        b"{",
        b"nope",
        b'{"order_id": "1"} {"order_id": "2"}',
        b'{"order_id": "1"}x',
        b'{"order_id": "1",}',
        b'{"order_id": "1", "order_id": "2"}',
        b'{"order_id": "1", "lines": [{"sku": "a", "sku": "b", "count": 1}]}',
        b'{"order_id": "1", "total": NaN}',
        b'{"order_id": "1", "total": Infinity}',
        b'{"order_id": "1", "total": -Infinity}',
        b'{"order_id": "\xff"}',
        '{"order_id": "1"}'.encode("utf-16"),
        '{"order_id": "1"}'.encode("utf-8-sig"),
        b'{"order_id": "1", "note": "\n"}',
        b'{"order_id": "1", "total": ' + b"9" * 5000 + b"}",
    ],
)
def test_ambiguous_or_broken_json_is_refused(value: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Placed, record(value))
    assert caught.value.code == "CH2002"


WORDS = ("a", "b", 'b":', "c :", "{", "")
SPACES = st.sampled_from(("", "", " ", "\t", "\n", "\r"))


def _members(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Write objects as others might: spaced anyhow, and with keys that may stand twice."""
    member = st.tuples(st.sampled_from(WORDS), SPACES, SPACES, values)
    texts = st.lists(member, max_size=4).map(
        lambda found: ",".join(f"{json.dumps(k)}{a}:{b}{v}" for k, a, b, v in found)
    )
    return texts.map("{{{}}}".format)


JSON_TEXTS = st.recursive(
    st.sampled_from(("1", "null", '"b\\":"', '"x :"')),
    lambda inner: (
        _members(inner) | st.lists(inner, max_size=3).map(lambda some: f"[{','.join(some)}]")
    ),
    max_leaves=8,
)


@given(JSON_TEXTS)
def test_a_key_that_stands_twice_is_found_wherever_it_is(text: str) -> None:
    twice = False

    def look(pairs: list[tuple[str, object]]) -> None:
        nonlocal twice
        twice = twice or len({key for key, _ in pairs}) < len(pairs)

    json.loads(text, object_pairs_hook=look)
    if twice:
        with pytest.raises(DecodeError, match="twice"):
            check_json(text.encode())
    else:
        check_json(text.encode())


def test_the_size_limit_is_exact() -> None:
    frame = b'{"order_id": "%s"}'
    fits = frame % (b"x" * (EVENT_BYTES_MAX - len(frame) + 2))
    assert len(fits) == EVENT_BYTES_MAX
    assert decode(Placed, record(fits))
    with pytest.raises(DecodeError) as caught:
        decode(Placed, record(fits.replace(b'"}', b'x"}')))
    assert caught.value.code == "CH2002"


@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_depth_limit_is_exact(opens: bytes, closes: bytes) -> None:
    check_json(opens * DEPTH_MAX + b"1" + closes * DEPTH_MAX)
    with pytest.raises(DecodeError) as caught:
        check_json(opens * (DEPTH_MAX + 1) + b"1" + closes * (DEPTH_MAX + 1))
    assert caught.value.code == "CH2002"


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 500_000,
        b'{"a":' * 200_000,
        b'["\\"]", ' + b"[" * 500_000,
        b'"' + b"\\" * 500_001 + b'"' + b"[" * 100,
    ],
)
def test_deep_nesting_costs_no_stack(value: bytes) -> None:
    with pytest.raises(DecodeError):
        check_json(value)


def test_brackets_in_text_and_beside_each_other_are_not_nesting() -> None:
    check_json(json.dumps("[{" * 500).encode())
    check_json(json.dumps(["\\", '"[', "{" * 200]).encode())
    check_json(json.dumps([[] for _ in range(500)]).encode())


# ── headers ──────────────────────────────────────────────────────────────────────────────


@given(HEADERS)
def test_headers_of_any_bytes_come_back(headers: dict[str, str]) -> None:
    assert headers_from_text(headers_to_text(headers)) == headers


# ── structured mode ──────────────────────────────────────────────────────────────────────


def structured(document: object, **headers: str) -> Record:
    content_type = "application/cloudevents+json; charset=UTF-8"
    return record(json.dumps(document).encode(), {CONTENT_TYPE: content_type, **headers})


def test_binary_mode_is_left_alone() -> None:
    plain = record(b"{}", {CONTENT_TYPE: "application/json"})
    assert binary_mode(plain) is plain


@given(EVENTS)
def test_a_structured_event_is_taken_apart(event: Placed) -> None:
    data = json.loads(encode(event))
    document = {"specversion": "1.0", "id": "7", "type": "unit.orders.Placed", "source": "/x",
                "correlationid": "f", "data": data}  # fmt: skip
    plain = binary_mode(structured(document, traceparent="00-1"))
    assert plain.headers[ID] == "7"
    assert plain.headers[TYPE] == "unit.orders.Placed"
    assert plain.headers["ce_correlationid"] == "f"
    assert plain.headers[SPEC_VERSION] == "1.0"
    assert plain.headers[CONTENT_TYPE] == "application/json"
    assert plain.headers["traceparent"] == "00-1"
    assert (plain.topic, plain.key, plain.partition, plain.offset) == ("unit.orders", b"1", 2, 40)
    assert decode(Placed, plain) == event


@pytest.mark.parametrize(
    "document", [[], "text", 7, None, {}, {"id": "1"}, {"type": 5}, {"type": None}]
)
def test_a_structured_document_that_is_none_is_refused(document: object) -> None:
    with pytest.raises(DecodeError):
        binary_mode(structured(document))


def test_a_structured_document_is_held_to_the_same_limits() -> None:
    deep = b'{"type": "t", "data": ' + b"[" * 100 + b"]" * 100 + b"}"
    for value in (deep, b'{"type": "t", "type": "u"}', b'{"type": "t", "data": NaN}'):
        with pytest.raises(DecodeError):
            binary_mode(record(value, {CONTENT_TYPE: "application/cloudevents+json"}))


# ── records inside rows ──────────────────────────────────────────────────────────────────

RECORDS = st.builds(
    Record,
    topic=st.text(),
    key=KEYS,
    headers=HEADERS,
    value=st.binary(max_size=200),
    partition=st.integers(-1, 100),
    offset=st.integers(-1, 1 << 62),
)


@given(RECORDS)
def test_packed_records_come_back(record: Record) -> None:
    packed = json.loads(json.dumps(pack_record(record)))
    assert unpack_record(packed) == record
