"""Imports go down the floors, adapters are sealed, services know the façade only."""

from collections.abc import Iterator, Sequence

import pytest

from tests.house.source import Import, Source, imports, report, sources

# From the top. A module may import from floors below its own, and on its own floor from modules
# that stand to the right of it. A package counts as the module of its name.
FLOORS: dict[int, tuple[str, ...]] = {
    8: ("__main__", "faust", "cli", "dashboard"),
    7: ("testing", "running", "health", "app", "environment"),
    6: ("adapters",),
    5: ("worker", "tracker", "replay", "audit", "outcomes"),
    4: ("telemetry", "step", "topology"),
    3: ("service", "context"),
    2: ("ports", "plan", "codec", "schemas"),
    1: ("events", "policies"),
    0: ("errors",),
}
PLACE = {name: (floor, -row.index(name)) for floor, row in FLOORS.items() for name in row}
ADAPTERS_SEE_FLOOR_MAX = 2
COMPOSERS = {"app", "testing"}


def inner(found: Import) -> list[str]:
    """Return the path inside choreo that an import reaches; empty for the façade itself."""
    parts = found.module.split(".")[1:]
    if found.name is None:
        return parts
    if not parts:
        return [found.name] if found.name in PLACE else []
    return [*parts, found.name]


def floor_violations(source: Source) -> Iterator[str]:
    """Yield each import in a module of choreo that does not go down."""
    here = source.module.split(".")[1:]
    if not here:
        return
    name = here[0]
    if name not in PLACE:
        yield f"{source.path}: has no floor; give it one in FLOORS, or a better name"
        return
    for found in imports(source):
        if found.module.split(".")[0] != "choreo":
            continue
        there = inner(found)
        where = f"{source.at(found.node)}: {name}"
        if not there:
            yield f"{where} imports the façade; import the module that defines the name"
        elif there[0] not in PLACE:
            yield f"{where} imports {there[0]}, which has no floor"
        elif name == "adapters":
            yield from adapter_violations(where, here, there)
        elif there[0] == name:
            continue
        elif there[0] == "adapters" and name not in COMPOSERS:
            yield f"{where} imports an adapter; only app and testing do"
        elif PLACE[there[0]] >= PLACE[name]:
            yield f"{where} imports {there[0]}, which is not below it"


def adapter_violations(where: str, here: Sequence[str], there: Sequence[str]) -> Iterator[str]:
    """Yield what one import of an adapter breaks: only floors 0-2, never another adapter."""
    if there[0] == "adapters":
        if len(here) == 1 or there[1:2] != here[1:2]:
            yield f"{where} imports another adapter; adapters are sealed"
    elif PLACE[there[0]][0] > ADAPTERS_SEE_FLOOR_MAX:
        yield f"{where} imports {there[0]}; adapters see floors 0-{ADAPTERS_SEE_FLOOR_MAX} only"


def service_violations(source: Source) -> Iterator[str]:
    """Yield each import under services/ that is neither the façade nor the service itself."""
    here = source.module.split(".")[1:]
    for found in imports(source):
        parts = found.module.split(".")
        where = source.at(found.node)
        if parts[0] == "choreo" and (len(parts) > 1 or inner(found)):
            yield f"{where}: imports from inside choreo; take the name from the façade"
        elif parts[0] == "services":
            there = [*parts[1:], *([found.name] if found.name else [])]
            if not here or there[:1] != here[:1]:
                yield f"{where}: imports another service; they share topics and schemas only"


def test_imports_go_down_the_floors() -> None:
    """A cycle between modules makes each of them unreadable without the others."""
    found = [line for source in sources("choreo") for line in floor_violations(source)]
    assert not found, report(found)


def test_services_know_the_facade_only() -> None:
    """A service that imports another can not be deployed, or understood, without it."""
    found = [line for source in sources("services") for line in service_violations(source)]
    assert not found, report(found)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("choreo/events.py", "from choreo.step import decide"),
        ("choreo/policies.py", "from choreo.events import Event"),
        ("choreo/plan.py", "def f():\n    from choreo.ports import Store"),
        ("choreo/plan.py", "if TYPE_CHECKING:\n    from .ports import Store"),
        ("choreo/app.py", "from choreo.testing import given"),
        ("choreo/worker/loop.py", "from ..adapters import sqlite"),
        ("choreo/cli.py", "import choreo.adapters.sqlite"),
        ("choreo/cli/graph.py", "from choreo.adapters.sqlite import SqliteStore"),
        ("choreo/step.py", "from choreo import Event"),
        ("choreo/step.py", "import choreo"),
        ("choreo/step.py", "from . import Event"),
        ("choreo/utils.py", ""),
        ("choreo/step.py", "from choreo.utils import f"),
        ("choreo/adapters/sqlite.py", "from choreo.step import decide"),
        ("choreo/adapters/sqlite/log.py", "from choreo.adapters.kafka import f"),
        ("choreo/adapters/sqlite.py", "from . import kafka"),
        ("choreo/adapters/__init__.py", "from choreo.adapters import kafka"),
    ],
)
def test_a_wrong_import_is_seen(path: str, text: str) -> None:
    """A rule that can not fail is none."""
    assert list(floor_violations(Source(path, text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("choreo/__init__.py", "from choreo.app import App"),
        ("choreo/ports.py", "from choreo.plan import Plan\nfrom choreo import codec"),
        ("choreo/worker/loop.py", "from choreo.worker.pool import Pool\nfrom . import relay"),
        ("choreo/worker/__init__.py", "from .loop import run\nfrom ..step import decide"),
        ("choreo/replay.py", "from choreo.audit import audit"),
        (
            "choreo/testing/given.py",
            "from choreo.app import App\nfrom choreo.adapters import system",
        ),
        ("choreo/adapters/sqlite/log.py", "from choreo.adapters.sqlite.rows import Row"),
        ("choreo/adapters/sqlite/__init__.py", "from . import log\nfrom choreo.ports import Store"),
    ],
)
def test_a_right_import_passes(path: str, text: str) -> None:
    """A rule that forbids what is meant is soon switched off."""
    assert not list(floor_violations(Source(path, text)))


@pytest.mark.parametrize(
    ("path", "text", "right"),
    [
        ("services/orders/handlers.py", "from choreo import Service", True),
        ("services/orders/handlers.py", "import choreo\nimport httpx", True),
        ("services/orders/handlers.py", "from .events import OrderPlaced", True),
        ("services/orders/__init__.py", "from services.orders import handlers", True),
        ("services/demo/__main__.py", "from services.demo.shop import run", True),
        ("services/orders/handlers.py", "from choreo.events import Event", False),
        ("services/orders/handlers.py", "from choreo import events", False),
        ("services/orders/handlers.py", "from choreo.testing import given", False),
        ("services/orders/handlers.py", "from services.payments import events", False),
        ("services/orders/handlers.py", "from ..payments.events import Paid", False),
        ("services/demo/__main__.py", "from services import orders", False),
        ("services/invariants.py", "import services.orders.events", False),
    ],
)
def test_the_rule_for_services_holds(path: str, text: str, right: bool) -> None:  # noqa: FBT001 - a column of the table above
    """Both sides of the rule, so that it neither sleeps nor nags."""
    assert (not list(service_violations(Source(path, text)))) is right
