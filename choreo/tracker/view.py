"""What people see of a flow, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from choreo.ports import FlowSummary

__all__ = [
    "OPEN",
    "STATUSES",
    "Anomaly",
    "Attempt",
    "Badges",
    "EventView",
    "FlowView",
    "Missing",
    "StepView",
    "badges",
]

OPEN = ("running", "waiting", "retrying", "parked", "compensating", "failed")
STATUSES = ("completed", "compensated", *OPEN)


class Badges(NamedTuple):
    """What is true of a flow at one moment."""

    overdue: bool
    stuck: bool
    duration_s: float


class Attempt(NamedTuple):
    """One try of a step: what came of it, when it began, how long it took."""

    run: int
    attempt: int
    state: str
    started: float | None
    took_s: float | None
    error: str


@dataclass(frozen=True, slots=True)
class StepView:
    """One handler and what it was given (`subject`: an event's id; "" for a join).

    `state` is done, retrying, waiting, parked, void, dead, redriven, discarded, given_up,
    overdue or duplicate.
    `cause` is the event that led to it: of an undo its trigger.
    `due` (epoch seconds) is when the next attempt is made. `outputs` are ids of events.
    `unknown`: an outside call may have had its effect; it is tried until that is known.
    """

    handler: str
    subject: str
    state: str
    cause: str = ""
    run: int = 0
    attempt: int = 1
    attempts_max: int = 0
    started: float | None = None
    took_s: float | None = None
    due: float | None = None
    error: str = ""
    message: str = ""
    reason: str = ""
    unknown: bool = False
    undoes: str = ""
    branch: str = ""
    retries: int = 0
    duplicates: int = 0
    outputs: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class EventView:
    """One event of a flow, where it lies, and why it came.

    `causes` has all causes, the direct one first. `guessed`: its place in the order of the
    flow's events rests on its time alone. `edited` names the step that was given it in the
    place of an event that it could not take; nobody else was.
    """

    id: str
    type: str
    key: str
    at: float
    topic: str
    partition: int
    offset: int
    source: str
    step: str = ""
    causes: tuple[str, ...] = ()
    branch: str = ""
    undoes: str = ""
    void: bool = False
    failure: bool = False
    edited: str = ""
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """Something expected that has not come.

    `kind` is handler, join, expects, undo, nothing or later. `types` are the events awaited,
    any of them; `since` and `deadline` in epoch seconds. `step` is the step at work on it.
    """

    kind: str
    handler: str
    types: tuple[str, ...]
    since: float
    subject: str = ""
    deadline: float | None = None
    optional: bool = False
    step: StepView | None = None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that should not be.

    `kind` is duplicate, quarantined, unknown_cause, undeclared or void.
    """

    kind: str
    event: str
    text: str


@dataclass(frozen=True, slots=True)
class FlowView:
    """All that is known of one flow. Times are epoch seconds."""

    summary: FlowSummary
    events: tuple[EventView, ...]
    steps: tuple[StepView, ...]
    missing: tuple[Missing, ...]
    anomalies: tuple[Anomaly, ...]

    def at(self, now: float) -> Badges:
        """Tell what is true at `now` (epoch seconds)."""
        return badges(self.summary, now)


def badges(flow: FlowSummary, now: float) -> Badges:
    """Tell what is true of a flow at `now` (epoch seconds)."""
    open_still = flow.status in OPEN
    return Badges(
        overdue=open_still and flow.deadline is not None and flow.deadline <= now,
        stuck=open_still and flow.stuck_at is not None and flow.stuck_at <= now,
        duration_s=max(0.0, (now if flow.ended is None else flow.ended) - flow.started),
    )
