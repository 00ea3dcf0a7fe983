"""The shop's services in one process that dies at each step, once: before or after its commit.

`python -m tests.services.crashing before|after FOLDER`, on the deployment that the environment
names. What dies is a child, and the next one is there at once: nothing is imported anew.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from choreo import App, Service
from choreo.app import deployed, system_clock
from choreo.plan import Plan, Remember, Settle
from choreo.ports import Applied, Store
from choreo.running import serving
from choreo.worker import Limits
from services.demo.processes import MODULES

CRASHED = "crashed"
"""The file that names each step that the process has died at."""
DEATHS = "deaths"
"""The file with a line for each process that has died."""
LIVES = "lives"
"""The file with a line for each process that has come to work."""
KILLED = 9


class CrashingStore:
    """A store whose process ends when a step is written for the first time."""

    def __init__(self, inner: Store, folder: Path, when: str) -> None:
        self._inner = inner
        self._kept = folder / CRASHED
        self._before = when == "before"
        self._crashed = set(self._kept.read_text().split("\n") if self._kept.exists() else ())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        """Write; or end the process, before or after."""
        fresh = {step for plan in plans for step in steps_of(plan)} - self._crashed
        if fresh:
            with self._kept.open("a") as kept:
                kept.write("\n".join([*fresh, ""]))
                kept.flush()
                os.fsync(kept.fileno())
        if fresh and self._before:
            os._exit(KILLED)
        results = await self._inner.apply(plans)
        if fresh:
            os._exit(KILLED)
        return results


def steps_of(plan: Plan) -> list[str]:
    """Name the writes of a plan: the end of a delivery, and each outside call's."""
    named = [
        f"{change.handler} {change.subject.hex()}"
        for change in plan.changes
        if isinstance(change, Settle) and not change.spawn
    ]
    named += [
        f"{change.name} {change.subject.hex()} {change.state.name}"
        for change in plan.changes
        if isinstance(change, Remember)
    ]
    if plan.want is not None:
        named.append(f"{plan.want.handler} {plan.want.subject.hex()}")
    return named


async def run(services: Sequence[Service], folder: Path, when: str) -> None:
    """Run all services until told to end."""
    clock = system_clock()
    broker, store = deployed(clock=clock)
    crashing: Any = CrashingStore(store, folder, when)
    limits = Limits(crashes_max=10 * 1000)  # it is no delivery's fault
    app = App(*services, broker=broker, store=crashing, clock=clock, limits=limits)
    async with app:
        serves = await serving(app)
        with (folder / LIVES).open("a") as lives:
            lives.write(f"{os.getpid()}\n")
        sys.stdout.write("running all services\n")
        sys.stdout.flush()
        await serves


def main(when: str, folder: Path) -> int:
    """Begin again whenever a child has died at a step; give the last one's exit code."""
    services: list[Service] = [
        next(one for one in vars(import_module(module)).values() if isinstance(one, Service))
        for module in MODULES
    ]
    while True:
        child = os.fork()
        if not child:
            asyncio.run(run(services, folder, when))
            return 0
        signal.signal(signal.SIGTERM, lambda *_, pid=child: os.kill(pid, signal.SIGTERM))
        _, status = os.waitpid(child, 0)
        if (code := os.waitstatus_to_exitcode(status)) != KILLED:
            return code
        with (folder / DEATHS).open("a") as deaths:
            deaths.write(f"{child}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
