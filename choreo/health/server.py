"""A small HTTP/1.1 server for four addresses: one request a connection, nothing but GET and HEAD.

What comes may be anything, so all is bounded: the bytes of a request, the time for it, how many
are served at once. Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

from choreo.errors import ConfigurationError
from choreo.health.address import Address
from choreo.health.probes import Probe

__all__ = ["Answer", "HealthServer"]

log = logging.getLogger("choreo.health")

REQUEST_BYTES_MAX = 8192
REQUEST_S = 5.0
ANSWER_S = 10.0
AT_ONCE_MAX = 32
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

Metrics = Callable[[], Awaitable[tuple[str, bytes]]]


class Answer(NamedTuple):
    """What a request is answered with."""

    status: HTTPStatus
    body: bytes
    kind: str = TEXT
    more: Mapping[str, str] = {}


class _Refused(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: HTTPStatus, **more: str) -> None:
        super().__init__(status)
        self.answer = Answer(status, f"{status.phrase}\n".encode(), more=more)


class HealthServer:
    """Serves `/livez`, `/readyz`, `/startupz` and `/metrics` of one process."""

    def __init__(self, probe: Probe, metrics: Metrics) -> None:
        """Answer by what `probe` finds; `metrics` gives the type and the text of /metrics."""
        self._pages: Mapping[str, Callable[[], Awaitable[Answer]]] = {
            "/livez": self._live,
            "/readyz": self._ready,
            "/startupz": self._started,
            "/metrics": self._metrics,
        }
        self._probe = probe
        self._measured = metrics
        self._server: asyncio.Server | None = None
        self._closed = False
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self, address: Address) -> Address:
        """Listen; give the address, with the port that it came to be."""
        try:
            self._server = await asyncio.start_server(
                self._accept, address.host, address.port, limit=REQUEST_BYTES_MAX
            )
        except OSError as exc:
            raise ConfigurationError(
                f"health can not be served on {address}: {exc.strerror or exc}",
                code="CH1050",
                fix="name another port, one that is free, or 0 for any",
            ) from exc
        host, port = self._server.sockets[0].getsockname()[:2]
        return Address(host, port)

    async def close(self) -> None:
        """Listen no more, let go of who is connected. May be called twice, and before start."""
        self._closed = True  # what is on its way to us is let go, too
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if server is not None:
            await server.wait_closed()

    # ── one connection ───────────────────────────────────────────────────────────────────

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed or len(self._serving) >= AT_ONCE_MAX:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            method, answer = "GET", None
            try:
                async with asyncio.timeout(REQUEST_S):
                    method, path = _request(await reader.readuntil(b"\r\n\r\n"))
                async with asyncio.timeout(ANSWER_S):
                    answer = await self._answer(path)
            except _Refused as refused:
                answer = refused.answer
            except asyncio.LimitOverrunError:
                answer = _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE).answer
            except TimeoutError:
                answer = _Refused(HTTPStatus.REQUEST_TIMEOUT).answer
            except (OSError, EOFError):
                raise
            except Exception:
                log.exception("a probe failed")
                answer = _Refused(HTTPStatus.INTERNAL_SERVER_ERROR).answer
            async with asyncio.timeout(REQUEST_S):
                writer.write(_written(answer, with_body=method != "HEAD"))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError):
            return  # whoever asked has gone, or takes nothing
        finally:
            writer.transport.abort()

    async def _answer(self, path: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            raise _Refused(HTTPStatus.NOT_FOUND)
        return await page()

    # ── pages ────────────────────────────────────────────────────────────────────────────

    async def _live(self) -> Answer:
        """The loop turns, or else nobody would answer."""
        return _json(HTTPStatus.OK, {"live": True})

    async def _started(self) -> Answer:
        started = self._probe.started
        status = HTTPStatus.OK if started else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(status, {"started": started, **self._probe.about()})

    async def _ready(self) -> Answer:
        problems = await self._probe.problems()
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        told = [problem.told() for problem in problems]
        return _json(status, {"ready": not problems, "problems": told, **self._probe.about()})

    async def _metrics(self) -> Answer:
        kind, text = await self._measured()
        return Answer(HTTPStatus.OK, text, kind)


def _request(head: bytes) -> tuple[str, str]:
    """Read a request's method and path; raises what refuses it."""
    line = head.split(b"\r\n", 1)[0]
    parts = line.split(b" ")
    if len(parts) != len(("method", "target", "version")) or not line.isascii():
        raise _Refused(HTTPStatus.BAD_REQUEST)
    method, target, version = (part.decode("ascii") for part in parts)
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise _Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if method not in ("GET", "HEAD"):
        raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
    return method, target.partition("?")[0]


def _json(status: HTTPStatus, value: object) -> Answer:
    return Answer(status, json.dumps(value, indent=1).encode() + b"\n", JSON)


def _written(answer: Answer, *, with_body: bool) -> bytes:
    headers = {
        "Content-Type": answer.kind,
        "Content-Length": str(len(answer.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **answer.more,
    }
    lines = [f"HTTP/1.1 {answer.status.value} {answer.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode("ascii")
    return head + answer.body if with_body else head
