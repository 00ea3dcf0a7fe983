"""The table of all that is told: spans, metrics, their attributes, fields of log records.

What is not in it can not be told: instruments are made from it, and the reference is written
from it. Names that begin with `messaging.` and `error.` are those of OpenTelemetry's semantic
conventions 1.44.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ATTRIBUTES", "LOG_FIELDS", "METRICS", "SCHEMA", "SPANS", "Metric", "Span"]

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
TOPIC = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
OFFSET = "messaging.kafka.offset"
GROUP = "messaging.consumer.group.name"
EVENT = "messaging.message.id"
FLOW = "messaging.message.conversation_id"
COUNT = "messaging.batch.message_count"
ERROR = "error.type"
HANDLER = "choreo.handler"
ATTEMPT = "choreo.attempt"
CODE = "choreo.error.code"
REASON = "choreo.reason"

ATTRIBUTES = {
    SYSTEM: "what the log is: `kafka`, or `choreo` for the embedded one",
    OPERATION: "`send`, `poll`, `process` or `commit`",
    OPERATION_TYPE: "`send`, `receive`, `process` or `settle`",
    TOPIC: "the topic",
    PARTITION: "the partition's number, as text",
    OFFSET: "the record's offset; on the embedded log its position",
    GROUP: "the service: its consumer group has its name",
    EVENT: "id of the event",
    FLOW: "id of the flow",
    COUNT: "how many records at once",
    ERROR: "class of what was raised; absent where nothing was",
    HANDLER: "the handler, `service.name`",
    ATTEMPT: "which attempt of its run, from 1",
    CODE: "the code of choreo's own errors",
    REASON: "why it was given up: `attempts used up`, `not retryable`, …",
}

LOG_FIELDS = {
    "flow_id": "id of the flow that is being handled",
    "handler": "the handler, `service.name`",
    "event_id": "id of the event that is being handled",
    "attempt": "which attempt, from 1; 0 outside of any",
}

SEND, POLL, PROCESS, COMMIT = "send", "poll", "process", "commit"


class Span(NamedTuple):
    """A kind of span: its name begins with `operation`, then comes the topic."""

    operation: str
    kind: str
    meaning: str
    attributes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Write the name as the reference does."""
        return f"{self.operation} {{topic}}"


class Metric(NamedTuple):
    """A metric. `needs` says what a deployment must have for it: an outbox."""

    name: str
    kind: str
    unit: str
    meaning: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    needs: str = ""


_RECORD = (SYSTEM, OPERATION, OPERATION_TYPE, TOPIC, PARTITION, OFFSET, EVENT, FLOW)

SPANS = (
    Span(
        SEND, "PRODUCER", "a record on its way to its topic; ends when it is durable",
        (*_RECORD, ERROR, CODE),
    ),
    Span(
        POLL, "CLIENT", "records of a topic polled at once; linked with their senders",
        (SYSTEM, OPERATION, OPERATION_TYPE, TOPIC, GROUP, COUNT),
    ),
    Span(
        PROCESS, "CONSUMER",
        "one attempt of one handler; child of the span that sent its event, and linked with it",
        (*_RECORD, GROUP, HANDLER, ATTEMPT, ERROR, CODE),
    ),
    Span(
        COMMIT, "CLIENT", "offsets of a topic's partitions, set to what is settled",
        (SYSTEM, OPERATION, OPERATION_TYPE, TOPIC, GROUP, ERROR, CODE),
    ),
)  # fmt: skip

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

DURATION = "messaging.client.operation.duration"
SENT = "messaging.client.sent.messages"
CONSUMED = "messaging.client.consumed.messages"
PROCESSED = "messaging.process.duration"
IN_FLIGHT = "choreo.deliveries.in_flight"
PARKED = "choreo.deliveries.parked"
RETRIES = "choreo.retries"
DEAD = "choreo.dead_letters"
DUPLICATES = "choreo.inbox.duplicates"
LAG = "choreo.consumer.lag"
WRITTEN = "choreo.store.commit.duration"
GROUP_SIZE = "choreo.store.commit.size"
UNSENT = "choreo.outbox.oldest.age"
LOOP_LAG = "choreo.event_loop.lag"

METRICS = (
    Metric(
        DURATION, "histogram", "s", "how long a send, poll or commit took; a poll waits for more",
        (SYSTEM, OPERATION, TOPIC, GROUP, ERROR), SECONDS,
    ),
    Metric(SENT, "counter", "{message}", "records that went out", (SYSTEM, OPERATION, TOPIC)),
    Metric(
        CONSUMED, "counter", "{message}", "records that were polled",
        (SYSTEM, OPERATION, TOPIC, GROUP),
    ),
    Metric(
        PROCESSED, "histogram", "s", "how long one attempt of a handler took",
        (SYSTEM, OPERATION, TOPIC, GROUP, HANDLER, ERROR), SECONDS,
    ),
    Metric(IN_FLIGHT, "gauge", "{delivery}", "deliveries taken and not settled, in this process"),
    Metric(PARKED, "counter", "{delivery}", "deliveries put aside to try later", (HANDLER,)),
    Metric(RETRIES, "counter", "{attempt}", "attempts after the first", (HANDLER,)),
    Metric(DEAD, "counter", "{delivery}", "deliveries given up", (HANDLER, REASON)),
    Metric(
        DUPLICATES, "counter", "{delivery}",
        "deliveries that were settled before, and were not run again", (HANDLER,),
    ),
    Metric(
        LAG, "gauge", "{record}",
        "records between the group's offset and the end of a partition; of the embedded log,"
        " records that are to be looked at yet, without topic and partition",
        (GROUP, TOPIC, PARTITION),
    ),
    Metric(
        WRITTEN, "histogram", "s", "how long one transaction of steps took, with its waiting",
        (ERROR,), SECONDS,
    ),
    Metric(GROUP_SIZE, "histogram", "{step}", "how many steps one transaction held", (), SIZES),
    Metric(
        UNSENT, "gauge", "s", "age of the oldest record that waits for the relay", (GROUP,),
        needs="outbox",
    ),
    Metric(
        LOOP_LAG, "histogram", "s", "by how much the event loop woke up late", (), LAG_SECONDS
    ),
)  # fmt: skip
