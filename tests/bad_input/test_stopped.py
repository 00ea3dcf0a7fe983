"""A process that stops for longer than its lease (SIGSTOP, a blocked loop), then goes on.

Leases are shorter here than they are, so that the tests are; all else is as it is. The last
two leave them as they are, and stop or block for as long as it takes in life.
"""

import asyncio
import json
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from choreo import App
from tests.bad_input.desk import WITHIN_S, Desk, until
from tests.cli.conftest import Terminal
from tests.semantics.events import Placed

WORKER = """
import asyncio, os, signal, sys, time
from pathlib import Path
from choreo import App, Service, Tx
from choreo.adapters.sqlite import database, members
from choreo.running import alone, serving
from choreo.worker import Limits
from tests.semantics.events import Paid, Placed, Sent

how, length = sys.argv[1:]
if length == "short":
    members.LEASE_S = 1.5
desk = Service("desk")

def stop_once():
    if Path("stop").exists() and first():
        if how == "blocked":
            while not Path("go-on").exists():
                time.sleep(0.01)  # blocks the event loop: what the test is about
        else:
            os.kill(os.getpid(), signal.SIGSTOP)

def first():
    try:
        mark = os.open("stopped", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(mark, str(os.getpid()).encode())
    os.close(mark)
    return True

@desk.on(Placed)
async def pay(placed: Placed) -> Paid:
    await asyncio.sleep(0.001)
    if how != "transaction":
        stop_once()
    return Paid(k=placed.k, n=placed.n)

@desk.on(Placed)
async def send(placed: Placed, tx: Tx) -> Sent:
    await tx.execute("CREATE TABLE IF NOT EXISTS desk_sent (n INTEGER)")
    await tx.execute("INSERT INTO desk_sent VALUES ($1)", placed.n)
    if how == "transaction":
        stop_once()
    return Sent(k=placed.k, n=placed.n)

async def main():
    async with alone(App(desk, limits=Limits(outage_s=0.2))) as app:
        serves = await serving(app)
        if length == "short":  # nobody is told at the start: whoever is slow then would end it
            database.BUSY_MAX_S = 0.5
        sys.stdout.write("running\\n")  # in one: print() writes the end of a line by itself
        await serves

asyncio.run(main())
"""
KEYS = 16
SOME = 160


class Workers:
    """Some processes on one file, one of which stops in the middle of its work."""

    def __init__(self, terminal: Terminal, how: str, count: int, length: str = "short") -> None:
        terminal.write("worker.py", WORKER)
        self.folder = terminal.folder
        self.desk = Desk(terminal.folder / ".choreo")
        self.terminal = terminal
        self.running: list[subprocess.Popen[str]] = []
        self.placed = 0
        for _ in range(count):
            one = terminal.run_python("worker.py", how, length)
            assert one.stdout is not None
            assert any(line == "running\n" for line in one.stdout)
            self.running.append(one)

    async def publish(self, count: int = SOME) -> None:
        orders = range(self.placed, self.placed + count)
        self.placed += count
        async with App(folder=self.desk.folder) as app:
            made = (app.publish(Placed(k=f"k{n % KEYS}", n=n), id=str(n)) for n in orders)
            await asyncio.gather(*made)

    def done(self, kind: str) -> list[int]:
        return [json.loads(one.value)["n"] for one in self.desk.log(f"desk.{kind}")]

    async def all_done(self) -> None:
        """Wait until each was paid and sent; each once, and in order of its key."""
        for kind in ("paid", "sent"):
            await until(lambda kind=kind: len(self.done(kind)) >= self.placed)  # type: ignore[misc]
            found = self.done(kind)
            assert sorted(found) == list(range(self.placed))
            for key in range(KEYS):
                of_key = [n for n in found if n % KEYS == key]
                assert of_key == sorted(of_key)
        rows = self.desk.rows("SELECT count(*), count(DISTINCT n) FROM desk_sent")
        assert rows == [(self.placed, self.placed)]
        assert not self.desk.dead()

    async def stop_between_writes(self) -> subprocess.Popen[str]:
        """Let the next handler stop its process; it is let on to the end of what it wrote."""
        stopped = await self.stop_one()
        await until(lambda: is_stopped(stopped.pid))
        path = self.desk.folder / "choreo.db"
        while not can_be_written(path):
            stopped.send_signal(signal.SIGCONT)
            await until(lambda: can_be_written(path))  # else it might not get on at all
            stopped.send_signal(signal.SIGSTOP)
            await until(lambda: is_stopped(stopped.pid))
        return stopped

    async def stop_one(self) -> subprocess.Popen[str]:
        """Let the next handler stop its process; give that."""
        (self.folder / "stop").touch()
        mark = self.folder / "stopped"
        await until(lambda: mark.exists() and mark.read_text())
        return next(one for one in self.running if one.pid == int(mark.read_text()))

    def lease_of(self, process: subprocess.Popen[str]) -> float:
        """Give when a process's lease ends, by the machine's own time."""
        ((ends,),) = self.desk.rows(
            "SELECT until FROM member WHERE holder LIKE ?", f"{process.pid} %"
        )
        return float(ends)

    def end(self) -> list[str]:
        """End all in order; give what each wrote."""
        return [self.terminal.end(one) for one in self.running]


