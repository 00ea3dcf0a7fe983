"""Shapes of flows: a flow's name, and the words (types, services, steps) that its facts have.

Flows are many, their shapes are few. A shape's number is a hash of it, so what is known of a
number stays true, whoever else writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from choreo.adapters.postgres.lines import Connection

__all__ = ["Shapes"]

KNOWN_MAX = 50_000
SEPARATOR = "\x1f"

WORDS = "SELECT id, name, words FROM choreo.view_shape WHERE id = ANY ($1::bigint[])"
INSERT = """
INSERT INTO choreo.view_shape (id, name, words)
SELECT id, name, string_to_array(words, $4)
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS s (id, name, words) ORDER BY 1
ON CONFLICT (id) DO NOTHING
"""


class Shapes:
    """The shapes that this process has met."""

    def __init__(self) -> None:
        """None yet."""
        self._numbers: dict[tuple[str, frozenset[str]], int] = {}
        self._known: dict[int, tuple[str, frozenset[str]]] = {}

    async def read(self, c: Connection, numbers: Iterable[int]) -> None:
        """Learn of those among them that are not known."""
        if len(self._known) > KNOWN_MAX:
            self._numbers, self._known = {}, {}
        new = {number for number in numbers if number not in self._known}
        for number, name, words in await c.fetch(WORDS, [*new]) if new else ():
            self._known[number] = name, frozenset(words)

    def words(self, number: int) -> frozenset[str]:
        """Give the words of a shape; of one that nobody wrote, none."""
        return self._known.get(number, ("", frozenset()))[1]

    def number(self, name: str, words: frozenset[str]) -> int:
        """Give the number of a shape."""
        shape = name, words
        number = self._numbers.get(shape)
        if number is None:
            text = f"{name}\0{_listed(words)}".encode()
            digest = hashlib.sha1(text, usedforsecurity=False).digest()
            number = int.from_bytes(digest[:8], "big", signed=True)
            self._numbers[shape], self._known[number] = number, shape
        return number

    async def write(self, c: Connection, numbers: Iterable[int]) -> None:
        """Write these; most are there already, and nothing comes of it."""
        rows = [(number, self._known[number]) for number in numbers]
        if rows:
            await c.execute(
                INSERT,
                [number for number, _ in rows],
                [name for _, (name, _) in rows],
                [_listed(words) for _, (_, words) in rows],
                SEPARATOR,
            )


def _listed(words: frozenset[str]) -> str:
    return SEPARATOR.join(sorted(words))
