"""Topics that services need, and what each service has to be allowed, from their manifests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from choreo.events import CONTROL_TOPIC, DEAD_TOPIC, MANIFESTS_TOPIC, STEPS_TOPIC
from choreo.ports import Topic

__all__ = ["Acl", "TopicStep", "acls_of", "steps_of", "topics_of"]

OURS = (CONTROL_TOPIC, DEAD_TOPIC, MANIFESTS_TOPIC, STEPS_TOPIC)
WRITTEN = (DEAD_TOPIC, MANIFESTS_TOPIC, STEPS_TOPIC)  # by every service
ORDER = (
    "from then on most keys go to another partition: what is published later may overtake what"
    " waits in the old one; let the services run empty first"
)

DAY_S = 86_400.0

Manifests = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Acl:
    """That a service may do something: its user's name is the service's."""

    service: str
    operation: str
    resource: str
    name: str


@dataclass(frozen=True, slots=True)
class TopicStep:
    """What is to be done with a topic: `create`, `grow`, or `keep`. Nothing is ever deleted."""

    topic: Topic
    act: str
    before: int = 0
    warning: str = ""


def topics_of(
    manifests: Manifests, *, partitions: int, retention_s: float | None, given: Mapping[str, int]
) -> tuple[Topic, ...]:
    """List the topics that these services publish to or take from, and the framework's own.

    `given` says how many partitions a topic has that is not to have `partitions`.
    """
    names = {name for document in manifests.values() for name, _ in _used(document)}
    return tuple(
        Topic(
            name,
            given.get(name, partitions),
            None if name == MANIFESTS_TOPIC else retention_s,
            compact=name == MANIFESTS_TOPIC,
        )
        for name in sorted(names | set(OURS))
    )


def acls_of(manifests: Manifests) -> tuple[Acl, ...]:
    """List the least that each service has to be allowed."""
    found: set[tuple[str, str, str, str]] = set()
    for service, document in manifests.items():
        found.add((service, "group", service, "Read"))
        found.add((service, "topic", CONTROL_TOPIC, "Read"))
        found.update((service, "topic", name, "Write") for name in WRITTEN)
        for name, action in _used(document):
            found.add((service, "topic", name, "Write" if action == "send" else "Read"))
    return tuple(
        Acl(s, operation, resource, name) for s, resource, name, operation in sorted(found)
    )


def steps_of(
    wanted: Sequence[Topic], there: Mapping[str, int], kept: Mapping[str, float] | None = None
) -> tuple[TopicStep, ...]:
    """Compare what is wanted with the partitions that topics have.

    `kept` has for how many seconds each keeps its records: left as it is, and told.
    """
    steps = []
    for topic in wanted:
        before = there.get(topic.name, 0)
        keeps = (kept or {}).get(topic.name)
        if before == 0:
            steps.append(TopicStep(topic, "create"))
        elif before < topic.partitions:
            steps.append(TopicStep(topic, "grow", before, ORDER))
        elif before > topic.partitions:
            said = f"it has {before} partitions, and none is ever taken away"
            steps.append(TopicStep(topic, "keep", before, said))
        else:
            steps.append(TopicStep(topic, "keep", before))
        if keeps is not None and topic.retention_s not in (None, keeps):
            steps[-1] = _warned(steps[-1], keeps)
    return tuple(steps)


def _warned(step: TopicStep, keeps_s: float) -> TopicStep:
    """Say that a topic keeps its records for another time than is wanted."""
    wanted_s = step.topic.retention_s
    assert wanted_s is not None
    said = (
        f"it keeps records {_days(keeps_s)}, not {_days(wanted_s)}; what is there is left as it is:"
        f" kafka-configs --alter --topic {step.topic.name}"
        f" --add-config retention.ms={round(wanted_s * 1000)}"
    )
    return replace(step, warning="; ".join(filter(None, (step.warning, said))))


def _days(for_s: float) -> str:
    return "for ever" if math.isinf(for_s) else f"for {for_s / DAY_S:g} days"


def _used(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each topic that a manifest names, with what is done there: send or receive."""
    for operation in document.get("operations", {}).values():
        yield operation["channel"]["$ref"].rpartition("/")[2], operation["action"]
