"""What every test gets: a guard against blocking the event loop, and a Hypothesis profile."""

import os
import unittest
from collections.abc import Iterator
from contextlib import suppress

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

KAFKA_TEST_S = 180  # the first one waits for the server

# Contracts are tests in a package: their asserts are shown as those of any test.
pytest.register_assert_rewrite("choreo.testing.contracts")

from choreo.errors import ConfigurationError  # noqa: E402 - what it imports is registered now
from choreo.testing.servers import KafkaServer  # noqa: E402 - as above
from choreo.testing.servers.jars import kafka_jars  # noqa: E402 - as above

# Always the same examples: a run that fails fails again. By CHOREO_TEST_EXAMPLES=2000 so many new
# ones. No deadlines: the first example pays for imports and for the disk.
settings.register_profile(
    "same", deadline=None, derandomize=True, print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
EXAMPLES = int(os.environ.get("CHOREO_TEST_EXAMPLES", "0"))
settings.register_profile(
    "new", settings.get_profile("same"), derandomize=False, max_examples=EXAMPLES or 1
)
settings.load_profile("new" if EXAMPLES else "same")

# For each new connection asyncpg looks for a certificate and a file of passwords.
CONNECTING = ("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fetch what a Kafka consists of before time runs; whoever needs it gets time to start it."""
    needing = [item for item in items if _needs_kafka(item)]
    for item in needing:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(KAFKA_TEST_S))
    if needing and not os.environ.get("CHOREO_TEST_KAFKA"):
        with suppress(unittest.SkipTest, ConfigurationError):  # the fixture tells
            kafka_jars()


def _needs_kafka(item: pytest.Item) -> bool:
    """Tell whether it asks for the server, or runs on every deployment and this is that one."""
    given = getattr(getattr(item, "callspec", None), "params", {})
    fixtures = getattr(item, "fixturenames", ())
    return "kafka_server" in fixtures or given.get("places") == "servers"


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    """One Kafka for all tests of a run: each names its own topics and groups."""
    topics = {"auto.create.topics.enable": "true"}  # so that a test sees who would create one
    server = KafkaServer(users={"alice": "wonder"}, settings=topics)
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _loop_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Raise BlockingError when choreo or an example service blocks the event loop.

    A test whose subject blocks on purpose (a store run inline by the simulator) says so with
    `@pytest.mark.blocks("reason")`.
    """
    guarded = request.node.get_closest_marker("asyncio") is not None
    if not guarded or request.node.get_closest_marker("blocks") is not None:
        yield
        return
    with blockbuster_ctx(["choreo", "services"]) as guard:
        for function in guard.functions.values():
            function.can_block_in(*CONNECTING)
        yield
