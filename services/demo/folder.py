"""The folder that the demo starts from: empty, or emptied if it is certainly one of ours."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

OURS = ("choreo.db", "views.db", "provider.db")
BESIDE = ("", "-wal", "-shm", "-journal")
NAMES = frozenset(
    [f"{name}{end}" for name in OURS for end in BESIDE]
    + ["demo.json", "orders.jsonl", "stock.csv"]
    + ["provider.log", "servers.log", "services.log", "tracker.lock", "tracker.log"]
)


class FolderError(Exception):
    """The folder holds something that is not ours to delete."""


def make_empty(folder: Path) -> None:
    """Make the folder, or delete what runs have left in it.

    Raises FolderError, with everything still there, when it holds anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is no folder")
    folder.mkdir(parents=True, exist_ok=True)
    found = list(folder.iterdir())
    foreign = sorted(one.name for one in found if one.name not in NAMES or one.is_dir())
    if foreign:
        raise FolderError(
            f"{folder} holds {', '.join(foreign[:3])}: not a folder of choreo, nothing was deleted"
        )
    if running := _owners(folder / OURS[0]):
        raise FolderError(
            f"{folder} is in use by process {', '.join(running)}: end it, or name another folder"
        )
    for one in found:
        one.unlink(missing_ok=True)


def _owners(database: Path) -> list[str]:
    """Name the living processes that run services on this store."""
    if not database.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as store:
            rows = store.execute("SELECT DISTINCT holder FROM member").fetchall()
    except sqlite3.Error:
        return []  # no store, or none that anybody could run on
    return [pid for (holder,) in rows if _alive(pid := str(holder).partition(" ")[0])]


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return False
    return True
