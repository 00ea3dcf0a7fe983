"""Waiting for the end of a flow, without a tracker: the end events themselves tell."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TypeVar

from choreo.codec import Codec
from choreo.errors import (
    BrokerClosedError,
    ChoreoError,
    ConfigurationError,
    OutcomeTimeoutError,
)
from choreo.events import FLOW, TYPE, VOID, Event, Record
from choreo.ports import Broker, Clock, Since
from choreo.service import Flow

__all__ = ["Outcomes"]

V = TypeVar("V")

KEPT_MAX = 100_000


class Outcomes:
    """Reads the topics of all end events once, for everybody who waits."""

    def __init__(
        self, broker: Broker, clock: Clock, codec: Codec, flows: Sequence[Mapping[str, Flow]]
    ) -> None:
        """Know the ends of these flows."""
        self._broker = broker
        self._codec = codec
        self._clock = clock
        self._ends = {
            end.__event__.type: end
            for named in flows
            for flow in named.values()
            for end in flow.ends
        }
        self._topics = sorted({end.__event__.topic for end in self._ends.values()})
        self._waiting: dict[str, list[asyncio.Future[Record]]] = {}
        self._published: OrderedDict[str, int] = OrderedDict()
        self._ended: OrderedDict[str, Record] = OrderedDict()
        self._since: Since | None = None
        self._begun: Since = 0
        self._readings: dict[asyncio.Task[None], None] = {}  # the last one counts

    async def start(self) -> None:
        """Note where the topics end: flows that this process publishes from now on end later.

        An offset of one partition says nothing of another, so where they count for themselves
        the place of a flow's beginning does not tell where to read on.
        """
        if self._broker.traits.partitioned and self._topics:
            self._begun = await self._broker.ends(self._topics)

    def published(self, flow: str, offset: int) -> None:
        """Note where a flow of ours began."""
        _keep(self._published, flow, offset)

    async def wait(self, flow: str, *, within_s: float) -> Event:
        """Give the flow's end event, decoded."""
        if not self._ends:
            raise ConfigurationError(
                "no flow with ends is declared here",
                code="CH1006",
                fix="give App the service that declares the flow: service.flow(…, ends=…)",
            )
        if flow not in self._ended:
            await self._await(flow, within_s)
        record = self._ended[flow]
        await self._codec.learn([record])
        return self._codec.decode(self._ends[record.headers[TYPE]], record)

    async def _await(self, flow: str, within_s: float) -> None:
        began = self._place(flow)
        if self._since is None or _is_earlier(began, self._since):
            self._read_from(began)
        waiting: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        waiting.add_done_callback(asyncio.Future.exception)  # who asks may be gone by then
        if flow in self._ended:
            return
        self._waiting.setdefault(flow, []).append(waiting)
        limit = asyncio.ensure_future(self._clock.sleep(within_s))
        try:
            await asyncio.wait((waiting, limit), return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
            self._waiting[flow].remove(waiting)
            if not self._waiting[flow]:
                del self._waiting[flow]
        if waiting.done():
            waiting.result()
        else:
            raise OutcomeTimeoutError(
                f"no end within {within_s:g} s",
                fix=f"look at it: choreo flow {flow}",
                flow=flow,
            )

    def _place(self, flow: str) -> Since:
        """Give where to begin, so that the flow's end is not missed."""
        if self._broker.traits.partitioned:
            return self._begun if flow in self._published else 0
        return self._published.get(flow, 0)

    def _read_from(self, since: Since) -> None:
        """Read on from an earlier place; what was read before is only read again."""
        for reading in self._readings:
            reading.cancel()
        self._since = since
        reading = asyncio.create_task(self._read(since), name="choreo outcomes")
        self._readings[reading] = None
        reading.add_done_callback(lambda done: self._readings.pop(done, None))

    async def _read(self, since: Since) -> None:
        error: ChoreoError = _closed()
        try:
            await self._follow(since)
        except ChoreoError as exc:
            error = exc
        if [*self._readings][-1] is asyncio.current_task():
            self._tell(error)

    def _tell(self, error: ChoreoError) -> None:
        """Let whoever waits hear why nothing will come."""
        for listed in self._waiting.values():
            for waiting in listed:
                if not waiting.done():
                    waiting.set_exception(error)
        self._since = None

    async def _follow(self, since: Since) -> None:
        async for records in self._broker.read(self._topics, since=since, follow=True):
            for record in records:
                headers = record.headers
                if headers.get(TYPE) not in self._ends or VOID in headers:
                    continue
                flow = headers.get(FLOW, "")
                _keep(self._ended, flow, record)
                for waiting in self._waiting.get(flow, ()):
                    if not waiting.done():
                        waiting.set_result(record)

    async def close(self) -> None:
        """Stop reading; whoever still waits is told. May be called twice."""
        readings = [*self._readings]
        for reading in readings:
            reading.cancel()
        self._tell(_closed())
        await asyncio.gather(*readings, return_exceptions=True)


def _closed() -> ChoreoError:
    return BrokerClosedError("closed before the end of the flow came", fix="ask again")


def _is_earlier(place: Since, than: Since) -> bool:
    """Tell whether reading has to begin anew; ends of partitions are noted once."""
    if isinstance(place, int):
        return place < than if isinstance(than, int) else True
    return False


def _keep(kept: OrderedDict[str, V], key: str, value: V) -> None:
    kept[key] = value
    if len(kept) > KEPT_MAX:
        kept.popitem(last=False)
