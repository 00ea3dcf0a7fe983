"""`run`, `tracker` and `dev`: what stays until it is told to go."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path

from choreo.app import App, open_broker, open_views, system_clock
from choreo.cli.loading import services
from choreo.cli.onetracker import only_tracker
from choreo.cli.output import execute, say
from choreo.cli.settings import Settings
from choreo.health import BothProbe, ServicesProbe, TrackerProbe, served
from choreo.ports import Broker, Clock, ViewStore
from choreo.running import alone, health_at, serving, telling
from choreo.service import Service
from choreo.tracker import tracker_of

__all__ = [
    "clock",
    "collect_rarely",
    "develop",
    "run_services",
    "run_tracker",
    "source_files",
    "step_back",
]

LOOK_S = 0.3
NICE = 10
GC_THRESHOLD = 50_000
STOP_WITHIN_S = 20.0
SOURCES = ("*.py", "*.sql")


@cache
def clock() -> Clock:
    """Give the machine's clock."""
    return system_clock()


def run_services(settings: Settings, *, tracked: bool) -> None:
    """Run services until SIGTERM or SIGINT; with the tracker beside them if asked."""
    loaded = services(settings.modules)
    with (
        _tracking(settings) if tracked else nullcontext(),
        telling(loaded, health=settings.health),
    ):
        execute(_run(settings, loaded, tracked=tracked))


def _tracking(settings: Settings) -> AbstractContextManager[None]:
    """Be the only tracker of views in a file; views in a database are fed by many."""
    several = settings.deployment.database is not None
    return nullcontext() if several else only_tracker(settings.database)


async def _run(settings: Settings, loaded: Sequence[Service], *, tracked: bool) -> None:
    app = App(*loaded, folder=settings.folder)
    alone_probe = ServicesProbe(app)
    probe = BothProbe(alone_probe) if tracked else alone_probe
    async with served(probe, settings.health) as where, alone(app):
        serves = await serving(app)
        names = ", ".join(service.name for service in loaded)
        beside = " and the tracker" if tracked else ""
        say(f"running {names}{beside} on {settings.deployment}{health_at(where)}; Ctrl-C ends it")
        if isinstance(probe, BothProbe):
            await _serve_tracked(app, serves, settings, probe)
        else:
            await serves


async def _serve_tracked(
    app: App, serves: asyncio.Task[None], settings: Settings, probe: BothProbe
) -> None:
    views = open_views(settings.folder)
    tracker = tracker_of(app.broker, views, app.clock)
    probe.tracker = TrackerProbe(tracker.course, views)
    following = asyncio.create_task(tracker.run())
    try:
        await asyncio.wait((serves, following), return_when=asyncio.FIRST_COMPLETED)
        tracker.stop()
        if serves.done():
            await serves
        await following
    finally:
        await _ended(serves, following)
        await views.close()


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        if not task.done():
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run_tracker(settings: Settings) -> None:
    """Keep the views up to date until SIGTERM or SIGINT, after whoever has work to do.

    At a second signal the process ends at once: what was not written is read again.
    """
    step_back()
    collect_rarely()
    with _tracking(settings), telling((), health=settings.health):
        execute(_track(open_broker(settings.folder), open_views(settings.folder), settings))


def step_back() -> None:
    """Lower this process's priority: watching must not take time from what is watched."""
    if hasattr(os, "nice"):
        os.nice(NICE)


def collect_rarely() -> None:
    """Look less often for cycles: facts are in none, and looking took a tenth of the time."""
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])


async def _track(broker: Broker, views: ViewStore, settings: Settings) -> None:
    tracker = tracker_of(broker, views, clock())
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def end() -> None:
        """Stop in order; at a second signal at once."""
        if told.is_set():
            os._exit(1)
        told.set()
        tracker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        await broker.ensure(())  # what can not be opened is told first, and alone
        await views.position()
        async with served(TrackerProbe(tracker.course, views), settings.health) as where:
            say(f"following {settings.deployment}{health_at(where)}; Ctrl-C ends it")
            await tracker.run()
    finally:
        await views.close()
        await broker.close()


# ── dev ──────────────────────────────────────────────────────────────────────────────────


def develop(settings: Settings) -> None:
    """Run services and tracker in a process of their own, again after every change."""
    execute(_develop(settings))


async def _develop(settings: Settings) -> None:
    command = [sys.executable, "-m", "choreo", "run", "--tracker", *settings.modules]
    if settings.folder is not None:
        command += ["--folder", settings.folder]
    if settings.health:
        command += ["--health", settings.health]
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    while not told.is_set():
        before = await asyncio.to_thread(_stamps, settings.modules)
        process = await asyncio.create_subprocess_exec(*command, start_new_session=True)
        changed = await _change(settings.modules, before, process, told)
        await _stop(process)
        if changed and not told.is_set():
            say(f"{changed} has changed: starting again")


async def _change(
    modules: Sequence[str],
    before: dict[Path, int],
    process: asyncio.subprocess.Process,
    told: asyncio.Event,
) -> str:
    """Wait until a source file has changed, and name it, or until we are told to end."""
    mourned = False
    while not told.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await told.wait()
        now = await asyncio.to_thread(_stamps, modules)
        changed = sorted(path for path, _ in before.items() ^ now.items())
        if changed:
            return str(changed[0])
        if process.returncode is not None and not mourned:
            mourned = True
            say(f"ended with exit code {process.returncode}; waiting for a change")
    return ""


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
    await process.wait()


def _stamps(modules: Sequence[str]) -> dict[Path, int]:
    found = {}
    for path in source_files(modules):
        with suppress(OSError):
            found[path] = path.stat().st_mtime_ns
    return found


def source_files(modules: Sequence[str]) -> Iterator[Path]:
    """Name the files of modules: of a package all below it, of a module all in its folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    folders: dict[Path, bool] = {}
    for named in modules:
        name = named.partition(":")[0]
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # noqa: BLE001 - a package that does not import; the child tells why
            spec = None
        if spec is None or spec.origin is None:
            folders[Path(here, *name.split(".")[:-1])] = False
        else:
            folders[Path(spec.origin).parent] = spec.submodule_search_locations is not None
    for folder, deep in folders.items():
        for pattern in SOURCES:
            yield from folder.rglob(pattern) if deep else folder.glob(pattern)
