"""Processes of one service share its partitions: they come, go, die, and stop moving."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from choreo import App
from choreo.adapters.sqlite.members import LEASE_S
from tests.bad_input.test_stopped import can_be_written, is_stopped
from tests.processes.desk import Asked

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.02
WITHIN_S = 40.0
KEYS = [f"k{n}" for n in range(12)]


class Desk:
    """Processes that run the service `desk` on one file, and what can be seen of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        """Start one more process, and wait until it hears signals and has its share."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {
            **os.environ,
            "CHOREO_BROKER": f"sqlite:///{self.folder / 'choreo.db'}",
            "DESK": str(self.folder),
            "PYTHONPATH": path,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "choreo", "run", "tests.processes.desk:desk"],
            cwd=ROOT, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.running.append(process)
        assert process.stderr is not None
        assert any(line.startswith("running desk ") for line in process.stderr)
        self.until(lambda: process.pid in self.owners().values())
        return process

    def until(self, true: Callable[[], object]) -> None:
        """Wait until it is true."""
        pause = threading.Event()
        for _ in range(int(WITHIN_S / LOOK_S)):
            if true():
                return
            pause.wait(LOOK_S)
        raise AssertionError(f"it did not come true; runs: {self.runs()}; log: {self.answers()}")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Read the file; nothing while it is not there."""
        if not (self.folder / "choreo.db").exists():
            return []
        with closing(sqlite3.connect(self.folder / "choreo.db", timeout=10)) as db:
            try:
                return db.execute(sql).fetchall()
            except sqlite3.OperationalError as exc:
                if "no such table" not in str(exc):
                    raise
                return []

    def owners(self) -> dict[int, int]:
        """Give the process that has each partition of what is asked; 0: nobody."""
        rows = self.ask(
            "SELECT partition, coalesce(holder, '0') FROM assignment"
            " LEFT JOIN member ON member.id = member WHERE topic = 'desk.asked'"
        )
        return {number: int(holder.partition(" ")[0]) for number, holder in rows}

    def answers(self) -> list[tuple[str, int, int]]:
        """List who was answered, the number, and by which process, in order of commit."""
        rows = self.ask(
            "SELECT value FROM log JOIN topic ON topic.id = log.topic"
            " WHERE name = 'desk.answered' ORDER BY position"
        )
        found = (json.loads(value) for (value,) in rows)
        return [(one["who"], one["n"], one["pid"]) for one in found]

    def runs(self) -> list[tuple[int, str, int]]:
        """List which process began a run for whom, and its number, in order."""
        try:
            lines = (self.folder / "runs").read_text().splitlines()
        except FileNotFoundError:
            return []
        split = (line.split() for line in lines)
        return [(int(pid), who, int(n)) for pid, who, n in split]

    def freeze(self, process: subprocess.Popen[str]) -> None:
        """Stop a process in its tracks, but not while it writes: the others would wait for it."""
        path = self.folder / "choreo.db"
        while True:
            process.send_signal(signal.SIGSTOP)
            self.until(lambda: is_stopped(process.pid))
            if can_be_written(path):
                return
            process.send_signal(signal.SIGCONT)
            self.until(lambda: can_be_written(path))  # else it might not get on at all

    def allow(self, what: str) -> None:
        """Let those go on who wait for this."""
        (self.folder / what).touch()

    async def put(self, *asked: Asked) -> None:
        """Publish."""
        async with App(folder=self.folder) as app:
            for one in asked:
                await app.publish(one)

    def said(self, process: subprocess.Popen[str]) -> str:
        """End a process, if it has not ended, and give what it wrote."""
        if process.poll() is None:
            process.terminate()
        return process.communicate(timeout=WITHIN_S)[1]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def in_order(answers: list[tuple[str, int, int]]) -> bool:
    """Tell whether everybody was answered once, in order."""
    for who in {who for who, _, _ in answers}:
        numbers = [n for other, n, _ in answers if other == who]
        if numbers != list(range(len(numbers))):
            return False
    return True


async def test_two_share_and_all_is_done_once_in_order(desk: Desk) -> None:
    first, second = desk.start(), desk.start()
    desk.until(lambda: Counter(desk.owners().values()) == {first.pid: 2, second.pid: 2})
    for n in range(10):
        await desk.put(*(Asked(who=who, n=n) for who in KEYS))
    desk.until(lambda: len(desk.answers()) == 120)
    assert in_order(desk.answers())
    assert {pid for _, _, pid in desk.answers()} == {first.pid, second.pid}
    assert len(desk.runs()) == 120


