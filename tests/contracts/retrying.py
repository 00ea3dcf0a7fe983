"""Thin clients that call again until they are answered, as the worker does.

What the contracts say holds for them word for word, whatever is refused, late, repeated, or
told to have failed although it was done.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from functools import partial
from typing import TypeVar, cast

from choreo.errors import ChoreoError
from choreo.events import Partition, Record
from choreo.plan import CancelTimer, Gate, Memo, Owned, Plan, Remember, SaveState, Settle
from choreo.policies import Keep
from choreo.ports import (
    Applied,
    Assignee,
    Broker,
    BrokerTraits,
    Due,
    Enlisting,
    Outbox,
    Prepared,
    Seen,
    Since,
    Store,
    StoreTraits,
    Subscription,
    Topic,
    Tx,
    Unsent,
    Waiting,
    Want,
)

T = TypeVar("T")
Results = Sequence[Applied | BaseException]


class AgainError(Exception):
    """What was asked failed, and may be asked again."""


@contextmanager
def transient_is_again() -> Iterator[None]:
    try:
        yield
    except ChoreoError as exc:
        if not exc.transient:
            raise
        raise AgainError from exc


async def until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    while True:
        with suppress(AgainError), transient_is_again():
            return await ask()


def _beyond(since: Since, records: Sequence[Record]) -> Since:
    """Give where to read on."""
    if isinstance(since, int):
        return max(one.offset for one in records) + 1
    return {**since, **{Partition(r.topic, r.partition): r.offset + 1 for r in records}}


class RetryingBroker:
    """For a broker whose answers are never lost: each record would be there twice."""

    def __init__(self, inner: Broker) -> None:
        self._inner = inner

    @property
    def traits(self) -> BrokerTraits:
        return self._inner.traits

    async def publish(self, records: Sequence[Record]) -> None:
        await until_answered(lambda: self._inner.publish(records))

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> Subscription:
        subscribe = partial(self._inner.subscribe, group, topics, assignee=assignee)
        return RetryingSubscription(await until_answered(subscribe))

    async def read(
        self, topics: Sequence[str] | None, *, since: Since = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        if isinstance(since, int) and self.traits.partitioned:
            since = dict.fromkeys(await self.ends(topics), since)
        while True:
            with suppress(AgainError), transient_is_again():
                batches = self._inner.read(topics, since=since, follow=follow)
                async with aclosing(batches):  # type: ignore[type-var]
                    async for records in batches:
                        since = _beyond(since, records)
                        yield records
                return

    async def ends(self, topics: Sequence[str] | None) -> Mapping[Partition, int]:
        return await until_answered(lambda: self._inner.ends(topics))

    async def ensure(self, topics: Sequence[Topic]) -> None:
        await until_answered(lambda: self._inner.ensure(topics))

    async def close(self) -> None:
        await self._inner.close()


class RetryingSubscription:
    """Leaves out what it has given before."""

    def __init__(self, inner: Subscription) -> None:
        self._inner = inner
        self._given: dict[Partition, int] = {}

    async def poll(self, records_max: int) -> Sequence[Record]:
        while True:
            records = await until_answered(lambda: self._inner.poll(records_max))
            fresh = [one for one in records if self._is_new(one)]
            if fresh or not records:
                return fresh

    def _is_new(self, record: Record) -> bool:
        partition = Partition(record.topic, record.partition)
        if record.offset <= self._given.get(partition, -1):
            return False
        self._given[partition] = record.offset
        return True

    def assigned(self) -> Collection[Partition]:
        return self._inner.assigned()

    @property
    def shared(self) -> bool:
        return self._inner.shared

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        await until_answered(lambda: self._inner.commit(offsets))

    async def close(self) -> None:
        await self._inner.close()


class Unheard:
    """The answers of a store that were lost, by the call that they were for."""

    def __init__(self) -> None:
        self._results: dict[int, Results] = {}

    def __call__(self, plans: Sequence[Plan], results: Results) -> None:
        self._results[id(plans)] = results

    def pop(self, plans: Sequence[Plan]) -> Results | None:
        return self._results.pop(id(plans), None)


class RetryingStore:
    """Applies again after an unknown outcome, and compares.

    What was written is not written again: asked once more, the store says duplicate or
    conflict, where the plan has anything to compare. Handed on is the answer that was lost,
    also when the store was closed before it could be asked again.
    """

    def __init__(self, inner: Store, unheard: Unheard) -> None:
        self._inner = inner
        self._unheard = unheard
        self._closed = False

    @property
    def traits(self) -> StoreTraits:
        return self._inner.traits

    async def own(
        self, group: str, partitions: Collection[Partition], *, generation: int | None = None
    ) -> Owned:
        return await until_answered(
            lambda: self._inner.own(group, partitions, generation=generation)
        )

    async def load(self, wants: Sequence[Want]) -> Sequence[Seen]:
        return await until_answered(lambda: self._inner.load(wants))

    async def apply(self, plans: Sequence[Plan]) -> Results:
        first: Results | None = None
        while True:
            if first is not None and self._closed:
                return first
            results: Results | None = None
            with suppress(AgainError), transient_is_again():
                told = await self._inner.apply(plans)
                for one in told:
                    if isinstance(one, ChoreoError) and one.transient:
                        raise one
                results = told
            lost = self._unheard.pop(plans)
            answer = results if lost is None else lost
            if first is not None and answer is not None:
                agree(plans, first, answer)
            first = first or answer
            if results is not None and first is not None and lost is None:
                return first

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Tx]:
        while True:
            inner = self._inner.transaction()
            with suppress(AgainError), transient_is_again():
                tx = await inner.__aenter__()
                break
        try:
            yield tx
        except BaseException as exc:
            if not await inner.__aexit__(type(exc), exc, exc.__traceback__):
                raise
        else:
            with suppress(AgainError), transient_is_again():  # it is committed
                await inner.__aexit__(None, None, None)

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        return self._transaction()

    async def due(
        self, owned: Owned, *, skip: Collection[tuple[str, bytes]], most: int
    ) -> tuple[Sequence[Due], float | None]:
        return await until_answered(lambda: self._inner.due(owned, skip=skip, most=most))

    async def unsent(self, owned: Owned, *, after: int, most: int) -> Sequence[Unsent]:
        outbox = cast("Outbox", self._inner)
        return await until_answered(lambda: outbox.unsent(owned, after=after, most=most))

    async def stirred(self) -> None:
        await cast("Outbox", self._inner).stirred()

    async def enlist(self, tx: object, record: Record) -> None:
        enlisting = cast("Enlisting", self._inner)
        await until_answered(lambda: enlisting.enlist(tx, record))

    async def migrate(self, service: str, files: Sequence[tuple[str, str]]) -> None:
        prepared = cast("Prepared", self._inner)
        await until_answered(lambda: prepared.migrate(service, files))

    async def waiting(self, group: str) -> Sequence[Waiting]:
        prepared = cast("Prepared", self._inner)
        return await until_answered(lambda: prepared.waiting(group))

    async def migrations(self) -> Collection[tuple[str, str]]:
        return await until_answered(cast("Prepared", self._inner).migrations)

    async def prune(self, group: str, keep: Keep, *, most: int) -> bool:
        return await until_answered(lambda: self._inner.prune(group, keep, most=most))

    async def close(self) -> None:
        self._closed = True
        await self._inner.close()


def agree(plans: Sequence[Plan], first: Results, second: Results) -> None:
    """A plan that was written is refused; whatever else was said is said again."""
    lost = {Applied.DUPLICATE, Applied.CONFLICT, Applied.STALE}
    for plan, before, after in zip(plans, first, second, strict=True):
        if before is Applied.CONFLICT or (before is Applied.DONE and compares(plan)):
            assert after in lost, (before, after)
        elif isinstance(before, BaseException):
            assert isinstance(after, type(before)) or after in lost, (before, after)
        elif before is not Applied.DONE:
            assert after is before


def compares(plan: Plan) -> bool:
    """Tell whether a plan has something by which it is known again."""
    return plan.section is not None or any(
        (isinstance(change, Settle) and not change.spawn)
        or isinstance(change, (Gate, SaveState))
        or (isinstance(change, CancelTimer) and change.due is not None)
        or (isinstance(change, Remember) and change.state is Memo.RESULT)
        for change in plan.changes
    )
