"""Processes that are asked for their health."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from choreo.testing.servers import free_ports
from tests.house.source import ROOT

WITHIN_S = 30.0
PATIENCE_S = 5.0
LOOK_S = 0.05

DESK = """
import asyncio, time
from collections.abc import AsyncIterator
from pathlib import Path
from choreo import Event, Service, run

class Asked(Event, topic="desk.asked", key="k"):
    k: str = "x"
    what: str = ""

class Answered(Event, topic="desk.answered", key="k"):
    k: str = "x"

class Tool:
    pass

desk = Service("desk")

@desk.resource
async def tool() -> AsyncIterator[Tool]:
    while Path("hold").exists():
        await asyncio.sleep(0.01)
    yield Tool()

@desk.on(Asked)
async def answer(asked: Asked, tool: Tool) -> Answered:
    Path("begun").touch()
    while asked.what == "block" and not Path("go").exists():
        time.sleep(0.01)  # blocks the event loop until the test has seen it
    while asked.what == "wait" and not Path("go").exists():
        await asyncio.sleep(0.01)
    return Answered(k=asked.k)

if __name__ == "__main__":
    run(desk)
"""


@dataclass
class Process:
    """One process of a desk, and the port that its health is on."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, **environment: str) -> "Process":
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("CHOREO_", "OTEL_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            cwd=self.folder, text=True, stdin=subprocess.DEVNULL,
            env={**ours, "PYTHONPATH": str(ROOT), "CHOREO_HEALTH": f"127.0.0.1:{self.port}"}
            | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return self

    def ask(self, path: str, *, timeout_s: float = PATIENCE_S) -> tuple[int, bytes]:
        """Ask once; status 0: it did not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def codes(self) -> list[str]:
        """Give the codes of what keeps it from being ready."""
        status, body = self.ask("/readyz")
        told: dict[str, Any] = json.loads(body) if body else {"problems": []}
        codes = [problem["code"] for problem in told["problems"]]
        assert (status == 503) == bool(codes), (status, body)
        assert all(problem["fix"] for problem in told["problems"])
        return codes

    def ready(self) -> bool:
        return self.ask("/readyz")[0] == 200

    def wait(self, true: Callable[[], object]) -> None:
        """Look until it is true, or much time has passed."""
        end = time.monotonic() + WITHIN_S
        pause = threading.Event()
        while not true():
            assert time.monotonic() < end, f"it did not come true: {self.ask('/readyz')}"
            if self.process is not None and self.process.poll() is not None:
                assert true(), self.ended()
                return
            pause.wait(LOOK_S)

    def ended(self) -> tuple[int, str]:
        """Wait for its end; give the exit code, and what it said."""
        assert self.process is not None
        out, _ = self.process.communicate(timeout=WITHIN_S)
        assert "Traceback" not in out, out
        return self.process.returncode, out

    def stop(self) -> tuple[int, str]:
        assert self.process is not None
        self.process.terminate()
        return self.ended()

    def choreo(self, *words: str) -> None:
        """Call the command line, in a process of its own."""
        subprocess.run(
            [sys.executable, "-m", "choreo", *words], cwd=self.folder, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
            timeout=WITHIN_S,
        )  # fmt: skip

    def publish(self, what: str = "", k: str = "x") -> None:
        """Publish from a process of its own."""
        asked = json.dumps({"what": what, "k": k})
        self.choreo("publish", "Asked", "-m", "desk", "--json", asked)

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Process]:
    """A folder with a desk in it; its process is ended with the test."""
    (tmp_path / "desk.py").write_text(DESK)
    process = Process(tmp_path)
    yield process
    process.close()
