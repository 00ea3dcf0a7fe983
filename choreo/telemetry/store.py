"""A store that tells what its transactions hold, and what goes out with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.trace import Tracer

from choreo.events import DEAD_TOPIC
from choreo.plan import Change, Plan, Publish, Settle, Status
from choreo.ports import Applied, Seen, Store, StoreTraits, Tx, Want
from choreo.telemetry.instruments import Instruments
from choreo.telemetry.names import (
    DEAD,
    DUPLICATES,
    ERROR,
    GROUP_SIZE,
    HANDLER,
    PARKED,
    REASON,
    WRITTEN,
)
from choreo.telemetry.sending import Sending

__all__ = ["ToldStore"]

SETTLED = frozenset((Status.DONE, Status.DEAD, Status.VOID))


class ToldStore:
    """Another store. Where `apply` publishes, each record has a span as a broker's has."""

    def __init__(
        self, inner: Store, system: str, tracer: Tracer | None, instruments: Instruments | None
    ) -> None:
        """Stand before `inner`; what it can do beside the port, it can do still."""
        self._inner = inner
        self._system = system
        self._tracer = tracer
        self._instruments = instruments
        self._sends = inner.traits.publishes
        self.own = inner.own
        self.due = inner.due
        self.transaction = inner.transaction
        self.prune = inner.prune
        self.close = inner.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def traits(self) -> StoreTraits:
        return self._inner.traits

    async def load(self, wants: Sequence[Want]) -> Sequence[Seen]:
        found = await self._inner.load(wants)
        if self._instruments is not None:
            for want, seen in zip(wants, found, strict=True):
                if want.source is not None and seen.status in SETTLED:
                    self._instruments.count(DUPLICATES, {HANDLER: want.handler})
        return found

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        began = time.perf_counter()
        written = [_Written(plan, self._sending()) for plan in plans]
        try:
            results = await self._inner.apply([one.plan for one in written])
        except BaseException as exc:
            for one in written:
                one.sending.failed(exc)
            self._measure(len(plans), began, exc)
            raise
        for one, result in zip(written, results, strict=True):
            if result is Applied.DONE:
                one.sending.sent()
                if self._instruments is not None:
                    _count(self._instruments, one.changes)
            else:
                one.sending.dropped()
        self._measure(len(plans), began, None)
        return results

    def _sending(self) -> Sending:
        if self._sends:
            return Sending(self._system, self._tracer, self._instruments)
        return Sending(self._system, None, None)  # the relay sends

    def _measure(self, plans: int, began: float, error: BaseException | None) -> None:
        if self._instruments is None:
            return
        labels = {} if error is None else {ERROR: type(error).__qualname__}
        self._instruments.measure(WRITTEN, time.perf_counter() - began, labels)
        self._instruments.measure(GROUP_SIZE, plans, {})


class _Written:
    """One plan: what it changes is known at once, or when its section has run."""

    def __init__(self, plan: Plan, sending: Sending) -> None:
        self.sending = sending
        self.changes: Sequence[Change] = plan.changes
        if plan.section is None:
            self._send()
            self.plan = plan
        else:
            self.plan = plan._replace(section=self._after(plan.section))

    def _after(self, section: Callable[..., Any]) -> Callable[..., Any]:
        async def told(tx: Tx, seen: Seen) -> Sequence[Change]:
            self.changes = await section(tx, seen)
            self._send()
            return self.changes

        return told

    def _send(self) -> None:
        for change in self.changes:
            if type(change) is Publish:
                self.sending.add(change.record)


def _count(instruments: Instruments, changes: Sequence[Change]) -> None:
    for change in changes:
        kind = type(change)
        if kind is Settle:
            if change.status is Status.PARKED and not change.spawn:  # type: ignore[union-attr]
                instruments.count(PARKED, {HANDLER: change.handler})  # type: ignore[union-attr]
        elif kind is Publish and change.record.topic == DEAD_TOPIC:  # type: ignore[union-attr]
            headers = change.record.headers  # type: ignore[union-attr]
            labels = {
                HANDLER: headers.get("choreo-dead-step", ""),
                REASON: headers.get("choreo-dead-reason", ""),
            }
            instruments.count(DEAD, labels)
