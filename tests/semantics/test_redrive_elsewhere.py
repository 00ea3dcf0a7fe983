"""A redrive where several processes share the partitions."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from choreo import App, Retry, Service
from choreo.step.control import request
from tests.semantics.events import Placed, Reserved
from tests.semantics.lab import Lab

ONCE = Retry(attempts_max=1)


async def test_who_is_asked_need_not_own_what_it_is_about(tmp_path: Path) -> None:
    """The request comes in on one partition; its step is run, in order, by its own's owner."""
    lab = Lab(tmp_path)
    ended: list[tuple[str, int]] = []
    broken = True
    keys = "abcdefgh"

    def made() -> Service:
        service = Service("desk")

        @service.on(Placed, retry=ONCE, hold=True)
        async def reserve(placed: Placed) -> Reserved:
            if broken and placed.n == 1:
                raise ValueError("no room")
            ended.append((placed.k, placed.n))
            return Reserved(k=placed.k, n=placed.n)

        return service

    async def turning(true: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110 - it is a file
                await asyncio.sleep(0.01)

    async with App(made(), folder=tmp_path) as one, App(made(), folder=tmp_path):
        members = "SELECT DISTINCT member FROM assignment WHERE grp = 'desk' AND member <> 0"
        await turning(lambda: len(lab.rows(members)) == 2)
        for key in keys:
            for n in (1, 2, 3):
                await one.publish(Placed(k=key, n=n))
        await turning(lambda: len(lab.dead()) == len(keys))
        assert ended == []
        broken = False
        letters = lab.dead()
        asked = [
            request(letter, action, reason="test", by="tester", now=1.0)
            for letter, action in zip(letters, ["redrive", "discard"] * 4, strict=True)
        ]
        await one.broker.publish(asked)
        await turning(lambda: len(ended) == 3 * len(keys) - 4)
        for key in keys:
            await one.publish(Placed(k=key, n=4))
        await turning(lambda: len(ended) == 4 * len(keys) - 4)
    discarded = {letter.key.decode() for letter in letters[1::2] if letter.key}
    for key in keys:
        expected = [2, 3, 4] if key in discarded else [1, 2, 3, 4]
        assert [n for k, n in ended if k == key] == expected
