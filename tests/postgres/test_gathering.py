"""What needs no order is written together with what came meanwhile, and told apart again."""

import asyncio

import pytest

from choreo.adapters.postgres.gathering import PLANS_MAX, Gathering
from choreo.errors import StoreUnavailableError
from choreo.plan import Plan
from choreo.ports import Applied

ONE = [Plan(None, ())]


class Desk:
    """Writes groups when it is told to, and keeps how large they were."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def write(self, plans: list[Plan]) -> list[Applied | BaseException]:
        self.sizes.append(len(plans))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [Applied.DONE] * len(plans)


async def test_what_comes_while_one_is_written_is_one_group() -> None:
    desk = Desk()
    gathering = Gathering(desk.write, 1)
    calls = [asyncio.ensure_future(gathering.write(ONE * number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    desk.gate.set()
    results = await asyncio.gather(*calls)
    assert desk.sizes == [1, 5]
    assert [len(one) for one in results] == [1, 2, 3]


async def test_a_group_has_an_end_and_a_call_stays_together() -> None:
    desk = Desk()
    gathering = Gathering(desk.write, 1)
    calls = [asyncio.ensure_future(gathering.write(ONE * n)) for n in (1, PLANS_MAX + 5, 2)]
    await asyncio.sleep(0)
    desk.gate.set()
    await asyncio.gather(*calls)
    assert desk.sizes == [1, PLANS_MAX + 5, 2]


async def test_what_becomes_of_a_group_is_told_to_each_and_the_next_goes_on() -> None:
    desk = Desk()
    desk.error = StoreUnavailableError("away")
    gathering = Gathering(desk.write, 1)
    calls = [asyncio.ensure_future(gathering.write(ONE)) for _ in range(3)]
    await asyncio.sleep(0)
    desk.gate.set()
    for call in calls:
        with pytest.raises(StoreUnavailableError):
            await call
    desk.error = None
    assert await gathering.write(ONE) == [Applied.DONE]
    assert desk.sizes == [1, 2, 1]
