"""`doctor`: is this machine, this deployment in order; it looks and writes nothing."""

from __future__ import annotations

import platform
import sqlite3
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.text import Text

from choreo.app import Survey, survey
from choreo.cli.look import FAIL, OK, WARN, Look
from choreo.cli.output import ago, cleaned, console, counted, duration, show_json
from choreo.cli.running import clock
from choreo.cli.servers import looked_at
from choreo.cli.settings import Settings
from choreo.errors import ChoreoError

__all__ = ["Look", "diagnosed", "run_doctor"]

SIGNS = {OK: ("✔", "green"), WARN: ("⚠", "yellow"), FAIL: ("✘", "red")}
PYTHON_MIN = (3, 11)
SQLITE_MIN = (3, 35, 0)
MIB = 1 << 20
WAL_MAX = 256 * MIB
DISK_LOW, DISK_OUT = 1024 * MIB, 64 * MIB
LAG_MAX = 10_000
LATE_S = 60.0
CLOCK_WARN_S, CLOCK_FAIL_S = 5.0, 60.0
WIDTH_MIN = 40


def run_doctor(settings: Settings, *, quick: bool, as_json: bool) -> None:
    """Look at everything; exit with 1 when something fails. `quick`: leave the file unread."""
    found = [*_environment(), *_settings(settings), *_store(settings, quick=quick)]
    failed = sum(one.state == FAIL for one in found)
    warned = sum(one.state == WARN for one in found)
    if as_json:
        show_json({"checks": [asdict(one) for one in found], "failed": failed, "warned": warned})
    else:
        out = console()
        for one in found:
            for line in _shown(one, out.width):
                out.print(line, soft_wrap=True)
        verdict = f"{counted(failed, 'failure')}, {counted(warned, 'warning')}"
        out.print(verdict if failed or warned else "✔ all is well")
    if failed:
        raise typer.Exit(1)


def _shown(one: Look, width: int) -> Iterator[Text]:
    sign, colour = SIGNS[one.state]
    front = Text(f"{sign} {one.state:<4}  ", style=colour)
    text = f"{one.code} {one.what}" if one.code else one.what
    lines = textwrap.wrap(cleaned(text), max(width - 8, WIDTH_MIN), break_on_hyphens=False)
    lines += textwrap.wrap(f"Fix: {one.fix}", max(width - 8, WIDTH_MIN)) if one.fix else []
    for number, line in enumerate(lines):
        yield (front if not number else Text(" " * 8)) + Text(line)


# ── what runs it ─────────────────────────────────────────────────────────────────────────


def _environment() -> Iterator[Look]:
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    if sys.version_info < PYTHON_MIN or sqlite3.sqlite_version_info < SQLITE_MIN:
        yield Look(
            FAIL, f"{versions}: too old", "CH6001", "use Python 3.11 and SQLite 3.35, or newer"
        )
    else:
        yield Look(OK, versions)


def _settings(settings: Settings) -> Iterator[Look]:
    wrong = settings.wrong()
    for one in wrong:
        yield Look(FAIL, one.what, one.code, one.fix)
    if not wrong:
        shown = settings.shown()
        yield Look(OK, "settings: " + ", ".join(f"{one.name} from {one.where}" for one in shown))


# ── the store ────────────────────────────────────────────────────────────────────────────


def _store(settings: Settings, *, quick: bool) -> Iterator[Look]:
    try:
        path = settings.database
    except ChoreoError:
        return  # told among the settings
    if settings.deployment.log is None:
        yield from looked_at(settings)
        return
    if not settings.log_exists():
        fix = "run services here, or name the folder with --folder"
        yield Look(WARN, f"there is no store at {path} yet", "CH6002", fix)
        return
    try:
        seen = survey(settings.folder, now=clock().now(), whole=not quick)
    except ChoreoError as exc:
        yield Look(FAIL, f"{path}: {exc.what}", exc.code, exc.fix)
        return
    yield from diagnosed(seen, path, now=clock().now(), whole=not quick)


def diagnosed(seen: Survey, path: Path, *, now: float, whole: bool = True) -> list[Look]:
    """Judge what was seen of a store."""
    return [
        *_file(seen, path, whole=whole),
        *_clock(seen, now),
        *_groups(seen),
        *_waiting(seen, now),
        *_tracker(seen),
    ]


