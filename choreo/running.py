"""A process that has nothing but services: it ends when it is told to, whatever they do."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from choreo.app import App, Deployment
from choreo.environment import adopt_dotenv
from choreo.errors import ChoreoError
from choreo.health import ServicesProbe, served
from choreo.service import Service
from choreo.telemetry import configure

__all__ = ["alone", "health_at", "run", "serving", "telling"]

AGAIN_S = 60.0
WORDS_MAX = 1000


@asynccontextmanager
async def alone(app: App) -> AsyncIterator[App]:
    """Start and stop an App that has its process to itself.

    Handlers that nothing can end (one that swallows its cancellation, a thread that never
    comes back) are left behind with the process: it ends at once, with exit code 1. So it does
    when what comes after the App does not end: a thread that is waited for, an exporter.
    """
    app.alone = True
    try:
        async with app:
            yield app
    except ChoreoError as exc:
        if app.gave_up:
            sys.stderr.write(f"error: {exc}\n")
            _leave()
        raise
    if app.gave_up:
        _leave()


async def serving(app: App) -> asyncio.Task[None]:
    """Have a started App serve; from the return on it hears signals."""
    task = asyncio.create_task(app.serve())
    await asyncio.sleep(0)
    return task


def _leave() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


@contextmanager
def telling(services: Sequence[Service], *, health: str) -> Iterator[None]:
    """Have what the environment asks for told of this process; send what is left at the end."""
    names = [service.name for service in services] or ["tracker"]
    name = "choreo" if names[1:] else names[0]
    end = configure(name, scraped=bool(health))
    plain, seldom = logging.lastResort, _Seldom()
    if plain is not None:  # who has set up logging gets everything
        plain.addFilter(seldom)
    try:
        yield
    finally:
        if plain is not None:
            plain.removeFilter(seldom)
        end()


class _Seldom(logging.Filter):
    """Lets the same words of Kafka's client through once a minute.

    While a broker is away it says a hundred lines a second; choreo says one of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        words = record.getMessage()
        if record.created - self._said.get(words, -AGAIN_S) < AGAIN_S:
            return False
        if len(self._said) >= WORDS_MAX:
            self._said.clear()
        self._said[words] = record.created
        return True


def run(*services: Service) -> None:
    """Run services until SIGTERM or SIGINT: the whole of a service's `__main__`."""

    async def main(health: str) -> None:
        app = App(*services)
        async with served(ServicesProbe(app), health) as where, alone(app):
            serves = await serving(app)
            names = ", ".join(service.name for service in services)
            sys.stderr.write(
                f"running {names} on {Deployment.of()}{health_at(where)}; Ctrl-C ends it\n"
            )
            await serves

    try:
        adopt_dotenv()
        health = os.environ.get("CHOREO_HEALTH", "")
        with telling(services, health=health):
            asyncio.run(main(health))
    except ChoreoError as exc:
        sys.stderr.write(f"error: {exc}\n")
        raise SystemExit(1) from None


def health_at(where: str) -> str:
    """Say, at the end of a line, where health is served; nothing where it is not."""
    return f", health on http://{where}" if where else ""
