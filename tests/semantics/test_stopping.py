"""Stopped at a bad moment: while it starts or serves, twice at once, after a start that failed."""

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from choreo import App, ConfigurationError, Service
from choreo.errors import BrokerClosedError
from choreo.ports import Assignee, Subscription, Topic
from choreo.worker.call import Caller
from tests.semantics.events import Placed, Reserved
from tests.semantics.lab import Lab
from tests.waiting import ANSWER_S, answered

NOTHING_S = 0.2


def loops() -> list[str]:
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("choreo")]


async def test_serving_ends_when_somebody_else_stops_the_app() -> None:
    app = App(Service("desk"), folder=":memory:")
    await app.start()
    serving = asyncio.create_task(app.serve())
    await asyncio.sleep(0)
    await app.stop()
    assert await answered(serving) is None


async def test_a_second_stop_waits_for_the_first() -> None:
    service = Service("desk")
    begun, go_on = asyncio.Event(), asyncio.Event()

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        begun.set()
        await go_on.wait()
        return Reserved(k=placed.k)

    app = App(service, folder=":memory:")
    await app.start()
    await app.publish(Placed())
    await begun.wait()
    worker = app.worker
    assert worker is not None
    first = asyncio.create_task(app.stop())
    await asyncio.sleep(0)
    second = asyncio.create_task(app.stop())
    await asyncio.wait([second], timeout=NOTHING_S)
    assert not second.done()
    go_on.set()
    assert await answered(first) is None
    assert await answered(second) is None
    assert worker.failure.cancelled()  # nothing was closed under what it was at


async def test_a_worker_that_is_stopped_while_it_starts_begins_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, store = lab.parts()
    subscribe = broker.subscribe
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def held(group: str, topics: Sequence[str], *, assignee: Assignee) -> Subscription:
        reached.set()
        await go_on.wait()
        return await subscribe(group, topics, assignee=assignee)

    monkeypatch.setattr(broker, "subscribe", held)
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> None: ...

    app = App(service, broker=broker, store=store, clock=lab.clock)
    starting = asyncio.create_task(app.start())
    await reached.wait()
    worker = app.worker
    assert worker is not None
    await worker.stop()
    go_on.set()
    assert isinstance(await answered(starting), BrokerClosedError)
    assert [name for name in loops() if name != "choreo-sqlite-log"] == []
    assert broker._subscriptions[0]._closed
    await app.stop()


async def test_a_stop_during_a_drain_waits_for_it() -> None:
    service = Service("desk")
    begun, go_on = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> None:
        begun.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append(placed.k)

    app = App(service, folder=":memory:")
    await app.start()
    await app.publish(Placed())
    await begun.wait()
    draining = asyncio.create_task(app.drain())
    await asyncio.sleep(0)
    stopping = asyncio.create_task(app.stop())
    await asyncio.wait([stopping], timeout=NOTHING_S)
    go_on.set()
    assert await answered(draining) is None
    assert await answered(stopping) is None
    assert ended == [Placed().k]


async def test_a_resource_may_stop_the_app_that_releases_it() -> None:
    service = Service("desk")
    apps: list[App] = []

    class Line: ...

    @service.resource
    async def line() -> AsyncIterator[Line]:
        yield Line()
        await apps[0].stop()

    @service.on(Placed)
    async def reserve(placed: Placed, line: Line) -> None: ...

    apps.append(App(service, folder=":memory:"))
    await apps[0].start()
    assert await answered(asyncio.create_task(apps[0].stop())) is None


async def test_an_app_without_services_that_is_stopped_while_it_starts_begins_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, store = lab.parts()
    ensure = broker.ensure
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def held(topics: Sequence[Topic]) -> None:
        await ensure(topics)
        reached.set()
        await go_on.wait()

    monkeypatch.setattr(broker, "ensure", held)
    app = App(broker=broker, store=store, clock=lab.clock)
    starting = asyncio.create_task(app.start())
    await reached.wait()
    await app.stop()
    go_on.set()
    assert isinstance(await answered(starting), BrokerClosedError)
    assert not app.started
    assert loops() == []


