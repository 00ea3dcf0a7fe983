"""Hostile bytes as Avro: each costs one dead letter at most, never the process."""

import asyncio
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.codec import DEPTH_MAX
from choreo.errors import CodecError, DecodeError
from choreo.events import CONTENT_TYPE, Event, Record
from choreo.schemas import derived, examined
from tests.unit.avro_events import EVENTS, Everything, opened, record

CODEC = asyncio.run(opened(Path(tempfile.mkdtemp()) / "schemas", Everything))
HUGE = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 2^63 - 1


class Numbers(Event, topic="bad.avro", key="id"):
    id: str
    many: list[int] = []  # noqa: RUF012 - pydantic copies it
    named: dict[str, str] = {}  # noqa: RUF012 - as above


class Node(Event, topic="bad.avro", key="id"):
    id: str
    under: "list[Node]" = []  # noqa: RUF012 - as above


NUMBERS = asyncio.run(opened(Path(tempfile.mkdtemp()) / "schemas", Numbers))
NODES = asyncio.run(opened(Path(tempfile.mkdtemp()) / "schemas", Node, recursive=True))


def of(kind: type[Event], datum: bytes) -> Record:
    """Put bytes behind a right fingerprint."""
    schema = examined(derived(kind).schema, recursive=True)
    headers = {CONTENT_TYPE: CODEC.content_type}
    return Record(kind.__event__.topic, None, headers, b"\xc3\x01" + schema.fingerprint + datum)


@pytest.mark.parametrize(
    "datum",
    [
        b"",
        b"\x02",
        b"\x02a\x00",
        b"\x02a\x00\x00\x00",
        b"\x02a\x02\x02\x00\x00garbage",
        b"\x04\xff\xff\x00\x00",
        HUGE,
        b"\x02a" + HUGE,
        b"\x02a\x00" + HUGE,
        b"\x02a\x01" + HUGE + b"\x02",
        b"\xff" * 200,
        b"\x7f" * 200,
        b"\x01",
    ],
)
def test_bytes_that_are_no_value_are_refused(datum: bytes) -> None:
    with pytest.raises(CodecError) as told:
        NUMBERS.decode(Numbers, of(Numbers, datum))
    assert told.value.code == "CH2002"
    assert not told.value.transient


@pytest.mark.parametrize(
    "value", [b"", b"\xc3", b"\xc3\x01", b"\xc3\x01short", b"\x00\x00", b"\x01" * 30, b"{}"]
)
def test_bytes_that_name_no_schema_are_refused(value: bytes) -> None:
    bare = Record("bad.avro", None, {CONTENT_TYPE: CODEC.content_type}, value)
    with pytest.raises(DecodeError) as told:
        NUMBERS.decode(Numbers, bare)
    assert told.value.code == "CH2008"


@pytest.mark.parametrize("header", ["", "\x01short", "\x02" + "x" * 16, "7"])
def test_a_header_that_names_no_schema_is_refused(header: str) -> None:
    sent = of(Numbers, b"")
    sent.headers["__value_schema_id"] = header
    with pytest.raises(DecodeError):
        NUMBERS.decode(Numbers, sent)


def test_a_framing_other_than_the_content_type_says_is_refused() -> None:
    sent = of(Numbers, b"\x02a\x00\x00")
    assert NUMBERS.decode(Numbers, sent).id == "a"
    sent.headers[CONTENT_TYPE] = "application/avro;framing=confluent"
    with pytest.raises(DecodeError):
        NUMBERS.decode(Numbers, sent)


async def test_a_wrong_fingerprint_is_an_unknown_schema() -> None:
    sent = of(Numbers, b"\x02a\x00\x00")
    sent.value = sent.value[:9] + bytes([sent.value[9] ^ 1]) + sent.value[10:]
    await NUMBERS.learn([sent])
    with pytest.raises(DecodeError, match="no file of the folder has it") as told:
        NUMBERS.decode(Numbers, sent)
    assert told.value.code == "CH2006"
    assert told.value.transient


def test_what_is_too_large_is_not_looked_into() -> None:
    with pytest.raises(DecodeError, match="exceeds"):
        NUMBERS.decode(Numbers, of(Numbers, bytes(2 << 20)))


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_an_error_of_ours(datum: bytes) -> None:
    try:
        NUMBERS.decode(Numbers, of(Numbers, datum))
    except CodecError as exc:
        assert exc.fix or exc.what  # noqa: PT017 - either way is right


