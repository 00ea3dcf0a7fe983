"""What choreo publishes is a CloudEvent to others, and what others publish is one to choreo.

The other is the `cloudevents` package. It takes headers as a dict, as a consumer's do.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import (
    KafkaMessage,
    from_binary_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from choreo import App, Event, Service
from choreo.app import open_broker
from choreo.codec import (
    JSON_TYPE,
    binary_mode,
    decode,
    headers_from_pairs,
    headers_from_text,
    headers_to_pairs,
    headers_to_text,
)
from choreo.errors import DecodeError
from choreo.events import CONTENT_TYPE, ID, SPEC_VERSION, TYPE, Headers, Record
from choreo.policies import Retry
from choreo.testing import ManualClock
from choreo.tracker import Catalog, take

STRUCTURED = "application/cloudevents+json"


class Placed(Event, topic="ce.orders", key="order_id"):
    order_id: str
    total: Decimal = Decimal(1)
    note: str | None = None


class Checked(Event, topic="ce.checks", key="order_id"):
    order_id: str


class Rejected(Event, topic="ce.checks", key="order_id", failure=True):
    order_id: str


class Ping(Event, topic="ce.pings"):
    """Another service's event, of which nothing is used."""


checks = Service("checks")


@checks.on(Placed, retry=Retry(attempts_max=2, first_s=0.01))
async def check(placed: Placed) -> Checked | Rejected:
    if placed.note == "fail":
        raise OSError(placed.note)
    done = Rejected if placed.note == "reject" else Checked
    return done(order_id=placed.order_id)


@checks.on(Checked)
async def pass_on(checked: Checked) -> None:
    assert checked.order_id


def parsed(record: Record) -> BaseCloudEvent:
    """Give a record to the package, as its bytes are on a topic."""
    headers = dict(headers_to_pairs(record.headers))
    return from_binary_event(KafkaMessage(headers, record.key or None, record.value))


def message_record(message: KafkaMessage) -> Record:
    """Take what the package wrote as a consumer would."""
    key = message.key.encode() if isinstance(message.key, str) else message.key
    return Record("ce.orders", key, headers_from_pairs(message.headers.items()), message.value)


# ── what choreo publishes ────────────────────────────────────────────────────────────────


async def test_every_record_of_a_run_is_an_event_to_others(tmp_path: Path) -> None:
    """Events, notes of steps, dead letters, manifests; also of an event whose key is empty."""
    clock = ManualClock()
    async with App(checks, folder=tmp_path, clock=clock) as app:
        for note, order in (("", "o-1"), ("reject", "o-2"), ("fail", "o-3"), ("", ""), ("ü", "ü")):
            await app.publish(Placed(order_id=order, note=note))
        await clock.advance(60)
    broker = open_broker(tmp_path)
    records = [record async for batch in broker.read(None) for record in batch]
    await broker.close()
    assert {"ce.orders", "ce.checks", "choreo.steps", "choreo.dead", "choreo.manifests"} <= {
        record.topic for record in records
    }
    for record in records:
        event = parsed(record)
        theirs = dict(event.get_attributes())
        assert (
            theirs.pop("time").isoformat(timespec="milliseconds").replace("+00:00", "Z")
            == record.headers["ce_time"]
        )
        ours = {
            name.removeprefix("ce_"): text
            for name, text in record.headers.items()
            if name.startswith("ce_") and name != "ce_time"
        }
        key = {"partitionkey": record.key.decode()} if record.key else {}
        assert theirs == {**ours, **key, "datacontenttype": JSON_TYPE}
        assert {"id", "source", "type", "specversion"} <= ours.keys()
        assert event.get_data() == json.loads(record.value)


TEXT = st.text(min_size=1).filter(str.isprintable)
PLACED = st.builds(
    Placed,
    order_id=TEXT,
    total=st.decimals(allow_nan=False, allow_infinity=False, places=2),
    note=st.none() | st.text(),
)


@given(PLACED)
def test_the_data_of_others_is_our_value(placed: Placed) -> None:
    """The bytes of an event are the JSON that the package reads as its data."""
    value = type(placed).__pydantic_serializer__.to_json(placed)
    headers = {ID: "1", "ce_source": "s", TYPE: "t", SPEC_VERSION: "1.0", CONTENT_TYPE: JSON_TYPE}
    assert Placed.model_validate(parsed(Record("t", None, headers, value)).get_data()) == placed


# ── what others publish ──────────────────────────────────────────────────────────────────

