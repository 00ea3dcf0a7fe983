"""Small services put together and checked, and the events that they exchange."""

from choreo import Event, Service
from choreo.topology import Finding, Topology, check, manifest


class Asked(Event, topic="c.asked", key="id"):
    id: str


class Held(Event, topic="c.held", key="id"):
    id: str


class Refused(Event, topic="c.held", key="id", failure=True):
    id: str


class Freed(Event, topic="c.held", key="id"):
    id: str


class Paid(Event, topic="c.paid", key="id"):
    id: str


class Declined(Event, topic="c.paid", key="id", failure=True):
    id: str


class TooLate(Event, topic="c.paid", key="id", failure=True):
    id: str


class Returned(Event, topic="c.paid", key="id"):
    id: str


class NotTaken(Event, topic="c.paid", key="id"):
    id: str


class Told(Event, topic="c.told", key="id"):
    id: str


class Untold(Event, topic="c.told", key="id", failure=True):
    id: str


class Done(Event, topic="c.asked", key="id"):
    id: str


class Gone(Event, topic="c.asked", key="id", failure=True):
    id: str


def topology(*services: Service) -> Topology:
    """Join services."""
    for service in services:
        service.seal()
    return Topology({service.name: manifest(service) for service in services})


def findings(*services: Service) -> list[Finding]:
    """Check services."""
    return check(topology(*services))


def found(*services: Service) -> list[tuple[str, str]]:
    """Check services; give code and place of what is found."""
    return [(one.code, one.place) for one in findings(*services)]


def asks(*ends: type[Event], deadline_s: float | None = 3600) -> Service:
    """Give the service that owns the flow: from Asked to these ends."""
    service = Service("asks")
    service.flow("ask", starts=Asked, ends=ends or (Done, Gone), deadline_s=deadline_s)
    return service
