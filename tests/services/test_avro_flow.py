"""The order flow with Avro: every way that an order can go, by a folder and by a registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo.schemas import SchemaFolder, check_schemas
from choreo.testing.servers.registry import RegistryServer
from choreo.topology import classes_of
from services import invariants
from services.orders.events import OrderCancelled, OrderCompleted
from services.shipping.carrier import CarrierRefusedError
from tests.auditing import judged
from tests.services.shop import SERVICES, Shop, placed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["folder", "registry"])
def framing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("CHOREO_CODEC", "avro")
    if request.param == "folder":
        monkeypatch.setenv("CHOREO_SCHEMAS", str(ROOT / "schemas"))
        yield "single-object"
        return
    with RegistryServer() as server:
        monkeypatch.setenv("SCHEMA_REGISTRY_URL", server.url)
        monkeypatch.setenv("CHOREO_SCHEMAS_REGISTER", "yes")
        yield "confluent"


async def test_orders_go_every_way_and_the_audit_is_clean(shop: Shop, framing: str) -> None:
    """Completed, out of stock, declined, undone after payment, refunded after a time-out."""
    await shop.stock(A=40, B=12)
    async with shop.open() as app:
        done = await app.publish(placed("1"), id="1")
        short = await app.publish(placed("2", ("B", 40)), id="2")
        await shop.clock.advance(1)
        assert isinstance(await app.outcome(done, within_s=5), OrderCompleted)
        assert isinstance(await app.outcome(short, within_s=5), OrderCancelled)
        shop.bank.mood = lambda path, attempt: "declined"
        declined = await app.publish(placed("3"), id="3")
        await shop.clock.advance(1)
        assert isinstance(await app.outcome(declined, within_s=5), OrderCancelled)
        shop.bank.mood = lambda path, attempt: "lost" if path == "/charges" else ""
        late = await app.publish(placed("4"), id="4")
        await shop.clock.advance(2 * 3600)
        shop.bank.mood = lambda path, attempt: ""
        await shop.clock.advance(2 * 3600)
        assert isinstance(await app.outcome(late, within_s=5), OrderCancelled)
        shop.van.error = CarrierRefusedError("no")
        unsent = await app.publish(placed("5"), id="5")
        await shop.clock.advance(2 * 3600)
        assert isinstance(await app.outcome(unsent, within_s=5), OrderCancelled)
    ours = [one for one in shop.history() if one.topic.startswith("shop.")]
    said = {one.headers["content-type"] for one in ours}
    assert said == {f"application/avro;framing={framing}"}
    assert shop.on_shelf()["A"] == (38, 0, 2)
    assert await judged(shop.folder, invariants.money, invariants.stock) == []


async def test_what_was_written_in_json_goes_on_in_avro(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the flow in each, both ways: a process reads whatever the other one wrote."""
    monkeypatch.setenv("CHOREO_SCHEMAS", str(ROOT / "schemas"))
    await shop.stock(A=10, B=5)
    without = [service for service in SERVICES if service.name in ("payments", "shipping")]
    for number, codec in (("1", "json"), ("2", "avro")):
        monkeypatch.setenv("CHOREO_CODEC", codec)
        async with shop.open(without) as app:
            await app.publish(placed(number), id=number)
            await shop.clock.advance(1)
    monkeypatch.setenv("CHOREO_CODEC", "avro")
    async with shop.open() as app:
        await shop.clock.advance(3600)
    kinds = {"application/json", "application/avro;framing=single-object"}
    ours = [one for one in shop.history() if one.topic.startswith("shop.")]
    assert {one.headers["content-type"] for one in ours} == kinds
    assert shop.kinds().count("OrderCompleted") == 2
    assert await judged(shop.folder, invariants.money, invariants.stock) == []


def test_the_schemas_of_the_shop_are_checked_in_and_fit() -> None:
    """`choreo schemas generate` would add nothing, and every view can read its owner."""
    events = [(service.name, event) for service in SERVICES for event in classes_of(service)]
    assert check_schemas(events, SchemaFolder(ROOT / "schemas").versions()) == []
