"""`publish`: first events of flows, one from the command line or many from a file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from choreo.app import App
from choreo.cli.loading import event_type, services
from choreo.cli.output import console, counted, execute, fail, say
from choreo.cli.settings import Settings
from choreo.codec import EVENT_BYTES_MAX, check_json, reasons
from choreo.errors import ConfigurationError, DecodeError
from choreo.events import Event

__all__ = ["publish_file", "publish_one"]

TOGETHER = 256
STDIN = "-"
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class _Given:
    """What is to be published: events of one class, and which field names the caller's key."""

    event: type[Event]
    key_field: str | None

    def read(self, line: bytes) -> Event:
        """Read one event, strictly: fields that the class does not have are a mistake."""
        check_json(line)
        try:
            found: Event = self.event.__pydantic_validator__.validate_json(line, extra="forbid")
        except ValidationError as exc:
            raise DecodeError(f"no {self.event.__name__}: {reasons(exc)}") from None
        return found

    async def publish(self, app: App, event: Event) -> str:
        """Publish it; give its flow."""
        key = None if self.key_field is None else str(getattr(event, self.key_field))
        return await app.publish(event, id=key)


def _given(settings: Settings, kind: str, key_field: str | None) -> _Given:
    services(settings.modules)
    event = event_type(kind)
    if event.__event__.key is None:
        raise ConfigurationError(
            f"{event.__event__.type} is known here as a view only; its owner publishes it",
            code="CH1010",
            fix="name the module of the service that owns it",
        )
    if key_field is not None and key_field not in event.model_fields:
        fields = ", ".join(event.model_fields)
        raise typer.BadParameter(f"{key_field!r} is none of {fields}", param_hint="--id")
    return _Given(event, key_field)


def publish_one(settings: Settings, kind: str, text: str, *, key_field: str | None) -> None:
    """Publish one event; write its flow's id."""
    given = _given(settings, kind, key_field)
    event = given.read(text.encode("utf-8", "surrogateescape"))

    async def publish() -> str:
        async with App(folder=settings.folder) as app:
            return await given.publish(app, event)

    typer.echo(execute(publish()))


@dataclass(slots=True)
class _Count:
    published: int = 0
    bad: int = 0


def publish_file(settings: Settings, kind: str, file: Path, *, key_field: str | None) -> None:
    """Publish every line of a file. A bad one is named, the rest goes on, and the exit is 1."""
    given = _given(settings, kind, key_field)
    name = "standard input" if str(file) == STDIN else str(file)
    try:
        stream = sys.stdin.buffer if str(file) == STDIN else file.open("rb")
        size = None if str(file) == STDIN else file.stat().st_size
    except OSError as exc:
        fail("CH1018", f"{file} can not be read: {exc.strerror}. Fix: name a readable file")
    count = _Count()
    with stream, _progress() as progress:
        bar = progress.add_task(file.name, total=size, count=0)
        try:
            execute(_publish_lines(settings, given, _Source(stream, name, progress, bar), count))
        except KeyboardInterrupt:
            again = "publish it again, with the same --id" if key_field else "it had no --id"
            fail("CH1019", f"interrupted after {counted(count.published, 'event')}. Fix: {again}")
    bad = f", {counted(count.bad, 'bad line')}" if count.bad else ""
    say(f"published {counted(count.published, 'event')} from {name}{bad}")
    if count.bad:
        raise typer.Exit(1)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]} events"),
        TimeRemainingColumn(),
        transient=True,
        disable=not sys.stderr.isatty(),
        console=console(error=True),
    )


@dataclass(slots=True)
class _Source:
    stream: BinaryIO
    name: str
    progress: Progress
    bar: TaskID

    def chunks(self) -> Iterator[list[tuple[int, bytes]]]:
        """Give numbered lines, a few at a time; empty ones are passed over."""
        chunk: list[tuple[int, bytes]] = []
        for number, line in enumerate(self._lines(), 1):
            if line.strip():
                chunk.append((number, line))
            if len(chunk) == TOGETHER:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _lines(self) -> Iterator[bytes]:
        """Read lines; of one that is too long only so much as to tell that it is."""
        mark = BOM
        while line := self.stream.readline(EVENT_BYTES_MAX + 2):
            yield line.removeprefix(mark)
            mark = b""
            while line and not line.endswith(b"\n"):
                line = self.stream.readline(EVENT_BYTES_MAX + 2)


async def _publish_lines(settings: Settings, given: _Given, source: _Source, count: _Count) -> None:
    async with App(folder=settings.folder) as app:
        chunks = source.chunks()
        while chunk := await asyncio.to_thread(next, chunks, None):
            events = []
            for number, line in chunk:
                try:
                    events.append(given.read(line))
                except DecodeError as exc:
                    count.bad += 1
                    source.progress.console.print(
                        f"error: {exc.code} {source.name}:{number}: {exc.what}", soft_wrap=True
                    )
            done = await asyncio.gather(*(given.publish(app, event) for event in events))
            count.published += len(done)
            at = source.stream.tell() if source.stream.seekable() else 0
            source.progress.update(source.bar, completed=at, count=count.published)
