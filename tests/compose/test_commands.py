"""The command of every container of the shop runs, here on the embedded deployment."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from choreo.environment import PREFIX, VARIABLES
from choreo.testing.servers import free_ports
from tests.compose.files import OURS, filled, image_of, services
from tests.house.source import ROOT

SHOP = {name: one for name, one in services().items() if image_of(one) == OURS}
SAYS = {"provider": "provider listening on", "tracker": "following"}
WITHIN_S = 40.0
PORT = "8571"


class Container:
    """A container's command as a process, and what it has said so far."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.said = ""
        self.heard = threading.Event()
        self.environment = self._environment(folder)
        command = [self._word(word, folder) for word in SHOP[name]["command"]]
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            cwd=ROOT, env={**os.environ, **self.environment}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _environment(self, folder: Path) -> dict[str, str]:
        """Give what the container is given, with the embedded deployment in the place of Kafka."""
        said: Mapping[str, str] = SHOP[self.name].get("environment", {})
        given = {name: filled(text) for name, text in said.items()}
        kept = {n: v for n, v in given.items() if not n.startswith(PREFIX) or n in VARIABLES}
        kept.pop("CHOREO_STORE", None)
        kept["CHOREO_BROKER"] = f"sqlite:///{folder / 'choreo.db'}"
        if "CHOREO_HEALTH" in kept:
            kept["CHOREO_HEALTH"] = f"127.0.0.1:{free_ports(1)[0]}"
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    @staticmethod
    def _word(word: str, folder: Path) -> str:
        """Put what is free here in the place of what a container has for itself."""
        return {PORT: "0", "/var/lib/provider": str(folder)}.get(word, word)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said += line
                if SAYS.get(self.name, f"running {self.name}") in line:
                    self.heard.set()

    def ended(self) -> int:
        """Tell it to end, as a container is told, and wait."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(WITHIN_S)
        self.reader.join(WITHIN_S)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join(WITHIN_S)


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[dict[str, Container]]:
    running: dict[str, Container] = {}
    try:
        for name in SHOP:
            running[name] = Container(name, tmp_path)
        yield running
    finally:
        for one in running.values():
            one.close()


def healthy(one: Container) -> bool:
    """Ask as the container's health check does, if what it asks is there."""
    if "CHOREO_HEALTH" not in one.environment:
        return True
    _, _, *probe = SHOP[one.name]["healthcheck"]["test"]
    return not subprocess.run(
        [sys.executable, *probe], env={**os.environ, **one.environment}, check=False
    ).returncode


@pytest.mark.timeout(180)
def test_every_container_starts_lives_and_ends_in_order(containers: dict[str, Container]) -> None:
    for one in containers.values():
        assert one.heard.wait(WITHIN_S), one.said
        assert healthy(one), one.said
    for one in containers.values():
        assert one.process.poll() is None, one.said
    for one in containers.values():
        assert one.ended() == 0, one.said
        assert "Traceback" not in one.said