async def said(process: subprocess.Popen[str], *words: str) -> str:
    """Wait until a process says a line of these; on a slow machine others come before it."""
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        while line := await asyncio.to_thread(process.stdout.readline):
            if all(word in line for word in words):
                return line
    raise AssertionError(f"it ended without {words}")


def can_be_written(path: Path) -> bool:
    """Tell whether nobody holds the file: a process may have been stopped while it wrote."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        db.execute("ROLLBACK")
        return True


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture(params=[1, 2], ids=["alone", "beside another"])
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def test_stopped_and_continued(terminal: Terminal, count: int) -> None:
    workers = Workers(terminal, "handler", count)
    await workers.publish()
    publishing = asyncio.create_task(workers.publish())
    stopped = await workers.stop_between_writes()
    await publishing
    await workers.publish()
    if count > 1:
        await workers.all_done()  # by the other one, while this one does nothing
    else:
        lease = workers.lease_of(stopped)
        await until(lambda: time.monotonic() > lease + 0.5)
        assert len(workers.done("paid")) < workers.placed
    stopped.send_signal(signal.SIGCONT)
    await workers.publish()
    await workers.all_done()
    assert not [line for out in workers.end() for line in out.splitlines() if "CH5008" in line]


async def test_stopped_inside_a_transaction_everybody_waits(terminal: Terminal) -> None:
    workers = Workers(terminal, "transaction", 2)
    await workers.publish()
    publishing = asyncio.create_task(workers.publish())
    stopped = await workers.stop_one()
    await until(lambda: is_stopped(stopped.pid))
    (other,) = (one for one in workers.running if one is not stopped)
    await said(other, "CH4001", "locked")
    stopped.send_signal(signal.SIGCONT)
    await publishing
    await workers.all_done()
    workers.end()


async def test_a_handler_that_blocks_its_loop_loses_its_work_to_another(
    terminal: Terminal,
) -> None:
    workers = Workers(terminal, "blocked", 2)
    await workers.publish()
    publishing = asyncio.create_task(workers.publish())
    blocked = await workers.stop_one()
    await publishing
    await workers.publish()
    await workers.all_done()  # by the other one, while this one does nothing
    await said(blocked, "CH5008", "handler=desk.pay")
    (workers.folder / "go-on").touch()
    await workers.publish()
    await workers.all_done()
    workers.end()


@pytest.mark.timeout(150)
async def test_stopped_for_twenty_seconds(terminal: Terminal) -> None:
    workers = Workers(terminal, "handler", 2, "as it is")
    await workers.publish()
    publishing = asyncio.create_task(workers.publish())
    stopped = await workers.stop_between_writes()
    began, lease = time.monotonic(), workers.lease_of(stopped)
    await publishing
    await workers.publish()
    await workers.all_done()  # by the other one, once the lease is over
    assert time.monotonic() > lease
    await until(lambda: time.monotonic() > began + 20)
    stopped.send_signal(signal.SIGCONT)
    await said(stopped, "CH3005")
    await workers.publish()
    await workers.all_done()
    workers.end()


@pytest.mark.timeout(150)
async def test_a_loop_blocked_for_fifteen_seconds(terminal: Terminal) -> None:
    workers = Workers(terminal, "blocked", 2, "as it is")
    await workers.publish()
    publishing = asyncio.create_task(workers.publish())
    blocked = await workers.stop_one()
    began = time.monotonic()
    await publishing
    await workers.publish()
    await workers.all_done()  # by the other one, once the lease is over
    await until(lambda: time.monotonic() > began + 15)
    await said(blocked, "CH5008", "handler=desk.pay")
    (workers.folder / "go-on").touch()
    await said(blocked, "CH3005")
    await workers.publish()
    await workers.all_done()
    assert blocked.poll() is None
    workers.end()
