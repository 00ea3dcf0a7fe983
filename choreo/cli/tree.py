"""One flow as a tree of causes, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from choreo.cli.output import ago, cleaned, duration, short, status_text
from choreo.events import rfc3339
from choreo.tracker import EventView, FlowView, Missing, StepView

__all__ = ["tree_of"]

CHILDREN_MAX = 50
ERROR_MAX = 300


def tree_of(view: FlowView, now: float) -> RenderableType:
    """Draw a flow: its state, what failed, the tree, what is missing, what is odd."""
    drawing = _Drawing(view, now)
    parts: list[RenderableType] = [drawing.header(), *drawing.errors(), drawing.tree()]
    parts += drawing.missing()
    parts += drawing.anomalies()
    return Group(*parts)


class _Drawing:
    def __init__(self, view: FlowView, now: float) -> None:
        self.view = view
        self.now = now
        self.events = {event.id: event for event in view.events}
        self.by_output = {one: step for step in view.steps for one in step.outputs}
        self.children: dict[str, list[EventView]] = {}
        for event in view.events:
            cause = event.causes[0] if event.causes else ""
            if cause in self.events and event.step and self._is_join(event):
                cause = max(
                    (one for one in event.causes if one in self.events),
                    key=lambda one: (self.events[one].at, one),
                )
            self.children.setdefault(cause if cause in self.events else "", []).append(event)
        self.silent: dict[str, list[StepView]] = {}
        for step in view.steps:
            if not step.outputs:
                near = [one for one in (step.cause, step.subject) if one in self.events]
                at = near[0] if near else self._last_of(step)
                self.silent.setdefault(at, []).append(step)
        self.drawn: set[str] = set()

    @staticmethod
    def _is_join(event: EventView) -> bool:
        return len(event.causes) > 1 and not event.undoes

    def _last_of(self, step: StepView) -> str:
        """Where a step hangs whose subject is no event: a join."""
        there = [event for event in self.view.events if event.branch == step.branch]
        return there[-1].id if there else ""

    # ── above the tree ───────────────────────────────────────────────────────────────────

    def header(self) -> Text:
        flow, badges = self.view.summary, self.view.at(self.now)
        line = status_text(flow.status)
        line.stylize("bold")
        for name, holds in (("overdue", badges.overdue), ("stuck", badges.stuck)):
            if holds:
                line.append(f"  ⚠ {name}", style="bold red")
        line.append(f"  {cleaned(flow.name) or 'unnamed flow'}")
        line.append(f"  {cleaned(flow.key)}", style="bold")
        if flow.end:
            line.append(f"  → {short(flow.end)}")
        line.append(f"\n{cleaned(flow.flow)}", style="bright_black")
        started = rfc3339(flow.started) if flow.started else "unknown"
        line.append(f"\nstarted {started} ({ago(flow.started, self.now)}), ")
        line.append(f"{'took' if flow.ended is not None else 'so far'} ")
        line.append(duration(badges.duration_s))
        for count, one, many in ((flow.retries, "retry", "retries"), (flow.compensations,
                                 "compensation", "compensations"), (flow.dead, "dead letter",
                                 "dead letters"), (flow.voids, "void", "voids")):  # fmt: skip
            if count:
                line.append(f", {count} {one if count == 1 else many}")
        if flow.deadline is not None:
            line.append(f", deadline {ago(flow.deadline, self.now)}")
        return line

    def errors(self) -> list[Text]:
        found = []
        for step in self.view.steps:
            if step.error and step.state in ("dead", "retrying", "given_up"):
                line = Text("✘ ", style="red")
                line.append(f"{cleaned(step.handler)}: {cleaned(step.error)}", style="bold")
                if step.message:
                    line.append(f": {cleaned(step.message)[:ERROR_MAX]}")
                found.append(line)
        return found

    # ── the tree ─────────────────────────────────────────────────────────────────────────

    def tree(self) -> Tree:
        tree = Tree("", hide_root=True, guide_style="bright_black")
        roots = self.children.get("", [])
        for event in roots:
            self._add(tree, event)
        for step in self.silent.get("", []):
            tree.add(self._silent(step))
        for event in self.view.events:  # causes that lead in a circle
            if event.id not in self.drawn:
                self._add(tree, event)
        return tree

    def _add(self, tree: Tree, root: EventView) -> None:
        """Add an event and what followed. A loop, not a recursion: flows can be long."""
        waiting = [(tree, root)]
        while waiting:
            above, event = waiting.pop()
            if event.id in self.drawn:
                continue
            self.drawn.add(event.id)
            node = above.add(self._event(event))
            for step in self.silent.get(event.id, []):
                node.add(self._silent(step))
            below = self.children.get(event.id, [])
            waiting += [(node, one) for one in reversed(below[:CHILDREN_MAX])]
            if len(below) > CHILDREN_MAX:
                node.add(Text(f"… {len(below) - CHILDREN_MAX} more", style="bright_black"))
                self.drawn.update(self._all_below(below[CHILDREN_MAX:]))

    def _all_below(self, events: Sequence[EventView]) -> set[str]:
        found: set[str] = set()
        waiting = list(events)
        while waiting:
            event = waiting.pop()
            if event.id not in found:
                found.add(event.id)
                waiting += self.children.get(event.id, [])
        return found

    def _event(self, event: EventView) -> Text:
        line = Text("✘ " if event.failure else "● ", style="red" if event.failure else "green")
        line.append(short(event.type), style="bold red" if event.failure else "bold")
        step = self.by_output.get(event.id)
        if event.step:
            line.append(f"  {cleaned(event.step)}", style="bright_black")
            if step is not None:
                line.append(_effort(step))
        else:
            line.append(f"  {cleaned(event.source) or 'unknown source'}", style="bright_black")
        if event.undoes:
            undone = self.events.get(event.undoes)
            line.append(f"  undoes {short(undone.type) if undone else event.undoes}", "magenta")
        elif self._is_join(event):
            joined = [short(self.events[one].type) for one in event.causes if one in self.events]
            line.append(f"  joins {', '.join(joined)}", style="bright_black")
        if event.branch:
            line.append(f"  branch {cleaned(event.branch)}", style="bright_black")
        if event.void:
            line.append("  ∅ void", style="bright_black")
        return line

    def _silent(self, step: StepView) -> Text:
        line = status_text(step.state)
        line.append(f"  {cleaned(step.handler)}", style="bright_black")
        line.append(_effort(step))
        if step.undoes:
            undone = self.events.get(step.undoes)
            line.append(f"  undoes {short(undone.type) if undone else step.undoes}", "magenta")
        if step.reason:
            line.append(f"  {cleaned(step.reason)}")
        if step.unknown:
            line.append("  outcome unknown, tried until it is known", style="bold yellow")
        if step.due is not None and step.state in ("retrying", "waiting", "parked"):
            line.append(f"  next {ago(step.due, self.now)}")
        return line

    # ── below the tree ───────────────────────────────────────────────────────────────────

    def missing(self) -> list[Text]:
        found = []
        for one in self.view.missing:
            line = Text("◌ ", style="cyan")
            line.append(self._expectation(one))
            if one.deadline is not None and one.deadline <= self.now:
                line.append("  overdue", style="bold red")
            found.append(line)
        return found

    def _expectation(self, one: Missing) -> str:
        what = " or ".join(short(kind) for kind in one.types) or "its end"
        since = f"since {duration(max(0.0, self.now - one.since))}"
        until = "" if one.deadline is None else f", due {ago(one.deadline, self.now)}"
        handler = cleaned(one.handler)
        if one.kind == "join":
            need = " (may be missing)" if one.optional else ""
            return f"{handler} waits for {what}{need} {since}{until}"
        if one.kind == "expects":
            return f"{what} expected {since}{until}; otherwise {handler}"
        if one.kind == "later":
            return f"{what} scheduled by {handler} {since}{until}"
        text = f"waiting for {what} {since}"
        if one.kind == "undo":
            effect = self.events.get(one.subject)
            text += f"; undo of {short(effect.type) if effect else one.subject}"
        if one.kind == "nothing":
            return f"{text}; {handler} says it when there was nothing to undo"
        return f"{text}; handler {handler} {self._progress(one.step)}"

    def _progress(self, step: StepView | None) -> str:
        if step is None:
            return "has not been heard of"
        if step.state == "retrying":
            # The attempt of a note is the one that failed; the next one is at work or due.
            text = f"is at attempt {step.attempt + 1}"
            return text + (f", next {ago(step.due, self.now)}" if step.due is not None else "")
        if step.state == "waiting" and step.due is not None:
            return f"waits, next {ago(step.due, self.now)}"
        return f"is {step.state.replace('_', ' ')}"

    def anomalies(self) -> list[Text]:
        found = []
        for one in self.view.anomalies:
            event = self.events.get(one.event)
            line = Text("⚠ ", style="yellow")
            line.append(f"{one.kind.replace('_', ' ')}: ", style="bold")
            line.append(f"{short(event.type) if event else one.event}: {cleaned(one.text)}")
            found.append(line)
        return found


def _effort(step: StepView) -> str:
    """Say how long, and how often if not once."""
    text = f"  {duration(step.took_s)}" if step.took_s is not None else ""
    if step.attempt > 1 or step.state in ("retrying", "dead"):
        most = f" of {step.attempts_max}" if step.attempts_max and not step.undoes else ""
        text += f"  attempt {step.attempt}{most}"
    if step.run:
        text += f"  run {step.run + 1}"
    if step.duplicates:
        many = "duplicate" if step.duplicates == 1 else "duplicates"
        text += f"  {step.duplicates} {many} skipped"
    return text
