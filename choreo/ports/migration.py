"""A migration of a service's own: a file of statements that is run once, and never changes."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from choreo.errors import ConfigurationError

__all__ = ["Migration"]


class Migration(NamedTuple):
    """One file of a service."""

    service: str
    file: str
    sql: str

    @property
    def digest(self) -> str:
        """What a store keeps of it once it has run: the sha1 of its text, as hex."""
        return hashlib.sha1(self.sql.encode(), usedforsecurity=False).hexdigest()

    def has_run(self, kept: str | None) -> bool:
        """Tell by what a store keeps of this file, if it does; raise if it was another text."""
        if kept not in {None, self.digest}:
            raise ConfigurationError(
                "a migration that has run was changed",
                code="CH1012",
                fix="restore it, and put the change into a new file",
                service=self.service,
                file=self.file,
            )
        return kept is not None
