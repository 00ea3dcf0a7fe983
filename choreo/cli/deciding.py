"""`dead`: what was given up, and what an operator decides on it."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from choreo.app import open_broker, open_codec
from choreo.cli.letters import Letter, Wanted, as_json, chosen, read_letters
from choreo.cli.loading import event_type, services
from choreo.cli.output import (
    ago,
    cleaned,
    console,
    counted,
    execute,
    fail,
    say,
    short,
    show_json,
    status_text,
)
from choreo.cli.reading import up_to_date
from choreo.cli.running import clock
from choreo.cli.settings import Settings
from choreo.codec import check_json
from choreo.errors import ChoreoError
from choreo.events import CONTROL_TOPIC, ID, STEPS_TOPIC, Event, Record, redacted
from choreo.ports import Broker, Topic
from choreo.step.control import NO_EFFECT, NOT_DONE, request
from choreo.tracker import view_of

__all__ = ["Ask", "answers_of", "ask", "list_letters", "operator", "show_letter"]

WIDE = 110
BRIEF = 18
ANSWER_S = 3.0
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for: redrive or discard, of which letters, why and by whom.

    `all` asks for all that are `wanted`; without `yes` it is only told what would be done.
    `value` is to be run instead, `answers` say what outside calls gave.
    """

    action: str
    ids: Sequence[str]
    reason: str
    by: str
    all: bool = False
    wanted: Wanted = field(default_factory=Wanted)
    yes: bool = False
    value: bytes | None = None
    answers: Mapping[str, Any] = field(default_factory=dict)


def operator() -> str:
    """Name who is at work, as the system knows them."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def answers_of(texts: Sequence[str]) -> dict[str, Any]:
    """Read `NAME=JSON` and `NAME=not-done`; raises typer.BadParameter."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, given = text.partition("=")
        if name in found:
            raise typer.BadParameter(f"two answers for {name!r}", param_hint="--answer")
        try:
            found[name] = NOT_DONE if given == NO_EFFECT else _read(given)
        except (ChoreoError, ValueError):
            equals = ""
        if not name or not equals:
            raise typer.BadParameter(
                f"{text!r} is neither NAME=JSON nor NAME={NO_EFFECT}", param_hint="--answer"
            )
    return found


def _read(text: str) -> Any:
    check_json(text.encode())
    return json.loads(text)


# ── looking ──────────────────────────────────────────────────────────────────────────────


def list_letters(settings: Settings, wanted: Wanted, *, decided: bool, as_json_: bool) -> None:
    """List dead letters, newest first: those that wait for a decision, or all."""
    if not settings.log_exists():
        say(f"no dead letters: there is no log at {settings.deployment} yet")
        if as_json_:
            show_json([])
        return
    letters, now_is = execute(_listed(settings, wanted, decided=decided))
    if as_json_:
        show_json([as_json(one, now_is=now_is.get(one.id, "")) for one in letters])
        return
    if not letters:
        say("no dead letters" + ("" if wanted == Wanted() else " like that"))
        return
    out = console()
    out.print(_table(letters, now_is, out.width, decided=decided))
    say(f"{counted(len(letters), 'dead letter')}; choreo dead show ID tells more")


async def _listed(
    settings: Settings, wanted: Wanted, *, decided: bool
) -> tuple[list[Letter], dict[str, str]]:
    letters = [one for one in await _letters(settings) if wanted.has(one)]
    if not decided:
        letters = [one for one in letters if one.state == "dead"]
    return letters, await _became(settings, letters)


async def _became(settings: Settings, letters: Sequence[Letter]) -> dict[str, str]:
    """Say, by letter, in what state the step is that was redriven."""
    redriven = [one for one in letters if one.state == "redriven"]
    found = {one.id: "dead again" for one in redriven if one.again}
    left = [one for one in redriven if not one.again]
    if left:
        async with up_to_date(settings) as (views, _):
            flows = {one.flow: await view_of(views, one.flow) for one in left}
        for one in left:
            view = flows[one.flow]
            steps = [step for step in view.steps if step.handler == one.step] if view else []
            event = one.record.headers.get(ID, "")
            same = [step for step in steps if step.subject == event] or steps
            found[one.id] = same[0].state.replace("_", " ") if same else ""
    return found


