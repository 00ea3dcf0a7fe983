"""What log and store alone do not show: one function each, and the evidence that it needs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from choreo.audit.case import (
    Case,
    effects_of,
    ended,
    flow_of,
    shown,
    steps,
    time_of,
)
from choreo.audit.evidence import Evidence
from choreo.audit.invariants import Invariant
from choreo.events import ATTEMPT, CAUSE, DEAD_TOPIC, STARTED, STEP, Partition, Record
from choreo.plan import Status
from choreo.ports import FlowSummary

__all__ = ["FURTHER", "FURTHER_AT_REST"]

CLOSED = ("completed", "compensated")
INTERNAL = "choreo."


# ── at any moment ────────────────────────────────────────────────────────────────────────


def one_row_a_key(case: Case) -> Iterator[str]:
    """An outside system has at most one entry for each idempotency key."""
    for system, keys in (case.evidence.outside or {}).items():
        for key, count in Counter(keys).items():
            if count > 1:
                yield f"{system} has {count} entries for the key {key}"


def forward(case: Case) -> Iterator[str]:
    """A committed offset never goes back while its partition is assigned."""
    last: dict[tuple[str, Partition, str], int] = {}
    for group, partition, member, offset in case.evidence.commits or ():
        before = last.get((group, partition, member), offset)
        if offset < before:
            place = f"{partition.topic}-{partition.number}"
            yield f"group {group} went back from {before} to {offset} in {place}, at {member}"
        last[group, partition, member] = offset


def replay_changes_nothing(case: Case) -> Iterator[str]:
    """After a replay every topic, table and outside ledger is as it was."""
    before, after = case.evidence, case.evidence.replayed
    if after is None:
        return
    for old, new in zip_longest(before.history, after.history):
        if old != new:
            yield f"a replay changed the log: {_or_nothing(old)} became {_or_nothing(new)}"
            break
    for old_rows, new_rows in zip(_kept(before), _kept(after), strict=True):
        yield from _differs(old_rows[0], old_rows[1], new_rows[1])
    for kind, were, are in (
        ("table", before.tables, after.tables),
        ("books of", before.outside, after.outside),
    ):
        for name in sorted((were or {}).keys() | (are or {}).keys()):
            yield from _differs(f"{kind} {name}", (were or {}).get(name), (are or {}).get(name))


def same_seed(case: Case) -> Iterator[str]:
    """The same seed gives the same history."""
    for seed, hashes in (case.evidence.runs or {}).items():
        if len(set(hashes)) > 1:
            yield f"seed {seed} gave {len(set(hashes))} histories in {len(hashes)} runs"


def no_secret(case: Case) -> Iterator[str]:
    """No secret is in a log, a trace, a page, or what the framework writes about an event.

    The value of a dead letter is that of the event itself, and as secret as its topic.
    """
    told = case.evidence.told
    secrets = [secret for secret in told.secrets if secret] if told is not None else []
    for name, text in (told.texts if told is not None else {}).items():
        for number, secret in enumerate(secrets, 1):
            if secret in text:
                yield f"secret {number} stands in {name}"
    for record in case.evidence.history if secrets else ():
        if not record.topic.startswith(INTERNAL):
            continue
        text = "\n".join(record.headers.values())
        if record.topic != DEAD_TOPIC:
            text += record.value.decode(errors="replace")
        for number, secret in enumerate(secrets, 1):
            if secret in text:
                yield f"secret {number} stands in {shown(record)}"


# ── at rest ──────────────────────────────────────────────────────────────────────────────


def views(case: Case) -> Iterator[str]:
    """What a tracker shows of a flow is what the services' stores say."""
    assert case.evidence.views is not None
    shown_flows = {flow.flow: flow for flow in case.evidence.views.live}
    began = dict.fromkeys(flow_of(record) for _, record in case.records)
    for flow in began.keys() - shown_flows.keys():
        yield f"flow {flow} is on the log, and no tracker shows it"
    truth = _truth(case)
    for name, flow, _, ends in ended(case):
        view = shown_flows.get(flow)
        if view is None:
            continue
        undone, dead = truth.get(flow, (0, 0))
        types = {end.headers["ce_type"] for end in ends}
        if view.end not in (types or {""}):
            yield f"flow {flow} ({name}) is shown with the end {view.end!r}, it has {sorted(types)}"
        elif ends and view.status != ("compensated" if undone else "completed"):
            yield f"flow {flow} ({name}) is shown as {view.status}; {undone} effects are undone"
        elif not ends and view.status in CLOSED:
            yield f"flow {flow} ({name}) is shown as {view.status}, and has no end"
        if view.compensations != undone:
            yield f"flow {flow} ({name}): {view.compensations} undos are shown, {undone} were run"
        if bool(view.dead) != bool(dead):
            yield f"flow {flow} ({name}): {view.dead} dead letters are shown, there are {dead}"


def rebuilt(case: Case) -> Iterator[str]:
    """Views that are made anew from the log are those that grew with it."""
    found = case.evidence.views
    if found is None or found.rebuilt is None:
        return
    live = {flow.flow: flow for flow in found.live}
    anew = {flow.flow: flow for flow in found.rebuilt}
    for flow in sorted(live.keys() | anew.keys()):
        if live.get(flow) != anew.get(flow):
            yield f"flow {flow} is shown as {_told(live, flow)}, made anew as {_told(anew, flow)}"


