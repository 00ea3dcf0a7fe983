"""A full disk: the worker waits, in few lines, and goes on where it was; nothing lost or doubled.

The disk is full for one process: the system refuses what it writes beyond a size
(RLIMIT_FSIZE), which SQLite sees as any disk that takes no more.
"""

import asyncio
import json
import resource
import subprocess
import time
from pathlib import Path

import pytest

from choreo import App
from tests.bad_input.desk import WITHIN_S, Desk, rows_of, until
from tests.cli.conftest import Terminal
from tests.cli.test_wrong_calls import one_line
from tests.semantics.events import Placed

FULL = 4096
ORDERS = 300

DESK = """
import asyncio, sys
from choreo import App, Service, Tx
from choreo.running import alone, serving
from choreo.worker import Limits
from tests.semantics.events import Paid, Placed, Sent

desk = Service("desk")

@desk.on(Placed)
async def pay(placed: Placed) -> Paid:
    return Paid(k=placed.k, n=placed.n)

@desk.on(Placed)
async def send(placed: Placed, tx: Tx) -> Sent:
    await tx.execute("CREATE TABLE IF NOT EXISTS desk_sent (n INTEGER)")
    await tx.execute("INSERT INTO desk_sent VALUES ($1)", placed.n)
    return Sent(k=placed.k, n=placed.n)

async def main():
    async with alone(App(desk, limits=Limits(outage_s=0.2, drain_s=float(sys.argv[1])))) as app:
        serves = await serving(app)
        sys.stdout.write("running\\n")  # in one: print() writes the end of a line by itself
        await serves

asyncio.run(main())
"""


def limit(process: subprocess.Popen[str], size: int) -> None:
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, most))


def started(terminal: Terminal, *, drain_s: float = WITHIN_S) -> subprocess.Popen[str]:
    terminal.write("desk.py", DESK)
    process = terminal.run_python("desk.py", str(drain_s))
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


async def publish(folder: Path) -> None:
    """Publish from this process, which has room."""
    async with App(folder=folder) as app:
        orders = (Placed(k=f"k{n % 20}", n=n) for n in range(ORDERS))
        await asyncio.gather(*(app.publish(one, id=str(one.n)) for one in orders))


def done(desk: Desk, kind: str) -> list[int]:
    return [json.loads(one.value)["n"] for one in desk.log(f"desk.{kind}")]


async def check(desk: Desk) -> None:
    """Wait until each order was paid and sent; each once, in order of its key."""
    for kind in ("paid", "sent"):
        await until(lambda kind=kind: len(done(desk, kind)) == ORDERS)  # type: ignore[misc]
        found = done(desk, kind)
        assert sorted(found) == list(range(ORDERS))
        for key in range(20):
            of_key = [n for n in found if n % 20 == key]
            assert of_key == sorted(of_key)
    rows = desk.rows("SELECT count(*), count(DISTINCT n) FROM desk_sent")
    assert rows == [(ORDERS, ORDERS)]


async def test_a_full_disk_in_the_middle_of_a_group(terminal: Terminal) -> None:
    process = started(terminal)
    desk = Desk(terminal.folder / ".choreo")
    limit(process, FULL)
    began = time.monotonic()
    await publish(desk.folder)
    assert process.stdout is not None
    told: list[str] = []
    # Each says it once while it lasts, whichever is first.
    for words in ("everything waits", "the group desk could not be looked at"):
        while not any(words in line for line in told):
            told.append(await asyncio.to_thread(process.stdout.readline))
            assert told[-1], told
    assert all("Fix: " in line for line in told if "CH4001" in line), told
    assert sum("CH4001" in line for line in told) > 1, told
    assert len(done(desk, "paid")) < ORDERS
    lasted = time.monotonic() - began
    limit(process, resource.RLIM_INFINITY)
    await check(desk)
    assert not desk.dead()
    process.terminate()
    out, _ = await asyncio.to_thread(process.communicate, timeout=WITHIN_S)
    assert process.returncode == 0, out
    assert len(out.splitlines()) <= lasted / 0.2 + 10, out  # no storm


async def test_leaving_while_the_disk_is_full(terminal: Terminal) -> None:
    process = started(terminal, drain_s=0.3)
    desk = Desk(terminal.folder / ".choreo")
    limit(process, FULL)
    await publish(desk.folder)
    assert process.stdout is not None
    assert "CH4001" in await asyncio.to_thread(process.stdout.readline)
    process.terminate()
    out, _ = await asyncio.to_thread(process.communicate, timeout=WITHIN_S)
    assert process.returncode in (0, 1)  # by whether something was still on its way
    assert "Traceback" not in out, out
    again = started(terminal)
    await check(desk)
    terminal.end(again)


def test_a_tracker_waits_for_room(served: Terminal) -> None:
    process = served.serve("tracker")
    assert process.stdout is not None
    limit(process, FULL)
    assert served.call("publish", "Placed", "--json", '{"order": "4"}').code == 0
    line = process.stdout.readline()
    assert "the tracker waits" in line
    assert "CH4001" in line
    limit(process, resource.RLIM_INFINITY)
    last = time.monotonic() + WITHIN_S
    while not rows_of(served.folder / ".choreo" / "views.db", "SELECT 1 FROM flow WHERE key = '4'"):
        assert time.monotonic() < last
    served.end(process)


@pytest.mark.parametrize(
    "call", [["publish", "Placed", "--json", '{"order": "9"}'], ["run"]], ids=["publish", "run"]
)
def test_a_verb_says_it_in_one_line(served: Terminal, call: list[str]) -> None:
    for name in (".choreo/choreo.db-wal", ".choreo/choreo.db-shm"):
        (served.folder / name).unlink(missing_ok=True)
    said = served.call(*call, under=("sh", "-c", f'ulimit -f {FULL // 512} && exec "$@"', "sh"))
    one_line(said, "CH4001")
    assert len(served.call("flows", "--json").json) == 3
