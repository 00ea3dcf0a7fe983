"""A registry over HTTP: what is asked, what becomes of each answer, and how seldom it is asked."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterator

import httpx
import pytest

from choreo.adapters.registry import HttpRegistry, translated
from choreo.codec import Avro, Codec, Schemas, subject_of
from choreo.errors import (
    ChoreoError,
    ConfigurationError,
    DecodeError,
    RegistryError,
    RegistryUnavailableError,
    SchemaIncompatibleError,
    SchemaUnknownError,
)
from choreo.events import CONTENT_TYPE, Event, Record
from choreo.schemas import derived, examined
from choreo.testing.servers.program import HOST, PORTS, free_ports
from choreo.testing.servers.registry import RegistryServer

FIRST = '{"type":"record","name":"E","fields":[{"name":"a","type":"string"}]}'
OTHER = '{"type":"record","name":"E","fields":[{"name":"a","type":"long"}]}'
MORE = FIRST.replace("}]", '},{"name":"b","type":"long","default":0}]')


class Placed(Event, topic="unit.registry", key="id"):
    id: str


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    """One that is waited for: how often it is asked hangs on nothing but what it answers."""
    monkeypatch.setattr("choreo.adapters.registry.TIMEOUT_S", None)
    with RegistryServer() as running:
        yield running


async def test_what_is_registered_is_found_by_id_guid_and_subject(server: RegistryServer) -> None:
    registry = HttpRegistry(server.url)
    assert await registry.find("a/b c", FIRST) is None
    number = await registry.register("a/b c", FIRST)
    assert await registry.register("a/b c", FIRST) == number
    assert await registry.find("a/b c", FIRST) == number
    assert await registry.find("a/b c", OTHER) is None
    assert json.loads(await registry.schema(number) or "") == json.loads(FIRST)
    assert await registry.schema(server.guid(FIRST)) == FIRST
    assert await registry.schema(99) is None
    assert await registry.schema("no guid") is None
    await registry.close()
    await registry.close()


async def test_a_registry_s_own_rule_holds(server: RegistryServer) -> None:
    registry = HttpRegistry(server.url)
    await registry.register("s", FIRST)
    with pytest.raises(SchemaIncompatibleError, match="a is text") as told:
        await registry.register("s", OTHER)
    assert told.value.code == "CH2009"
    await registry.register("s", MORE)
    with pytest.raises(RegistryError, match="Invalid schema"):
        await registry.register("s", "{}")
    await registry.close()


async def test_the_server_speaks_as_a_registry_does(server: RegistryServer) -> None:
    """What choreo does not ask for, but others do: levels, versions, compatibility, codes."""
    async with httpx.AsyncClient(base_url=server.url) as http:

        async def asked(verb: str, path: str, **body: str) -> tuple[int, object]:
            answer = await http.request(verb, path, json=body or None)
            assert answer.headers["Content-Type"] == "application/vnd.schemaregistry.v1+json"
            told = answer.json()
            return answer.status_code, told.get("error_code", told) if isinstance(told, dict) else (
                told
            )

        assert await asked("GET", "/subjects/s/versions") == (404, 40401)
        assert await asked("POST", "/subjects/s", schema=FIRST) == (404, 40401)
        assert await asked("POST", "/subjects/s/versions", schema=FIRST) == (200, {"id": 1})
        assert await asked("POST", "/subjects/t/versions", schema=FIRST) == (200, {"id": 1})
        assert await asked("POST", "/subjects/s", schema=OTHER) == (404, 40403)
        assert await asked("GET", "/subjects/s/versions/2") == (404, 40402)
        assert await asked("GET", "/subjects/s/versions/latest") == (
            200, {"subject": "s", "version": 1, "id": 1, "schema": FIRST},
        )  # fmt: skip
        assert await asked("GET", "/subjects") == (200, ["s", "t"])
        assert await asked("POST", "/subjects/s/versions", schema=OTHER) == (409, 409)
        judged = await asked(
            "POST", "/compatibility/subjects/s/versions/latest?verbose=true", schema=OTHER
        )
        assert judged[0] == 200
        assert isinstance(judged[1], dict)
        assert judged[1]["is_compatible"] is False
        assert judged[1]["messages"]
        assert await asked("PUT", "/config/s", compatibility="NONSENSE") == (422, 42203)
        assert await asked("PUT", "/config/s", compatibility="NONE") == (
            200, {"compatibility": "NONE"},
        )  # fmt: skip
        assert await asked("GET", "/config/s") == (200, {"compatibilityLevel": "NONE"})
        assert await asked("GET", "/config") == (200, {"compatibilityLevel": "BACKWARD"})
        assert await asked("POST", "/subjects/s/versions", schema=OTHER) == (200, {"id": 2})
        assert await asked("PUT", "/config", compatibility="FORWARD_TRANSITIVE") == (
            200, {"compatibility": "FORWARD_TRANSITIVE"},
        )  # fmt: skip
        assert await asked("POST", "/subjects/t/versions", schema=MORE) == (200, {"id": 3})
        assert await asked("POST", "/subjects/t/versions", schema="nonsense") == (422, 42201)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, RegistryError),
        (403, RegistryError),
        (404, RegistryError),
        (422, RegistryError),
        (429, RegistryUnavailableError),
        (500, RegistryUnavailableError),
        (503, RegistryUnavailableError),
    ],
)
async def test_each_status_is_an_error_of_ours(
    server: RegistryServer, status: int, kind: type[ChoreoError]
) -> None:
    server.broken = status
    registry = HttpRegistry(server.url.replace("http://", "http://user:hidden@"))
    with pytest.raises(kind) as told:
        await registry.schema(1)
    assert type(told.value) is kind
    assert told.value.fix
    assert "hidden" not in f"{told.value} {registry!r}"
    await registry.close()


async def test_what_does_not_answer_is_transient(server: RegistryServer) -> None:
    await asyncio.to_thread(server.stop)
    registry = HttpRegistry(server.url)
    with pytest.raises(RegistryUnavailableError) as told:
        await registry.schema(1)
    assert told.value.transient
    assert told.value.code == "CH2011"
    server.start()
    assert await registry.schema(1) is None
    await registry.close()


def errors_of(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for one in kind.__subclasses__():
        yield from errors_of(one)


@pytest.mark.parametrize("kind", sorted({*errors_of(httpx.HTTPError), httpx.InvalidURL}, key=repr))
def test_every_error_of_the_library_is_translated(kind: type[Exception]) -> None:
    """A new class of httpx's that is none of these would have no translation."""
    wrong = kind in (httpx.InvalidURL, httpx.UnsupportedProtocol)
    error = kind.__new__(kind, "why")
    Exception.__init__(error, "why")

    def ask() -> None:
        with translated("http://here"):
            raise error

    with pytest.raises(ConfigurationError if wrong else RegistryUnavailableError):
        ask()


