"""Records to facts: what is read of each, and what it adds to its flow's row.

Only headers are read, and the values of the framework's own topics. This is the hot path
of the tracker, so it works in bulk and keeps to plain tuples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any

from choreo.codec import JSON_TYPE, STRUCTURED, binary_mode
from choreo.errors import DecodeError
from choreo.events import (
    ATTEMPT,
    BRANCH,
    CAUSE,
    CAUSES,
    CONTENT_TYPE,
    EDITED,
    FAILURE,
    FLOW,
    ID,
    MANIFESTS_TOPIC,
    SOURCE,
    STARTED,
    STEP,
    STEPS_TOPIC,
    SUBJECT,
    TIME,
    TOOK,
    TYPE,
    UNDOES,
    VOID,
    Headers,
    Record,
)
from choreo.ports import Fact, FlowMerge
from choreo.tracker.catalog import Catalog

__all__ = ["Taken", "epoch", "take"]

MESSAGE_MAX = 500
RARE = frozenset((BRANCH, CAUSES, UNDOES, VOID, FAILURE, EDITED))
NOT_PLAIN = ('"undoes":', '"void":', '"edited":')  # as `json` writes them into `more`
NOTED = ("due", "error", "message", "unknown", "attempts_max", "reason", "by")

_new = tuple.__new__


@dataclass(slots=True)
class Taken:
    """What a batch of records says. `last` names the last record."""

    facts: list[Fact] = field(default_factory=list)
    flows: list[FlowMerge] = field(default_factory=list)
    manifests: list[tuple[str, int, str]] = field(default_factory=list)


@lru_cache(maxsize=4096)
def epoch(text: str) -> float:
    """Read RFC 3339 as epoch seconds; 0.0 for what is no time."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def take(records: Sequence[Record], catalog: Catalog) -> Taken:
    """Read a batch. Merges are right for flows of the catalog; later ones need a fold."""
    taken = Taken()
    facts = taken.facts
    merging: dict[str, _Row] = {}
    for record in records:
        if not record.topic.startswith("choreo."):
            fact = _event(record)
        elif record.topic == STEPS_TOPIC:
            fact = _note(record)
        else:
            if record.topic == MANIFESTS_TOPIC:
                _manifest(record, taken)
            continue
        if fact is not None:
            facts.append(fact)
            row = merging.get(fact[0])
            if row is None:
                row = merging[fact[0]] = _Row()
            row.add(fact, catalog)
    taken.flows = [row.merge(flow) for flow, row in merging.items()]
    return taken


class _Row:
    """What a batch says of one flow."""

    __slots__ = ("deadline", "end", "ended", "first", "key", "last", "name", "plain", "root")

    def __init__(self) -> None:
        self.root = self.name = self.key = self.end = ""
        self.first = self.last = 0.0
        self.ended: float | None = None
        self.deadline: float | None = None
        self.plain = True

    def add(self, fact: Fact, catalog: Catalog) -> None:
        """Take one more fact in. What is not said by a few marks is not plain."""
        (flow, _, _, _, own, kind, _, step, cause, subject, at, key, attempt, _, _, state, _,
         more) = fact  # fmt: skip
        self.last = max(self.last, at)
        if not self.root and (self.first == 0.0 or at < self.first):
            self.first = at
        alone = step in catalog.gathering and subject == cause  # of what came together, one
        told = more and any(word in more for word in NOT_PLAIN)
        if alone or attempt != 1 or at == 0.0 or told:
            self.plain = False
        if state:
            if state != "done" or step in catalog.later:
                self.plain = False
            return
        if kind in catalog.triggers:
            self.plain = False
        if not cause:
            if own != flow or more:
                self.plain = False
            else:
                self._begin(kind, at, key, catalog)
        if kind in catalog.end_types:
            if self.end in ("", kind):
                self.end, self.ended = kind, at if self.ended is None else min(self.ended, at)
            else:
                self.plain = False

    def _begin(self, kind: str, at: float, key: str, catalog: Catalog) -> None:
        """Take the root in; of two the earlier one holds."""
        if self.root and at >= self.first:
            if at == self.first and (kind, key) != (self.root, self.key):
                self.plain = False
            return
        self.root, self.key, self.first = kind, key, at
        declared = catalog.flows.get(kind)
        self.name = "" if declared is None else declared.name
        within_s = None if declared is None else declared.deadline_s
        self.deadline = None if within_s is None else at + within_s

    def merge(self, flow: str) -> FlowMerge:
        """Give the row."""
        return FlowMerge(
            flow, self.root, self.name, self.key, self.first, self.last,
            self.end, self.ended, self.deadline, self.plain,
        )  # fmt: skip


