"""A process ends when it is told to, whatever its handlers do; what they had is not lost."""

import signal
import subprocess
import time

import pytest

from tests.bad_input.desk import WITHIN_S, Desk
from tests.cli.conftest import Terminal

STUBBORN = """
import asyncio, sys, threading
from collections.abc import AsyncIterator
from choreo import App, Event, Service, Tx
from choreo.running import alone, serving
from choreo.worker import Limits

class Placed(Event, topic="desk.placed", key="k"):
    k: str = "x"

class Paid(Event, topic="desk.paid", key="k"):
    k: str = "x"

desk = Service("desk")

def say(word: str) -> None:
    sys.stdout.write(f"{word}\\n")  # in one: print() writes the end of a line by itself

async def swallows(placed: Placed) -> Paid:
    say("begun")
    while not GENTLE:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
    return Paid(k=placed.k)

def never_ends(placed: Placed) -> Paid:
    say("begun")
    while not GENTLE:
        threading.Event().wait()
    return Paid(k=placed.k)

async def in_a_thread_of_its_own(placed: Placed) -> Paid:
    say("begun")
    if not GENTLE:
        await asyncio.to_thread(threading.Event().wait)
    return Paid(k=placed.k)

async def holds_the_loop(placed: Placed) -> Paid:
    say("begun")
    while not GENTLE:
        threading.Event().wait()
    return Paid(k=placed.k)

class Line: ...

@desk.resource
async def line() -> AsyncIterator[Line]:
    yield Line()
    while not GENTLE:
        await asyncio.sleep(3600)

async def does_not_close(placed: Placed, line: Line) -> Paid:
    say("begun")
    return Paid(k=placed.k)

async def leaves_a_thread(placed: Placed) -> Paid:
    if not GENTLE:
        threading.Thread(target=threading.Event().wait).start()
    say("begun")
    return Paid(k=placed.k)

async def in_the_transaction(placed: Placed, tx: Tx) -> Paid:
    await tx.fetchval("SELECT 1")
    say("begun")
    while not GENTLE:
        threading.Event().wait()
    return Paid(k=placed.k)

GENTLE = sys.argv[2] == "gentle"
LAST = sys.argv[1] in {"holds_the_loop", "does_not_close", "leaves_a_thread"}
STUBBORN = Limits(drain_s=3.0, leave_s=0.3) if LAST else Limits(drain_s=0.3, leave_s=15.0)
LIMITS = Limits() if GENTLE else STUBBORN
desk.on(Placed, name="pay")(globals()[sys.argv[1]])

async def main():
    async with alone(App(desk, limits=LIMITS)) as app:
        serves = await serving(app)
        await app.publish(Placed(), id="1")
        if GENTLE:
            say("placed")
        await serves

asyncio.run(main())
"""
SLOW = """
import time, traceback
plain = traceback.format_stack

def slow(frame):
    time.sleep(0.3)  # what it is about: some of these take longer than SAY_S
    return plain(frame)

traceback.format_stack = slow
"""
NO_MORE_THREADS = """
import threading
plain = threading.Timer.start

def start(timer):
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("can't start new thread")
    plain(timer)

threading.Timer.start = start
"""
KINDS = ["swallows", "never_ends", "in_a_thread_of_its_own", "in_the_transaction"]


def begun(terminal: Terminal, *arguments: str) -> subprocess.Popen[str]:
    process = terminal.run_python("desk.py", *arguments)
    assert process.stdout is not None
    wanted = {"begun\n", "placed\n"} if "gentle" in arguments else {"begun\n"}
    assert {process.stdout.readline() for _ in wanted} == wanted
    return process


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_leaves_behind_what_does_not_end(terminal: Terminal, kind: str) -> None:
    terminal.write("desk.py", STUBBORN)
    process = begun(terminal, kind, "stubborn")
    process.terminate()
    out, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1
    assert "CH5016" not in out  # it had no need of its last resort
    (line,) = (line for line in out.splitlines() if "CH5011" in line)
    assert "drain_s" in line
    assert ("desk.pay" in line) == (kind != "in_the_transaction")
    assert "Traceback" not in out
    ends_as_ever(terminal, kind)


def test_a_process_ends_though_a_handler_holds_its_loop(terminal: Terminal) -> None:
    terminal.write("desk.py", STUBBORN)
    assert "in holds_the_loop" in over(terminal, "holds_the_loop")
    ends_as_ever(terminal, "holds_the_loop")


@pytest.mark.parametrize(
    ("kind", "where"),
    [("does_not_close", "in __aexit__"), ("leaves_a_thread", "in _shutdown")],
)
def test_a_process_ends_though_something_else_does_not(
    terminal: Terminal, kind: str, where: str
) -> None:
    terminal.write("desk.py", STUBBORN)
    assert where in over(terminal, kind, done=True)


def test_a_process_says_why_though_it_takes_long_to_look(terminal: Terminal) -> None:
    terminal.write("desk.py", f"{SLOW}{STUBBORN}")
    assert "in __aexit__" in over(terminal, "does_not_close", done=True)


@pytest.mark.parametrize(
    "quirk", ["import sys\nsys.stderr = None\n", NO_MORE_THREADS], ids=["mute", "no more threads"]
)
def test_a_process_ends_though_nobody_hears_why(terminal: Terminal, quirk: str) -> None:
    terminal.write("desk.py", f"{quirk}{STUBBORN}")
    process = begun(terminal, "does_not_close", "stubborn")
    process.terminate()
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1


def over(terminal: Terminal, kind: str, *, done: bool = False) -> str:
    """Have a process begin, and end by its last resort; give what it says of what waits.

    It is told to once its work is `done`.
    """
    process = begun(terminal, kind, "stubborn")
    desk = Desk(terminal.folder / ".choreo")
    last = time.monotonic() + WITHIN_S
    while done and not desk.log("desk.paid"):
        assert time.monotonic() < last
    process.terminate()
    out, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1
    assert out.splitlines()[-1].startswith("error: CH5016")
    return out


def ends_as_ever(terminal: Terminal, kind: str) -> None:
    """Start the service without its quirk: what was left behind is done, once, and it ends."""
    again = begun(terminal, kind, "gentle")
    desk = Desk(terminal.folder / ".choreo")
    last = time.monotonic() + WITHIN_S
    while not desk.log("desk.paid"):
        assert time.monotonic() < last
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=WITHIN_S)
    assert again.returncode == 0
    assert len(desk.log("desk.paid")) == 1
