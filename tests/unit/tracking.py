"""Records of flows, made by hand: what services would have put on the log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from choreo import After, Event, Failure, Service
from choreo import events as names
from choreo.events import Record, id_text, rfc3339
from choreo.ports import Fact
from choreo.topology import manifest
from choreo.tracker import Catalog, FlowView, fold, take

T0 = 1_763_690_000.0


class Placed(Event, topic="t.orders", key="order"):
    order: str


class Reserved(Event, topic="t.stock", key="order"):
    order: str


class NoStock(Event, topic="t.stock", key="order", failure=True):
    order: str


class Released(Event, topic="t.stock", key="order"):
    order: str


class Paid(Event, topic="t.pay", key="order"):
    order: str


class Declined(Event, topic="t.pay", key="order", failure=True):
    order: str


class TimedOut(Event, topic="t.pay", key="order", failure=True):
    order: str


class Refunded(Event, topic="t.pay", key="order"):
    order: str


class NotTaken(Event, topic="t.pay", key="order"):
    order: str


class Mailed(Event, topic="t.mail", key="order"):
    order: str


class Shipped(Event, topic="t.ship", key="order"):
    order: str


class Reminder(Event, topic="t.mail", key="order"):
    order: str


class Completed(Event, topic="t.orders", key="order"):
    order: str


class Cancelled(Event, topic="t.orders", key="order", failure=True):
    order: str


class Late(Event, topic="t.orders", key="order"):
    order: str


def shop() -> list[Service]:
    """Declare a shop that has every kind of handler; none of them is run."""
    orders, stock, pay = Service("orders"), Service("stock"), Service("pay")
    mail, ship = Service("mail"), Service("ship")

    @stock.on(Placed)
    async def reserve(placed: Placed) -> Reserved | NoStock:
        return Reserved(order=placed.order)

    @stock.compensate(Reserved, on=(Declined, Refunded, NotTaken))
    async def release(reserved: Reserved, why: Event) -> Released:
        return Released(order=reserved.order)

    @pay.on(Reserved)
    async def capture(reserved: Reserved) -> Paid | Declined:
        return Paid(order=reserved.order)

    @pay.otherwise(capture)
    async def gave_up(reserved: Reserved, why: Failure) -> Declined:
        return Declined(order=reserved.order)

    @pay.expects(Paid, Declined, after=Reserved, within_s=1800)
    async def overdue(reserved: Reserved) -> TimedOut:
        return TimedOut(order=reserved.order)

    @pay.compensate(Paid, on=TimedOut, nothing=NotTaken)
    async def refund(paid: Paid, why: Event) -> Refunded:
        return Refunded(order=paid.order)

    @mail.on(Paid)
    async def confirm(paid: Paid) -> Mailed | None:
        return None

    @mail.on(Cancelled)
    async def remind(cancelled: Cancelled) -> After[Reminder]:
        return After(Reminder(order=cancelled.order), after_s=60)

    @ship.join(within_s=60)
    async def send(paid: Paid, mailed: Mailed | None) -> Shipped:
        return Shipped(order=paid.order)

    @orders.on(Shipped)
    async def complete(shipped: Shipped) -> Completed:
        return Completed(order=shipped.order)

    @orders.on(NoStock, Released)
    async def cancel(why: NoStock | Released) -> Cancelled:
        return Cancelled(order=why.order)

    orders.flow("order", starts=Placed, ends=(Completed, Cancelled), deadline_s=3600, overdue=Late)
    return [orders, stock, pay, mail, ship]


def manifests() -> dict[str, dict[str, Any]]:
    """Give the shop's manifests by service."""
    return {service.name: manifest(service) for service in shop()}


CATALOG = Catalog.of(manifests())


def uuid(number: int) -> str:
    """Give an id that is a UUID."""
    return id_text(number.to_bytes(16, "big"))


@dataclass
class Log:
    """Appends records of one flow; every id is a number. Time goes on a second a record."""

    flow: int = 1
    records: list[Record] = field(default_factory=list)
    at: float = T0

    def add(self, topic: str, headers: Mapping[str, str], value: object = None) -> Record:
        """Append anything."""
        record = Record(
            topic, b"A-1", dict(headers), json.dumps(value or {}).encode(), 0, len(self.records) + 1
        )
        self.records.append(record)
        return record

    def event(
        self, id: int, event: type[Event], step: str = "", cause: int = 0, **more: str
    ) -> Record:
        """Append an event; `more` are further headers, `_` for `-`, without `choreo-`."""
        self.at += 1
        headers = {
            names.ID: uuid(id),
            names.TYPE: event.__event__.type,
            names.SOURCE: step.partition(".")[0] or "app",
            names.TIME: rfc3339(self.at),
            names.SUBJECT: "A-1",
            names.FLOW: uuid(self.flow),
        }
        if step:
            headers |= {
                names.STEP: step,
                names.CAUSE: uuid(cause),
                names.ATTEMPT: "1",
                names.STARTED: f"{self.at - 0.5:.3f}",
                names.TOOK: "0.25",
            }
        headers |= {f"choreo-{name}": text for name, text in more.items()}
        return self.add(event.__event__.topic, headers)

    def note(self, step: str, subject: int, state: str, **about: Any) -> Record:
        """Append what became of a delivery; `cause` may differ from its subject."""
        self.at += 1
        cause = about.pop("cause", subject)
        value = {"state": state, "run": 0, "attempt": 1, "subject": uuid(subject), **about}
        headers = {
            names.ID: f"note-{len(self.records)}",
            names.TYPE: "choreo.steps.StepNoted",
            names.SOURCE: step.partition(".")[0],
            names.TIME: rfc3339(self.at),
            names.SUBJECT: uuid(self.flow),
            names.FLOW: uuid(self.flow),
            names.CAUSE: uuid(cause),
            names.STEP: step,
            names.ATTEMPT: str(value["attempt"]),
            names.STARTED: f"{self.at - 0.5:.3f}",
            names.TOOK: "0.25",
        }
        return self.add(names.STEPS_TOPIC, headers, value)

    def facts(self, catalog: Catalog = CATALOG) -> Sequence[Fact]:
        """Give the facts of all records."""
        return take(self.records, catalog).facts

    def view(self, catalog: Catalog = CATALOG) -> FlowView:
        """Fold them."""
        return fold(self.facts(catalog), catalog)


def happy(log: Log) -> Log:
    """Add an order that goes well."""
    log.event(1, Placed)
    log.event(2, Reserved, "stock.reserve", 1)
    log.event(3, Paid, "pay.capture", 2)
    log.event(4, Mailed, "mail.confirm", 3)
    log.event(5, Shipped, "ship.send", 3, causes=uuid(4))
    log.event(6, Completed, "orders.complete", 5)
    return log
