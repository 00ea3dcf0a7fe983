"""Serving health for as long as a process lives: asked for by an address, else nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from choreo.health.address import Address
from choreo.health.probes import Probe
from choreo.health.server import HealthServer
from choreo.telemetry import exported

__all__ = ["served"]


@asynccontextmanager
async def served(probe: Probe, address: str) -> AsyncIterator[str]:
    """Serve until the block ends; give the address, "" where none was asked for."""
    if not address:
        yield ""
        return
    server = HealthServer(probe, _metrics)
    where = await server.start(Address.parse(address))
    try:
        yield str(where)
    finally:
        await server.close()


async def _metrics() -> tuple[str, bytes]:
    return await asyncio.to_thread(exported)