def _event(record: Record) -> Fact | None:
    headers = record.headers
    content = headers.get(CONTENT_TYPE)
    if content != JSON_TYPE and content is not None and content.startswith(STRUCTURED):
        try:
            headers = binary_mode(record).headers
        except DecodeError:
            return None
    get = headers.get
    own = get(ID)
    flow = get(FLOW) or own
    if not flow:
        return None
    cause = get(CAUSE, "")
    subject = cause
    more = ""
    if not RARE.isdisjoint(headers):
        subject, more = _rare(headers, cause)
    started, took, attempt = get(STARTED), get(TOOK), get(ATTEMPT)
    fact: Fact = _new(
        Fact,
        (
            flow, record.topic, record.partition, record.offset,
            own or f"{record.topic}-{record.partition}-{record.offset}",
            get(TYPE) or record.topic, get(SOURCE, ""), get(STEP, ""), cause, subject,
            epoch(get(TIME, "")), get(SUBJECT) or _key(record),
            1 if attempt is None or attempt == "1" else _whole(attempt),
            None if started is None else _number(started),
            None if took is None else _number(took),
            "", 0, more,
        ),
    )  # fmt: skip
    return fact


def _rare(headers: Headers, cause: str) -> tuple[str, str]:
    """Give the step's subject, and what is rare as JSON."""
    more: dict[str, Any] = {}
    subject = cause
    if branch := headers.get(BRANCH):
        more["branch"] = branch = _clean(branch)
    if causes := headers.get(CAUSES):
        more["causes"] = [one.strip() for one in _clean(causes).split(",") if one.strip()]
        subject = branch or ""  # a join is about what came together, not about who came last
    if undoes := headers.get(UNDOES):
        more["undoes"] = subject = _clean(undoes)
    if headers.get(VOID):
        more["void"] = True
    if headers.get(FAILURE):
        more["failure"] = True
    if edited := headers.get(EDITED):
        more["edited"] = _clean(edited)
    return subject, json.dumps(more, separators=(",", ":")) if more else ""


def _note(record: Record) -> Fact | None:
    headers = record.headers
    flow, step = headers.get(FLOW), headers.get(STEP)
    if not flow or not step:
        return None
    said = _json(record.value)
    if not isinstance(said, dict) or not isinstance(said.get("state"), str) or not said["state"]:
        return None
    cause = headers.get(CAUSE, "")
    more = {name: said[name] for name in NOTED if said.get(name)}
    if not isinstance(more.get("due"), int | float) or not isfinite(more["due"]):
        more.pop("due", None)
    if isinstance(more.get("message"), str):
        more["message"] = more["message"][:MESSAGE_MAX]
    subject = said.get("subject") if isinstance(said.get("subject"), str) else cause
    branch = _clean(headers.get(BRANCH, ""))
    if branch:
        more["branch"] = branch
    if CAUSES in headers:
        subject = branch
    undoes = _clean(headers.get(UNDOES, "")) or said.get("undoes")
    if isinstance(undoes, str) and undoes:
        more["undoes"] = subject = undoes
    if said["state"] == "done":
        more.pop("attempts_max", None)
    return Fact(
        flow, record.topic, record.partition, record.offset,
        headers.get(ID) or f"{record.topic}-{record.partition}-{record.offset}",
        headers.get(TYPE, ""), headers.get(SOURCE, ""), step, cause, subject or "",
        epoch(headers.get(TIME, "")), headers.get(SUBJECT) or _key(record),
        _whole(str(said.get("attempt") or headers.get(ATTEMPT) or 1)),
        _number(headers.get(STARTED, "")), _number(headers.get(TOOK, "")),
        said["state"], _whole(str(said.get("run") or 0)),
        json.dumps(more, separators=(",", ":")) if more else "",
    )  # fmt: skip


def _manifest(record: Record, taken: Taken) -> None:
    service = _key(record) or _clean(record.headers.get(SOURCE, ""))
    text = _document(record.value)
    if service and text:
        taken.manifests.append((service, record.offset, text))


@lru_cache(maxsize=64)
def _document(value: bytes) -> str:
    """Read a manifest, "" where it is none. A service says the same at each of its starts."""
    document = _json(value)
    return json.dumps(document, separators=(",", ":")) if isinstance(document, dict) else ""


def _json(value: bytes) -> object:
    """Read JSON, None for what is none; its texts can be written as UTF-8."""
    try:
        found: object = json.loads(value)
        if b"\\u" in value:  # so it may hold half a character
            found = json.loads(_clean(json.dumps(found, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None
    return found


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _key(record: Record) -> str:
    return record.key.decode("utf-8", "replace") if record.key else ""


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _whole(text: str) -> int:
    try:
        return max(0, min(int(text), 1 << 31))
    except ValueError:
        return 1
