"""What every test gets: a guard against blocking the event loop, and a Hypothesis profile."""

import os
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

# Contracts are tests in a package: their asserts are shown as those of any test.
pytest.register_assert_rewrite("choreo.testing.contracts")

# No deadlines: the first example pays for imports and for the disk. A CI run repeats itself.
settings.register_profile(
    "local", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile(
    "ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# For each new connection asyncpg looks for a certificate and a file of passwords.
CONNECTING = ("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})


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
