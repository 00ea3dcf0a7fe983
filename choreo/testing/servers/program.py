"""A server as a process of ours: started, stopped, killed, stopped in its tracks."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from choreo.errors import ConfigurationError

__all__ = ["Program", "absent", "cache_folder", "free_ports", "locked", "own_folder"]

GUARD = Path(__file__).with_name("guard.py")
LOOK_S = 0.05
TAIL = 4000
PORTS = range(20_000, 32_000)  # below those that the system hands out by itself
HOST = "127.0.0.1"


class Program:
    """One server process. Its output goes to a file; it does not outlive the one who started it.

    All verbs block: call them from a fixture, or with `asyncio.to_thread`. Each may be called
    twice, and in any order.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        """Say what to run; nothing is started yet. `user` is who runs it, where we may say so."""
        self._command = command
        self.log = log
        self._env = env
        self._user = user
        self._guard: subprocess.Popen[bytes] | None = None
        self._begun = 0  # where in the log its present life begins
        self.pid = 0
        """The server's own process id; 0 before it was started."""

    @property
    def running(self) -> bool:
        """Tell whether the process is there, also if it stands still."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        """Begin; it may take until the server answers, for which `until` waits."""
        if self.running:
            return
        user = ["--user", self._user] if self._user else []
        with self.log.open("ab") as log:
            self._begun = log.tell()
            guard = subprocess.Popen(  # noqa: S603 - the caller's own command
                [sys.executable, "-I", str(GUARD), *user, "--", *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(self._env) if self._env is not None else None,
                start_new_session=True,
            )
        self._guard = guard
        assert guard.stdout is not None
        told = guard.stdout.readline()
        if not told:
            self._release()
            raise self._failed("did not start")
        self.pid = int(told)

    def until(self, ready: Callable[[], bool], *, within_s: float) -> None:
        """Wait until the server says it is ready; raises ConfigurationError with its last words."""
        looks = int(within_s / LOOK_S)
        for _ in range(looks):
            if ready():
                return
            assert self._guard is not None, "start it first"
            with suppress(subprocess.TimeoutExpired):
                self._guard.wait(LOOK_S)
                raise self._failed("ended while it started")
        raise self._failed(f"was not ready after {within_s:g} s")

    def tell(self, number: signal.Signals) -> None:
        """Tell the server, and those it started."""
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP): its sockets stay open, nothing answers."""
        self.tell(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self.tell(signal.SIGCONT)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 20.0) -> None:
        """Ask it to end, and kill it when it has not within `within_s` seconds."""
        if self._guard is None:
            return
        self.thaw()
        self.tell(number)
        with suppress(subprocess.TimeoutExpired):
            self._guard.wait(within_s)
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._guard is None:
            return
        self.tell(signal.SIGKILL)
        self._guard.wait()
        self._release()

    def _release(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            for pipe in (guard.stdin, guard.stdout):
                assert pipe is not None
                pipe.close()
            guard.wait()

    def heard(self) -> str:
        """Give what it has said since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._begun)
            return log.read().decode("utf-8", "replace")

    def last_words(self) -> str:
        """Give the end of its output."""
        with suppress(FileNotFoundError):
            return self.log.read_bytes()[-TAIL:].decode("utf-8", "replace")
        return ""

    def _failed(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"the server {what}: {self.last_words().strip()}",
            code="CH7001",
            fix="read its log",
            log=self.log,
        )


def absent(what: str, how: str) -> BaseException:
    """Make what a test raises that needs a server which can not be had here.

    A skip that says what to install; with `CI` set, an error: there nothing is left out.
    """
    text = f"{what} can not be had here: {how}"
    if os.environ.get("CI"):
        return ConfigurationError(text, code="CH7002", fix="install it, or name one that runs")
    return unittest.SkipTest(f"CH7002 {text}")


def free_ports(count: int) -> list[int]:
    """Give ports of the loopback that nobody listens on."""
    rng = random.Random(os.urandom(16))
    found: list[int] = []
    while len(found) < count:
        port = rng.choice(PORTS)
        if port not in found and _free(port):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind((HOST, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def cache_folder(name: str) -> Path:
    """Give a folder that stays from run to run (`$XDG_CACHE_HOME/choreo/name`), and make it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "choreo" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a folder for ourselves alone, among all processes that ask."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def own_folder(name: str) -> Path:
    """Make a folder for one server: its settings, data and log."""
    return Path(tempfile.mkdtemp(prefix=f"choreo-{name}-"))
