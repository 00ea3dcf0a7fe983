"""Looking at a process from inside: what keeps it from being ready, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

from choreo.app import App
from choreo.errors import BrokerError, ChoreoError
from choreo.ports import Prepared, ViewStore
from choreo.service import Service
from choreo.tracker import Course
from choreo.worker import Worker

__all__ = ["BothProbe", "Probe", "Problem", "ServicesProbe", "TrackerProbe"]

ANSWER_S = 2.0
"""For a store or a log to answer a look."""
BEHIND_S = 30.0
"""Since the tracker was last at the end of the log."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason not to be ready: of which part, with a code of docs/errors.md, and the fix."""

    part: str
    code: str
    what: str
    fix: str

    @classmethod
    def of(cls, part: str, error: BaseException) -> Problem:
        """Tell an error as a problem of a part."""
        if isinstance(error, ChoreoError):
            return cls(part, error.code, error.what, error.fix)
        return cls(part, "CH0000", type(error).__name__, "look at the log of the process")

    def told(self) -> Mapping[str, str]:
        """Give it as JSON values."""
        return asdict(self)


class Probe(Protocol):
    """What is asked of a process."""

    @property
    def started(self) -> bool:
        """Whether its start has come to an end."""
        ...

    async def problems(self) -> Sequence[Problem]:
        """List what keeps it from being ready; empty: it is. Takes some seconds at most."""
        ...

    def about(self) -> Mapping[str, Any]:
        """Say what is worth knowing beside, as JSON values."""
        ...


class ServicesProbe:
    """Looks at services: joined, store and log reachable, migrations run, not leaving."""

    def __init__(self, app: App) -> None:
        """Look at the services of `app`; it need not have been started."""
        self._app = app

    @property
    def started(self) -> bool:
        """Whether the App has begun to work."""
        return self._app.started

    async def problems(self) -> Sequence[Problem]:
        """Look at each part; what does not answer in two seconds is a problem."""
        app = self._app
        worker = app.worker
        if app.leaving:
            what = "it is leaving: it finishes what runs, and takes nothing new"
            return [Problem("drain", "CH9002", what, "nothing: it was told to end")]
        if not app.started or worker is None:
            return [_starting("its migrations, topics and resources come first")]
        if worker.failure.done() and (error := worker.failure.exception()) is not None:
            return [Problem.of("worker", error)]
        found = _unassigned(worker)
        if worker.outage is not None:
            part = "log" if isinstance(worker.outage, BrokerError) else "store"
            found.append(Problem.of(part, worker.outage))
        looks = await asyncio.gather(_looked_at("store", self._store), _looked_at("log", self._log))
        return _each_once([*found, *(one for one in looks if one is not None)])

    def about(self) -> Mapping[str, Any]:
        """Name the services, and how many partitions each has."""
        worker = self._app.worker
        lanes = [] if worker is None else worker.lanes
        return {
            "services": [service.name for service in self._app.services],
            "partitions": {lane.name: len(lane.owned.epochs) for lane in lanes},
        }

    async def _store(self) -> Problem | None:
        """See that the store answers, and has all migrations."""
        known = set(await cast("Prepared", self._app.store).migrations())
        for service in self._app.services:
            for file in await asyncio.to_thread(_migrations, service):
                if (service.name, file) not in known:
                    return Problem(
                        "migrations", "CH9005",
                        f"{file} of {service.name} has not run in this store",
                        "start the service again: migrations run then",
                    )  # fmt: skip
        return None

    async def _log(self) -> Problem | None:
        worker = self._app.worker
        topics = {
            topic for lane in (worker.lanes if worker else ()) for topic in lane.compiled.topics
        }
        await self._app.broker.ends(sorted(topics))
        return None


class TrackerProbe:
    """Looks at a tracker: log and views reachable, and not far behind."""

    def __init__(self, course: Course, views: ViewStore) -> None:
        """Look at how a tracker gets on, and at the views that it feeds."""
        self._course = course
        self._views = views

    @property
    def started(self) -> bool:
        """Whether it knows where the views stand."""
        return self._course.begun

    async def problems(self) -> Sequence[Problem]:
        """Look at the views, and how long ago the tracker was at the end of the log."""
        found = []
        if self._course.outage is not None:
            found.append(Problem.of("tracker", self._course.outage))
        looked = await _looked_at("views", self._look)
        if looked is not None:
            found.append(looked)
        behind = self._course.behind_s
        if behind is None or behind > BEHIND_S:
            since = "yet" if behind is None else f"for {behind:.0f} s"
            what = f"it has not been at the end of the log {since}"
            fix = "wait while it catches up; if it never does, give it more of the machine"
            found.append(Problem("tracker", "CH9006", what, fix))
        return _each_once(found)

    def about(self) -> Mapping[str, Any]:
        """Say how long ago it was at the end of the log."""
        return {"tracker": {"behind_s": self._course.behind_s}}

    async def _look(self) -> Problem | None:
        await self._views.position()
        return None


class BothProbe:
    """Looks at services, and at a tracker that begins beside them once they have started."""

    def __init__(self, services: ServicesProbe) -> None:
        """Look at the services alone, until there is a tracker."""
        self._services = services
        self.tracker: TrackerProbe | None = None

    @property
    def started(self) -> bool:
        """Whether both have."""
        return self._services.started and self.tracker is not None and self.tracker.started

    async def problems(self) -> Sequence[Problem]:
        """List what either finds."""
        found = list(await self._services.problems())
        if self.tracker is not None:
            found += await self.tracker.problems()
        elif not found:
            found.append(_starting("the tracker begins after the services"))
        return found

    def about(self) -> Mapping[str, Any]:
        """Say what both say."""
        beside = {} if self.tracker is None else self.tracker.about()
        return {**self._services.about(), **beside}


def _starting(why: str) -> Problem:
    return Problem("start", "CH9001", f"it has not started yet: {why}", "wait; its log says more")


def _unassigned(worker: Worker) -> list[Problem]:
    """List services that have no partition, although nobody else has theirs."""
    return [
        Problem(
            "assignment", "CH9003", f"{lane.name} has not been given any partition yet",
            "wait for its group to settle; if it does not, look at the log of the process",
        )
        for lane in worker.lanes
        if not lane.subscription.assigned() and not lane.subscription.shared
    ]  # fmt: skip


def _migrations(service: Service) -> list[str]:
    folder = service.migrations
    return [] if folder is None else sorted(path.name for path in folder.glob("*.sql"))


async def _looked_at(part: str, look: Callable[[], Awaitable[Problem | None]]) -> Problem | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await look()
    except TimeoutError:
        what = f"the {part} has not answered for {ANSWER_S:g} s"
        return Problem(part, "CH9004", what, f"look at the {part}, and at what holds it up")
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the answer
        return Problem.of(part, exc)


def _each_once(found: Sequence[Problem]) -> list[Problem]:
    return list({(one.part, one.code): one for one in found}.values())