EXTENSION = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: name not in {"data", "time", "subject", "dataschema", "datacontenttype", "id",
                              "source", "type", "specversion", "partitionkey"}
)  # fmt: skip
ATTRIBUTES = st.fixed_dictionaries(
    {
        "id": TEXT,
        "source": TEXT,
        "type": st.just("ce.orders.Placed"),
        "time": st.datetimes(
            min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
            max_value=datetime(2200, 1, 1),  # noqa: DTZ001
            timezones=st.just(UTC),
        ),
    },
    optional={"subject": TEXT, "datacontenttype": st.just(JSON_TYPE), "correlationid": TEXT},
)


@given(
    ATTRIBUTES, st.dictionaries(EXTENSION, TEXT, max_size=3), PLACED, st.booleans(), st.booleans()
)
def test_what_others_write_is_read(
    attributes: dict[str, Any],
    more: Mapping[str, str],
    placed: Placed,
    structured: bool,  # noqa: FBT001 - drawn
    as_bytes: bool,  # noqa: FBT001 - drawn
) -> None:
    """In both modes, data as a value or as bytes: every attribute, and the same event."""
    data = placed.model_dump(mode="json")
    event = CloudEvent({**more, **attributes}, json.dumps(data).encode() if as_bytes else data)
    write = to_structured_event if structured else to_binary_event
    record = binary_mode(message_record(write(event, key_mapper=lambda _: placed.order_id)))
    assert decode(Placed, record) == placed
    wanted = {f"ce_{name}": text for name, text in event.get_attributes().items()}
    wanted["ce_time"] = attributes["time"].isoformat().replace("+00:00", "Z")
    wanted[CONTENT_TYPE] = wanted.pop("ce_datacontenttype", JSON_TYPE)
    if not structured and "datacontenttype" not in attributes:
        del wanted[CONTENT_TYPE]
    assert record.headers == wanted
    assert record.key == placed.order_id.encode()


@given(st.dictionaries(st.from_regex(r"[a-zA-Z0-9_.-]{1,6}", fullmatch=True), TEXT, max_size=3))
def test_names_of_attributes_are_judged_alike(names: dict[str, str]) -> None:
    """Of a structured event: refused by both, or by none."""
    document = {**names, "specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {}}
    document.pop("time", None)
    document.pop("data_base64", None)
    try:
        CloudEvent({k: v for k, v in document.items() if k != "data"}, {})
    except BaseCloudEventException:
        with pytest.raises(DecodeError) as caught:
            binary_mode(structured(document))
        assert caught.value.code == "CH2004"
    else:
        assert binary_mode(structured(document)).headers[ID] == "1"


def structured(document: object, media: str = STRUCTURED) -> Record:
    return Record("ce.orders", None, {CONTENT_TYPE: media}, json.dumps(document).encode(), 2, 40)


async def test_events_of_others_are_handled(tmp_path: Path) -> None:
    """Both modes, through a running service; the flow is theirs, the outcome on the log ours."""
    clock = ManualClock()
    async with App(checks, folder=tmp_path, clock=clock) as app:
        for number, write in enumerate((to_binary_event, to_structured_event)):
            event = CloudEvent(
                {"id": f"n-{number}", "source": "urn:others", "type": "ce.orders.Placed",
                 "correlationid": f"flow-{number}", "datacontenttype": JSON_TYPE},
                {"order_id": f"o-{number}"},
            )  # fmt: skip
            record = message_record(write(event, key_mapper=lambda e: str(e.get_id())))
            await app.broker.publish([record])
        await clock.advance(1)
        published = [record async for batch in app.broker.read(["ce.checks"]) for record in batch]
        everything = [record async for batch in app.broker.read(None) for record in batch]
    assert {r.headers["ce_correlationid"]: r.headers["ce_causationid"] for r in published} == {
        "flow-0": "n-0", "flow-1": "n-1"
    }  # fmt: skip
    facts = take(everything, Catalog()).facts
    assert {fact.flow for fact in facts} == {"flow-0", "flow-1"}
    assert {fact.id for fact in facts if fact.source == "urn:others"} == {"n-0", "n-1"}


# ── structured mode, case by case ────────────────────────────────────────────────────────

WHOLE = {"specversion": "1.0", "id": "7", "source": "s", "type": "t"}


@pytest.mark.parametrize(
    ("more", "value", "media"),
    [
        ({}, b"", JSON_TYPE),
        ({"data": None}, b"", JSON_TYPE),
        ({"data": {}}, b"{}", JSON_TYPE),
        ({"data": "text"}, b'"text"', JSON_TYPE),
        ({"data": "ü", "datacontenttype": "text/plain"}, "ü".encode(), "text/plain"),
        ({"data": "ü", "datacontenttype": "a/b+json;x=1"}, b'"\\u00fc"', "a/b+json;x=1"),
        ({"data": [1], "datacontenttype": "text/plain"}, b"[1]", "text/plain"),
        ({"data_base64": b64encode(b"\xff\x00").decode()}, b"\xff\x00", JSON_TYPE),
    ],
)
def test_data_is_what_the_json_format_says(more: dict[str, Any], value: bytes, media: str) -> None:
    plain = binary_mode(structured({**WHOLE, **more}))
    assert (plain.value, plain.headers[CONTENT_TYPE]) == (value, media)


@pytest.mark.parametrize(
    "media",
    [
        STRUCTURED,
        f"{STRUCTURED}; charset=utf-8",
        f"{STRUCTURED} ;a=b",
        "Application/CloudEvents+JSON",
    ],
)
def test_structured_mode_is_told_by_the_content_type(media: str) -> None:
    assert binary_mode(structured(WHOLE, media)).headers[ID] == "7"


def test_attributes_that_are_no_text() -> None:
    plain = binary_mode(structured({**WHOLE, "count": 7, "done": True, "none": None}))
    assert plain.headers == {
        "ce_id": "7", "ce_source": "s", "ce_type": "t", "ce_specversion": "1.0",
        "ce_count": "7", "ce_done": "true", CONTENT_TYPE: JSON_TYPE,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "media"),
    [
        ({"a": 1.5}, STRUCTURED),
        ({"a": {}}, STRUCTURED),
        ({"a": []}, STRUCTURED),
        ({"": "x"}, STRUCTURED),
        ({"aB": "x"}, STRUCTURED),
        ({"choreo-step": "x.y"}, STRUCTURED),
        ({"a": "\ud800"}, STRUCTURED),
        ({"data": "\ud800", "datacontenttype": "text/plain"}, STRUCTURED),
        ({"data": 1, "data_base64": "AA=="}, STRUCTURED),
        ({"data_base64": "?"}, STRUCTURED),
        ({"data_base64": 5}, STRUCTURED),
        ({"datacontenttype": [5]}, STRUCTURED),
        ({"specversion": "0.3"}, STRUCTURED),
        ({"specversion": 1}, STRUCTURED),
        ({}, "application/cloudevents-batch+json"),
        ({}, "application/cloudevents+avro"),
        ({}, "application/cloudevents"),
    ],
)
def test_what_is_no_structured_event_is_refused(more: dict[str, Any], media: str) -> None:
    with pytest.raises(DecodeError) as caught:
        binary_mode(structured({**WHOLE, **more}, media))
    assert caught.value.code == "CH2004"
    assert "offset=40" in str(caught.value)


