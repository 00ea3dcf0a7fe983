"""Records of strangers: what can not be read becomes a dead letter, and its key goes on."""

import json
from pathlib import Path

import pytest

from choreo import Service
from choreo.app import open_broker, open_views, system_clock
from choreo.codec import EVENT_BYTES_MAX
from choreo.errors import DecodeError
from choreo.ports import FlowFilter
from choreo.tracker import Tracker
from tests.bad_input.desk import Desk, headers_of, until
from tests.semantics.events import Paid, Placed

KIND = "desk.placed.Placed"
TOPIC = "desk.placed"
GOOD = b'{"k": "x", "n": 7}'
STRUCTURED = {"content-type": "application/cloudevents+json"}


def paying() -> Service:
    desk = Service("desk")

    @desk.on(Placed)
    async def pay(placed: Placed) -> Paid:
        return Paid(k=placed.k, n=placed.n)

    return desk


@pytest.mark.parametrize(
    ("value", "code", "word"),
    [
        pytest.param(b'{"k": "' + b"x" * (2 << 20) + b'"}', "CH2002", "exceeds", id="2 MB"),
        pytest.param(b"[" * 10_000 + b"]" * 10_000, "CH2002", "nested deeper", id="10,000 levels"),
        pytest.param(
            b'{"k": ' + b'{"k": ' * 10_000 + b"}" * 10_001, "CH2002", "nested", id="10,000 objects"
        ),
        pytest.param(b'{"k": "x", "n": NaN}', "CH2002", "NaN", id="NaN"),
        pytest.param(b'{"k": "x", "n": -Infinity}', "CH2002", "Infinity", id="infinity"),
        pytest.param(b'{"k": "x", "k": "y"}', "CH2002", "'k' stands twice", id="duplicate keys"),
        pytest.param(b'{"k": "\xff\xfe"}', "CH2002", "utf-8", id="invalid UTF-8"),
        pytest.param(b'{"k": "\\ud800"}', "CH2001", "value: ", id="half a character"),
        pytest.param(b'{"k": 1}', "CH2001", "k: ", id="another type"),
        pytest.param(b'{"k": "x"} {}', "CH2002", "JSON", id="more than one"),
    ],
)
async def test_a_value_that_can_not_be_read(
    tmp_path: Path, value: bytes, code: str, word: str
) -> None:
    desk = Desk(tmp_path)
    async with desk.open(paying()):
        desk.write(TOPIC, headers_of(KIND, "bad"), value)
        desk.write(TOPIC, headers_of(KIND, "good"), GOOD)
        await until(lambda: desk.kinds().count("Paid") == 1 and desk.dead())
    (dead,) = desk.dead()
    assert dead.value == value
    assert dead.headers["ce_id"] == "bad"
    assert dead.headers["choreo-dead-step"] == "desk.pay"
    assert dead.headers["choreo-dead-message"].startswith(code)
    assert word in dead.headers["choreo-dead-message"]
    async with desk.open(paying()) as app:  # told once, whoever looks again
        await app.publish(Placed(n=8))
        await until(lambda: desk.kinds().count("Paid") == 2)
    assert len(desk.dead()) == 1


TWICE = json.dumps(headers_of(KIND, "bad"))[:-1] + ', "ce_type": "desk.other.Other"}'
DEEP = '{"ce_type": ' + "[" * 10_000 + "]" * 10_000 + "}"


