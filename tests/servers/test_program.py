"""A server that a test starts ends with it, whatever becomes of the test."""

import os
import signal
import socket
import subprocess
import sys
import time
import unittest
from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo.errors import ConfigurationError
from choreo.testing.servers import Program, absent, cache_folder, free_ports, locked

SERVER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
while True:
    time.sleep(1)
"""
STARTS_ONE = """
import sys, time
from pathlib import Path
from choreo.testing.servers import Program
program = Program([sys.executable, "-c", "import time; time.sleep(600)"], log=Path(sys.argv[1]))
program.start()
print(program.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Tell whether the process is there and is not only waiting to be counted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # as it goes, it is one or the other
        return False
    return state != "Z"


def until_gone(pid: int) -> None:
    end = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < end, f"{pid} lives on"
        os.sched_yield()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program([sys.executable, "-c", SERVER], log=tmp_path / "log")
    yield program
    program.kill()


def ready(program: Program) -> bool:
    return program.heard().endswith("ready\n")


def test_it_starts_stops_and_starts_again(program: Program) -> None:
    program.stop()
    program.kill()
    for _ in range(2):
        program.start()
        program.start()
        program.until(lambda: ready(program), within_s=20)
        assert program.running
        assert alive(program.pid)
        program.stop()
        program.stop()
        assert not program.running
        assert not alive(program.pid)


def test_it_is_stopped_in_its_tracks_and_goes_on(program: Program) -> None:
    program.start()
    program.until(lambda: ready(program), within_s=20)
    program.freeze()
    program.until(lambda: _state(program.pid) == "T", within_s=20)
    assert program.running
    program.thaw()
    program.until(lambda: _state(program.pid) != "T", within_s=20)
    program.freeze()
    program.stop()
    assert not alive(program.pid)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_one_that_ends_at_once_says_its_last_words(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", "raise SystemExit('no room')"], log=tmp_path / "log")
    program.start()
    with pytest.raises(ConfigurationError, match=r"CH7001.*no room"):
        program.until(lambda: False, within_s=20)
    program.stop()


def test_one_that_is_never_ready_is_told(program: Program) -> None:
    program.start()
    with pytest.raises(ConfigurationError, match=r"was not ready after 0\.2 s"):
        program.until(lambda: False, within_s=0.2)


def test_one_that_does_nothing_about_signals_ends_by_sigterm(tmp_path: Path) -> None:
    """What ignores a signal hands that on to those it starts: the guard must not."""
    program = Program(["sleep", "600"], log=tmp_path / "log")
    program.start()
    program.tell(signal.SIGTERM)
    until_gone(program.pid)
    program.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_whoever_started_it(tmp_path: Path, how: signal.Signals) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE, str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    with starter.stdout:
        pid = int(starter.stdout.readline())
    assert alive(pid)
    starter.send_signal(how)
    starter.wait()
    until_gone(pid)


def test_what_can_not_be_had_skips_and_fails_where_nothing_may_be_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert isinstance(absent("a broker", "install one"), unittest.SkipTest)
    monkeypatch.setenv("CI", "true")
    error = absent("a broker", "install one")
    assert isinstance(error, ConfigurationError)
    assert error.code == "CH7002"


def test_ports_are_free_and_different() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as tried:
            tried.bind(("127.0.0.1", port))


def test_a_folder_is_one_processs_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder("kafka")
    assert folder == tmp_path / "choreo" / "kafka"
    enters = "from choreo.testing.servers import *; cm = locked(cache_folder('kafka')); "
    code = enters + "print('asks', flush=True); cm.__enter__(); print('has', flush=True)"
    with locked(folder):
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "asks\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.3)
    with other.stdout:
        assert other.stdout.read() == "has\n"
    other.wait()