# ── headers ──────────────────────────────────────────────────────────────────────────────

TEXTS = st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
HEADERS = st.dictionaries(
    TEXTS.filter(lambda name: not name.startswith("ce_")) | EXTENSION.map("ce_{}".format), TEXTS
)


@given(HEADERS)
def test_headers_come_back_from_pairs(headers: Headers) -> None:
    assert headers_from_pairs(headers_to_pairs(headers)) == headers


@pytest.mark.parametrize("name", ["ce_id", "ce_mine", "choreo-step", "content-type"])
def test_a_header_that_stands_twice_is_refused(name: str) -> None:
    headers = headers_from_pairs([("ce_type", b"t"), (name, b"1"), ("x", None), (name, b"\xff")])
    with pytest.raises(DecodeError) as caught:
        binary_mode(Record("t", None, headers, b"{}"))
    assert caught.value.code == "CH2004"
    assert f"{name!r} stands twice" in str(caught.value)
    assert "\\xff" in headers["choreo-raw-headers"]
    assert TYPE not in headers


def test_of_a_header_of_others_the_last_one_holds() -> None:
    pairs = [("traceparent", b"00-1"), ("x", None), ("traceparent", b"00-2")]
    assert headers_from_pairs(pairs) == {"traceparent": "00-2", "x": ""}


@pytest.mark.parametrize("name", ["ce_", "ce_Id", "ce_a-b", "ce_a_b", "ce_ü", "ce_a\n"])
def test_an_attribute_with_another_name_is_refused(name: str) -> None:
    wrong = {"ce_type": "t", name: "1"}
    for headers in (
        headers_from_pairs(headers_to_pairs(wrong)),
        headers_from_text(headers_to_text(wrong)),
        headers_from_text(headers_to_text({**wrong, "x": '"'})),
    ):
        with pytest.raises(DecodeError) as caught:
            binary_mode(Record("t", None, headers, b"{}"))
        assert caught.value.code == "CH2004"
        assert "a-z and 0-9" in str(caught.value)


# ── no data ──────────────────────────────────────────────────────────────────────────────


def test_no_data_is_an_event_without_fields() -> None:
    assert decode(Ping, Record("ce.pings", None, {}, b"")) == Ping()
    with pytest.raises(DecodeError) as caught:
        decode(Placed, Record("ce.orders", None, {}, b""))
    assert caught.value.code == "CH2001"
    assert "order_id" in str(caught.value)
