"""Faust workers in processes of their own, and which of them have partitions."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from tests.house.source import ROOT

__all__ = ["GROUP", "Workers", "holders", "module_of_page", "workers_of"]

GROUP = "choreo.tracker.faust"
PAGE = ROOT / "docs" / "how-to" / "track-with-faust.md"
NO_PARTITIONS = bytes(10)
"""As large as an assignment of none: a version, and two lengths of 0."""


class Workers:
    """Workers on one cluster, which feed the same views."""

    def __init__(self, folder: Path, servers: str, views: str) -> None:
        self.folder = folder
        self.settings = {"CHOREO_BROKER": f"kafka://{servers}", "CHOREO_STORE": views}
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, module: str = "choreo.faust") -> subprocess.Popen[bytes]:
        """Start one by the page's command; it may name a module of the folder."""
        command = [module if word == "choreo.faust" else word for word in told()]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with self.log(len(self.running)).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "-l", "info"],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": path, **self.settings},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.running.append(process)
        return process

    def log(self, number: int) -> Path:
        return self.folder / f"worker{number}.log"

    def said(self) -> str:
        """Give the ends of their logs, for a test that fails."""
        return "\n".join(
            self.log(number).read_text(errors="replace")[-4000:]
            for number in range(len(self.running))
        )

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def told() -> list[str]:
    """Give the words of the page's command."""
    found = re.search(r"^faust .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return shlex.split(found[0])


def module_of_page() -> str:
    """Give the page's module."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def workers_of(folder: Path, servers: str, views: str) -> Iterator[Workers]:
    workers = Workers(folder, servers, views)
    try:
        yield workers
    finally:
        workers.end()


async def holders(servers: str) -> int:
    """Count the members of the group that have partitions, as the cluster knows them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        (answer,) = await admin.describe_consumer_groups([GROUP])
    except GroupCoordinatorNotAvailableError:  # the first group of a cluster
        return 0
    finally:
        await admin.close()
    ((_, _, state, _, _, members, *_),) = answer.groups
    if state != "Stable":
        return 0
    return sum(len(assignment) > len(NO_PARTITIONS) for *_, assignment in members)
