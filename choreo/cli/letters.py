"""Dead letters as the log has them, and what operators have decided on each since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from choreo.cli.output import cleaned, fail
from choreo.events import DEAD_TOPIC, FLOW, ID, STEP, STEPS_TOPIC, SUBJECT, TIME, TYPE, Record
from choreo.ports import Broker
from choreo.step.control import service_of
from choreo.tracker import epoch

__all__ = ["Letter", "Wanted", "as_json", "chosen", "letters_of", "read_letters"]

HEADERS = ("choreo-dead-id", "choreo-dead-step", "choreo-dead-subject", "choreo-dead-run")
DECIDED = ("redriven", "discarded")
TOLD_MAX = 5


@dataclass(slots=True)
class Letter:
    """One dead letter. `notes` are what was said about it since, oldest first."""

    record: Record
    notes: list[dict[str, Any]] = field(default_factory=list)
    again: bool = False  # it was redriven, and is dead once more, as another letter

    def about(self, what: str) -> str:
        """Give one of the headers that tell why it is dead."""
        return self.record.headers.get(f"choreo-dead-{what}", "")

    @property
    def id(self) -> str:
        """Its own id."""
        return self.about("id")

    @property
    def step(self) -> str:
        """The step that was given up: the name of its row in the inbox."""
        return self.about("step")

    @property
    def service(self) -> str:
        """Whose step it is."""
        return service_of(self.record)

    @property
    def at(self) -> float:
        """When it died, in epoch seconds."""
        return epoch(self.about("time"))

    @property
    def key(self) -> str:
        """The event's key."""
        key = self.record.key or b""
        return self.record.headers.get(SUBJECT) or key.decode("utf-8", "replace")

    @property
    def flow(self) -> str:
        """The flow that it belongs to."""
        return self.record.headers.get(FLOW) or self.record.headers.get(ID, "")

    @property
    def kind(self) -> str:
        """The event's type."""
        return self.record.headers.get(TYPE, "")

    @property
    def decided(self) -> dict[str, Any] | None:
        """What an operator has had done, if anything: a note."""
        return next((note for note in self.notes if note["state"] in DECIDED), None)

    @property
    def state(self) -> str:
        """Say dead, redriven, edited or discarded."""
        decided = self.decided
        if decided is None:
            return "dead"
        return "edited" if decided.get("edited") else str(decided["state"])

    @property
    def calls(self) -> list[str]:
        """Name the outside calls whose outcome is unknown."""
        found = parsed(self.about("calls").encode())
        return [str(one) for one in found] if isinstance(found, list) else []

    @property
    def aside(self) -> bool:
        """Tell whether another event has its id."""
        return self.step.endswith("!quarantine")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: of a service, with an error (its class or a part of its text), since."""

    service: str = ""
    error: str = ""
    since: float | None = None

    def has(self, letter: Letter) -> bool:
        """Tell whether the letter is among them."""
        text = f"{letter.about('error')} {letter.about('message')} {letter.about('reason')}"
        return (
            (not self.service or letter.service == self.service)
            and self.error.lower() in text.lower()
            and (self.since is None or letter.at >= self.since)
        )


async def read_letters(broker: Broker) -> list[Letter]:
    """Read all dead letters of a log, newest first, with what was noted of them."""
    records: list[Record] = []
    async for some in broker.read((DEAD_TOPIC, STEPS_TOPIC)):
        records += (one for one in some if one.topic == DEAD_TOPIC or b'"dead"' in one.value)
    return letters_of(records)


def letters_of(records: Iterable[Record]) -> list[Letter]:
    """Put dead letters and notes together, newest letter first."""
    found: dict[str, Letter] = {}
    last: dict[tuple[str, str], Letter] = {}
    for record in records:
        if record.topic == DEAD_TOPIC:
            if any(name not in record.headers for name in HEADERS):
                continue  # a stranger's
            letter = Letter(record)
            found.setdefault(letter.id, letter)
            place = (letter.step, letter.about("subject"))
            if place in last and last[place].id != letter.id:
                last[place].again = True
            last[place] = letter
        elif said := _note(record):
            about = found.get(str(said.get("dead", "")))
            if about is not None:
                about.notes.append(said)
    return sorted(found.values(), key=lambda one: one.record.offset, reverse=True)


def _note(record: Record) -> dict[str, Any] | None:
    said = parsed(record.value)
    if not isinstance(said, dict) or not isinstance(said.get("state"), str):
        return None
    headers = record.headers
    return {**said, "step": headers.get(STEP, ""), "at": headers.get(TIME, "")}


def parsed(data: bytes) -> object:
    """Read JSON; None for what is none."""
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found


def chosen(letters: Sequence[Letter], ids: Sequence[str]) -> list[Letter]:
    """Find letters by their ids, or the beginnings of those; ends the call when there is none."""
    return list({letter.id: letter for letter in _chosen(letters, ids)}.values())


def _chosen(letters: Sequence[Letter], ids: Sequence[str]) -> Iterator[Letter]:
    for text in ids:
        found = [letter for letter in letters if text and letter.id.startswith(text.lower())]
        if not found:
            shown = cleaned(text)
            fail("CH1030", f"no dead letter has the id {shown!r}. Fix: choreo dead ls --all")
        if len(found) > 1:
            listed = ", ".join(letter.id for letter in found[:TOLD_MAX])
            more = " …" if len(found) > TOLD_MAX else ""
            fail("CH1030", f"{text!r} may be any of {listed}{more}. Fix: give more of the id")
        yield found[0]


def as_json(letter: Letter, *, now_is: str = "") -> Mapping[str, Any]:
    """Give a letter for programs; without its payload."""
    return {
        "id": letter.id,
        "state": letter.state,
        "now": now_is,
        "service": letter.service,
        "step": letter.step,
        "time": letter.about("time"),
        "error": letter.about("error"),
        "message": letter.about("message"),
        "reason": letter.about("reason"),
        "calls": letter.calls,
        "event": letter.record.headers.get(ID, ""),
        "type": letter.kind,
        "key": letter.key,
        "flow": letter.flow,
        "source": letter.about("source"),
        "run": int(letter.about("run")),
        "attempt": int(letter.about("attempt") or 1),
        "notes": letter.notes,
    }
