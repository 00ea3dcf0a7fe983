"""A PostgreSQL for tests: one that runs, a container, or the machine's own binaries."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from choreo.errors import ConfigurationError
from choreo.testing.servers.container import Container, docker
from choreo.testing.servers.program import Program, absent, free_ports, own_folder

__all__ = ["PostgresServer"]

T = TypeVar("T")
_made = count(1)  # of the process: two of its servers may be the one that was named

ENVIRONMENT = "CHOREO_TEST_POSTGRES"
BINARIES = Path("/usr/lib/postgresql")
HOST = "127.0.0.1"
IMAGE = "postgres:17"
READY_S = 30.0
USERS = ("postgres", "nobody")  # who runs it when we are root, for which it refuses to run
ADMIN = "choreo"
PASSWORD = "choreo"  # noqa: S105 - of a server on the loopback that ends with the test
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_min_messages": "warning",
    "deadlock_timeout": "200ms",
}


class PostgresServer:
    """One server, and as many databases in it as there are tests.

    `fsync=False` is for tests: what was committed outlives every kill of the server, not a
    machine without power. All verbs block: call them from a fixture, or with
    `asyncio.to_thread`. Each may be called twice.
    """

    def __init__(self, url: str, program: Program | None, *, folder: Path | None = None) -> None:
        """Speak for a server; `found` makes one."""
        self.url = url
        """Of its administrator, in the database `postgres` or the one that was named."""
        self._program = program
        self._folder = folder

    @classmethod
    def found(cls, *, fsync: bool = False) -> PostgresServer:
        """Find a server, not started yet where it is ours.

        Raises unittest.SkipTest where there is none, and with `CI` set ConfigurationError.
        """
        if url := os.environ.get(ENVIRONMENT):
            return cls(url, None)
        settings = {**SETTINGS, "fsync": "on" if fsync else "off"}
        if docker():
            return cls._contained(settings)
        if (binaries := _binaries()) is not None:
            return cls._local(binaries, settings)
        how = f"install the package postgresql, or name a server in {ENVIRONMENT}=postgresql://…"
        raise absent("PostgreSQL", how)

    @classmethod
    def _local(cls, binaries: Path, settings: dict[str, str]) -> PostgresServer:
        user = _unprivileged()
        folder = own_folder("postgres")
        data, password = folder / "data", folder / "password"
        password.write_text(PASSWORD)
        if user is not None:
            for path in (folder, password):
                shutil.chown(path, user)
        made = subprocess.run(  # noqa: S603 - the server's own program
            [
                str(binaries / "initdb"), "-D", str(data), "-U", ADMIN, "--auth=scram-sha-256",
                f"--pwfile={password}", "--encoding=UTF8", "--locale=C", "--no-sync",
            ],
            capture_output=True, text=True, check=False, cwd="/",
            user=user, group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
        )  # fmt: skip
        if made.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise ConfigurationError(
                f"PostgreSQL made no database: {made.stderr.strip()}",
                code="CH7001",
                fix="read what initdb says",
            )
        (port,) = free_ports(1)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options]
        program = Program(command, log=folder / "log", user=user)
        return cls(_url(port), program, folder=folder)

    @classmethod
    def _contained(cls, settings: dict[str, str]) -> PostgresServer:
        folder = own_folder("postgres")
        (port,) = free_ports(1)
        inside = {**settings, "listen_addresses": "*"}
        del inside["unix_socket_directories"]
        command = [
            "docker", "run", "--rm", "--name", folder.name, "-p", f"{HOST}:{port}:5432",
            "-e", f"POSTGRES_USER={ADMIN}", "-e", f"POSTGRES_PASSWORD={PASSWORD}",
            "-e", "POSTGRES_DB=postgres", "-v", f"{folder / 'data'}:/var/lib/postgresql/data",
            IMAGE, *[word for name, value in inside.items() for word in ("-c", f"{name}={value}")],
        ]  # fmt: skip
        return cls(_url(port), Container(command, log=folder / "log"), folder=folder)

    # ── life ─────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """End it, and remove what it kept."""
        self.close()

    @property
    def ours(self) -> bool:
        """Tell whether it was started here, and may be killed."""
        return self._program is not None

    @property
    def log(self) -> Path | None:
        """Where it writes what it has to say; None for one that was there before."""
        return None if self._program is None else self._program.log

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if self._program is not None:
            self._program.start()
            self._program.until(self._answers, within_s=READY_S)

    def stop(self) -> None:
        """End it in order: what runs is rolled back, who is connected is sent away."""
        if self._program is not None:
            self._program.stop(signal.SIGINT)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End it, and all that it has started, with SIGKILL."""
        if self._program is None:
            return
        children = _children(self._program.pid)
        self._program.kill()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, and remove what it kept."""
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ── databases ────────────────────────────────────────────────────────────────────────

    def database(self, *, template: str | None = None) -> str:
        """Make a fresh database, a copy of the one that `template` leads to; give its URL."""
        name = f"choreo_{os.getpid()}_{next(_made)}"
        copied = "" if template is None else f" TEMPLATE {_name(template)}"
        self.run(f"CREATE DATABASE {name}{copied}")
        return _with_name(self.url, name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever uses it."""
        self.run(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)")

    def run(self, sql: str, *, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator, in the database of `url`; give its rows."""

        async def work() -> list[tuple[Any, ...]]:
            connection = await _asyncpg().connect(url or self.url)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()

        return _aside(work)

    def script(self, sql: str, *, url: str | None = None) -> None:
        """Run statements, separated by semicolons, as the administrator."""

        async def work() -> None:
            connection = await _asyncpg().connect(url or self.url)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        _aside(work)

    def _answers(self) -> bool:
        try:
            self.run("SELECT 1")
        except (OSError, _asyncpg().PostgresError, _asyncpg().InterfaceError):
            return False
        return True


def _binaries() -> Path | None:
    """Give the folder of the newest version that is installed."""
    found = [path.parent for path in BINARIES.glob("*/bin/postgres")]
    if found:
        return max(found, key=lambda path: int(path.parent.name.partition(".")[0]))
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


def _unprivileged() -> str | None:
    """Name who runs the server: None where we may do that ourselves."""
    if os.geteuid() != 0:
        return None
    for user in USERS:
        with suppress(KeyError):
            return pwd.getpwnam(user).pw_name
    raise absent("PostgreSQL", f"it does not run as root, and there is no user {USERS[0]}")


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]
    return []


def _url(port: int) -> str:
    return f"postgresql://{ADMIN}:{PASSWORD}@{HOST}:{port}/postgres"


def _name(url: str) -> str:
    return urlsplit(url).path.strip("/")


def _with_name(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def _asyncpg() -> Any:
    try:
        import asyncpg
    except ImportError as exc:
        raise absent("PostgreSQL's client", "pip install 'choreo[postgres]'") from exc
    return asyncpg


def _aside(work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine in a thread with a loop of its own: whoever asks may have one that runs."""
    found: list[T] = []
    failed: list[BaseException] = []

    async def awaited() -> T:
        return await work()

    def run() -> None:
        try:
            found.append(asyncio.run(awaited()))
        except BaseException as exc:  # noqa: BLE001 - handed over to who asked
            failed.append(exc)

    thread = threading.Thread(target=run, name="choreo-postgres")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
