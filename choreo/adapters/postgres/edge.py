"""asyncpg's errors as choreo's; the one place where that happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from choreo.errors import (
    ChoreoError,
    HandlerError,
    StoreConflictError,
    StoreError,
    StoreUnavailableError,
)

__all__ = ["CLIENT", "EXACT", "KINDS", "translate", "translated"]

CONFLICT, DOWN, DENIED, MISSING, FORBIDDEN, HELD, VALUE, WRONG = (
    "conflict", "down", "denied", "missing", "forbidden", "held", "value", "wrong",
)  # fmt: skip

EXACT = {
    "40001": CONFLICT,  # serialization_failure
    "40P01": CONFLICT,  # deadlock_detected
    "40003": DOWN,  # statement_completion_unknown
    "55P03": CONFLICT,  # lock_not_available: somebody holds it for too long
    "25006": DOWN,  # read_only_sql_transaction: a standby, until it is the primary
    "25P04": HELD,  # transaction_timeout
    "25P03": DOWN,  # idle_in_transaction_session_timeout: the connection is gone
    "57014": HELD,  # query_canceled, by statement_timeout
    "57P04": MISSING,  # database_dropped
    "3D000": MISSING,  # invalid_catalog_name
    "42501": FORBIDDEN,  # insufficient_privilege
    "22000": VALUE,  # what the client itself raises for a value that does not fit its column
}
"""By SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html."""

KINDS = {
    "08": DOWN,  # connection exception
    "28": DENIED,  # invalid authorization
    "53": DOWN,  # insufficient resources: disk full, too many connections
    "57": DOWN,  # operator intervention: shutdown, crash, not yet accepting
    "58": DOWN,  # system error outside of PostgreSQL
    **dict.fromkeys(
        (
            "00", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21",
            "22", "23", "24", "25", "26", "27", "2B", "2D", "2F", "34", "38", "39", "3B", "3D",
            "3F", "40", "42", "44", "54", "55", "72", "F0", "HV", "P0", "XX",
        ),
        WRONG,
    ),
}  # fmt: skip
"""By the class of a SQLSTATE, its first two characters."""

CLIENT = {
    "ClientConfigurationError": DENIED,
    "InterfaceError": DOWN,
    "InternalClientError": DOWN,
    "OutdatedSchemaCacheError": CONFLICT,
    "ProtocolError": DOWN,
    "TargetServerAttributeNotMatched": DOWN,
    "UnsupportedClientFeatureError": WRONG,
    "UnsupportedServerFeatureError": WRONG,
}
"""Those that the client raises by itself, by the name of their class."""

LASTING = {
    DENIED: (
        "the database lets us not in", "CH4011",
        "correct user and password in CHOREO_STORE, or pg_hba.conf of the server",
    ),
    MISSING: (
        "there is no such database", "CH4012",
        "create it: createdb NAME; or correct CHOREO_STORE",
    ),
    FORBIDDEN: (
        "the user may not do that", "CH4013",
        "grant it: `choreo migrations` prints the tables and what to grant",
    ),
    HELD: (
        "a transaction was open for too long", "CH4007",
        "look at the statement's plan with EXPLAIN, and at who holds its rows",
    ),
    WRONG: ("a statement failed", "CH4006", "correct the statement or its values"),
}  # fmt: skip
"""What does not go away by itself: what is said of it, its code, its fix."""


@contextmanager
def translated(where: str, *, value_errors: bool = True) -> Iterator[None]:
    """Turn the client's errors into choreo's; `where` is a database or a statement."""
    try:
        yield
    except ChoreoError:
        raise
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        TimeoutError,
        EOFError,
    ) as exc:
        raise translate(exc, where) from exc
    except (ValueError, TypeError, OverflowError) as exc:
        if not value_errors:
            raise
        raise translate(exc, where) from exc


def translate(error: BaseException, where: str) -> ChoreoError:
    """Give choreo's error for one of the client's."""
    kind = kind_of(error)
    text = f"{error}".strip() or type(error).__name__
    if kind == VALUE:
        return HandlerError(
            f"a value does not fit: {text}",
            code="CH5006",
            fix="pass a value of the column's type, or one of the table of values",
            at=where,
        )
    if kind == CONFLICT:
        return StoreConflictError(text, fix="nothing: it is done again", at=where)
    if kind == DOWN:
        return StoreUnavailableError(
            f"the database does not answer: {text}",
            fix="start it, or correct host and port in CHOREO_STORE",
            at=where,
        )
    what, code, fix = LASTING[kind]
    return StoreError(f"{what}: {text}", code=code, fix=fix, at=where)


def kind_of(error: BaseException) -> str:
    """Tell what an error means to us."""
    if isinstance(error, (OSError, EOFError)):  # a TimeoutError is an OSError
        return DOWN
    if isinstance(error, asyncpg.exceptions.InvalidCachedStatementError):
        return CONFLICT  # a table was changed under a prepared statement
    if not isinstance(error, asyncpg.PostgresError):
        return next(
            (CLIENT[c.__name__] for c in type(error).__mro__ if c.__name__ in CLIENT), WRONG
        )
    state = getattr(error, "sqlstate", None) or "XX000"
    return EXACT.get(state) or KINDS.get(state[:2], WRONG)