@pytest.mark.parametrize(
    ("headers", "value", "word"),
    [
        pytest.param(TWICE, GOOD, "'ce_type' stands twice", id="a header twice"),
        pytest.param('{"ce_type": 7}', GOOD, "no JSON object of texts", id="a number"),
        pytest.param('{"ce_type": {"a": "b"}}', GOOD, "no JSON object of texts", id="an object"),
        pytest.param(DEEP, GOOD, "", id="10,000 levels"),
        pytest.param('["ce_type"]', GOOD, "no JSON object of texts", id="a list"),
        pytest.param("no JSON", GOOD, "Expecting value", id="no JSON"),
        pytest.param(b'{"ce_type": "\xff"}', GOOD, "utf-8", id="invalid UTF-8"),
        pytest.param(STRUCTURED, b"[]", "must be a JSON object with a type", id="no object"),
        pytest.param(STRUCTURED, b'{"id": "1"}', "with a type", id="no type"),
        pytest.param(STRUCTURED, b"\xff", "utf-8", id="no text"),
        pytest.param(STRUCTURED, b'{"type": "a", "type": "b"}', "twice", id="type twice"),
        pytest.param(STRUCTURED, b"[" * 10_000, "nested", id="structured, 10,000 levels"),
        pytest.param(
            STRUCTURED, b'{"type": "a", "data_base64": "%"}', "data_base64", id="no base64"
        ),
    ],
)
async def test_a_record_that_is_no_event(
    tmp_path: Path, headers: object, value: bytes, word: str
) -> None:
    desk = Desk(tmp_path)
    async with desk.open(paying()):
        desk.write(TOPIC, headers, value)
        desk.write(TOPIC, headers_of(KIND, "good"), GOOD)
        await until(lambda: desk.kinds().count("Paid") == 1 and desk.dead())
    (dead,) = desk.dead()
    assert dead.value == value
    assert dead.headers["choreo-dead-step"] == "desk!unreadable"
    assert dead.headers["choreo-dead-source"].startswith(f"{TOPIC}-0-")
    message = dead.headers["choreo-dead-message"]
    assert message.startswith(("CH2004", "CH2002"))
    assert word in message
    if not isinstance(headers, dict):
        text = (
            headers.decode("utf-8", "backslashreplace") if isinstance(headers, bytes) else headers
        )
        assert dead.headers["choreo-raw-headers"] == text
    async with desk.open(paying()):  # told once, whoever looks again
        desk.write(TOPIC, headers_of(KIND, "more"), GOOD)
        await until(lambda: desk.kinds().count("Paid") == 2)
    assert len(desk.dead()) == 1


async def test_texts_and_numbers_in_the_place_of_bytes_are_read_as_such(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.open(paying()):
        desk.write(TOPIC, headers_of(KIND, "1"), GOOD.decode(), key="x")
        desk.write(TOPIC, headers_of(KIND, ""), GOOD, key=7)
        desk.write(TOPIC, headers_of(KIND, ""), GOOD, key=None)
        await until(lambda: desk.kinds().count("Paid") == 3)
    assert not desk.dead()


async def test_an_unknown_correlation_id_is_a_flow_of_its_own(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.open(paying()):
        headers = headers_of(KIND, "1", ce_correlationid="nobody's", ce_causationid="nothing")
        desk.write(TOPIC, headers, GOOD)
        await until(lambda: desk.kinds().count("Paid") == 1)
        desk.write(TOPIC, TWICE, GOOD)
        await until(desk.dead)
    broker, views = open_broker(tmp_path), open_views(tmp_path)
    await Tracker(broker, views, system_clock()).catch_up()
    flows = {one.flow: one for one in await views.flows(FlowFilter())}
    assert flows.keys() == {"nobody's", desk.dead()[0].headers["ce_id"]}
    assert flows["nobody's"].dead == 0
    assert len(await views.facts("nobody's")) == 2
    assert flows[desk.dead()[0].headers["ce_id"]].status == "failed"
    await views.close()
    await broker.close()


async def test_an_event_that_is_too_large_is_refused_where_it_is_made(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    large = "x" * (2 << 20)
    service = Service("desk")

    @service.on(Placed)
    async def grow(placed: Placed) -> Paid:
        return Paid(k=large if placed.n else placed.k)

    async with desk.open(service) as app:
        with pytest.raises(DecodeError) as caught:
            await app.publish(Placed(k=large))
        assert caught.value.code == "CH2002"
        assert str(EVENT_BYTES_MAX) in str(caught.value)
        assert "reference" in caught.value.fix
        await app.publish(Placed(n=1))
        await app.publish(Placed(n=0))
        await until(lambda: desk.kinds().count("Paid") == 1 and desk.dead())
    (dead,) = desk.dead()
    assert dead.headers["choreo-dead-message"].startswith("CH2002")
    assert "desk.grow" in dead.headers["choreo-dead-message"]
    assert desk.kinds() == ["Placed", "Placed", "Paid"]
