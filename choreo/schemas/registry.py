"""The schema registry: schemas by the number, or the GUID, that stands in front of a value."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SchemaRegistry"]


class SchemaRegistry(Protocol):
    """Where schemas are registered under subjects and looked up by what a record names."""

    async def schema(self, ref: int | str) -> str | None:
        """Give a schema by its id, or by its GUID; None if the registry has none of that name.

        Raises RegistryUnavailableError (transient) when it does not answer.
        """
        ...

    async def find(self, subject: str, schema: str) -> int | None:
        """Give the id of a schema under a subject; None if it is not registered there."""
        ...

    async def register(self, subject: str, schema: str) -> int:
        """Add a schema to a subject and give its id. Safe to call again.

        Raises SchemaIncompatibleError when the subject's own rule forbids it, RegistryError
        when the registry refuses it for another reason.
        """
        ...

    async def close(self) -> None:
        """Release everything. May be called twice."""
        ...
