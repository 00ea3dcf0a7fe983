"""Flows as services would have put them on a log, made by hand: for what only reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choreo import Event, Service
from choreo.app import open_broker
from choreo.codec import JSON_TYPE
from choreo.events import (
    ATTEMPT,
    CAUSE,
    CONTENT_TYPE,
    FLOW,
    ID,
    MANIFESTS_TOPIC,
    SOURCE,
    SPEC_VERSION,
    STARTED,
    STEP,
    STEPS_TOPIC,
    SUBJECT,
    TIME,
    TOOK,
    TYPE,
    Record,
    derived_id,
    id_bytes,
    id_text,
    rfc3339,
    root_id,
)
from choreo.ports import Topic
from choreo.topology import manifest

__all__ = ["APART_S", "T0", "Chain", "interleaved", "note_of", "records_of", "write_log"]

T0 = 1_767_225_600.0
APART_S = 0.01
STEP_S = 0.02
SPREAD = 256
"""So many flows are on their way at a time: their events lie between each other."""
CHUNK = 2560
VALUE = b'{"order_id":"order-1","filler":"' + b"x" * 200 + b'","n":1}'


@dataclass(frozen=True)
class Chain:
    """A flow of so many events, each the answer of a service to the one before."""

    name: str
    events: int

    def topic(self, n: int) -> str:
        """Name the topic of the n-th event."""
        return f"bench.{self.name}{n}"

    def type(self, n: int) -> str:
        """Name the type of the n-th event."""
        return f"{self.topic(n)}.Step{n}"

    def step(self, n: int) -> str:
        """Name the handler that publishes the n-th event."""
        return f"{self.name}{n}.go"

    def manifests(self) -> Sequence[Record]:
        """Give the manifests of its services."""
        made = [self._event(n) for n in range(self.events)]
        return [self._manifest(n, made) for n in range(1, self.events)]

    def _event(self, n: int) -> Any:
        class Made(Event, topic=self.topic(n), key="order_id", name=f"Step{n}"):
            order_id: str
            filler: str
            n: int

        return Made

    def _manifest(self, n: int, made: Sequence[Any]) -> Record:
        service = Service(f"{self.name}{n}")

        async def go(event: Any) -> Any:
            return made[n](order_id=event.order_id, filler=event.filler, n=event.n + 1)

        go.__annotations__ = {"event": made[n - 1], "return": made[n]}
        service.on(made[n - 1], name="go")(go)
        if n == 1:
            service.flow(self.name, starts=made[0], ends=made[-1])
        value = json.dumps(manifest(service), separators=(",", ":")).encode()
        own = id_text(derived_id(bytes(16), service.name.encode()))
        headers = {
            ID: own, TYPE: f"{MANIFESTS_TOPIC}.ManifestPublished", SOURCE: service.name,
            TIME: rfc3339(T0), SUBJECT: service.name, CONTENT_TYPE: JSON_TYPE,
        }  # fmt: skip
        return Record(MANIFESTS_TOPIC, service.name.encode(), headers, value)


def records_of(chain: Chain, number: int, *, reached: int | None = None) -> list[Record]:
    """Give the events of one flow, as a worker writes them, up to the one that it `reached`."""
    began = T0 + number * APART_S
    flow = root_id(began, number.to_bytes(10, "big"))
    own, cause, key = flow, "", f"{chain.name}-{number}"
    records = []
    for n in range(chain.events if reached is None else reached):
        at = began + n * STEP_S
        headers = {
            SPEC_VERSION: "1.0", ID: own, SOURCE: f"{chain.name}{n}" if n else "app",
            TYPE: chain.type(n), TIME: rfc3339(at), SUBJECT: key, CONTENT_TYPE: JSON_TYPE,
            FLOW: flow,
        }  # fmt: skip
        if n:
            headers |= {
                CAUSE: cause, STEP: chain.step(n), ATTEMPT: "1", STARTED: f"{at - 0.0004:.3f}",
                TOOK: "0.000012",
            }  # fmt: skip
        records.append(Record(chain.topic(n), key.encode(), headers, VALUE))
        salt = chain.step(n + 1).encode()
        cause, own = own, id_text(derived_id(id_bytes(own), salt))
    return records


def note_of(chain: Chain, records: Sequence[Record], state: str, message: str) -> Record:
    """Note that the step after the last of these records has failed."""
    last, n = records[-1].headers, len(records)
    flow = last[FLOW]
    headers = {
        SPEC_VERSION: "1.0", ID: id_text(derived_id(id_bytes(last[ID]), state.encode())),
        SOURCE: f"{chain.name}{n}", TYPE: f"{STEPS_TOPIC}.StepNoted", TIME: last[TIME],
        SUBJECT: flow, CONTENT_TYPE: JSON_TYPE, FLOW: flow, CAUSE: last[ID], STEP: chain.step(n),
        ATTEMPT: "1",
    }  # fmt: skip
    said = {"state": state, "run": 0, "attempt": 1, "attempts_max": 5, "subject": last[ID],
            "error": "ProviderError", "message": message}  # fmt: skip
    return Record(STEPS_TOPIC, flow.encode(), headers, json.dumps(said).encode())


def interleaved(chain: Chain, flows: int) -> Iterator[Record]:
    """Give the events of many flows in the order in which they would be appended."""
    for begin in range(0, flows, SPREAD):
        together = range(begin, min(begin + SPREAD, flows))
        each = (records_of(chain, number) for number in together)
        yield from itertools.chain.from_iterable(zip(*each, strict=True))


async def write_log(folder: Path, chains: Sequence[Chain], records: Iterable[Record]) -> int:
    """Append records to the folder's log, after the manifests; give how many."""
    broker = open_broker(str(folder))
    try:
        topics = [chain.topic(n) for chain in chains for n in range(chain.events)]
        await broker.ensure([Topic(name) for name in (*topics, MANIFESTS_TOPIC, STEPS_TOPIC)])
        declared = [record for chain in chains for record in chain.manifests()]
        everything = itertools.chain(declared, records)
        written = 0
        while chunk := list(itertools.islice(everything, CHUNK)):
            await broker.publish(chunk)
            written += len(chunk)
        return written
    finally:
        await broker.close()
