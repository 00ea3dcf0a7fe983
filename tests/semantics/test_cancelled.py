"""Handlers and cancellation: what ends an attempt ends nothing else."""

import asyncio

from choreo import Context, Retry, Service
from tests.semantics.events import Placed, Reserved
from tests.semantics.lab import Lab


async def test_a_handler_that_ends_its_time_with_an_error_of_its_own_leaves_nothing_behind(
    lab: Lab,
) -> None:
    """Its task runs others afterwards; what they await may be cancelled, and nothing ends."""
    service = Service("desk")

    @service.on(Placed, timeout_s=5, retry=Retry(attempts_max=3, first_s=0.1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        if ctx.attempt == 1:
            try:
                await lab.clock.sleep(60)
            except asyncio.CancelledError:
                raise ValueError("of its own") from None
        if ctx.attempt == 2:
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(10)
    assert [note["error"] for note in lab.notes("retrying")] == ["ValueError", "CancelledError"]
    assert lab.kinds() == ["Placed", "Reserved"]
