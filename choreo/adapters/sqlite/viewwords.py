"""What repeats in the views, kept once and named by a number: words, and sets of them.

The shape of a flow is its name and the set of all words (types, services, steps) that its
facts have. Flows are many, their shapes are few: a search looks through the shapes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

__all__ = ["Words", "mask_of"]


class Words:
    """The words and shapes of one file, as far as they were read; others may add some.

    After a transaction that was taken back, make a new one.
    """

    def __init__(self) -> None:
        """Nothing is read yet."""
        self.numbers: dict[str, int] = {}
        self.texts: dict[int, str] = {}
        self.shapes: dict[int, tuple[int, int]] = {}
        self._numbered: dict[tuple[int, int], int] = {}

    def refresh(self, c: sqlite3.Connection) -> None:
        """Read what another process may have added."""
        last, shapes = c.execute(
            "SELECT (SELECT coalesce(max(id), 0) FROM word), (SELECT count(*) FROM shape)"
        ).fetchone()
        if last + 1 != len(self.texts):
            self._read(c)
        if shapes != len(self.shapes):
            self.shapes = {
                number: (name, int.from_bytes(words, "little"))
                for number, name, words in c.execute("SELECT id, name, words FROM shape")
            }
            self._numbered = {shape: number for number, shape in self.shapes.items()}

    def learn(self, c: sqlite3.Connection, wanted: Iterable[str]) -> None:
        """Give every one of these words a number."""
        new = sorted(word for word in wanted if word and word not in self.numbers)
        if new:
            c.executemany(
                "INSERT INTO word (text) VALUES (?) ON CONFLICT DO NOTHING",
                [(word,) for word in new],
            )
            self._read(c)

    def _read(self, c: sqlite3.Connection) -> None:
        self.texts = dict(c.execute("SELECT id, text FROM word").fetchall())
        self.numbers = {"": 0, **{text: number for number, text in self.texts.items()}}
        self.texts[0] = ""

    # ── shapes ───────────────────────────────────────────────────────────────────────────

    def shape(self, c: sqlite3.Connection, name: int | None, mask: int) -> int:
        """Give the number of the shape of this name and these words."""
        shape = (name or 0, mask)
        number = self._numbered.get(shape)
        if number is None:
            raw = mask.to_bytes((mask.bit_length() + 7) // 8, "little")
            number = c.execute(
                "INSERT INTO shape (name, words) VALUES (?, ?)", (shape[0], raw)
            ).lastrowid
            assert number is not None
            self.shapes[number] = shape
            self._numbered[shape] = number
        return number

    def shaped(self, *, name: int | None = None, mask: int = 0) -> Iterator[int]:
        """Give the shapes that have this name and any of these words, as far as is asked."""
        for number, (own, words) in self.shapes.items():
            if (name is None or own == name) and (not mask or words & mask):
                yield number

    def containing(self, c: sqlite3.Connection, text: str) -> int:
        """Give, as a mask, the words that have this text in them."""
        return mask_of(
            number
            for (number,) in c.execute("SELECT id FROM word WHERE text LIKE ? ESCAPE '\\'", (text,))
        )


def mask_of(words: Iterable[int]) -> int:
    """Give a set of words as bits."""
    mask = 0
    for word in words:
        mask |= 1 << word
    return mask
