"""The shipped services are clean, and clean only because of each thing that they declare."""

import copy
import gc
import importlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from choreo import Service
from choreo.topology import Finding, Topology, check, manifest

NAMES = ("orders", "inventory", "payments", "notifications", "analytics", "shipping")
Manifests = dict[str, dict[str, Any]]


def service(name: str) -> Service:
    found: Service = getattr(importlib.import_module(f"services.{name}.handlers"), name)
    found.seal()
    return found


SHOP: Manifests = {name: manifest(service(name)) for name in NAMES}


def changed(change: Callable[[Manifests], None]) -> list[Finding]:
    manifests = copy.deepcopy(SHOP)
    change(manifests)
    return check(Topology(manifests))


def handler(manifests: Manifests, name: str) -> dict[str, Any]:
    handlers = manifests[name.partition(".")[0]]["x-choreo"]["handlers"]
    found: dict[str, Any] = next(one for one in handlers if one["name"] == name)
    return found


def without(name: str) -> Callable[[Manifests], None]:
    def change(manifests: Manifests) -> None:
        handlers = manifests[name.partition(".")[0]]["x-choreo"]["handlers"]
        handlers.remove(handler(manifests, name))

    return change


def told(name: str, **about: Any) -> Callable[[Manifests], None]:
    return lambda manifests: handler(manifests, name).update(about)


def test_the_shipped_services_are_clean() -> None:
    assert check(Topology(SHOP)) == []


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        (without("orders.complete"), "CH1101", "shop.inventory.StockShipped"),
        (without("payments.overdue"), "CH1102", "shop.payments.PaymentTimedOut"),
        (told("inventory.release", on=["shop.payments.PaymentRefunded",
                                       "shop.payments.PaymentNotTaken"]),
         "CH1106", "inventory.release"),
        (told("payments.refund", on=["shop.payments.PaymentTimedOut"]),
         "CH1106", "payments.refund"),
        (told("payments.refund", nothing=None), "CH1107", "payments.refund"),
        (without("notifications.skip"), "CH1109", "shipping.ship"),
        (told("shipping.ship", within_s=4000), "CH1110", "shipping.ship"),
    ],
)  # fmt: skip
def test_each_declaration_is_needed(
    change: Callable[[Manifests], None], code: str, place: str
) -> None:
    assert (code, place) in {(one.code, one.place) for one in changed(change)}


def test_findings_have_all_that_a_person_needs() -> None:
    for change in (without("payments.refund"), without("notifications.skip")):
        for one in changed(change):
            assert one.what
            assert one.fix
            assert one.place


def test_the_order_of_manifests_does_not_matter() -> None:
    manifests = copy.deepcopy(SHOP)
    without("payments.refund")(manifests)
    there = check(Topology(manifests))
    back = check(Topology(dict(reversed(manifests.items()))))
    assert there == back == sorted(there)


# ── any topology ─────────────────────────────────────────────────────────────────────────

TYPES = [f"r.{n}.E" for n in range(8)]
kinds = st.sampled_from(TYPES)
some = st.lists(kinds, max_size=3)
ways = st.lists(
    st.fixed_dictionaries({"now": some, "later": st.lists(kinds, max_size=1),
                           "cancels": st.booleans()}),
    max_size=3,
)  # fmt: skip


@st.composite
def handlers(draw: st.DrawFn, service: str) -> list[dict[str, Any]]:
    found = []
    for n in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["on", "compensate", "expects", "join", "otherwise", "?"]))
        about: list[dict[str, Any]] = draw(ways)
        found.append(
            {
                "name": f"{service}.h{n}", "kind": kind, "ways": about, "inputs": draw(some),
                "outputs": sorted({one for way in about for one in way["now"] + way["later"]}),
                "on": draw(some), "unless": draw(some),
                "of": f"{service}.h{draw(st.integers(0, 5))}",
                "nothing": draw(st.none() | kinds), "within_s": draw(st.none() | st.just(5)),
                "slots": draw(st.lists(st.tuples(some, st.booleans()), max_size=3)),
            }
        )  # fmt: skip
    return found


