"""What is banned, and what to write instead."""

import ast
import re
from collections.abc import Iterator, Mapping

import pytest

from tests.house.source import Source, report, sources

CLOCK = "take the time from the Clock that is passed in"
RNG = "draw from the random.Random(seed) that is passed in"

# A name here bans every use of it, called or handed on; a name with a dot at its end bans all
# that a module offers.
BANNED: Mapping[str, str] = {
    "asyncio.wait_for": "as `async with asyncio.timeout()`: before Python 3.12 it swallows a"
    " cancellation that comes at the moment at which it has what it waits for",
    "datetime.date.today": CLOCK,
    "datetime.datetime.now": CLOCK,
    "datetime.datetime.today": CLOCK,
    "datetime.datetime.utcnow": CLOCK,
    "eval": "parse what you expect; nothing that was typed is evaluated",
    "exec": "as eval",
    "marshal.": "as pickle",
    "pickle.": "encode with choreo.codec; bytes from a topic must not run code",
    "print": "write with echo (typer.echo, or rich's console), which tests can read",
    "random.": RNG,
    "time.sleep": "await the Clock's sleep; a sleeping thread holds up everybody's loop",
    "time.time": CLOCK,
    "time.time_ns": CLOCK,
}
# The example services are users' code: they may do what users do, as long as a run repeats.
BANNED_IN_SERVICES: Mapping[str, str] = {
    "datetime.date.today": "take ctx.now: a date without a zone is another date elsewhere",
    "datetime.datetime.today": "take ctx.now: it has a zone",
    "datetime.datetime.utcfromtimestamp": "take ctx.now: it has a zone",
    "datetime.datetime.utcnow": "take ctx.now: it has a zone",
    "print": BANNED["print"],
    "random.": RNG,
}
# Path -> the names it alone may use, and why.
ALLOWED: Mapping[str, tuple[frozenset[str], str]] = {
    "choreo/adapters/system.py": (
        frozenset({"datetime.datetime.now", "time.time", "time.time_ns"}),
        "the system clock is where the time comes from",
    ),
    "choreo/telemetry/broker.py": (
        frozenset({"time.time_ns"}),
        "a span that is told of afterwards began at the machine's time of day",
    ),
    "choreo/testing/simulation/guard.py": (
        frozenset({"datetime.datetime.now", "time.sleep"}),
        "it stands in for them in a simulation, and gives them back to whoever is outside of it",
    ),
    "choreo/adapters/sqlite/database.py": (
        frozenset({"time.sleep"}),
        "a busy file is tried again from the writer's own thread, which holds up no loop",
    ),
}
SEEDED = "random.Random"
LEFTOVER = re.compile(r"\b(?:FIX" + r"ME|TO" + r"DO|XX" + r"X)\b")


def origins(source: Source) -> dict[str, str]:
    """Map each name that an import binds to what it stands for."""
    bound: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                bound[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return bound


def dotted(node: ast.AST, bound: Mapping[str, str]) -> str | None:
    """Return the full name that an expression stands for, or None."""
    if isinstance(node, ast.Name):
        return bound.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        front = dotted(node.value, bound)
        return f"{front}.{node.attr}" if front else None
    return None


def banned_by(name: str, table: Mapping[str, str]) -> str | None:
    """Return what to write instead of a name, or None if it is free."""
    if name in table:
        return table[name]
    module = name.split(".", maxsplit=1)[0] + "."
    return table.get(module) if "." in name and name != SEEDED else None


def call_violations(source: Source, table: Mapping[str, str]) -> Iterator[str]:
    """Yield each use of a banned name, and each random.Random and now() without its argument."""
    bound = origins(source)
    allowed = ALLOWED.get(source.path, (frozenset[str](), ""))[0]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and not node.args and not node.keywords:
            called = dotted(node.func, bound)
            if called == SEEDED:
                yield f"{source.at(node)}: {SEEDED}() without a seed; {RNG}"
            elif called == "datetime.datetime.now" and called not in table:
                yield f"{source.at(node)}: {called}() without a zone; take ctx.now"
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, bound)
            instead = banned_by(name, table) if name and name not in allowed else None
            if instead:
                yield f"{source.at(node)}: {name} is banned; {instead}"


