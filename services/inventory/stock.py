"""The opening stock, from a file of comma-separated values: sku, name, units.

Loading states what was there at the beginning, so it may be done again: the same file
changes nothing. A file with other units corrects the beginning, and what is on hand by the
difference; it can not go below what is reserved or shipped by now.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from choreo import Tx, transaction
from services.inventory.handlers import inventory

COLUMNS = ("sku", "name", "units")
DIGITS_MAX = 32
UNITS_MAX = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Article:
    """One line of the file. `line` counts from 1, the heading included."""

    line: int
    sku: str
    name: str
    units: int


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that says nothing useful: which field of it, and why."""

    line: int
    field: str
    reason: str


def read(path: Path) -> Iterator[Article | BadLine]:
    """Yield an Article or a BadLine for each line; raises OSError when there is no file."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        heading = next(rows, [])
        if (columns := tuple(cell.strip() for cell in heading)) != COLUMNS:
            yield BadLine(1, "heading", f"is {','.join(columns)!r}, not {','.join(COLUMNS)!r}")
            return
        seen: dict[str, int] = {}
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as exc:
                yield BadLine(rows.line_num, "line", str(exc))
                continue
            if cells:
                yield _article(rows.line_num, [cell.strip() for cell in cells], seen)


def _article(line: int, cells: list[str], seen: dict[str, int]) -> Article | BadLine:
    if len(cells) != len(COLUMNS):
        return BadLine(line, "line", f"has {len(cells)} fields, not {len(COLUMNS)}")
    sku, name, units = cells
    if not sku or not sku.isprintable():
        return BadLine(line, "sku", "is empty" if not sku else "is no text")
    if sku in seen:
        return BadLine(line, "sku", f"{sku} stands in line {seen[sku]} too")
    if (
        not units.isascii()
        or not units.isdigit()
        or len(units) > DIGITS_MAX
        or int(units) > UNITS_MAX
    ):
        return BadLine(line, "units", f"{units!r} is no whole number from 0 to {UNITS_MAX}")
    seen[sku] = line
    readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Article(line, sku, readable, int(units))


async def load(lines: list[Article | BadLine]) -> tuple[int, list[BadLine]]:
    """Write the articles, all in one transaction; give their number, and all bad lines."""
    bad = [line for line in lines if isinstance(line, BadLine)]
    articles = [line for line in lines if isinstance(line, Article)]
    async with transaction(inventory) as tx:
        for article in articles:
            if not await put(article, tx):
                reason = f"{article.units} is less than what is reserved and shipped by now"
                bad.append(BadLine(article.line, "units", reason))
    bad.sort(key=lambda line: line.line)
    return len(lines) - len(bad), bad


async def put(article: Article, tx: Tx) -> int:
    """Write one article; give 0 when what is on hand would fall below nothing."""
    return await tx.execute(
        "INSERT INTO inventory_stock (sku, name, initial, on_hand, reserved, shipped) "
        "VALUES ($1, $2, $3, $3, 0, 0) ON CONFLICT (sku) DO UPDATE SET "
        "name = excluded.name, initial = excluded.initial, "
        "on_hand = inventory_stock.on_hand + excluded.initial - inventory_stock.initial "
        "WHERE inventory_stock.on_hand + excluded.initial >= inventory_stock.initial",
        article.sku,
        article.name,
        article.units,
    )
