"""Each of asyncpg's errors means something to choreo; a new one has to be given a meaning."""

import asyncio
import inspect

import asyncpg
import pytest

from choreo.adapters.postgres.edge import CLIENT, EXACT, KINDS, translate, translated
from choreo.errors import (
    ChoreoError,
    HandlerError,
    StoreConflictError,
    StoreError,
    StoreUnavailableError,
)

ABSTRACT = {"PostgresError", "FatalPostgresError", "UnknownPostgresError"}
WARNINGS = {"InterfaceWarning"}


def classes() -> list[type[BaseException]]:
    found = [one for _, one in inspect.getmembers(asyncpg.exceptions, inspect.isclass)]
    return [one for one in found if issubclass(one, BaseException)]


def made(kind: type[BaseException]) -> BaseException:
    return kind("what the server says")


def test_there_are_classes() -> None:
    assert len(classes()) > 200


def test_each_sqlstate_of_the_client_library_has_a_meaning() -> None:
    states = {str(getattr(one, "sqlstate", None) or "00000") for one in classes()}
    missing = {state for state in states if state not in EXACT and state[:2] not in KINDS}
    assert not missing, "give them a meaning in KINDS or EXACT"


def test_each_error_of_the_client_itself_has_a_meaning() -> None:
    own = {one.__name__ for one in classes() if getattr(one, "sqlstate", None) is None}
    assert own == set(CLIENT) | ABSTRACT | WARNINGS


@pytest.mark.parametrize("kind", classes(), ids=lambda one: one.__name__)
def test_each_becomes_one_of_ours_with_a_fix(kind: type[BaseException]) -> None:
    if kind.__name__ in WARNINGS:
        return
    error = translate(made(kind), "localhost:5432/shop")
    assert isinstance(error, ChoreoError)
    assert error.fix


@pytest.mark.parametrize(
    ("kind", "ours", "code"),
    [
        (asyncpg.SerializationError, StoreConflictError, "CH4002"),
        (asyncpg.DeadlockDetectedError, StoreConflictError, "CH4002"),
        (asyncpg.LockNotAvailableError, StoreConflictError, "CH4002"),
        (asyncpg.exceptions.InvalidCachedStatementError, StoreConflictError, "CH4002"),
        (asyncpg.exceptions.OutdatedSchemaCacheError, StoreConflictError, "CH4002"),
        (asyncpg.ConnectionDoesNotExistError, StoreUnavailableError, "CH4001"),
        (asyncpg.CannotConnectNowError, StoreUnavailableError, "CH4001"),
        (asyncpg.AdminShutdownError, StoreUnavailableError, "CH4001"),
        (asyncpg.CrashShutdownError, StoreUnavailableError, "CH4001"),
        (asyncpg.DiskFullError, StoreUnavailableError, "CH4001"),
        (asyncpg.TooManyConnectionsError, StoreUnavailableError, "CH4001"),
        (asyncpg.ReadOnlySQLTransactionError, StoreUnavailableError, "CH4001"),
        (asyncpg.IdleInTransactionSessionTimeoutError, StoreUnavailableError, "CH4001"),
        (asyncpg.InterfaceError, StoreUnavailableError, "CH4001"),
        (ConnectionRefusedError, StoreUnavailableError, "CH4001"),
        (TimeoutError, StoreUnavailableError, "CH4001"),
        (EOFError, StoreUnavailableError, "CH4001"),
        (asyncpg.InvalidPasswordError, StoreError, "CH4011"),
        (asyncpg.InvalidAuthorizationSpecificationError, StoreError, "CH4011"),
        (asyncpg.InvalidCatalogNameError, StoreError, "CH4012"),
        (asyncpg.InsufficientPrivilegeError, StoreError, "CH4013"),
        (asyncpg.QueryCanceledError, StoreError, "CH4007"),
        (asyncpg.UniqueViolationError, StoreError, "CH4006"),
        (asyncpg.UndefinedTableError, StoreError, "CH4006"),
        (asyncpg.DataError, HandlerError, "CH5006"),
    ],
)
def test_what_it_means(kind: type[BaseException], ours: type[ChoreoError], code: str) -> None:
    error = translate(made(kind), "here")
    assert (type(error), error.code) == (ours, code)
    assert error.transient is (ours in (StoreConflictError, StoreUnavailableError))


def test_the_cause_is_kept_and_ours_pass() -> None:
    with pytest.raises(StoreUnavailableError) as told, translated("here"):
        raise ConnectionResetError
    assert isinstance(told.value.__cause__, ConnectionResetError)
    own = StoreError("ours", fix="none")
    with pytest.raises(StoreError) as same, translated("here"):
        raise own
    assert same.value is own


async def test_being_cancelled_is_no_error_of_the_database() -> None:
    with pytest.raises(asyncio.CancelledError), translated("here"):
        raise asyncio.CancelledError
