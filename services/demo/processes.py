"""The parts of the shop as processes: provider, services, tracker, servers if there are any.

Each is this interpreter with a module; each ends by its own process id and no other. Should we
be killed, one of them ends all others.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = tuple(
    f"services.{name}"
    for name in ("orders", "inventory", "payments", "notifications", "analytics", "shipping")
)
START_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0  # longer than a process takes to say what it waits for
LOOK_EVERY_S = 0.05
LOG_LINES_SHOWN = 40
UP = (b"running ", b"following ")
"""How services and tracker begin the line by which they say that they work."""
LAST = ("provider", "tracker", "servers")
"""Parts that others need, in the order in which they end."""


class PartError(Exception):
    """A part of the shop ended, or did not begin, or did not say what it should."""


@dataclass(slots=True)
class Shop:
    """The parts of one shop in one folder. `environment` goes to all of them."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _said: dict[str, int] = field(default_factory=dict)
    _reaper: subprocess.Popen[str] | None = None

    def start_servers(self) -> None:
        """Find or start a Kafka and a PostgreSQL, and let all others know where."""
        part = self._start("servers", "choreo.testing.servers", stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)  # fmt: skip
        assert part.stdout is not None
        said = dict(part.stdout.readline().strip().partition("=")[::2] for _ in range(2))
        if said.keys() != {"CHOREO_BROKER", "CHOREO_STORE"}:
            raise PartError(f"there are no servers: {self.log('servers')}")
        self.environment = {**self.environment, **said}
        self.call("topics", "apply", *MODULES)

    def show(self, flow: str) -> str:
        """Give what `choreo flow` shows to people."""
        done = self._run("choreo", "flow", flow)
        if done.returncode:
            raise _failed(("flow", flow), done)
        return done.stdout.rstrip()

    def start_provider(self, *, seed: int, plan: str = "") -> None:
        """Start the payment provider on any free port, and let all others know where."""
        arguments = ["--port", "0", "--folder", str(self.folder), "--seed", str(seed)]
        part = self._start(
            "provider", "services.provider", *arguments, "--plan", plan, stdout=subprocess.PIPE
        )
        assert part.stdout is not None
        url = part.stdout.readline().strip().rpartition(" ")[2]
        if not url.startswith("http://"):
            raise PartError(f"the provider did not start: {self.log('provider')}")
        said = {"PAYMENT_PROVIDER_URL": url, "PAYMENT_PROVIDER_FOLDER": str(self.folder.resolve())}
        self.environment = {**self.environment, **said}

    def start_services(self, modules: Sequence[str] = MODULES, name: str = "services") -> None:
        """Start services, together in one process."""
        self._start(name, "choreo", "run", *modules)

    def start_alone(self, module: str, name: str = "") -> None:
        """Start one service by itself, as `python -m` does."""
        self._start(name or module.rpartition(".")[2], module)

    def start_tracker(self) -> None:
        """Start what makes flows visible."""
        self._start("tracker", "choreo", "tracker")

    def wait_until_up(self, *names: str) -> None:
        """Wait until services or tracker say that they work; they hear by then that they end."""
        for name in names:
            part, waited = self.running[name], 0.0
            while not self._is_up(name):
                with suppress(subprocess.TimeoutExpired):
                    part.wait(LOOK_EVERY_S)
                self.check()
                waited += LOOK_EVERY_S
                if waited > START_WITHIN_S:
                    raise PartError(f"{name} is not up after {START_WITHIN_S:g} s")

    def _is_up(self, name: str) -> bool:
        with (self.folder / f"{name}.log").open("rb") as log:
            log.seek(self._said[name])
            return any(line.startswith(UP) for line in log)

    def check(self) -> None:
        """Raise PartError when a part has ended by itself."""
        for name, part in self.running.items():
            if (code := part.poll()) is not None:
                raise PartError(f"{name} ended with exit code {code}: {self.log(name)}")

    def kill(self, name: str) -> None:
        """End a part as a power cut does."""
        part = self.running.pop(name)
        part.kill()
        part.wait()
        self._reap(f"-{part.pid}")

    def stop(self, name: str) -> None:
        """End a part in order; raise PartError if it would not."""
        part = self.running.pop(name, None)
        if part is None:
            return
        part.send_signal(signal.SIGTERM)
        try:
            part.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()
            raise PartError(
                f"{name} did not stop within {STOP_WITHIN_S:g} s: {self.log(name)}"
            ) from None
        finally:
            self._reap(f"-{part.pid}")

    def close(self, *, but: str = "") -> None:
        """End all parts `but` one, what others need at last. May be called twice."""
        for name in sorted(self.running.keys() - {but}, key=_last):
            part = self.running[name]
            try:
                self.stop(name)
            except PartError as exc:
                sys.stderr.write(f"{exc}\n")
            for pipe in (part.stdin, part.stdout):
                if pipe is not None:
                    pipe.close()
        if self._reaper is not None and not self.running:
            assert self._reaper.stdin is not None
            self._reaper.stdin.close()
            self._reaper.wait()
            self._reaper = None

    def ask(self, *arguments: str) -> Any:
        """Run a verb of the command line with --json, and give what it says."""
        done = self._run("choreo", *arguments, "--json")
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise _failed(arguments, done) from None

    def call(self, *arguments: str) -> None:
        """Run a verb of the command line; raise PartError if it fails."""
        done = self._run("choreo", *arguments)
        if done.returncode:
            raise _failed(arguments, done)

    def load_stock(self, file: Path) -> subprocess.CompletedProcess[str]:
        """Load the opening stock; give what the service said."""
        return self._run("services.inventory", "stock", str(file))

    def log(self, name: str) -> str:
        """Give the last lines that a part wrote."""
        try:
            text = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-LOG_LINES_SHOWN:])

    def _run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(module, *arguments),
            **self._settings(),
            capture_output=True,
            text=True,
            check=False,
        )

    def _start(
        self,
        name: str,
        module: str,
        *arguments: str,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> subprocess.Popen[str]:
        with (self.folder / f"{name}.log").open("a", encoding="utf-8") as log:
            self._said[name] = log.tell()
            part = subprocess.Popen(
                self._command(module, *arguments),
                **self._settings(),
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                text=True,
            )
        self.running[name] = part
        self._reap(f"+{part.pid}")
        return part

    def _reap(self, word: str) -> None:
        """Tell the reaper, which is there from the first part on."""
        if self._reaper is None:
            self._reaper = subprocess.Popen(
                self._command("services.demo.reaper"),
                **self._settings(),
                stdin=subprocess.PIPE,
                text=True,
            )
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(f"{word}\n")
        self._reaper.stdin.flush()

    @staticmethod
    def _command(module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    def _settings(self) -> dict[str, Any]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        file = f"sqlite:///{self.folder.resolve() / 'choreo.db'}"
        environment = {
            **os.environ,
            "CHOREO_BROKER": file,
            "CHOREO_STORE": file,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            **self.environment,
        }
        return {"cwd": ROOT, "env": environment}


def _last(name: str) -> int:
    return LAST.index(name) + 1 if name in LAST else 0


def _failed(arguments: Sequence[str], done: subprocess.CompletedProcess[str]) -> PartError:
    return PartError(f"choreo {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")
