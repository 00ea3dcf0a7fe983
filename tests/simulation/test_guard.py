"""What leaves a simulation is refused, by the name of the call and with what to use instead."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from time import time as wall

import pytest

from choreo import Event, Service
from choreo.errors import SimulationError
from choreo.testing import CALM
from choreo.testing.simulation import simulate


class Asked(Event, topic="guard.asks", key="what"):
    what: str


service = Service("guarded")


def connect() -> None:
    socket.create_connection(("127.0.0.1", 9))


def start() -> None:
    threading.Thread(target=lambda: None).start()


LEAVES: dict[str, tuple[Callable[[], object], str, str]] = {
    "time": (lambda: (time.time(),), "time.time", "ctx.now"),
    "imported": (lambda: (wall(),), "time.time", "ctx.now"),
    "nanoseconds": (lambda: (time.time_ns(),), "time.time_ns", "ctx.now"),
    "monotonic": (lambda: (time.monotonic(),), "time.monotonic", "ctx.now"),
    "now": (lambda: datetime.now(UTC), "datetime.now", "ctx.now"),
    "today": (lambda: (date.today(),), "date.today", "ctx.now"),  # noqa: DTZ011 - the subject
    "sleep": (lambda: time.sleep(0.001), "time.sleep", "Later"),
    "socket": (connect, "a socket", "Outside"),
    "thread": (start, "a thread", "sync handler"),
}


@service.on(Asked)
async def leave(asked: Asked) -> None:
    if asked.what == "to_thread":
        await asyncio.to_thread(len, "x")
    elif asked.what == "network":
        await asyncio.open_connection("127.0.0.1", 9)
    elif asked.what == "nothing":
        assert isinstance(datetime(2026, 1, 1, tzinfo=UTC), datetime)
        assert date(2026, 1, 1) < date(2026, 1, 2)
        await asyncio.sleep(3600)
    else:
        LEAVES[asked.what][0]()


@service.on(Asked)
def leave_at_once(asked: Asked) -> None:
    assert threading.current_thread() is threading.main_thread()


def tried(what: str) -> SimulationError:
    with simulate(service, faults=CALM) as world:
        world.publish(Asked(what=what))
        with pytest.raises(SimulationError) as caught:
            world.run(days=1)
    return caught.value


@pytest.mark.parametrize("what", LEAVES)
def test_what_leaves_the_simulation_is_refused(what: str) -> None:
    _, named, instead = LEAVES[what]
    error = tried(what)
    assert error.code == "CH8002"
    assert named in error.what
    assert instead in error.fix


@pytest.mark.parametrize(("what", "named"), [("to_thread", "a thread"), ("network", "network")])
def test_the_loop_has_neither_threads_nor_network(what: str, named: str) -> None:
    error = tried(what)
    assert error.code == "CH8002"
    assert named in error.what


def test_what_stays_inside_is_not_refused() -> None:
    """Virtual sleep, times that are computed, sync handlers; and a test may look at its watch."""
    with simulate(service, faults=CALM) as world:
        before = time.monotonic()
        world.publish(Asked(what="nothing"))
        world.run(days=1)
        world.audit()
        assert time.monotonic() >= before
        assert datetime.now(UTC).year > 2000


def test_everything_is_given_back() -> None:
    names = (time.time, time.sleep, time.monotonic, socket.socket.__init__, datetime, date, wall)
    with simulate(service, faults=CALM):
        assert time.sleep is not names[1]
    now = (time.time, time.sleep, time.monotonic, socket.socket.__init__, datetime, date, wall)
    assert all(one is other for one, other in zip(names, now, strict=True))