# ── unknown, late, down ──────────────────────────────────────────────────────────────────


class Elapsed:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def numbered(number: int, datum: bytes = b"\x02a") -> Record:
    headers = {CONTENT_TYPE: "application/avro"}
    return Record("unit.registry", None, headers, struct.pack(">bI", 0, number) + datum, 0, 1)


def codec_of(server: RegistryServer, elapsed: Elapsed) -> Codec:
    return Codec(Avro(Schemas(None, HttpRegistry(server.url), elapsed=elapsed)), writes_avro=True)


async def test_an_unknown_id_is_asked_for_less_and_less_often(server: RegistryServer) -> None:
    elapsed = Elapsed()
    codec = codec_of(server, elapsed)
    times = []
    for second in range(130):
        elapsed.now = float(second)
        before = len(server.asked)
        for _ in range(5):
            await codec.learn([numbered(9)])
        if len(server.asked) > before:
            times.append(second)
        with pytest.raises(SchemaUnknownError, match="id 9"):
            codec.decode(Placed, numbered(9))
    assert times == [0, 1, 3, 7, 15, 31, 63, 123]
    assert len(server.asked) == len(times)
    await codec.close()


async def test_many_unknown_ids_are_no_storm(server: RegistryServer) -> None:
    elapsed = Elapsed()
    codec = codec_of(server, elapsed)
    for second in range(5):
        elapsed.now = float(second)
        await codec.learn([numbered(1000 * second + n) for n in range(1, 500)])
    assert len(server.asked) <= 50 + 4 * 10
    await codec.close()


