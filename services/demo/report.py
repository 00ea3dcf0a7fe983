"""What the demo has to say at its end: as tables for people, as JSON for programs."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

STATUS = {
    "OrderCompleted": "completed",
    "OrderRejected": "rejected",
    "OrderCancelled": "cancelled",
}
STATUSES = (*STATUS.values(), "open")
LEDGER = "ledger:"
"""What the sentences of the ledger's invariant begin with."""


def status_of(flow: Mapping[str, Any]) -> str:
    """Name where a flow stands, by its end event."""
    end = str(flow.get("end") or "").rsplit(".", 1)[-1]
    return STATUS.get(end, "open")


def percentile(values: Sequence[float], share: float) -> float | None:
    """Give the smallest value that `share` of all do not exceed; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Report:
    """The content of demo.json."""

    deployment: str
    flows: int
    by_status: dict[str, int]
    violations: list[str]
    ledger_equal: bool
    retries: int
    compensations: int
    dead_letters: int
    duration_s: float

    @property
    def good(self) -> bool:
        """Tell whether nothing is wrong and nothing left open."""
        return not self.violations and self.ledger_equal and not self.by_status["open"]

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def report(
    flows: Sequence[Mapping[str, Any]],
    violations: Sequence[str],
    duration_s: float,
    *,
    deployment: str,
) -> Report:
    """Sum up flows, as `choreo flows --json` lists them, and the audit's verdict."""
    found = [status_of(flow) for flow in flows]
    return Report(
        deployment=deployment,
        flows=len(flows),
        by_status={status: found.count(status) for status in STATUSES},
        violations=list(violations),
        ledger_equal=not any(LEDGER in violation for violation in violations),
        retries=_sum(flows, "retries"),
        compensations=_sum(flows, "compensations"),
        dead_letters=_sum(flows, "dead"),
        duration_s=round(duration_s, 3),
    )


def _sum(flows: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(int(flow.get(name) or 0) for flow in flows)


def show(console: Console, made: Report, flows: Sequence[Mapping[str, Any]]) -> None:
    """Print the tables."""
    table = Table(title="Orders by outcome")
    table.add_column("outcome")
    for name in ("flows", "p50 s", "p95 s", "p99 s", "retries", "undone", "dead"):
        table.add_column(name, justify="right")
    for status in (*STATUSES, "all"):
        chosen = [flow for flow in flows if status in {"all", status_of(flow)}]
        if chosen or status != "open":
            table.add_row(status, *_cells(chosen))
    console.print(table)
    speed = made.flows / made.duration_s if made.duration_s else 0.0
    console.print(f"{made.flows} flows in {made.duration_s:.1f} s, {speed:.0f} a second")
    if made.violations:
        console.print(f"audit: {len(made.violations)} violations", style="bold red")
        for violation in made.violations:
            console.print(f"  {violation}", markup=False, highlight=False)
    else:
        console.print("audit: no violations", style="bold green")
    equal = "equal" if made.ledger_equal else "NOT equal"
    console.print(f"ledgers of payments and provider: {equal}")


def _cells(flows: Sequence[Mapping[str, Any]]) -> list[str]:
    took = [float(flow["duration_s"]) for flow in flows if flow.get("duration_s") is not None]
    times = (percentile(took, share) for share in (0.5, 0.95, 0.99))
    sums = (str(_sum(flows, name)) for name in ("retries", "compensations", "dead"))
    return [str(len(flows)), *("–" if one is None else f"{one:.2f}" for one in times), *sums]


def example(flows: Sequence[Mapping[str, Any]]) -> str | None:
    """Choose a flow that is worth a look: the one with the most steps, undone if there is one."""
    if not flows:
        return None
    chosen = max(flows, key=lambda one: (_sum([one], "compensations"), _sum([one], "steps")))
    return str(chosen["flow"])
