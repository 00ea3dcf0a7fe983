"""Manifests: what a service says of itself, for tools that know AsyncAPI and for the tracker."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from choreo import After, Event, Retry, Secret, Service
from choreo.topology import events_of, manifest, manifest_json
from choreo.tracker import Catalog
from tests.unit.tracking import manifests, shop


class Line(BaseModel):
    sku: str
    quantity: int = 1


class Card(BaseModel):
    """A card. Its model says: PLANTED."""

    number: Annotated[str, Secret] = "PLANTED-1"
    kind: str = "visa"


class Ordered(Event, topic="m.orders", key="order_id"):
    """Somebody wants something.

    The rest is not for a summary.
    """

    order_id: str
    lines: list[Line]
    total: Decimal = Decimal("1.50")


class Charged(Event, topic="m.pay", key="order_id", failure=True):
    order_id: str
    pin: Annotated[str, Secret] = Field("PLANTED-2", examples=["PLANTED-3"])
    card: Card = Card(number="PLANTED-4")
    codes: list[Annotated[str, Secret, Field(examples=["PLANTED-5"])]] = Field(["PLANTED-6"])
    example: str = "a field of that name"


class OrderedView(Event, topic="m.orders", name="Ordered"):
    order_id: str


class Odd(Event, topic="m/odd~topic".replace("/", "-").replace("~", "-"), key="order_id"):
    order_id: str
    what: Any = None


def service() -> Service:
    shop = Service("shop")

    @shop.on(OrderedView, retry=Retry(attempts_max=7, never=(LookupError,)), timeout_s=2.5)
    async def charge(ordered: OrderedView) -> Charged | After[Ordered] | None:
        """Take the money.

        More of it.
        """
        return None

    @shop.join(within_s=9, unless=Odd)
    async def both(ordered: Ordered, charged: Charged | None) -> Odd:
        return Odd(order_id=ordered.order_id)

    shop.flow("order", starts=Ordered, ends=Odd, deadline_s=60, owner="us", purpose="To sell")
    return shop


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def resolved(document: Any, reference: str) -> Any:
    part = document
    assert reference.startswith("#/")
    for name in reference[2:].split("/"):
        part = part[name.replace("~1", "/").replace("~0", "~")]
    return part


@pytest.mark.parametrize("one", [service(), *shop()], ids=lambda one: str(one.name))
def test_every_reference_leads_somewhere(one: Service) -> None:
    document = manifest(one)
    found = list(references(document))
    assert found
    for reference in found:
        assert resolved(document, reference) is not None


@pytest.mark.parametrize("one", [service(), *shop()], ids=lambda one: str(one.name))
def test_operations_point_into_their_own_channel(one: Service) -> None:
    document = manifest(one)
    assert document["asyncapi"] == "3.0.0"
    for operation in document["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        assert operation["messages"]
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/")


def test_messages_have_their_schema_and_the_flow() -> None:
    document = manifest(service())
    message = document["components"]["messages"]["m.orders.Ordered"]
    assert message["correlationId"] == {"location": "$message.header#/ce_correlationid"}
    assert message["summary"] == "Somebody wants something."
    assert message["x-choreo"] == {
        "owned": True, "key": "order_id", "failure": False, "declared": f"{__name__}.Ordered",
    }  # fmt: skip
    lines = message["payload"]["properties"]["lines"]
    line = resolved(document, lines["items"]["$ref"])
    assert line["properties"]["sku"]["type"] == "string"
    assert document["operations"]["shop.charge.receive.m.orders"]["summary"] == "Take the money."


def test_an_owned_class_goes_before_a_view_of_its_type() -> None:
    assert OrderedView not in events_of(service())
    assert Ordered in events_of(service())


def test_secrets_never_leak() -> None:
    text = manifest_json(service()).decode()
    assert "PLANTED-" not in text
    fields = manifest(service())["components"]["messages"]["m.pay.Charged"]["payload"]["properties"]
    assert fields["pin"]["x-secret"] is True
    assert "example" in fields


def test_a_value_without_a_json_schema_is_some_object() -> None:
    class Handle:
        pass

    class Strange(Event, topic="m.strange", key="id", name="Strange"):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        id: str
        handle: Handle

    odd = Service("odd")

    @odd.on(Strange)
    async def take(strange: Strange) -> None: ...

    message = manifest(odd)["components"]["messages"]["m.strange.Strange"]
    assert message["payload"] == {"type": "object"}


def test_x_choreo_says_what_the_tracker_needs() -> None:
    ours = manifest(service())["x-choreo"]
    assert ours["service"] == "shop"
    charge, both = ours["handlers"]
    assert charge["name"] == "shop.charge"
    assert (charge["kind"], charge["silent"], charge["timeout_s"]) == ("on", True, 2.5)
    assert charge["outputs"] == ["m.pay.Charged", "m.orders.Ordered"]
    assert charge["later"] == ["m.orders.Ordered"]
    assert charge["retry"]["attempts_max"] == 7
    assert charge["retry"]["never"] == ["LookupError"]
    assert charge["ways"] == [
        {"now": ["m.pay.Charged"], "later": [], "cancels": False},
        {"now": [], "later": ["m.orders.Ordered"], "cancels": False},
        {"now": [], "later": [], "cancels": False},
    ]
    module, _, line = charge["at"].partition(":")
    assert (module, int(line) > 1) == (__name__, True)
    assert list(ours["views"]) == ["m.orders.Ordered"]  # read as a view, too
    assert both["slots"] == [[["m.orders.Ordered"], False], [["m.pay.Charged"], True]]
    assert (both["within_s"], both["unless"]) == (9, ["m-odd-topic.Odd"])
    assert ours["flows"] == [
        {
            "name": "order", "starts": "m.orders.Ordered", "ends": ["m-odd-topic.Odd"],
            "deadline_s": 60, "overdue": None, "owner": "us", "purpose": "To sell",
        }
    ]  # fmt: skip


def test_the_same_service_always_gives_the_same_bytes() -> None:
    assert manifest_json(service()) == manifest_json(service())
    assert json.loads(manifest_json(service())) == manifest(service())


def test_the_tracker_reads_all_of_it() -> None:
    catalog = Catalog.of(manifests())
    assert catalog.flows["t.orders.Placed"].overdue == "t.orders.Late"
    assert catalog.stand_ins["pay.capture"].name == "pay.gave_up"
    assert catalog.triggers == {
        "t.pay.Declined", "t.pay.Refunded", "t.pay.NotTaken", "t.pay.TimedOut",
    }  # fmt: skip
    assert catalog.gathering == {"ship.send"}
    assert catalog.later == {"mail.remind"}
    assert catalog.handlers["pay.refund"].gives == {"t.pay.Refunded", "t.pay.NotTaken"}
    assert not catalog.changed(Catalog.of(manifests()))
    assert catalog.changed(Catalog()) >= {"t.orders.Placed", "pay.refund", "mail.remind"}
