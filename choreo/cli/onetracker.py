"""One tracker at a time on a folder's views: two would do the same work twice."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from choreo.errors import ConfigurationError

__all__ = ["only_tracker"]

LOCK = "tracker.lock"


@contextlib.contextmanager
def only_tracker(database: Path) -> Iterator[None]:
    """Be the one tracker of these views; raises ConfigurationError CH1020 if there is one.

    The system lets go of the lock with the process, however that ends. Where there are no
    such locks nothing is checked: a second tracker costs time, and no more.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(database.with_name(LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # what can not be written is told when the views are opened
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = os.read(lock, 32).decode(errors="replace").strip()
            raise ConfigurationError(
                "a tracker keeps these views already",
                code="CH1020",
                fix="let that one run, it serves everybody; or end it first",
                folder=database.parent,
                pid=other or "unknown",
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)
