"""A module of bench in a process of its own, spoken to in lines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Child", "started"]


class Child:
    """A started process; what it says is one JSON object a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Talk to this one."""
        self._process = process

    def heard(self) -> dict[str, Any]:
        """Wait for its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._process.args!r} has ended without an answer"
        return dict(json.loads(line))

    def told(self, line: str = "end") -> None:
        """Give it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()


@contextmanager
def started(module: str, *arguments: object) -> Iterator[Child]:
    """Run `python -m module …`; it is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Child(process)
        finally:
            process.terminate()
