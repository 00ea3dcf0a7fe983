"""The file of the embedded deployment: killed in the middle, damaged, not writable, too new."""

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.sqlite.schema import VERSION, WITH_OUTBOX
from choreo.errors import ChoreoError
from choreo.plan import Status
from choreo.ports import Applied
from choreo.testing import ManualClock, Place
from choreo.testing.contracts.place import TOPIC, publish, published, settle

# Applies one plan and says so; then dies inside the section of a second, after its statement.
DIES_IN_A_SECTION = """
import asyncio, os, signal, sys
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.plan import Plan
from choreo.testing import ManualClock, Place
from choreo.testing.contracts.place import TOPIC, publish, settle, want

async def main():
    log = Log(Database(sys.argv[1]))
    place = Place(SqliteStore(log, clock=ManualClock()), SqliteBroker(log), ManualClock())
    await place.broker.ensure([TOPIC])
    async with place.store.transaction() as tx:
        await tx.execute("CREATE TABLE contract_rows (n INTEGER)")
    owned = await place.own()

    async def first(tx, seen):
        await tx.execute("INSERT INTO contract_rows VALUES (1)")
        return settle(1), publish("1")

    async def second(tx, seen):
        await tx.execute("INSERT INTO contract_rows VALUES (2)")
        os.kill(os.getpid(), signal.SIGKILL)

    await place.store.apply([Plan(owned, (), first, want(1))])
    third = Plan(owned, (settle(3), publish("3")))
    await place.store.apply([third, Plan(owned, (), second, want(2))])

asyncio.run(main())
"""

# Applies plan after plan, each alone, and says the number of each once it is durable.
COUNTS_UNTIL_KILLED = """
import asyncio, sys
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.testing import ManualClock, Place
from choreo.testing.contracts.place import TOPIC, publish, settle

async def main():
    log = Log(Database(sys.argv[1]))
    place = Place(SqliteStore(log, clock=ManualClock()), SqliteBroker(log), ManualClock())
    await place.broker.ensure([TOPIC])
    owned = await place.own()
    for n in range(1_000_000):
        await place.apply(owned, settle(n), publish(str(n)))
        sys.stdout.write(f"{n}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


def place_at(path: Path) -> Place:
    log = Log(Database(path))
    clock = ManualClock()
    return Place(SqliteStore(log, clock=clock), SqliteBroker(log), clock)


async def test_killed_inside_a_section_nothing_of_its_group_is_there(tmp_path: Path) -> None:
    path = tmp_path / "choreo.db"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES_IN_A_SECTION, path)
    assert await process.wait() == -signal.SIGKILL
    place = place_at(path)
    owned = await place.own()
    assert [await place.status(n) for n in (1, 2, 3)] == [Status.DONE, None, None]
    assert await published(place) == ["1"]
    async with place.store.transaction() as tx:
        assert [row["n"] for row in await tx.fetch("SELECT n FROM contract_rows")] == [1]
    assert await place.apply(owned, settle(2)) is Applied.DONE
    assert await place.apply(owned, settle(1)) is Applied.DUPLICATE
    await place.close()


@pytest.mark.parametrize("lines", [1, 7, 60])
async def test_killed_at_any_moment_what_was_told_is_there(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "choreo.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COUNTS_UNTIL_KILLED, path, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told = [int(await process.stdout.readline()) for _ in range(lines)]
    os.kill(process.pid, signal.SIGKILL)
    rest = await process.stdout.read()
    told += [int(line) for line in rest.split(b"\n")[:-1]]
    await process.wait()
    place = place_at(path)
    seen = await published(place)
    assert seen == [str(n) for n in range(len(seen))]
    assert len(seen) - len(told) in (0, 1)  # the last may be durable and not told yet
    for n in (0, len(told) - 1, len(seen) - 1):
        assert await place.status(n) is Status.DONE
    assert await place.status(len(seen)) is None
    await place.close()


async def test_a_file_of_before_opens_with_an_outbox_and_older_versions_refuse_it(
    tmp_path: Path,
) -> None:
    """They would never publish what is in it. A file that a log shares stays as it was."""
    path = tmp_path / "choreo.db"
    shared = place_at(path)
    await shared.broker.ensure([TOPIC])
    await shared.apply(await shared.own(), settle(1))
    await shared.close()
    assert version(path) == VERSION
    for n in (2, 3):
        store = SqliteStore(Log(Database(path)), clock=ManualClock(), publishes=False)
        beside = Place(store, SqliteBroker(Log(Database(tmp_path / "log.db"))), ManualClock())
        assert await beside.status(1) is Status.DONE
        assert await beside.apply(await beside.own(), settle(n), publish(str(n))) is Applied.DONE
        assert len(await published(beside)) == n - 1
        await beside.close()
        assert version(path) == WITH_OUTBOX > VERSION


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def damaged_head(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)


def damaged_body(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[100:] = b"\xa5" * (len(raw) - 100)
    path.write_bytes(raw)


def too_new(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (damaged_head, "CH4003"),
        (damaged_body, "CH4003"),
        (too_new, "CH4005"),
        (a_folder, "CH4004"),
    ],
)
async def test_a_file_that_can_not_be_used_is_left_as_it_is(
    tmp_path: Path, spoil: Callable[[Path], None], code: str
) -> None:
    path = tmp_path / "choreo.db"
    place = place_at(path)
    await place.broker.ensure([TOPIC])
    await place.apply(None, publish("kept"))
    await place.close()
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    for _ in range(2):
        place = place_at(path)
        async with asyncio.timeout(20):
            with pytest.raises(ChoreoError) as caught:
                await place.broker.ensure([TOPIC])
            assert caught.value.code == code
            assert caught.value.fix
            assert str(path) in str(caught.value)
            with pytest.raises(ChoreoError) as again:
                await place.own()
            assert again.value.code == code
            await place.close()
    assert (path.read_bytes() if path.is_file() else b"") == before


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """Give a file that was used before, and that nobody may write any more."""

    async def used(path: Path) -> None:
        place = place_at(path)
        await place.broker.ensure([TOPIC])
        await place.close()

    path = tmp_path / "choreo.db"
    asyncio.run(used(path))
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    yield path
    tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root: run as another user")
async def test_a_file_that_can_not_be_written_is_said_so(read_only: Path) -> None:
    place = place_at(read_only)
    with pytest.raises(ChoreoError) as caught:
        await place.apply(None, publish("lost"))
    assert caught.value.code == "CH4004"
    await place.close()
