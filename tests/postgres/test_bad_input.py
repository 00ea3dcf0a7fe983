"""What can be wrong with a database is said at the start: a code, where, and a fix."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

import pytest

from choreo.adapters.postgres import PostgresStore, printed
from choreo.errors import ChoreoError, ConfigurationError
from choreo.events import Partition
from choreo.plan import Plan
from choreo.ports import Applied
from choreo.testing import ManualClock
from choreo.testing.contracts.place import GROUP, TOPIC, publish, settle
from choreo.testing.servers.program import free_ports
from tests.postgres.database import server

HERE = [Partition(TOPIC.name, 0)]


async def refusal(url: str) -> ChoreoError:
    store = PostgresStore(url, clock=ManualClock())
    try:
        with pytest.raises(ChoreoError) as told:
            await store.own(GROUP, HERE)
    finally:
        await store.close()
    return told.value


def changed(url: str, *, user: str = "", host: str = "", path: str = "") -> str:
    parts = urlsplit(url)
    given, _, at = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user or given}@{host or at}", path=path or parts.path).geturl()


async def test_nobody_answers(url: str) -> None:
    (port,) = free_ports(1)
    error = await refusal(changed(url, host=f"127.0.0.1:{port}"))
    assert (error.code, error.transient) == ("CH4001", True)
    assert f"127.0.0.1:{port}" in str(error)


async def test_wrong_credentials(url: str) -> None:
    for user in ("choreo:wr0ng", "nobody:choreo"):
        error = await refusal(changed(url, user=user))
        assert error.code == "CH4011"
        assert "wr0ng" not in str(error)
        assert "CHOREO_STORE" in error.fix


async def test_a_missing_database(url: str) -> None:
    error = await refusal(changed(url, path="/not_there"))
    assert error.code == "CH4012"
    assert "createdb" in error.fix


@pytest.mark.parametrize(
    "wrong", ["sqlite:///x", "localhost", "postgresql://", "postgresql://h:x/d"]
)
def test_what_is_no_url(wrong: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        PostgresStore(wrong, clock=ManualClock())
    assert told.value.code == "CH1014"


@pytest.mark.parametrize("secret", ["hunt/er", "1234/er", "hunt#er", "12#er", "hunt?er", "12?er"])
def test_a_password_that_is_not_written_as_a_url_has_it_is_not_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        PostgresStore(f"postgresql://shop:{secret}@db/shop", clock=ManualClock())
    assert told.value.code == "CH1014"
    assert not any(piece in str(told.value) for piece in ("hunt", "12", "er@"))


async def test_tables_of_a_newer_version(url: str) -> None:
    """Refused, and left as they are."""
    run = partial(asyncio.to_thread, partial(server().run, url=url))
    await run("INSERT INTO choreo.version (number) VALUES (9000)")
    try:
        error = await refusal(url)
        assert error.code == "CH4005"
        assert "9000" in str(error)
        assert await run("SELECT count(*) FROM choreo.owner") == [(0,)]
    finally:
        await run("DELETE FROM choreo.version WHERE number = 9000")


@pytest.fixture
def empty() -> Iterator[str]:
    """Give a database without any tables, and a role that may do nothing in it."""
    url = server().database()
    server().run(
        "DO $$ BEGIN CREATE ROLE limited LOGIN PASSWORD 'limited';"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    yield url
    server().drop(url)


async def test_a_user_who_may_not_make_tables(empty: str) -> None:
    """He is told so; once somebody else has made what `choreo migrations` prints, he works."""
    limited = changed(empty, user="limited:limited")
    error = await refusal(limited)
    assert error.code == "CH4013"
    assert "choreo migrations" in error.fix
    granted = re.findall("^-- (GRANT .* TO) …;$", printed(), re.MULTILINE)
    assert len(granted) == 3
    for statement in (printed(), *(f"{grant} limited" for grant in granted)):
        await asyncio.to_thread(server().script, statement, url=empty)
    store = PostgresStore(limited, clock=ManualClock())
    owned = await store.own(GROUP, HERE)
    plan = Plan(owned, (settle(1), publish("1")))
    assert await store.apply([plan]) == [Applied.DONE]
    await store.close()


def test_without_its_client_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['asyncpg'] = None; import choreo.adapters.postgres"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "CH1021" in ran.stderr
    assert "choreo[postgres]" in ran.stderr