async def test_a_dead_ones_partitions_move_at_once_with_all_that_was_left(desk: Desk) -> None:
    first, second = desk.start(), desk.start()
    desk.until(lambda: Counter(desk.owners().values()) == {first.pid: 2, second.pid: 2})
    await desk.put(*(Asked(who=who, n=0, what="later") for who in KEYS))
    await desk.put(*(Asked(who=who, n=1) for who in KEYS))  # wait behind what is parked
    desk.until(lambda: len({who for _, who, _ in desk.runs()}) == len(KEYS))
    leases = desk.ask("SELECT max(until) FROM member")
    first.kill()
    first.wait()
    desk.until(lambda: set(desk.owners().values()) == {second.pid})
    assert desk.ask("SELECT min(until) FROM member") < [(leases[0][0] + LEASE_S,)]
    desk.allow("now")
    desk.until(lambda: len(desk.answers()) == 2 * len(KEYS))
    assert in_order(desk.answers())
    assert {pid for _, _, pid in desk.answers()} == {second.pid}


async def test_who_is_told_to_end_finishes_and_hands_over(desk: Desk) -> None:
    first, second = desk.start(), desk.start()
    desk.until(lambda: Counter(desk.owners().values()) == {first.pid: 2, second.pid: 2})
    await desk.put(*(Asked(who=who, what="go") for who in KEYS))
    desk.until(lambda: len(desk.runs()) == len(KEYS))
    first.terminate()
    await desk.put(*(Asked(who=who, n=1) for who in KEYS))
    desk.allow("go")
    assert first.wait(WITHIN_S) == 0
    desk.until(lambda: len(desk.answers()) == 2 * len(KEYS))
    assert in_order(desk.answers())
    assert len(desk.runs()) == 2 * len(KEYS), "something was run twice"
    assert {pid for _, n, pid in desk.answers() if n == 0} == {first.pid, second.pid}
    assert {pid for _, n, pid in desk.answers() if n == 1} == {second.pid}


async def test_a_new_one_waits_for_what_runs_but_not_for_ever(desk: Desk) -> None:
    first = desk.start()
    await desk.put(*(Asked(who=who, what="go") for who in KEYS))
    desk.until(lambda: len(desk.runs()) == len(KEYS))
    second = desk.start()  # has its share once the first has let go of it
    desk.until(lambda: Counter(desk.owners().values()) == {first.pid: 2, second.pid: 2})
    desk.until(lambda: {pid for pid, _, _ in desk.runs()} == {first.pid, second.pid})
    desk.allow("go")
    desk.until(lambda: len(desk.answers()) == len(KEYS))
    assert in_order(desk.answers())
    assert {pid for _, _, pid in desk.answers()} == {first.pid, second.pid}


async def test_one_that_did_not_move_finds_its_work_done_by_another(desk: Desk) -> None:
    sleeper = desk.start()
    await desk.put(*(Asked(who=who, what="go") for who in KEYS))
    desk.until(lambda: len(desk.runs()) == len(KEYS))
    desk.freeze(sleeper)
    other = desk.start()
    desk.until(lambda: set(desk.owners().values()) == {other.pid})
    desk.until(lambda: len(desk.runs()) == 2 * len(KEYS))  # all of them run in both
    sleeper.send_signal(signal.SIGCONT)
    desk.allow("go")
    desk.until(lambda: len(desk.answers()) == len(KEYS))
    desk.until(lambda: Counter(desk.owners().values()) == {sleeper.pid: 2, other.pid: 2})
    await desk.put(*(Asked(who=who, n=1) for who in KEYS))
    desk.until(lambda: len(desk.answers()) == 2 * len(KEYS))
    assert in_order(desk.answers())
    assert {pid for _, n, pid in desk.answers() if n == 0} == {other.pid}
    assert {pid for _, n, pid in desk.answers() if n == 1} == {sleeper.pid, other.pid}
    assert "CH3005" in desk.said(sleeper)


async def test_one_alone_that_did_not_move_goes_on(desk: Desk) -> None:
    alone = desk.start()
    await desk.put(*(Asked(who=who, what="go") for who in KEYS))
    desk.until(lambda: len(desk.runs()) == len(KEYS))
    desk.freeze(alone)
    lease = desk.ask("SELECT max(until) FROM member")[0][0]
    desk.until(lambda: time_of_machine() > lease + 0.5)
    alone.send_signal(signal.SIGCONT)
    desk.allow("go")
    desk.until(lambda: len(desk.answers()) == len(KEYS))
    assert len(desk.runs()) == len(KEYS)


def time_of_machine() -> float:
    """Give seconds since the machine's start, by which leases end."""
    return float(Path("/proc/uptime").read_text().split()[0])