@given(EVENTS, st.data())
def test_a_value_with_a_byte_changed_gives_a_value_or_an_error_of_ours(
    event: Everything, data: st.DataObject
) -> None:
    sent = record(CODEC, event)
    place = data.draw(st.integers(10, len(sent.value) - 1))
    changed = bytearray(sent.value)
    changed[place] = data.draw(st.integers(0, 255))
    sent.value = bytes(changed)
    try:
        assert isinstance(CODEC.decode(Everything, sent), Everything)
    except CodecError as exc:
        assert not exc.transient  # noqa: PT017 - either way is right


# ── depth ────────────────────────────────────────────────────────────────────────────────


def nested(levels: int) -> bytes:
    """Give bytes of nodes within nodes."""
    return b"\x02a\x02" * levels + b"\x02a\x00" + b"\x00" * levels


def test_depth_is_bounded_where_recursion_is_allowed() -> None:
    assert NODES.decode(Node, of(Node, nested(20))).under
    for levels in (DEPTH_MAX, 5000, 200_000):
        with pytest.raises(DecodeError, match="nested deeper"):
            NODES.decode(Node, of(Node, nested(levels)))


@given(st.binary(max_size=40))
def test_any_bytes_of_a_recursive_schema_are_measured(datum: bytes) -> None:
    try:
        NODES.decode(Node, of(Node, datum))
    except CodecError as exc:
        assert exc.code.startswith("CH2")  # noqa: PT017 - either way is right


# ── the process ──────────────────────────────────────────────────────────────────────────

CHILD = """
import asyncio, json, sys
from choreo.codec import Avro, Codec, Schemas
from choreo.errors import CodecError
from choreo.events import CONTENT_TYPE, Event, Record

class Seen(Event, topic="bad.avro"):
    id: str = ""

class Registry:
    async def schema(self, ref):
        return text
    async def close(self):
        pass

text, value = json.loads(sys.stdin.read())

async def main():
    codec = Codec(Avro(Schemas(None, Registry(), elapsed=lambda: 0.0)))
    record = Record("t", None, {CONTENT_TYPE: "application/avro"}, bytes.fromhex(value))
    await codec.learn([record])
    for read in (lambda: codec.decode(Seen, record), lambda: codec.plain(record)):
        try:
            read()
        except CodecError as exc:
            assert not exc.transient, exc
        else:
            raise AssertionError("it was read")
    lines = open("/proc/self/status").read().splitlines()  # getrusage knows the forked image too
    megabytes = next(int(one.split()[1]) for one in lines if one.startswith("VmHWM")) / 1024
    assert megabytes < 200, megabytes
    sys.stdout.write("alive")

asyncio.run(main())
"""


def schema(*types: object) -> str:
    fields = [{"name": f"f{n}", "type": one} for n, one in enumerate(types)]
    return json.dumps({"type": "record", "name": "bad.avro.Seen", "fields": fields})


MILLIONS = b"\x80\xe1\xeb\x17"  # 25,000,000
RECURSIVE = schema({"type": "array", "items": "bad.avro.Seen"})


@pytest.mark.parametrize(
    ("text", "datum"),
    [
        (RECURSIVE, b"\x02" * 5000 + b"\x00" * 5001),
        (schema(["null", "bad.avro.Seen"]), b"\x02" * 100_000 + b"\x00"),
        (schema({"type": "array", "items": "null"}), MILLIONS + b"\x00"),
        (schema({"type": "array", "items": "long"}), HUGE + b"\x02" * 1000),
        (schema({"type": "map", "values": "null"}), MILLIONS + b"\x00"),
        *[
            (schema({"type": "array", "items": item}), HUGE)
            for item in ("boolean", "double", "string", {"type": "array", "items": "float"})
        ],
        (schema("string"), HUGE),
        (schema("string"), b"\x04a"),
        (schema("bytes", "boolean"), b"\x02a"),
        (schema({"type": "fixed", "name": "F", "size": 1 << 60}), b"x"),
        ("[" * 100_000, b""),
        ('{"type":' * 50_000, b""),
    ],
)
def test_the_process_lives_on(text: str, datum: bytes) -> None:
    """In a process of its own, since a wrong answer would end this one; 20 s of processor."""
    value = struct.pack(">bI", 0, 1) + datum
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps([text, value.hex()]),
        capture_output=True, text=True, timeout=50, env={**os.environ, "PYTHONPATH": "."},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (20, 20)), check=False,
    )  # fmt: skip
    assert done.stdout == "alive", done.stderr[-2000:]
