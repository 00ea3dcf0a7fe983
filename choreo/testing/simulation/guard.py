"""What leaves a simulation: real clocks, sleep, sockets, threads. A service that asks is told.

Names that a service's modules have imported are replaced for as long as the simulation lasts,
and what libraries would reach the machine by is watched: it only refuses where the virtual
loop runs, so a test may look at its watch.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

from choreo.service import Service
from choreo.testing.simulation.loop import INJECT, SimLoop

__all__ = ["Guard"]

NOW = "take ctx.now: the time of the step, which is virtual here"
LATER = "raise Later(after_s=…) to try again then, or return After(…) to publish then"
MEASURE = "ask for Context and take ctx.now; a duration is the framework's to measure"
THREAD = "make it async, or call it directly: a sync handler has a thread of its own elsewhere"
CLOCKS = {"time": NOW, "time_ns": NOW, "monotonic": MEASURE, "perf_counter": MEASURE}


class _LikeDatetime(type):
    """Any datetime counts as one of the class that stands for it."""

    real: type

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, cls.real)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.real)


class _Imitation(ModuleType):
    """A module with some names replaced."""

    def __init__(self, real: ModuleType, changed: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self._real = real
        vars(self).update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _belongs(module: str, packages: Sequence[str], exact: Collection[str]) -> bool:
    return module in exact or any(module.startswith(f"{package}.") for package in packages)


@lru_cache(maxsize=16)
def _names(packages: Sequence[str], exact: Collection[str], count: int) -> list[str]:
    """List the modules of services; `count` of all modules tells when to look anew."""
    del count
    return [name for name in list(sys.modules) if _belongs(name, packages, exact)]


class Guard:
    """Replaces what services may not ask for, and gives it back."""

    def __init__(self, services: Sequence[Service], loop: SimLoop) -> None:
        """Look after the modules in which these services' handlers stand."""
        self._loop = loop
        self._packages = sorted(
            {
                handler.fn.__module__.rpartition(".")[0] or handler.fn.__module__
                for service in services
                for handler in service.handlers.values()
            }
        )
        self._exact = {
            handler.fn.__module__ for service in services for handler in service.handlers.values()
        }
        self._back: list[tuple[Any, str, Any]] = []

    # ── begin, end ───────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Replace; `end` gives back."""
        functions = {name: self._clock(name, instead) for name, instead in CLOCKS.items()}
        functions["sleep"] = self._anywhere(time.sleep, "time.sleep", LATER)
        imitations: dict[int, Any] = {
            id(getattr(time, name)): made for name, made in functions.items()
        }
        moment, day = self._datetime(), self._date()
        changed = {"datetime": moment, "date": day}
        imitations |= {
            id(dt.datetime): moment,
            id(dt.date): day,
            id(dt): _Imitation(dt, changed),
        }
        for module in self._modules():
            for name, value in list(vars(module).items()):
                if id(value) in imitations:
                    self._put(module, name, imitations[id(value)])
        for name, made in functions.items():
            self._put(time, name, made)
        opened = self._anywhere(socket.socket.__init__, "a socket", INJECT)
        started = self._anywhere(threading.Thread.start, "a thread", THREAD)
        self._put(socket.socket, "__init__", opened)
        self._put(threading.Thread, "start", started)

    def end(self) -> None:
        """Give everything back. May be called twice."""
        while self._back:
            where, name, value = self._back.pop()
            setattr(where, name, value)

    def _put(self, where: Any, name: str, value: Any) -> None:
        self._back.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    def _modules(self) -> list[ModuleType]:
        names = _names(tuple(self._packages), frozenset(self._exact), len(sys.modules))
        return [sys.modules[name] for name in names if name in sys.modules]

    def _is_users(self, module: str) -> bool:
        return _belongs(module, self._packages, self._exact)

    # ── what stands there instead ────────────────────────────────────────────────────────

    def _runs(self) -> bool:
        return asyncio._get_running_loop() is self._loop  # noqa: SLF001 - the one way that is fast

    def _asked_by_user(self, depth: int = 2) -> bool:
        caller = sys._getframe(depth).f_globals.get("__name__", "")  # noqa: SLF001 - as above
        return self._runs() and self._is_users(caller)

    def _clock(self, name: str, instead: str) -> Callable[[], Any]:
        real = getattr(time, name)

        def read() -> Any:
            if self._asked_by_user():
                raise self._loop.refuse(f"the real clock (time.{name})", instead)
            return real()

        return read

    def _anywhere(self, real: Any, what: str, instead: str) -> Callable[..., Any]:
        """Refuse to whoever asks while the loop runs, be it a library."""

        def called(*args: Any, **kwargs: Any) -> Any:
            if self._runs():
                raise self._loop.refuse(what, instead)
            return real(*args, **kwargs)

        return called

    def _datetime(self) -> type:
        guard = self

        class Moment(dt.datetime, metaclass=_LikeDatetime):
            """datetime, without the machine's clock."""

            real: type[dt.datetime] = dt.datetime

            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> Any:
                guard._refuse_clock("datetime.now")
                return dt.datetime.now(tz)

            @classmethod
            def utcnow(cls) -> Any:
                guard._refuse_clock("datetime.utcnow")
                return dt.datetime.now(dt.UTC).replace(tzinfo=None)

            @classmethod
            def today(cls) -> Any:
                guard._refuse_clock("datetime.today")
                return dt.datetime.now(dt.UTC).astimezone().replace(tzinfo=None)

        return Moment

    def _date(self) -> type:
        guard = self

        class Day(dt.date, metaclass=_LikeDatetime):
            """date, without the machine's clock."""

            real: type[dt.date] = dt.date

            @classmethod
            def today(cls) -> Any:
                guard._refuse_clock("date.today")
                return dt.datetime.now(dt.UTC).astimezone().date()

        return Day

    def _refuse_clock(self, name: str) -> None:
        if self._runs():
            raise self._loop.refuse(f"the real clock ({name})", NOW)
