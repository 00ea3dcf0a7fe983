"""A faust app that feeds one subscription: agents on raw bytes, in bulk, and nothing kept.

There is no table and no changelog: what takes the records has them once, however often they
come. The library's settings that lose records, or hold a worker up, are set here. All else of
the broker (what lies where, reading outside of the group) is another broker's to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from typing import Any

import faust
from faust.app import BootStrategy
from faust.types import TP

from choreo.adapters.faust.subscription import FaustSubscription
from choreo.codec import headers_from_pairs
from choreo.errors import ChoreoError
from choreo.events import Partition, Record
from choreo.ports import Assignee, Broker, BrokerTraits, Since, Topic

__all__ = ["SETTINGS", "FaustBroker", "faust_app"]

log = logging.getLogger("choreo.faust")

BATCH = 3000
WITHIN_S = 0.02
LOOK_S = 5.0
"""Between two looks for topics, while there is none."""
RESUBSCRIBE_S = 1.0
SETTINGS: Mapping[str, Any] = {
    "broker_commit_interval": 1.0,
    "broker_heartbeat_interval": 3.0,
    "broker_session_timeout": 10.0,
    "consumer_auto_offset_reset": "earliest",
    "processing_guarantee": "at_least_once",
    "stream_wait_empty": False,
    "topic_allow_declare": False,
    "topic_disable_leader": True,
}
"""What differs from the library's own defaults, and must."""

Work = Callable[[Broker], Awaitable[None]]


def faust_app(
    broker: Broker, work: Work, *, group: str, client: Mapping[str, Any], namespace: str = ""
) -> faust.App:
    """Make an app whose agents give all records of the topics that `work` subscribes to.

    `work` is given a broker whose subscription is the worker's place in `group`; all else is
    done by `broker`. It runs for as long as the worker does, which ends with it. `client` has
    aiokafka's words for where the cluster is, and who we are. Topics and group are named
    `namespace` and their own name there.
    """
    return _App(
        f"{namespace}{group}",
        broker=[f"kafka://{one.strip()}" for one in client["bootstrap_servers"].split(",")],
        broker_credentials=_credentials(client),
        **SETTINGS,
    ).working(FaustBroker(broker, namespace), work)


