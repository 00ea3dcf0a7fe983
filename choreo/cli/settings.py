"""Settings of the command line: flags, then the environment, then `[tool.choreo]`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from choreo.app import database_path
from choreo.errors import ConfigurationError

__all__ = ["Settings"]

PROJECT = "pyproject.toml"


@dataclass(frozen=True)
class Settings:
    """What one call of the command line goes by. None and () mean: not given as a flag."""

    folder_flag: Path | None = None
    modules_flag: Sequence[str] = ()

    @cached_property
    def _table(self) -> dict[str, Any]:
        """Give `[tool.choreo]` of ./pyproject.toml."""
        try:
            text = Path(PROJECT).read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as exc:
            raise _unreadable(exc) from exc
        try:
            table = tomllib.loads(text).get("tool", {}).get("choreo", {})
        except (tomllib.TOMLDecodeError, AttributeError) as exc:
            raise _unreadable(exc) from exc
        if not isinstance(table, dict):
            raise _unreadable("[tool.choreo] is no table")
        return table

    @property
    def folder(self) -> str | None:
        """Where the files are; None leaves it to the environment and the default."""
        if self.folder_flag is not None:
            return str(self.folder_flag)
        if os.environ.get("CHOREO_BROKER"):
            return None
        folder = self._table.get("folder")
        if folder is not None and not isinstance(folder, str):
            raise _unreadable("folder is no text")
        return folder

    def log_exists(self) -> bool:
        """Tell whether there is a log; one that may not be looked at is told when it is opened."""
        try:
            return self.database.exists()
        except OSError:
            return True

    @property
    def database(self) -> Path:
        """The file of the log."""
        return Path(database_path(self.folder))

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that declare services."""
        if self.modules_flag:
            return tuple(self.modules_flag)
        from_environment = os.environ.get("CHOREO_MODULES", "").replace(",", " ").split()
        return tuple(from_environment) or self._names("modules")

    @property
    def invariants(self) -> tuple[str, ...]:
        """The user's own invariants, each `module:function`."""
        return self._names("invariants")

    def _names(self, setting: str) -> tuple[str, ...]:
        found = self._table.get(setting, [])
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise _unreadable(f"{setting} is no list of texts")
        return tuple(found)


def _unreadable(why: object) -> ConfigurationError:
    return ConfigurationError(
        f"{PROJECT} can not be read: {why}", code="CH1014", fix="correct the file", file=PROJECT
    )