@st.composite
def topologies(draw: st.DrawFn) -> Manifests:
    found: Manifests = {}
    for n in range(draw(st.integers(1, 4))):
        name = f"s{n}"
        flow = st.fixed_dictionaries(
            {"name": st.just("f"), "starts": kinds, "ends": some,
             "deadline_s": st.none() | st.just(9), "overdue": st.none() | kinds}
        )  # fmt: skip
        messages = {
            kind: {
                "payload": draw(st.sampled_from([{}, {"type": "string"}, None, 7])),
                "x-choreo": {"owned": draw(st.booleans()), "failure": draw(st.booleans())},
            }
            for kind in draw(some)
        }
        found[name] = {
            "components": {"messages": messages},
            "x-choreo": {
                "service": name,
                "handlers": draw(handlers(name)),
                "flows": draw(st.lists(flow, max_size=2)),
            },
        }
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(topologies())
def test_any_topology_is_checked(manifests: Manifests) -> None:
    said = check(Topology(manifests))
    assert said == sorted(said)
    assert len(said) == len(set(said))
    assert said == check(Topology(dict(reversed(manifests.items()))))


@pytest.mark.parametrize("document", [{}, {"x-choreo": 7}, {"x-choreo": {"handlers": []}}])
def test_a_manifest_that_can_not_be_read_is_said(document: dict[str, Any]) -> None:
    said = check(Topology({**SHOP, "other": document}))
    assert [(one.code, one.place) for one in said] == [("CH1114", "other")]


# ── many services ────────────────────────────────────────────────────────────────────────


def many(services: int) -> Manifests:
    """Give services in a ring of flows: each has an effect, an undo, a join, and six steps."""
    found: Manifests = {}
    for n in range(services):
        front, name = f"m{n}.", f"s{n}"

        def one(name: str, kind: str, inputs: str, gives: str, front: str = front, n: int = n,
                **more: Any) -> dict[str, Any]:  # fmt: skip
            outputs = [front + kind for kind in gives.split()]
            about = {"kind": kind, "inputs": [front + kind for kind in inputs.split()]}
            each = [{"now": [kind]} for kind in outputs]
            return {"name": f"s{n}.{name}", **about, "outputs": outputs, "ways": each, **more}

        slots = [[[f"{front}F"], False], [[f"{front}G"], True]]
        handlers = [
            one("a", "on", "A", "B X"),
            one("b", "on", "B", "C D"),
            one("undo", "compensate", "C", "U", on=[f"{front}D", f"{front}Y"]),
            one("c", "on", "C", "E Y"),
            one("e", "on", "E", "F"),
            one("f", "on", "E", "G"),
            one("join", "join", "F G", "H", slots=slots, within_s=9),
            one("h", "on", "H", "I"),
            one("u", "on", "U D", "X"),
            one("next", "on", "I", "Z", within_s=None),
        ]
        handlers[-1]["outputs"] = [f"m{n + 1}.A"]
        handlers[-1]["ways"] = [{"now": [f"m{n + 1}.A"]}]
        messages = {
            front + kind: {"payload": {}, "x-choreo": {"owned": True, "failure": kind in "XDY"}}
            for kind in "ABCDEFGHIUXYZ"
        }
        flow = {"name": "f", "starts": f"{front}A", "deadline_s": 3600,
                "ends": [f"{front}X", f"{front}I"]}  # fmt: skip
        found[name] = {
            "components": {"messages": messages},
            "x-choreo": {"service": name, "handlers": handlers, "flows": [flow]},
        }
    return found


def cpu_s(work: Callable[[], object]) -> float:
    """Give the CPU time of the quickest of three runs, without looks for cycles.

    They go through whatever all the tests before have left in memory.
    """
    took = []
    gc.disable()
    try:
        for _ in range(3):
            began = time.process_time()
            work()
            took.append(time.process_time() - began)
    finally:
        gc.enable()
    return min(took)


def test_two_hundred_services_of_ten_handlers_are_checked_in_two_seconds() -> None:
    manifests = many(200)
    said = check(Topology(manifests))
    assert {one.code for one in said} <= {"CH1101", "CH1109"}
    assert cpu_s(lambda: check(Topology(manifests))) < 2