def _file(seen: Survey, path: Path, *, whole: bool) -> Iterator[Look]:
    if seen.damage:
        yield Look(
            FAIL, f"{path} is damaged: {'; '.join(seen.damage)}", "CH4003",
            "stop all services, and restore the file from a copy",
        )  # fmt: skip
    else:
        state = "undamaged" if whole else "not read as a whole"
        yield Look(
            OK,
            f"{path}: {_bytes(seen.size)}, version {seen.version}, {seen.records} records, {state}",
        )
    if seen.journal_mode != "wal":
        yield Look(
            WARN, f"its journal mode is {seen.journal_mode}, not wal", "CH6003",
            "it is set when services open the file; where they did, the disk has no shared memory: "
            "use a local one",
        )  # fmt: skip
    if seen.wal_size > WAL_MAX:
        yield Look(
            WARN, f"its write-ahead log has {_bytes(seen.wal_size)}", "CH6004",
            "end what has read in the file for long: a copy, a shell, a stopped process",
        )  # fmt: skip
    state = FAIL if seen.disk_free < DISK_OUT else WARN if seen.disk_free < DISK_LOW else OK
    free = f"{_bytes(seen.disk_free)} free on its disk"
    fix = "make room: without it nothing can be committed"
    yield Look(OK, free) if state == OK else Look(state, f"only {free}", "CH6005", fix)


def _clock(seen: Survey, now: float) -> Iterator[Look]:
    if seen.newest is None:
        return
    ahead = seen.newest - now
    if ahead > CLOCK_WARN_S:
        yield Look(
            FAIL if ahead > CLOCK_FAIL_S else WARN,
            f"the newest record is of {duration(ahead)} ahead: the clock was set back", "CH6006",
            "set the clock; until it has caught up, what waits for a time waits longer",
        )  # fmt: skip
    else:
        yield Look(OK, f"clock: the newest record is of {ago(seen.newest, now)}")


def _groups(seen: Survey) -> Iterator[Look]:
    for group in seen.groups:
        waits = sum(group.lag.values())
        most = max(group.lag, key=lambda name: group.lag[name], default="")
        records = counted(waits, "record") + (" or more" if group.more else "")
        lag = f"{records} behind" + (f", most in {most}" if len(group.lag) > 1 else "")
        if not group.alive:
            gone = f" (gone: {', '.join(map(_process, group.gone))})" if group.gone else ""
            if waits:
                yield Look(
                    WARN, f"{group.name} does not run{gone}, and is {lag}", "CH6007",
                    f"start it: choreo run with the module of {group.name}",
                )  # fmt: skip
            else:
                yield Look(OK, f"{group.name} does not run{gone}; nothing waits for it")
            continue
        who = f"{group.name} runs in {', '.join(map(_process, group.alive))}"
        if waits > LAG_MAX:
            yield Look(
                WARN, f"{who}, and is {lag}", "CH6008",
                "look at its slowest handler with choreo flow; start it once more, it shares",
            )  # fmt: skip
        else:
            yield Look(OK, f"{who}, {lag if waits else 'and is up to date'}")
        if group.orphaned:
            count = counted(len(group.orphaned), "partition")
            yield Look(
                WARN, f"{count} of {group.name} are nobody's: {_some(group.orphaned)}", "CH6009",
                "wait a few seconds: a living process takes them; if none does, start it again",
            )  # fmt: skip


def _waiting(seen: Survey, now: float) -> Iterator[Look]:
    for what, rows in (("parked", seen.parked), ("timers", seen.timers)):
        for handler, count, overdue, first in rows:
            late = first is not None and overdue and now - first > LATE_S
            when = "" if first is None else f", the first due {ago(first, now)}"
            many = counted(count, "timer") if what == "timers" else f"{count} parked"
            if late:
                yield Look(
                    WARN, f"{handler}: {many}, {overdue} overdue{when}", "CH6010",
                    f"see that {handler.partition('.')[0]} runs, and at what it is busy with",
                )  # fmt: skip
            else:
                yield Look(OK, f"{handler}: {many}{when}")
    for one in seen.dead:
        yield Look(
            WARN, f"{one.handler}: {counted(one.count, 'dead letter')}, such as {one.error[:200]}",
            "CH6011", "correct what it says, then have them redriven or discarded",
        )  # fmt: skip
    if seen.unknown:
        yield Look(OK, f"{counted(seen.unknown, 'outside call')} with no known outcome yet")
    for kind, count, oldest in seen.gates:
        when = "" if oldest is None else f", the oldest of {ago(oldest, now)}"
        yield Look(OK, f"{kind}: {counted(count, 'open gate')}{when}")


def _tracker(seen: Survey) -> Iterator[Look]:
    if seen.views is None:
        yield Look(OK, "no tracker has run here; choreo flows makes the views when it is asked")
    elif seen.behind > LAG_MAX:
        yield Look(
            WARN, f"the views are {seen.behind} records behind", "CH6013", "run choreo tracker"
        )
    else:
        yield Look(OK, f"the views are {counted(seen.behind, 'record')} behind")


def _process(holder: str) -> str:
    return f"process {holder.partition(' ')[0]}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")  # noqa: PLR2004 - a few


def _bytes(size: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004 - units of 1024
            return f"{size:.3g} {unit}" if unit != "B" else f"{size} B"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.3g} TiB"
