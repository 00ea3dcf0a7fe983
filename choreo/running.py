"""A process that has nothing but services: it ends when it is told to, whatever they do."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from choreo.app import App, Deployment
from choreo.environment import adopt_dotenv
from choreo.errors import ChoreoError
from choreo.service import Service

__all__ = ["alone", "run"]


@asynccontextmanager
async def alone(app: App) -> AsyncIterator[App]:
    """Start and stop an App that has its process to itself.

    Handlers that nothing can end (one that swallows its cancellation, a thread that never
    comes back) are left behind with the process: it ends at once, with exit code 1.
    """
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


def _leave() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def run(*services: Service) -> None:
    """Run services until SIGTERM or SIGINT: the whole of a service's `__main__`."""

    async def main() -> None:
        async with alone(App(*services)) as app:
            names = ", ".join(service.name for service in services)
            sys.stderr.write(f"running {names} on {Deployment.of()}; Ctrl-C ends it\n")
            await app.serve()

    try:
        adopt_dotenv()
        asyncio.run(main())
    except ChoreoError as exc:
        sys.stderr.write(f"error: {exc}\n")
        raise SystemExit(1) from None