def in_time(case: Case) -> Iterator[str]:
    """After the last fault every flow comes to its end within a time."""
    recovery = case.evidence.recovery
    if recovery is None or recovery.within_s is None:
        return
    for name, flow, start, ends in ended(case):
        since = max(recovery.at, time_of(start))
        for end in ends[:1]:
            took = time_of(end) - since
            if took > recovery.within_s + case.evidence.skew_s:
                yield f"flow {flow} ({name}) took {took:.1f} s to its end"


def caught_up(case: Case) -> Iterator[str]:
    """Once all services have ended, no group is behind, and none has a lease."""
    recovery, positions = case.evidence.recovery, case.evidence.positions
    if recovery is None or not recovery.stopped:
        return
    for owner in case.owners:
        if owner.holder:
            place = f"{owner.partition.topic}-{owner.partition.number}"
            yield f"group {owner.group}: {owner.holder} still has {place}"
    last: dict[Partition, Record] = {}
    for record in case.evidence.history:
        last[Partition(record.topic, record.partition)] = record
    for (group, partition), offset in (positions or {}).items():
        if partition in last and offset <= last[partition].offset:
            yield f"group {group} is at {offset}, before {shown(last[partition])}"


def unhindered(case: Case) -> Iterator[str]:
    """A key that waits for something delays no other key."""
    recovery = case.evidence.recovery
    if recovery is None or recovery.delay_s_max is None:
        return
    troubled = {_chain(note, case.by_id.get(note.headers.get(CAUSE, ""))) for note in case.notes}
    slowest: dict[tuple[object, ...], tuple[float, Record]] = {}
    for _, record in steps(case):
        declared = case.handlers.get(case.step_of(record))
        cause = case.by_id.get(record.headers.get(CAUSE, ""))
        if declared is None or declared.kind != "on" or cause is None:
            continue
        chain = _chain(record, cause)
        if record.headers.get(ATTEMPT, "1") != "1":
            troubled.add(chain)
        waited = float(record.headers.get(STARTED) or 0.0) - max(time_of(cause), recovery.at)
        slowest[chain] = max(slowest.get(chain, (0.0, cause)), (waited, cause), key=_first)
    for chain, (waited, cause) in slowest.items():
        if chain not in troubled and waited > recovery.delay_s_max + case.evidence.skew_s:
            yield f"{chain[0]} began {waited:.1f} s after {shown(cause)}, whose key waits for \
nothing"


def restarted(case: Case) -> Iterator[str]:
    """No service starts again and again on one record."""
    recovery = case.evidence.recovery
    if recovery is None or recovery.restarts_max is None:
        return
    for (service, partition, offset), count in Counter(recovery.restarts).items():
        if count > recovery.restarts_max:
            place = f"{partition.topic}-{partition.number}-{offset}"
            yield f"service {service} started {count} times on {place}"


# ── what they share ──────────────────────────────────────────────────────────────────────


def _truth(case: Case) -> Mapping[str, tuple[int, int]]:
    """Count, by flow, the effects that were undone and the deliveries that are dead."""
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    by_subject = {case.subject(identity): record for identity, record in case.by_id.items()}
    for one in case.handlers.values():
        effects = effects_of(case, one) if one.kind == "compensate" else {}
        for subject, effect in effects.items():
            if case.inbox.get((one.name, subject)) is Status.DONE:
                undone, dead = found[flow_of(effect)]
                found[flow_of(effect)] = undone + 1, dead
    for row in case.rows:
        record = by_subject.get(row.subject)
        if row.status is Status.DEAD and row.handler in case.handlers and record is not None:
            undone, dead = found[flow_of(record)]
            found[flow_of(record)] = undone, dead + 1
    return found


def _kept(evidence: Evidence) -> list[tuple[str, Sequence[object]]]:
    stores = evidence.stores
    return [
        ("the inbox", [row for store in stores for row in store.inbox]),
        ("timers", [row for store in stores for row in store.timers]),
        ("outside calls", [row for store in stores for row in store.memos]),
        ("the outbox", [row.row for store in stores for row in store.outbox]),
        ("committed offsets", [*(evidence.positions or {}).items()]),
    ]


def _differs(
    name: str, before: Sequence[object] | None, after: Sequence[object] | None
) -> Iterator[str]:
    if before is None or after is None:
        if before is not after:
            yield f"a replay changed {name}: it is in one of both only"
        return
    changed = {repr(row) for row in before} ^ {repr(row) for row in after}
    if changed:
        yield f"a replay changed {name}: {min(changed)}"


def _or_nothing(record: Record | None) -> str:
    return "nothing" if record is None else shown(record)


def _told(flows: Mapping[str, FlowSummary], flow: str) -> str:
    return flows[flow].status if flow in flows else "nothing"


def _chain(told: Record, cause: Record | None) -> tuple[object, ...]:
    key = None if cause is None else (cause.topic, cause.partition, cause.key)
    return told.headers.get(STEP, ""), key


def _first(pair: tuple[float, Record]) -> float:
    return pair[0]


FURTHER: Mapping[Invariant, str] = {
    one_row_a_key: "outside",
    forward: "commits",
    replay_changes_nothing: "replayed",
    same_seed: "runs",
    no_secret: "told",
}
"""At any moment, each with the part of the evidence that it needs."""
FURTHER_AT_REST: Mapping[Invariant, str] = {
    views: "views",
    rebuilt: "views.rebuilt",
    in_time: "recovery.within_s",
    caught_up: "recovery.stopped",
    unhindered: "recovery.delay_s_max",
    restarted: "recovery.restarts_max",
}


def lacks(evidence: Evidence, part: str) -> bool:
    """Tell whether a part of the evidence was not given."""
    found: object = evidence
    for name in part.split("."):
        found = getattr(found, name, None)
    return found is None or found is False
