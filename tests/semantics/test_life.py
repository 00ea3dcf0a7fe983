"""An App's life: resources, outputs, outcomes, publishing twice, starting and stopping."""

import asyncio
import gc
import itertools
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel

from choreo import App, ConfigurationError, Event, OutcomeTimeoutError, Retry, Secret, Service
from tests.semantics.events import Packed, Paid, Placed, Reserved, Sent
from tests.semantics.lab import Lab, record_of


class Provider:
    """Something outside."""


class Card(BaseModel):
    number: Annotated[str, Secret] = "SECRET-a"


class Charged(Event, topic="desk.charged", key="k"):
    k: str = "x"
    code: Annotated[str, Secret] = "SECRET-b"
    other: Annotated[str, Secret] | None = "SECRET-c"
    many: tuple[Annotated[str, Secret], ...] = ("SECRET-d",)
    card: Card = Card()
    n: int = 0


async def test_a_missing_resource_is_told_at_start(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed, provider: Provider) -> None: ...

    with pytest.raises(ConfigurationError, match=r"CH1008.*Provider"):
        async with lab.open(service):
            pass
    async with lab.open(service, resources={Provider: Provider()}):
        pass


async def test_a_services_own_resource_is_opened_once_and_closed_at_the_end(lab: Lab) -> None:
    service = Service("desk")
    life: list[str] = []

    @service.resource
    async def provider() -> AsyncIterator[Provider]:
        life.append("open")
        yield Provider()
        life.append("closed")

    @service.on(Placed)
    async def reserve(placed: Placed, provider: Provider) -> None:
        life.append("used")

    @service.on(Placed)
    async def pack(placed: Placed, provider: Provider) -> None:
        life.append("used")

    for _ in range(2):
        life.clear()
        async with lab.open(service) as app:
            await app.publish(Placed())
            await lab.clock.settle()
        assert life == ["open", "used", "used", "closed"]
    life.clear()
    async with lab.open(service, resources={Provider: Provider()}):
        pass
    assert life == []


def talkative() -> Service:
    """A service whose one step publishes many events, two of them alike."""
    service = Service("desk")

    @service.on(Placed)
    async def work(placed: Placed) -> tuple[Reserved, list[Packed], Sent | None]:
        packed = [Packed(k="x/1"), Packed(k="x"), Packed(k="x"), Packed(k="1/x")]
        return Reserved(), packed, Sent()

    return service


async def test_all_outputs_of_a_step_have_ids_of_their_own_and_the_same_in_any_run(
    lab: Lab, tmp_path: Path
) -> None:
    found: list[list[str]] = []
    for name in ("one", "two"):
        place = Lab(tmp_path / name)
        place.folder.mkdir()
        async with place.open(talkative()) as app:
            await app.broker.publish([record_of(Placed(), "a", flow="f")])
            await place.clock.settle()
        assert place.kinds() == ["Placed", "Reserved", *["Packed"] * 4, "Sent"]
        found.append([one.headers["ce_id"] for one in place.log() if one.topic[:5] == "desk."])
    assert found[0] == found[1]
    assert len(set(found[0])) == 7


async def test_publishing_again_with_the_same_id_is_the_same_flow_and_one_effect(lab: Lab) -> None:
    service = talkative()
    async with lab.open(service) as app:
        flows = [await app.publish(Placed(), id="basket-17") for _ in range(2)]
        flows.append(await app.publish(Placed(), id="basket-18"))
        await lab.clock.settle()
    async with lab.open(service) as app:
        flows.append(await app.publish(Placed(), id="basket-17"))
        await lab.clock.settle()
    assert flows[0] == flows[1] == flows[3] != flows[2]
    assert len(lab.only(Reserved)) == 2


def sender(lab: Lab, delay_s: float) -> Service:
    """A service that sends what is placed, after a while."""
    service = Service("desk")

    @service.on(Placed)
    async def send(placed: Placed) -> Sent:
        await lab.clock.sleep(delay_s)
        return Sent(k=placed.k, n=placed.n)

    service.flow("order", starts=Placed, ends=Sent)
    return service


