"""A wire to a database that can be cut: before what is said arrives, or after it was done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

__all__ = ["Wire", "wire"]

PIECE = 1 << 16


class Wire:
    """Forwards connections to a server; `cut` says what becomes of the next thing said."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut = ""
        """"before": what is said next does not arrive. "after": its answer does not come."""
        self.word = b""
        """What has to stand in it; without, anything."""
        self.cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._to)
        both = (writer, server_writer)
        self._writers.update(both)
        doomed = asyncio.Event()
        for work in (
            self._ask(reader, server_writer, both, doomed),
            self._answer(server_reader, writer, both, doomed),
        ):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, ...],
        doomed: asyncio.Event,
    ) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE):
                if self.cut and self.word in piece:
                    how, self.cut = self.cut, ""
                    self.cuts += 1
                    if how == "before":
                        break
                    doomed.set()
                writer.write(piece)
                await writer.drain()
        if not doomed.is_set():
            self._hang_up(both)

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, ...],
        doomed: asyncio.Event,
    ) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE):
                if doomed.is_set():
                    break
                writer.write(piece)
                await writer.drain()
        self._hang_up(both)

    def _hang_up(self, both: tuple[asyncio.StreamWriter, ...]) -> None:
        for writer in both:
            writer.close()
            self._writers.discard(writer)

    async def close(self) -> None:
        self._hang_up(tuple(self._writers))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """Give a wire to the server of `url`, and the URL at its near end."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    line = Wire(parts.hostname, parts.port)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    near = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")).geturl()
    try:
        yield line, near
    finally:
        server.close()
        await line.close()