def _table(
    letters: Sequence[Letter], now_is: Mapping[str, str], width: int, *, decided: bool
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    wide = width >= WIDE
    now = clock().now()
    names = ["id", "died", "step", "key", *(["type"] if wide else []), "error"]
    if decided:
        names.insert(1, "state")
    for name in names:  # what is left of the line is the error's
        table.add_column(
            name, no_wrap=True, overflow="ellipsis", ratio=1 if name == "error" else None
        )
    for one in letters:
        cells = [Text(one.id if wide else one.id[:BRIEF], style="bright_black")]
        if decided:
            state = status_text(one.state)
            if now_is.get(one.id):
                state.append(f": {now_is[one.id]}")
            cells.append(state)
        cells += [Text(ago(one.at, now)), Text(cleaned(one.step)), Text(cleaned(one.key))]
        if wide:
            cells.append(Text(short(one.kind)))
        cells.append(Text(cleaned(f"{one.about('error')}: {one.about('message')}"), style="red"))
        table.add_row(*cells)
    return table


def show_letter(settings: Settings, which: str, *, payload: bool, as_json_: bool) -> None:
    """Show one dead letter: what failed, why, and what was decided."""
    letter, now_is = execute(_shown(_existing(settings), which))
    content = _payload(settings, letter, as_it_is=payload)
    if as_json_:
        show_json({**as_json(letter, now_is=now_is), "payload": content})
        return
    out = console()
    head = status_text(letter.state)
    head.append(f"  {letter.id}", style="bold")
    out.print(head)
    for name, text in _lines(letter, now_is):
        out.print(
            Text(f"{name:>10}  ", style="bright_black").append(cleaned(text), style="default")
        )
    for note in letter.notes:
        line = status_text(str(note["state"]))
        line.append(f"  {note['at']}  by {note.get('by')}: {note.get('reason')}")
        if note.get("edited"):
            line.append(f"  as event {note['edited']}")
        out.print(Text("  ").append(line))
    if content is None:
        size = counted(len(letter.record.value), "byte")
        say(f"its class is not known here, or can not read it: --payload shows all {size}")
    else:
        out.print(Text(content if isinstance(content, str) else json.dumps(content, indent=2)))


def _lines(letter: Letter, now_is: str) -> list[tuple[str, str]]:
    run = int(letter.about("run")) + 1
    effort = f"{letter.about('reason')}, at attempt {letter.about('attempt')}"
    lines = [
        ("step", letter.step),
        ("event", f"{short(letter.kind)} {letter.record.headers.get(ID, '')}"),
        ("key", letter.key),
        ("flow", letter.flow),
        ("came in at", letter.about("source")),
        ("died", letter.about("time")),
        ("why", effort + (f" of run {run}" if run > 1 else "")),
        ("error", f"{letter.about('error')}: {letter.about('message')}"),
    ]
    if letter.calls:
        lines.append(("unknown", f"outcome of {', '.join(letter.calls)}"))
    if now_is:
        lines.append(("now", now_is))
    return lines


async def _shown(settings: Settings, which: str) -> tuple[Letter, str]:
    (letter,) = chosen(await _letters(settings), [which])
    return letter, (await _became(settings, [letter])).get(letter.id, "")


def _payload(settings: Settings, letter: Letter, *, as_it_is: bool) -> object:
    """Give what was to be handled, secret fields hidden; None where they can not be told."""
    if as_it_is:
        return cleaned(letter.record.value.decode("utf-8", "replace"))
    try:
        services(settings.modules)
        event = event_type(letter.kind)
        return redacted(execute(_decoded(event, letter.record)))
    except ChoreoError:
        return None


async def _decoded(event: type[Event], record: Record) -> Event:
    codec = open_codec(clock())
    try:
        await codec.learn([record])
        return codec.decode(event, record)
    finally:
        await codec.close()


async def _letters(settings: Settings) -> list[Letter]:
    broker = open_broker(settings.folder)
    try:
        return await read_letters(broker)
    finally:
        await broker.close()


def _existing(settings: Settings) -> Settings:
    if not settings.log_exists():
        fail("CH1016", f"there is no log at {settings.deployment} yet. Fix: run services first")
    return settings


# ── asking ───────────────────────────────────────────────────────────────────────────────


def ask(
    settings: Settings,
    asked: Ask,
    *,
    edit: Path | None = None,
    answers: Mapping[str, Any] | None = None,
) -> None:
    """Ask the services for it; without `yes` only tell what would be asked."""
    if bool(asked.ids) == asked.all:
        raise typer.BadParameter("give either ids or --all", param_hint="ID")
    if (edit or answers) and len(asked.ids) != 1:
        raise typer.BadParameter("--edit and --answer are for one ID", param_hint="ID")
    if edit is not None:
        try:
            asked = replace(asked, value=edit.read_bytes())
        except OSError as exc:
            fail("CH1018", f"{edit} can not be read: {exc.strerror}. Fix: name a readable file")
    asked = replace(asked, answers=answers or {})
    letters = execute(_letters(_existing(settings)))
    if asked.all:
        found = [one for one in letters if one.state == "dead" and asked.wanted.has(one)]
    else:
        found = chosen(letters, asked.ids)
    doing, refused = _sorted(found, asked)
    if refused and not asked.all:
        fail("CH1031", refused[0])
    for line in refused:
        say(f"left out: {line}")
    if not asked.yes:
        for one in doing:
            typer.echo(f"would {_verb(asked)} {_named(one)}")
        say(f"{counted(len(doing), 'dead letter')}; add --yes to have it done")
        return
    done = not doing or execute(_done(settings, doing, asked))
    if not done:
        raise typer.Exit(1)


def _verb(asked: Ask) -> str:
    return asked.action if asked.value is None else "run, edited,"


def _named(letter: Letter) -> str:
    return cleaned(f"{letter.id}  {letter.step}  {letter.key}  {letter.about('error')}")


def _sorted(letters: Sequence[Letter], asked: Ask) -> tuple[list[Letter], list[str]]:
    """Tell what can be asked for from what can not, each with a line that says why."""
    doing, refused = [], []
    for one in letters:
        why = _unfit(one, asked)
        if why:
            refused.append(f"{one.id}: {why}")
        else:
            doing.append(one)
    return doing, refused


def _unfit(letter: Letter, asked: Ask) -> str:
    edited = asked.value is not None
    decided = letter.decided
    if decided is not None:
        return f"it was {letter.state} {decided['at']} by {decided.get('by')}"
    calls = letter.calls
    if calls and (asked.action == "discard" or edited or set(calls) - asked.answers.keys()):
        names = " ".join(f"--answer {name}=…" for name in calls)
        return (
            f"the outcome of {', '.join(calls)} is unknown. Fix: find out from the other side,"
            f" then choreo dead redrive {letter.id} {names}: JSON, or {NO_EFFECT}"
        )
    if letter.aside and asked.action == "redrive" and not edited:
        return "another event has its id. Fix: redrive it with --edit, or discard it"
    return ""


async def _done(settings: Settings, letters: Sequence[Letter], asked: Ask) -> bool:
    """Write the requests, wait a moment for what the services say; false if one refused."""
    broker = open_broker(settings.folder)
    try:
        now = clock().now()
        records = [
            request(
                one.record, asked.action, reason=asked.reason, by=asked.by, now=now,
                value=asked.value, answers=asked.answers,
            )
            for one in letters
        ]  # fmt: skip
        await broker.ensure([Topic(CONTROL_TOPIC)])
        await broker.publish(records)
        waiting = {record.headers[ID]: one for record, one in zip(records, letters, strict=True)}
        notes = await _heard(broker, waiting, min(record.offset for record in records))
    finally:
        await broker.close()
    for own, one in waiting.items():
        said = notes.get(own)
        if said is None:
            typer.echo(f"asked     {_named(one)}")
        elif said["state"] == "refused":
            typer.echo(f"✘ refused  {_named(one)}: {cleaned(str(said.get('reason')))}")
        else:
            state = "edited" if said.get("edited") else str(said["state"])
            typer.echo(f"{status_text(state).plain}  {_named(one)}")
    if len(notes) < len(waiting):
        say("not done yet: it will be when the services run")
    return all(said["state"] != "refused" for said in notes.values())


async def _heard(
    broker: Broker, waiting: Mapping[str, Letter], since: int
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    until = clock().elapsed() + ANSWER_S
    while len(found) < len(waiting) and clock().elapsed() < until:
        async for records in broker.read((STEPS_TOPIC,), since=since):
            for record in records:
                since = record.offset + 1
                if b'"request"' in record.value:
                    said = json.loads(record.value)
                    if said.get("request") in waiting:
                        found[said["request"]] = said
        await clock().sleep(LOOK_S)
    return found