class FaustBroker:
    """Another broker, but for what a group is given: that comes by the app's agents."""

    def __init__(self, inner: Broker, namespace: str) -> None:
        """Wrap `inner`; the app is told later, since it needs us."""
        self._inner = inner
        self._namespace = namespace
        self._app: faust.App | None = None
        self._begun = False
        self._followed: frozenset[str] = frozenset()
        self._subscription: FaustSubscription | None = None
        self._subscribed = asyncio.Event()

    @property
    def traits(self) -> BrokerTraits:
        return self._inner.traits

    async def publish(self, records: Sequence[Record]) -> None:
        await self._inner.publish(records)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> FaustSubscription:
        """Give the worker's place in its own group, whatever `group` says."""
        del group
        subscription = FaustSubscription(self._assigned, assignee)
        self._subscription = subscription
        self._subscribed.set()
        await self._follow(frozenset(topics))
        return subscription

    async def read(
        self, topics: Sequence[str] | None, *, since: Since = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        batches = self._inner.read(topics, since=since, follow=follow)
        async with aclosing(batches):  # type: ignore[type-var]
            async for records in batches:
                yield records

    async def ends(self, topics: Sequence[str] | None) -> Mapping[Partition, int]:
        return await self._inner.ends(topics)

    async def ensure(self, topics: Sequence[Topic]) -> None:
        await self._inner.ensure(topics)

    async def close(self) -> None:
        await self._inner.close()

    # ── the app's side ───────────────────────────────────────────────────────────────────

    async def begin(self, app: faust.App) -> None:
        """Follow the topics that there are; without one the library would not begin at all."""
        self._app = app
        signals: Any = app  # whose types know nothing of what a signal brings
        signals.on_partitions_assigned.connect(self._given)
        signals.on_partitions_revoked.connect(self._taken)
        while True:
            try:
                topics = {place.topic for place in await self._inner.ends(None)}
            except ChoreoError as exc:
                if not exc.transient:
                    raise
                log.warning("the worker waits for the cluster: %s", exc)
            else:
                if topics:
                    break
            await asyncio.sleep(LOOK_S)
        await self._follow(frozenset(topics))
        self._begun = True

    async def _follow(self, topics: frozenset[str]) -> None:
        """Have an agent for topics that no agent has yet."""
        assert self._app is not None
        new = topics - self._followed
        if not new:
            return
        self._followed |= new
        names = sorted(self._namespace + one for one in new)
        source = self._app.topic(
            *names, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        agent = self._app.agent(source, name=f"choreo.follow.{names[0]}")(self._agent)
        if self._begun:  # else the library starts it
            await agent.start()

    async def _agent(self, stream: Any) -> None:
        async for events in stream.take_events(BATCH, within=WITHIN_S):
            records = [self._record(event.message) for event in events]
            await self._subscribed.wait()
            assert self._subscription is not None
            await self._subscription.hand(records)

    def _record(self, message: Any) -> Record:
        return Record(
            message.topic.removeprefix(self._namespace), message.key,
            headers_from_pairs(message.headers or ()), message.value or b"",
            message.partition, message.offset,
        )  # fmt: skip

    def _assigned(self) -> Collection[Partition]:
        assert self._app is not None
        return self._partitions(self._app.consumer.assignment())

    def _partitions(self, places: Iterable[TP]) -> list[Partition]:
        return [Partition(one.topic.removeprefix(self._namespace), one.partition) for one in places]

    async def _given(self, app: faust.App, assigned: Collection[TP], **_: object) -> None:
        conductor: Any = app.topics
        known = conductor._topic_name_index  # noqa: SLF001 - what it last subscribed to
        if not all(self._namespace + topic in known for topic in self._followed):
            # A topic that is added while partitions move is forgotten: the library has no verb
            # to be reminded by.
            again = conductor._flag_changes  # noqa: SLF001
            asyncio.get_running_loop().call_later(RESUBSCRIBE_S, again)
        if self._subscription is not None:
            await self._subscription.given(self._partitions(assigned))

    async def _taken(self, app: faust.App, revoked: Collection[TP], **_: object) -> None:
        del app
        if self._subscription is not None:
            await self._subscription.taken(self._partitions(revoked))


class _Boot(BootStrategy):
    """Reads, and nothing else: no web server, whose port a second worker would miss."""

    enable_web = False
    enable_kafka_producer = False


class _App(faust.App):
    """An app that begins with what there is on the cluster, and runs one piece of work."""

    BootStrategy = _Boot

    def working(self, broker: FaustBroker, work: Work) -> _App:
        self._work_broker = broker
        self._work = work
        self.task(self._run)
        return self

    async def on_first_start(self) -> None:
        """Begin, and make none of the library's folders: nothing would lie there."""
        conductor: Any = self.topics
        conductor._resubscribe_sleep_lock_seconds = RESUBSCRIBE_S  # noqa: SLF001 - 45 s else
        await self._work_broker.begin(self)

    async def _run(self) -> None:
        try:
            await self._work(self._work_broker)
        except Exception as exc:
            log.exception("the worker ends")  # the library would go on without it
            await self._end(exc)

    async def _end(self, error: Exception) -> None:
        """End the worker in order, as a signal does, and say then what has ended it.

        A crash tells every part at once: the consumer's thread has ended before the consumer
        asks it to commit, and is waited for.
        """
        root = None if self.beacon.root is None else self.beacon.root.data
        if not isinstance(root, faust.Worker):
            await self.crash(error)
            return
        root.crash_reason = error
        root._crashed.set()  # noqa: SLF001 - crash() tells its children, too


def _credentials(client: Mapping[str, Any]) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Say who we are in the library's words."""
    protocol = client.get("security_protocol", "PLAINTEXT")
    context = client.get("ssl_context")
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=client.get("sasl_plain_username"),
            password=client.get("sasl_plain_password"),
            mechanism=client.get("sasl_mechanism"),
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if protocol == "SSL" else None
