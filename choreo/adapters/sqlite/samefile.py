"""Whether a path still leads to the file that was opened.

A file that was deleted, moved or replaced while it is open can be written to for as long as
one likes: nobody will ever read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from choreo.errors import StoreError

__all__ = ["SameFile", "make_folder"]

MEMORY = ":memory:"
WAL = "-wal"


class SameFile:
    """Knows a database, and the log that SQLite keeps beside it, by device and inode."""

    def __init__(self, path: str) -> None:
        """Know nothing yet: the first `check` remembers what it finds."""
        self._path = path
        self._known: dict[str, tuple[int, int]] = {}

    def check(self) -> None:
        """Raise StoreError CH4009 when the path leads to another file by now, or to none."""
        for path in self._parts():
            try:
                stat = os.stat(path)  # noqa: PTH116 - a Path would cost more than the call
            except FileNotFoundError:
                found = None
            except OSError:  # it can not be looked at now, which says nothing
                continue
            else:
                found = (stat.st_dev, stat.st_ino)
            known = self._known.get(path)
            if known is None:
                if found is not None:
                    self._known[path] = found
            elif found != known:
                gone = "deleted or moved" if found is None else "replaced"
                raise StoreError(
                    f"the file was {gone} while it was in use",
                    code="CH4009",
                    fix="put it back, then start again; what was written since it went is lost",
                    file=path,
                )

    def _parts(self) -> Iterator[str]:
        if self._path != MEMORY:
            yield self._path
            yield self._path + WAL


def make_folder(path: str) -> None:
    """Make the folder that a file is to be in."""
    if path == MEMORY:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreError(
            f"its folder can not be made: {exc.strerror}",
            code="CH4004",
            fix="make it writable for this user, or name another",
            at=path,
        ) from exc