def word_violations(source: Source) -> Iterator[str]:
    """Yield each word that says the work is not done."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := LEFTOVER.search(line):
            yield f"{source.path}:{number}: {found[0]}; do it, or open an issue"


def test_choreo_uses_nothing_banned() -> None:
    """What reads the clock or rolls dice by itself can not be simulated or replayed."""
    found = [line for source in sources("choreo") for line in call_violations(source, BANNED)]
    assert not found, report(found)


def test_services_use_nothing_banned() -> None:
    """The examples are copied: what they do badly, every user will."""
    found = [
        line
        for source in sources("services")
        for line in call_violations(source, BANNED_IN_SERVICES)
    ]
    assert not found, report(found)


def test_nothing_is_left_for_later() -> None:
    """A note in the code is read by nobody who could act on it."""
    found = [
        line
        for source in sources("choreo", "services", "tests", "bench")
        for line in word_violations(source)
    ]
    assert not found, report(found)


@pytest.mark.parametrize(
    "text",
    [
        "import asyncio\nasyncio.wait_for(x, 1)",
        "import datetime\nx = datetime.datetime.now(datetime.UTC)",
        "from datetime import datetime as dt, UTC\nx = dt.now(UTC)",
        "import datetime as d\nx = d.datetime.utcnow()",
        "from datetime import date\nx = date.today()",
        "import time\nf(clock=time.time)",
        "from time import time\ntime()",
        "import time\ntime.sleep(1)",
        "import random\nrandom.random()",
        "from random import choice\nchoice([1])",
        "import random\nrandom.Random()",
        "import random\nrandom.SystemRandom()",
        "print(1)",
        "import pickle\npickle.loads(b'')",
        "from pickle import loads as read\nread(b'')",
        "eval('1')",
        "exec('1')",
    ],
)
def test_a_banned_use_is_seen(text: str) -> None:
    """A rule that can not fail is none."""
    assert list(call_violations(Source("choreo/step.py", text), BANNED))


@pytest.mark.parametrize(
    "text",
    [
        "import random\nrng = random.Random(7)",
        "import random\ndef f(rng: random.Random) -> None:\n    rng.random()",
        "from datetime import datetime\nx: datetime",
        "import time\nstart = time.perf_counter()",
        "now = clock.now()",
    ],
)
def test_a_free_use_passes(text: str) -> None:
    """Seeded dice and passed-in clocks are what the rule is for."""
    assert not list(call_violations(Source("choreo/step.py", text), BANNED))


def test_exceptions_are_for_their_file_only() -> None:
    """The allow-list names a file and its names, so that neither spreads."""
    text = "import time\nx = time.time()"
    assert not list(call_violations(Source("choreo/adapters/system.py", text), BANNED))
    assert list(call_violations(Source("choreo/adapters/sqlite.py", text), BANNED))
    sleepy = Source("choreo/adapters/system.py", "import time\ntime.sleep(1)")
    assert list(call_violations(sleepy, BANNED))


def test_services_have_a_table_of_their_own() -> None:
    """A zone is demanded, the clock is not: services are ordinary programs."""
    aware = Source("services/a.py", "from datetime import datetime, UTC\nx = datetime.now(UTC)")
    naive = Source("services/a.py", "from datetime import datetime\nx = datetime.now()")
    assert not list(call_violations(aware, BANNED_IN_SERVICES))
    assert list(call_violations(naive, BANNED_IN_SERVICES))
    assert list(call_violations(Source("services/a.py", "print(1)"), BANNED_IN_SERVICES))


@pytest.mark.parametrize("word", ["FIX" + "ME", "TO" + "DO", "XX" + "X"])
def test_a_leftover_is_seen(word: str) -> None:
    """Each of the words, in a comment as in a string."""
    assert list(word_violations(Source("choreo/step.py", f"x = 1  # {word}: later")))
