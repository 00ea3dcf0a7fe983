"""The provider's own books: who was charged, who was refunded, and what was answered."""

import hashlib
import json
import sqlite3
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

TABLES = """
CREATE TABLE IF NOT EXISTS call (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, attempts INTEGER NOT NULL,
    status INTEGER, answer TEXT
);
CREATE TABLE IF NOT EXISTS charge (
    charge TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, order_id TEXT NOT NULL,
    cents INTEGER NOT NULL CHECK (cents >= 0)
);
CREATE TABLE IF NOT EXISTS refund (
    refund TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, charge TEXT NOT NULL REFERENCES charge,
    cents INTEGER NOT NULL CHECK (cents >= 0)
);
"""

Answer = tuple[int, dict[str, Any]]


class Ledger:
    """A SQLite file, shared by the server's threads under one lock."""

    def __init__(self, file: Path) -> None:
        """Open the books, or begin them."""
        self._lock = threading.RLock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(TABLES)

    def close(self) -> None:
        """Close the books. May be called twice."""
        with self._lock:
            self._db.close()

    def attempt(self, key: str, request: str) -> tuple[int, Answer | None]:
        """Count a call; give its number, and the answer if the key has one already.

        Another request under a key that was used is answered with a refusal.
        """
        with self._lock:
            row = self._db.execute(
                "INSERT INTO call (key, request, attempts) VALUES (?, ?, 1) ON CONFLICT (key) "
                "DO UPDATE SET attempts = attempts + 1 "
                "RETURNING attempts, request, status, answer",
                (key, request),
            ).fetchone()
        attempts, first, status, answer = row
        if first != request:
            return attempts, (409, {"error": "the key was used for another request"})
        return attempts, (None if status is None else (status, json.loads(answer)))

    def charge(self, key: str, order_id: str, amount: Decimal) -> Answer:
        """Take the money, once per key."""
        name = _name("ch", key)
        statement = "INSERT INTO charge (charge, key, order_id, cents) VALUES (?, ?, ?, ?)"
        return self._answer(
            key, (200, {"charge": name}), statement, (name, key, order_id, _cents(amount))
        )

    def decline(self, key: str) -> Answer:
        """Take nothing, and remember that."""
        return self._answer(key, (402, {"declined": "insufficient funds"}))

    def refund(self, key: str, charge: str, amount: Decimal) -> Answer:
        """Give money back, once per key, never more than was taken."""
        name = _name("re", key)
        statement = "INSERT INTO refund (refund, key, charge, cents) VALUES (?, ?, ?, ?)"
        with self._lock:
            taken = self._db.execute(
                "SELECT cents - (SELECT coalesce(sum(cents), 0) FROM refund "
                "WHERE refund.charge = charge.charge AND refund.key <> ?) "
                "FROM charge WHERE charge = ?",
                (key, charge),
            ).fetchone()
            if taken is None:
                return 404, {"error": "no such charge"}
            if _cents(amount) > taken[0]:
                return 409, {"error": "more than was taken"}
            return self._answer(
                key, (200, {"refund": name}), statement, (name, key, charge, _cents(amount))
            )

    def orders(self) -> list[dict[str, object]]:
        """Give per order what was charged and refunded, in cents."""
        with self._lock:
            rows = self._db.execute(
                "SELECT order_id, sum(cents), sum((SELECT coalesce(sum(cents), 0) FROM refund "
                "WHERE refund.charge = charge.charge)) FROM charge "
                "GROUP BY order_id ORDER BY order_id"
            ).fetchall()
        return [
            {"order_id": order_id, "charged_cents": charged, "refunded_cents": refunded}
            for order_id, charged, refunded in rows
        ]

    def order_of(self, charge: str) -> str:
        """Name the order of a charge; empty when there is none."""
        with self._lock:
            row = self._db.execute(
                "SELECT order_id FROM charge WHERE charge = ?", (charge,)
            ).fetchone()
        return str(row[0]) if row else ""

    def _answer(
        self, key: str, answer: Answer, statement: str = "", values: tuple[object, ...] = ()
    ) -> Answer:
        """Write what was done together with its answer; the first answer of a key stands."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                known = self._db.execute(
                    "SELECT status, answer FROM call WHERE key = ? AND status IS NOT NULL", (key,)
                ).fetchone()
                if known is None:
                    if statement:
                        self._db.execute(statement, values)
                    self._db.execute(
                        "UPDATE call SET status = ?, answer = ? WHERE key = ?",
                        (answer[0], json.dumps(answer[1]), key),
                    )
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        return answer if known is None else (int(known[0]), json.loads(known[1]))


def _name(kind: str, key: str) -> str:
    return f"{kind}_{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def _cents(amount: Decimal) -> int:
    return int(amount.scaleb(2))