async def test_who_asks_for_an_end_while_resources_are_released_is_told() -> None:
    service = Service("desk")
    service.flow("booking", starts=Placed, ends=(Reserved,))
    begun, releasing, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Line: ...

    @service.resource
    async def line() -> AsyncIterator[Line]:
        yield Line()
        releasing.set()
        await go_on.wait()

    @service.on(Placed)
    async def reserve(placed: Placed, line: Line) -> Reserved:
        begun.set()
        return Reserved(k=placed.k)

    app = App(service, folder=":memory:")
    await app.start()
    await app.publish(Placed())
    await begun.wait()
    stopping = asyncio.create_task(app.stop())
    await releasing.wait()
    asking = asyncio.create_task(app.outcome("a", within_s=3600))
    async with asyncio.timeout(ANSWER_S):
        while not app._outcomes._ended:  # noqa: ASYNC110 - it reads
            await asyncio.sleep(0)
    go_on.set()
    assert await answered(stopping) is None
    assert isinstance(await answered(asking), BrokerClosedError)


async def test_who_is_cancelled_as_he_is_told_leaves_nothing_unheard() -> None:
    shouted: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: shouted.append(context))
    service = Service("desk")
    service.flow("booking", starts=Placed, ends=(Reserved,))
    app = App(service, folder=":memory:")
    await app.start()
    asking = asyncio.create_task(app.outcome("a", within_s=3600))
    await asyncio.sleep(0)
    closing = asyncio.create_task(app._outcomes.close())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking, closing], timeout=ANSWER_S)
    assert asking.cancelled()
    del asking
    gc.collect()
    assert shouted == []
    await app.stop()


async def test_what_fails_after_a_start_that_failed_is_not_told_in_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service("desk")

    class Line: ...

    class Till: ...

    @service.resource
    async def line() -> AsyncIterator[Line]:
        yield Line()
        raise OSError("the line is dead")

    @service.resource
    async def till() -> AsyncIterator[Till]:
        raise ValueError("the till is locked")
        yield

    @service.on(Placed)
    async def reserve(placed: Placed, line: Line, till: Till) -> None: ...

    with pytest.raises(ConfigurationError, match="the till is locked"):
        async with App(service, folder=":memory:"):
            pass
    assert "the line is dead" in caplog.text


async def test_reading_for_ends_goes_on_once_however_many_ask_at_once() -> None:
    service = Service("desk")
    service.flow("booking", starts=Placed, ends=(Reserved,))

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved(k=placed.k)

    app = App(service, folder=":memory:")
    await app.start()
    await app.outcome(await app.publish(Placed()), within_s=ANSWER_S)
    asking = [asyncio.create_task(app.outcome(name, within_s=3600)) for name in ("a", "b")]
    await asyncio.sleep(0)
    while loops().count("choreo outcomes") > 1:  # noqa: ASYNC110 - the earlier one ends
        await asyncio.sleep(0)
    reading = [task for task in asyncio.all_tasks() if task.get_name() == "choreo outcomes"]
    await app.stop()
    assert all(task.done() for task in reading)
    for task in asking:  # told, since no end will come any more
        assert isinstance(await answered(task), BrokerClosedError)


async def test_what_a_thread_raises_after_its_time_is_not_shouted(lab: Lab) -> None:
    shouted: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: shouted.append(context))
    _, store = lab.parts()
    caller = Caller(store, lab.clock, random.Random(1), threads=True)
    begun, go_on = threading.Event(), threading.Event()

    threads: list[threading.Thread] = []

    def fails() -> None:
        threads.append(threading.current_thread())
        begun.set()
        go_on.wait()
        raise ValueError("too late")

    calling = asyncio.create_task(caller._in_thread(fails, []))
    await asyncio.to_thread(begun.wait)
    calling.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait([calling], timeout=ANSWER_S)
    assert calling.cancelled()
    caller.close()
    await asyncio.to_thread(threads[0].join)
    await store.close()
    del calling
    gc.collect()
    assert shouted == []
