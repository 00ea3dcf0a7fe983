"""A folder with a small shop in it, and the command line as a process."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 20.0

SHOP = """
from choreo import Event, Service


class Placed(Event, topic="shop.orders", key="order"):
    order: str
    units: int = 1


class Reserved(Event, topic="shop.stock", key="order"):
    order: str


class Refused(Event, topic="shop.stock", key="order", failure=True):
    order: str


class Done(Event, topic="shop.orders", key="order"):
    order: str


class Gone(Event, topic="shop.orders", key="order", failure=True):
    order: str


orders = Service("orders")
stock = Service("stock")


@stock.on(Placed)
async def reserve(placed: Placed) -> Reserved | Refused:
    if placed.units > 9:
        return Refused(order=placed.order)
    return Reserved(order=placed.order)


@orders.on(Reserved)
async def complete(reserved: Reserved) -> Done:
    return Done(order=reserved.order)


@orders.on(Refused)
async def cancel(refused: Refused) -> Gone:
    return Gone(order=refused.order)


order = orders.flow("order", starts=Placed, ends=(Done, Gone), deadline_s=60)
"""

PYPROJECT = '[tool.choreo]\nmodules = ["shop"]\n'


@dataclass
class Said:
    """What a call of the command line left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Terminal:
    """A folder in which the command line is called. Processes that stay are ended with it."""

    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def call(
        self,
        *arguments: str,
        stdin: str | None = None,
        under: Sequence[str] = (),
        **environment: str,
    ) -> Said:
        done = subprocess.run(
            [*under, sys.executable, "-m", "choreo", *arguments],
            cwd=self.folder, env=self.environment(**environment), capture_output=True,
            input=stdin, text=True, timeout=WITHIN_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.run_python("-m", "choreo", *arguments)

    def serve(self, *arguments: str) -> subprocess.Popen[str]:
        """Start what stays until it is told to go, and wait until it hears that: it says so.

        What it is to do may be done by then: a signal that came before would just end it.
        """
        process = self.start(*arguments)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            if line.startswith(("running ", "following ")):
                return process
            said += line
        raise AssertionError(said)

    def run_python(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            cwd=self.folder, env=self.environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.running.append(process)
        return process

    def environment(self, **more: str) -> dict[str, str]:
        ours = {k: v for k, v in os.environ.items() if not k.startswith("CHOREO_")}
        ours.pop("NO_COLOR", None)
        return {**ours, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **more}

    def wait(self, true: Callable[[], object]) -> None:
        """Look until it is true, or some seconds have passed."""
        end = time.monotonic() + WITHIN_S
        while not true():
            assert time.monotonic() < end, "it did not come true"

    def until(self, status: str, *arguments: str) -> list[dict[str, Any]]:
        """Ask for flows until all have a status, or some seconds have passed."""
        end = time.monotonic() + WITHIN_S
        while time.monotonic() < end:
            flows: list[dict[str, Any]] = self.call("flows", "--json", *arguments).json
            if flows and {flow["status"] for flow in flows} == {status}:
                return flows
        raise AssertionError(flows)

    def end(self, process: subprocess.Popen[str]) -> str:
        """End a process in order; give what it wrote."""
        process.terminate()
        out, _ = process.communicate(timeout=WITHIN_S)
        assert "Traceback" not in out, out
        assert process.returncode == 0, out
        return out

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.fixture
def shop(terminal: Terminal) -> Terminal:
    terminal.write("shop.py", SHOP)
    terminal.write("pyproject.toml", PYPROJECT)
    return terminal


@pytest.fixture(scope="session")
def after_three_orders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the shop took orders 1 and 2 and refused 3; nothing runs any more."""
    terminal = Terminal(tmp_path_factory.mktemp("served"))
    terminal.write("shop.py", SHOP)
    terminal.write("pyproject.toml", PYPROJECT)
    lines = [{"order": "1"}, {"order": "2"}, {"order": "3", "units": 10}]
    terminal.write("orders.jsonl", "\n".join(map(json.dumps, lines)))
    process = terminal.serve("run", "--tracker")
    assert terminal.call("publish", "Placed", "orders.jsonl", "--id", "order").code == 0
    assert len(terminal.until("completed")) == 3
    terminal.end(process)
    yield terminal.folder
    terminal.close()


@pytest.fixture
def served(terminal: Terminal, after_three_orders: Path) -> Terminal:
    """A copy of that folder."""
    shutil.copytree(after_three_orders, terminal.folder, dirs_exist_ok=True)
    return terminal