async def test_what_is_registered_late_is_found(server: RegistryServer) -> None:
    elapsed = Elapsed()
    codec = codec_of(server, elapsed)
    await codec.learn([numbered(1)])
    with pytest.raises(SchemaUnknownError):
        codec.decode(Placed, numbered(1))
    registry = HttpRegistry(server.url)
    schema = examined(derived(Placed).schema)
    await registry.register(subject_of(Placed.__event__), schema.text)
    await registry.close()
    elapsed.now = 2.0
    await codec.learn([])
    assert codec.decode(Placed, numbered(1)) == Placed(id="a")
    asked = len(server.asked)
    await codec.learn([numbered(1)] * 100)
    assert len(server.asked) == asked
    await codec.close()


async def test_a_registry_that_is_down_is_asked_once_for_all(server: RegistryServer) -> None:
    elapsed = Elapsed()
    codec = codec_of(server, elapsed)
    server.broken = 503
    await codec.learn([numbered(n) for n in range(1, 40)])
    assert len(server.asked) == 1
    for number in (1, 39):
        with pytest.raises(RegistryUnavailableError) as told:
            codec.decode(Placed, numbered(number))
        assert told.value.transient
    with pytest.raises(RegistryUnavailableError):
        await codec.open([Placed])
    await codec.close()


async def test_a_schema_that_is_not_acceptable_is_told_of_its_records(
    server: RegistryServer,
) -> None:
    registry = HttpRegistry(server.url)
    name = "unit.registry.Placed"
    recursive = {
        "type": "record",
        "name": name,
        "fields": [{"name": "a", "type": {"type": "array", "items": name}}],
    }
    number = await registry.register("s", json.dumps(recursive))
    codec = codec_of(server, Elapsed())
    await codec.learn([numbered(number)])
    with pytest.raises(DecodeError, match="contains itself") as told:
        codec.decode(Placed, numbered(number))
    assert told.value.code == "CH2007"
    assert not told.value.transient
    await registry.close()
    await codec.close()


async def test_registering_by_itself_has_to_be_asked_for(server: RegistryServer) -> None:
    shy = codec_of(server, Elapsed())
    with pytest.raises(ConfigurationError, match="not registered"):
        await shy.open([Placed])
    schemas = Schemas(None, HttpRegistry(server.url), elapsed=Elapsed(), register=True)
    codec = Codec(Avro(schemas), writes_avro=True)
    await codec.open([Placed])
    assert codec.encode(Placed(id="a")) == struct.pack(">bI", 0, 1) + b"\x02a"
    await shy.open([Placed])
    await shy.close()
    await codec.close()


def test_the_system_gives_its_port_to_nobody_else_while_it_is_stopped(
    server: RegistryServer,
) -> None:
    before = server.url
    assert httpx.URL(before).port in PORTS
    server.stop()
    server.start()
    assert server.url == before


def test_a_port_that_somebody_was_faster_to_take_is_left_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as faster:
        faster.bind((HOST, 0))
        faster.listen()
        taken: int = faster.getsockname()[1]
        found = [taken, taken]
        monkeypatch.setattr(
            "choreo.testing.servers.registry.free_ports",
            lambda count: [found.pop()] if found else free_ports(count),
        )
        with RegistryServer() as registry:
            assert httpx.get(f"{registry.url}/subjects").json() == []
            assert httpx.URL(registry.url).port != taken
    assert not found


def test_a_registry_s_port_is_not_looked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as faster:
        faster.bind((HOST, 0))
        faster.listen()
        taken: int = faster.getsockname()[1]
        monkeypatch.setattr("choreo.testing.servers.registry.free_ports", lambda _: [taken])
        with pytest.raises(OSError, match="in use"):
            RegistryServer().start()
