"""`python -m choreo.testing.servers`: both servers, for as long as somebody holds its input."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.postgres.database import server

WITHIN_S = 60
Process = subprocess.Popen[str]


def reachable(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5).close()
    except OSError:
        return False
    return True


def by_its_input(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()


def by_sigterm(process: Process) -> None:
    process.send_signal(signal.SIGTERM)


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("kafka_server")  # where none can be had, this says so
@pytest.mark.parametrize("ended", [by_its_input, by_sigterm, subprocess.Popen.kill])
def test_both_are_there_until_it_is_ended(ended: Callable[[Process], None]) -> None:
    server()
    with subprocess.Popen(
        [sys.executable, "-m", "choreo.testing.servers"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = dict(process.stdout.readline().strip().partition("=")[::2] for _ in range(2))
        assert list(said) == ["CHOREO_BROKER", "CHOREO_STORE"]
        assert urlsplit(said["CHOREO_BROKER"]).scheme == "kafka"
        assert all(map(reachable, said.values()))
        ended(process)
        code = process.wait(WITHIN_S)
    assert code == (-signal.SIGKILL if ended is subprocess.Popen.kill else 0)
    if ended is not subprocess.Popen.kill:
        assert not any(map(reachable, said.values()))
