"""Plain plans, which are nearly all: settle a delivery without a row, and publish.

A group of them is one statement, and so one round trip: the epochs are locked, the inbox rows
of those whose epochs stand are inserted, and what the winners publish goes to the outbox.
"""

from __future__ import annotations

from collections.abc import Sequence

from choreo.adapters.postgres.lines import Connection
from choreo.adapters.postgres.names import Names
from choreo.adapters.postgres.rows import claims_of
from choreo.adapters.postgres.text import numbers_text
from choreo.codec import headers_to_text
from choreo.events import Record
from choreo.plan import Change, Owned, Plan, Publish, Sent, Settle
from choreo.ports import Applied

__all__ = ["PlainGroup", "is_plain"]

APPLY = """
WITH held AS MATERIALIZED (
    SELECT id, epoch FROM choreo.owner WHERE id = ANY($1::int[]) ORDER BY id FOR SHARE
), lost AS MATERIALIZED (
    SELECT DISTINCT a.claim FROM unnest($2::int[], $3::int[], $4::int8[]) AS a (claim, id, epoch)
    LEFT JOIN held USING (id, epoch) WHERE held.id IS NULL
), asked AS MATERIALIZED (
    SELECT * FROM unnest($5::text::int[], $6::text::int[], $7::bytea[], $8::text::int2[],
        $9::bytea[], $10::text::int[], $11::text::int8[]) WITH ORDINALITY
        AS a (claim, handler, subject, status, hash, owner, "offset", n)
), won AS (
    INSERT INTO choreo.inbox (handler, subject, status, hash, owner, "offset")
    SELECT handler, subject, status, hash, owner, "offset" FROM asked
    WHERE claim <> ALL (ARRAY(SELECT claim FROM lost)) ORDER BY handler, subject
    ON CONFLICT DO NOTHING RETURNING handler, subject
), left_out AS (
    SELECT n, claim FROM asked WHERE (handler, subject) NOT IN (SELECT handler, subject FROM won)
), published AS (
    INSERT INTO choreo.outbox (owner, topic, key, headers, value)
    SELECT asked.owner, p.topic, p.key, p.headers, p.value
    FROM unnest($12::text::int8[], $13::text[], $14::bytea[], $15::text[], $16::bytea[])
        WITH ORDINALITY AS p (n, topic, key, headers, value, place)
    JOIN asked USING (n) JOIN won USING (handler, subject) ORDER BY p.place RETURNING seq
), sent AS (
    DELETE FROM choreo.outbox WHERE seq = ANY($17::text::int8[])
)
SELECT (SELECT count(*) FROM won), ARRAY(SELECT seq FROM published ORDER BY seq),
    CASE WHEN (SELECT count(*) FROM won) < $18::int8 THEN ARRAY(SELECT n FROM left_out) END,
    ARRAY(SELECT claim FROM lost)
"""


def is_plain(changes: Sequence[Change]) -> bool:
    """Tell whether this settles a delivery without a row, publishes, and does nothing else.

    Or only takes rows out of the outbox.
    """
    if not changes:
        return False
    first = changes[0]
    if type(first) is Settle:
        if first.seen is not None or first.parked or first.spawn:
            return False
        return all(type(change) is Publish for change in changes[1:])
    return all(type(change) is Sent for change in changes)


class PlainGroup:
    """The arguments of one such statement, and what its answer means."""

    def __init__(self, names: Names, plans: Sequence[Plan]) -> None:
        """Make the columns; raises KeyError for a name that is not known yet."""
        self.results: list[Applied] = [Applied.DONE] * len(plans)
        self._records: list[Record] = []
        self._from: list[int] = []  # by record: the settle it belongs to, from 1
        self._settles: list[int] = []  # by settle: the index of its plan
        self._claims: dict[int, int] = {}
        self._stood: list[tuple[int, int, int]] = []
        sent: list[int] = []
        claims: list[int] = []
        handlers: list[int] = []
        subjects: list[bytes] = []
        statuses: list[int] = []
        hashes: list[bytes] = []
        owners: list[int] = []
        offsets: list[int] = []
        numbers, places = names.handlers, names.place
        for index, plan in enumerate(plans):
            first = plan.changes[0]
            if type(first) is not Settle:
                for change in plan.changes:
                    sent += change.rows  # type: ignore[union-attr]
                continue
            handler, subject, status, payload_hash, source, *_ = first
            claims.append(self._claim(names, plan.owned))
            handlers.append(numbers[handler])
            subjects.append(subject)
            statuses.append(int(status))
            hashes.append(payload_hash)
            owners.append(places(handler, source[0], source[1]))
            offsets.append(source[2])
            self._settles.append(index)
            for change in plan.changes[1:]:
                self._records.append(change.record)  # type: ignore[union-attr]
                self._from.append(len(handlers))
        self._claimed = claims
        self._columns = (
            numbers_text(claims), numbers_text(handlers), subjects, numbers_text(statuses), hashes,
            numbers_text(owners), numbers_text(offsets),
        )  # fmt: skip
        self._sent = sent
        self.twice = len(set(zip(handlers, subjects, strict=True))) < len(handlers)
        """Whether a delivery stands in it twice: then it is no work for one statement."""

    def _claim(self, names: Names, owned: Owned | None) -> int:
        if owned is None:
            return 0
        claim = self._claims.get(id(owned))
        if claim is None:
            claim = self._claims[id(owned)] = len(self._claims) + 1
            self._stood += [(claim, *one) for one in claims_of(names, owned)]
        return claim

    async def write(self, connection: Connection) -> list[Applied]:
        """Write it; give the outcome of each plan."""
        stood = list(zip(*self._stood, strict=True)) or [(), (), ()]
        records = self._records
        row = await connection.fetchrow(
            APPLY,
            sorted(set(stood[1])),
            *stood,
            *self._columns,
            numbers_text(self._from),
            [record.topic for record in records],
            [record.key for record in records],
            [headers_to_text(record.headers) for record in records],
            [record.value for record in records],
            numbers_text(self._sent),
            len(self._settles),
        )
        assert row is not None
        _, seqs, left_out, lost = row
        if left_out:
            claims = self._claimed
            for n in left_out:
                stale = claims[n - 1] in lost
                self.results[self._settles[n - 1]] = Applied.STALE if stale else Applied.DUPLICATE
            out = set(left_out)
            records = [r for r, n in zip(records, self._from, strict=True) if n not in out]
        for record, seq in zip(records, seqs, strict=True):
            record.row = seq
        return self.results
