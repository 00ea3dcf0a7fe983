"""What a store promises before services begin on it: their migrations, and what waits for them."""

from __future__ import annotations

from typing import cast

from choreo.errors import ConfigurationError
from choreo.plan import Memo, Remember, SetTimer, Status
from choreo.ports import Prepared, Waiting, Want
from choreo.testing.contracts.place import (
    GROUP,
    HANDLER,
    MakePlace,
    Place,
    opened,
    parked,
    settle,
    source,
    subject,
)
from choreo.testing.contracts.written import refused

__all__ = ["PreparingContract"]

FIRST = ("0001_first.sql", "CREATE TABLE contract_first (n INTEGER); -- a comment; and its end\n")
SECOND = (
    "0002_second.sql",
    "INSERT INTO contract_first VALUES (1); INSERT INTO contract_first VALUES (2);",
)


class PreparingContract:
    """Part of the contract of a store."""

    async def test_migrations_run_once_and_in_order(self, make: MakePlace) -> None:
        """Those that are new run beside those that have run."""
        async with opened(make) as place:
            store = cast("Prepared", place.store)
            await store.migrate("contract", [])
            for files in ([FIRST], [FIRST, SECOND], [FIRST, SECOND]):
                await store.migrate("contract", files)
            assert await _numbers(place) == [1, 2]

    async def test_services_migrate_each_for_themselves(self, make: MakePlace) -> None:
        """A file of the same name is another service's own."""
        async with opened(make) as place:
            store = cast("Prepared", place.store)
            await store.migrate("contract", [FIRST])
            await store.migrate("other", [(FIRST[0], SECOND[1])])
            assert await _numbers(place) == [1, 2]

    async def test_a_migration_that_was_changed_is_refused(self, make: MakePlace) -> None:
        """And nothing that comes after it runs."""
        async with opened(make) as place:
            store = cast("Prepared", place.store)
            await store.migrate("contract", [FIRST])
            with refused(ConfigurationError):
                await store.migrate("contract", [(FIRST[0], FIRST[1] + "\n"), SECOND])
            assert await _numbers(place) == []

    async def test_what_waits_is_told_by_handler(self, make: MakePlace) -> None:
        """Parked deliveries, timers and open calls; nothing that is settled, or another's."""
        async with opened(make) as place:
            owned = await place.own()
            store = cast("Prepared", place.store)
            assert list(await store.waiting(GROUP)) == []
            await place.look(Want(HANDLER, subject(1), former=(f"{GROUP}.former",)))
            due = place.clock.now() + 10
            await place.apply(
                owned, settle(1), Remember(subject(1), f"{HANDLER}/a", Memo.INTENT, b"")
            )
            for number in (2, 3):
                await place.apply(owned, settle(number, Status.PARKED, parked=parked(due)))
            await place.apply(owned, SetTimer(subject(4), due, HANDLER, b"", source()))
            await place.apply(owned, SetTimer(subject(5), due, f"{GROUP}-not.take", b"", source()))
            assert set(await store.waiting(GROUP)) == {
                Waiting(HANDLER, (f"{GROUP}.former",), what, many)
                for what, many in (
                    ("parked deliveries", 2),
                    ("timers", 1),
                    ("open outside calls", 1),
                )
            }


async def _numbers(place: Place) -> list[int]:
    async with place.store.transaction() as tx:
        return [row["n"] for row in await tx.fetch("SELECT n FROM contract_first ORDER BY n")]