async def test_of_two_who_wait_for_an_outcome_one_may_lose_patience(lab: Lab) -> None:
    async with lab.open(sender(lab, 5)) as app:
        flow = await app.publish(Placed(n=3))
        hasty = asyncio.ensure_future(app.outcome(flow, within_s=2))
        patient = asyncio.ensure_future(app.outcome(flow, within_s=20))
        await lab.clock.advance(10)
        with pytest.raises(OutcomeTimeoutError, match="CH5004"):
            await hasty
        assert await patient == Sent(n=3)
        assert await app.outcome(flow, within_s=1) == Sent(n=3)


async def test_an_outcome_is_found_after_a_restart(lab: Lab) -> None:
    service = sender(lab, 1)
    async with lab.open(service) as app:
        flow = await app.publish(Placed(n=3), id="basket")
        await lab.clock.advance(2)
    async with lab.open(service) as app:
        assert await app.publish(Placed(n=3), id="basket") == flow
        assert await app.outcome(flow, within_s=5) == Sent(n=3)


async def test_start_drain_and_stop_may_be_called_twice_in_any_order(tmp_path: Path) -> None:
    orders = set(itertools.permutations(["start", "start", "drain", "drain", "stop"]))
    for number, order in enumerate(sorted(orders)):
        folder = tmp_path / str(number)
        app = App(talkative(), folder=folder if number < 3 else ":memory:")
        for verb in order[: order.index("stop")]:
            await getattr(app, verb)()
            await asyncio.sleep(0)
        await app.stop()
        await app.stop()
        await app.drain()


async def test_a_service_that_can_not_be_left_keeps_no_other_one_from_being_left(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, store = lab.parts()
    others = [Service("first"), Service("second")]
    for service in others:

        @service.on(Placed)
        async def see(placed: Placed) -> None: ...

    app = App(*others, broker=broker, store=store, clock=lab.clock)
    await app.start()
    worker = app.worker
    assert worker is not None
    first, second = (lane.subscription for lane in worker.lanes)

    async def fails() -> None:
        raise OSError("the line is dead")

    with monkeypatch.context() as patched:
        patched.setattr(first, "close", fails)
        with pytest.raises(OSError, match="the line is dead"):
            await worker.stop()
    async with asyncio.timeout(5):
        assert await second.poll(1) == []  # as only a closed one answers
    assert worker.failure.cancelled()
    await first.close()
    await app.stop()


async def test_a_stop_right_after_a_start_leaves_nothing_behind() -> None:
    gc.collect()  # what others left behind is not told here
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        app = App(talkative(), folder=":memory:")
        await app.start()
        await app.stop()
        gc.collect()
    assert [str(one.message) for one in told] == []


async def test_a_start_that_failed_may_be_tried_again(lab: Lab, tmp_path: Path) -> None:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    file = migrations / "0001.sql"
    file.write_text("CREATE TABEL desk_x (a);")
    service = Service("desk", migrations=migrations)
    ran: list[int] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> None:
        ran.append(placed.n)

    app = App(service, folder=lab.folder, clock=lab.clock)
    with pytest.raises(Exception, match="syntax error"):
        await app.start()
    file.write_text("CREATE TABLE desk_x (a);")
    await app.start()
    await app.publish(Placed(n=4))
    await lab.clock.settle()
    await app.stop()
    assert ran == [4]


async def test_a_secret_is_in_no_repr_and_in_no_note(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Charged, retry=Retry(attempts_max=1))
    async def book(charged: Charged) -> Paid:
        raise ValueError(f"can not book {charged!r}")

    event = Charged()
    assert "SECRET" not in repr(event)
    assert "SECRET" not in f"{event}"
    async with lab.open(service) as app:
        await app.publish(event)
        await app.broker.publish(
            [record_of(event, "bad", value=b'{"k":"x","code":"SECRET-e","n":"SECRET-f"}')]
        )
        await lab.clock.settle()
    assert len(lab.dead()) == 2
    assert "SECRET" not in repr(lab.notes())
    assert "SECRET" not in repr([one.headers for one in lab.log()])
