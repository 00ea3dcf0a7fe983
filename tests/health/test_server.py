"""The server of health over real sockets: what it answers, and what it endures."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from choreo.errors import ConfigurationError
from choreo.health import Address, HealthServer, Problem
from choreo.health import server as module

WITHIN_S = 10.0
BROKEN = Problem("store", "CH4001", "the disk is full", "make room")


class Stub:
    """A process in some state."""

    def __init__(self) -> None:
        self.started = True
        self.found: list[Problem] = []
        self.error: Exception | None = None

    async def problems(self) -> Sequence[Problem]:
        if self.error is not None:
            raise self.error
        return self.found

    def about(self) -> Mapping[str, Any]:
        return {"services": ["desk"]}


async def metrics() -> tuple[str, bytes]:
    return "text/plain; version=0.0.4", b"a 1\n"


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
async def address(stub: Stub) -> AsyncIterator[Address]:
    server = HealthServer(stub, metrics)
    yield await server.start(Address("127.0.0.1", 0))
    await server.close()
    await server.close()


async def sent(address: Address, raw: bytes) -> bytes:
    """Send bytes, give all that comes back until the other side closes."""
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(raw)
        answer = b""
        try:
            while part := await reader.read(4096):
                answer += part
        except ConnectionError:  # it had closed before it had read all: what it said stands
            pass
        writer.close()
        return answer


async def asked(
    address: Address, path: str, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """Ask as a client does."""
    answer = await sent(address, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split(" ")[1]), headers, body


async def test_what_is_well(address: Address) -> None:
    for path in ("/livez", "/readyz", "/startupz", "/readyz?verbose=1"):
        status, headers, body = await asked(address, path)
        assert status == 200
        assert headers["Content-Type"] == "application/json"
        assert headers["Connection"] == "close"
        assert int(headers["Content-Length"]) == len(body)
        json.loads(body)
    status, headers, body = await asked(address, "/metrics")
    assert (status, body) == (200, b"a 1\n")
    assert headers["Content-Type"].startswith("text/plain; version")


async def test_what_is_not(address: Address, stub: Stub) -> None:
    stub.found.append(BROKEN)
    stub.started = False
    status, _, body = await asked(address, "/readyz")
    assert status == 503
    told = {"part": "store", "code": "CH4001", "what": "the disk is full", "fix": "make room"}
    assert json.loads(body) == {"ready": False, "problems": [told], "services": ["desk"]}
    assert (await asked(address, "/startupz"))[0] == 503
    assert (await asked(address, "/livez"))[0] == 200


async def test_a_head_has_no_body(address: Address) -> None:
    status, headers, body = await asked(address, "/livez", "HEAD")
    assert status == 200
    assert int(headers["Content-Length"]) > 0
    assert body == b""


async def test_a_probe_that_breaks_is_an_answer(
    address: Address, stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    stub.error = RuntimeError("secret")
    status, _, body = await asked(address, "/readyz")
    assert status == 500
    assert b"secret" not in body
    assert "a probe failed" in caplog.text


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /livez HTTP/1.1\r\n\r\n", 405),
        (b"DELETE /livez HTTP/1.1\r\n\r\n", 405),
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET http://other/livez HTTP/1.1\r\n\r\n", 404),
        (b"GET /../livez HTTP/1.1\r\n\r\n", 404),
        (b"GET /livez HTTP/2.0\r\n\r\n", 505),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET  /livez HTTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"\x00" * 4000 + b"\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 5000, 431),
        (b"A" * 1_000_000, 431),
    ],
)
async def test_what_is_no_request_is_refused(address: Address, raw: bytes, status: int) -> None:
    answer = await sent(address, raw)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 %d " % status)  # reset, if it went on
    if len(raw) < module.REQUEST_BYTES_MAX:
        assert answer
    assert (await asked(address, "/livez"))[0] == 200


async def test_one_request_a_connection(address: Address) -> None:
    answer = await sent(address, b"GET /livez HTTP/1.1\r\n\r\n" * 3)
    assert answer.count(b"HTTP/1.1 200") == 1


async def test_who_is_slow_is_let_go(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_S", 0.05)
    assert (await sent(address, b"GET /livez HT")).startswith(b"HTTP/1.1 408 ")
    assert (await sent(address, b"")).startswith(b"HTTP/1.1 408 ")


async def test_who_leaves_in_the_middle_is_no_matter(address: Address) -> None:
    for raw in (b"", b"GET /liv", b"GET /metrics HTTP/1.1\r\n\r\n"):
        _, writer = await asyncio.open_connection(*address)
        writer.write(raw)
        writer.transport.abort()
    assert (await asked(address, "/livez"))[0] == 200


async def test_only_so_many_at_once(address: Address) -> None:
    waiting = [await asyncio.open_connection(*address) for _ in range(module.AT_ONCE_MAX)]
    while True:  # until the server has seen them all
        if await sent(address, b"GET /livez HTTP/1.1\r\n\r\n") == b"":
            break
    for _, writer in waiting:
        writer.transport.abort()
    async with asyncio.timeout(WITHIN_S):
        while not await sent(address, b"GET /livez HTTP/1.1\r\n\r\n"):
            continue


async def test_a_port_that_is_taken(address: Address, stub: Stub) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await HealthServer(stub, metrics).start(address)
    assert caught.value.code == "CH1050"
    assert str(address) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("8081", "127.0.0.1:8081"),
        (":8081", "127.0.0.1:8081"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        (" 0.0.0.0:80 ", "0.0.0.0:80"),
        ("localhost:65535", "localhost:65535"),
        ("[::1]:8081", "[::1]:8081"),
    ],
)
def test_addresses(text: str, told: str) -> None:
    assert str(Address.parse(text)) == told


@pytest.mark.parametrize(
    "text",
    ["", "x", "127.0.0.1", "127.0.0.1:", "a:b", "::1:80", "h:65536", "h:-1", "h:1" + "0" * 5000,
     "http://h:80", "h h:80", "h:\uff18\uff10", "u@h:80", "[::1:80"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Address.parse(text)
    assert caught.value.code == "CH1014"


async def test_who_comes_in_while_it_is_closed_is_let_go(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HealthServer(stub, metrics)
    accept = server._accept
    came: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    monkeypatch.setattr(server, "_accept", lambda *connection: came.put_nowait(connection))
    address = await server.start(Address("127.0.0.1", 0))
    reader, writer = await asyncio.open_connection(*address)
    connection = await came.get()
    closing = asyncio.create_task(server.close())
    await asyncio.sleep(0)
    accept(*connection)
    async with asyncio.timeout(WITHIN_S):
        assert await reader.read() == b""
        await closing
    assert asyncio.all_tasks() == {asyncio.current_task()}
    writer.close()
    await writer.wait_closed()
