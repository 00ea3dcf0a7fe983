"""Settings: flags, then `CHOREO_…` of the environment, `.env`, `[tool.choreo]`, the default.

What is not understood is refused, wherever it stands: a name that nobody reads is a setting
that somebody believes in.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from choreo.app import Deployment, database_path
from choreo.environment import (
    DOTENV,
    PREFIX,
    REGISTRY,
    adopt_dotenv,
    check_variable,
    codec_settings,
    dotenv,
    known,
    wrong,
)
from choreo.errors import ConfigurationError
from choreo.health import Address
from choreo.telemetry import asked

__all__ = ["Setting", "Settings"]

PROJECT = "pyproject.toml"
TABLE: Mapping[str, type] = {
    "broker": str,
    "folder": str,
    "invariants": list,
    "modules": list,
    "store": str,
}
"""What `[tool.choreo]` may hold."""
ADOPTED = ("broker", "store")
"""What an App reads from the environment alone: it is put there, where nothing else says it."""


class Setting(NamedTuple):
    """One setting as it holds: its name, its value, where that was found, what it is for."""

    name: str
    value: str
    where: str
    meaning: str


@dataclass(frozen=True)
class Settings:
    """What one call of the command line goes by. None and () mean: not given as a flag."""

    folder_flag: Path | None = None
    modules_flag: Sequence[str] = ()
    health_flag: str | None = None

    @cached_property
    def _table(self) -> dict[str, Any]:
        """Give `[tool.choreo]` of ./pyproject.toml; raises when an entry is wrong."""
        table = self._entries()
        for name, value in table.items():
            _check_entry(name, value)
        return table

    @staticmethod
    def _entries() -> dict[str, Any]:
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

    def wrong(self) -> list[ConfigurationError]:
        """List everything that is wrong with the settings, not the first thing only."""
        found: list[ConfigurationError] = []
        try:
            adopt_dotenv()
        except ConfigurationError as exc:
            found.append(exc)
        variables = [
            partial(check_variable, name, "the environment") for name in sorted(os.environ)
        ]
        ours: list[Callable[[], object]] = [
            self.adopt, lambda: self.deployment, codec_settings,
            lambda: self.health, lambda: self.telemetry,
        ]  # fmt: skip
        looks: list[Callable[[], object]] = [*variables, *self._looks(), *ours]
        for look in looks:
            try:
                look()
            except ConfigurationError as exc:
                if str(exc) not in map(str, found):
                    found.append(exc)
        return found

    def _looks(self) -> list[Callable[[], object]]:
        try:
            return [partial(_check_entry, *entry) for entry in self._entries().items()]
        except ConfigurationError:
            return [self._entries]

    def check(self, *, store: bool = True) -> None:
        """Look at every setting; raises ConfigurationError for the first that is wrong.

        Without `store` nobody has to say where that is.
        """
        for name in os.environ:
            check_variable(name, "the environment")
        self.adopt()
        _ = self.folder, self.modules, self.invariants, codec_settings()
        _ = self.health, self.telemetry
        if store:
            _ = self.deployment

    def adopt(self) -> None:
        """Take broker and store of `[tool.choreo]` into the environment, as `.env` is taken."""
        for name in ADOPTED:
            if (url := self._table.get(name)) is not None:
                os.environ.setdefault(_variable(name), url)

    @property
    def deployment(self) -> Deployment:
        """Where log and store are."""
        return Deployment.of(self.folder)

    @property
    def folder(self) -> str | None:
        """Where the files are; None leaves it to the environment and the default."""
        if self.folder_flag is not None:
            return str(self.folder_flag)
        table = self._table
        if os.environ.get("CHOREO_BROKER"):
            return None
        folder: str | None = table.get("folder")
        return folder

    def log_exists(self) -> bool:
        """Tell whether there is a log; one that may not be looked at is told when it is opened."""
        try:
            return self.deployment.log is None or self.database.exists()
        except OSError:
            return True

    @property
    def database(self) -> Path:
        """The file of the log."""
        return Path(database_path(self.folder))  # where the log is none, what lies beside it

    @property
    def broker(self) -> str:
        """The log: `sqlite:///path/choreo.db`, or `kafka://host:9092,host:9092`."""
        return str(self.deployment)

    @property
    def store(self) -> str:
        """Where steps are recorded: `postgresql://…`; without it, in the file of the log."""
        return self.deployment.own or "postgresql://…"  # the rest may hold a password

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that declare services."""
        return tuple(self.modules_flag) or self._names("modules")

    @property
    def health(self) -> str:
        """Where /livez, /readyz, /startupz, /metrics are served: HOST:PORT, or a port alone."""
        text = self.health_flag
        if text is None:
            text = os.environ.get("CHOREO_HEALTH", "")
        if text:
            Address.parse(text)
        return text

    @property
    def telemetry(self) -> str:
        """Whether traces and metrics leave the process, 1 or 0; else an OTLP endpoint decides."""
        return "1" if asked() else "0"

    @property
    def invariants(self) -> tuple[str, ...]:
        """The user's own invariants, each `module:function`."""
        return self._names("invariants")

    def _names(self, setting: str) -> tuple[str, ...]:
        from_environment = os.environ.get(_variable(setting), "").replace(",", " ").split()
        return tuple(from_environment) or tuple(self._table.get(setting, ()))

    def shown(self) -> list[Setting]:
        """Give every setting as it holds, and where it comes from."""
        codec = codec_settings()
        flags = {
            "database": self.folder_flag is not None,
            "store": self.folder_flag is not None,
            "modules": bool(self.modules_flag),
        }
        self.adopt()
        named = (
            ("database", self.broker, "CHOREO_BROKER", ("broker", "folder"),
             "where the log is; by default the stores are in its file, views.db beside"),
            ("modules", " ".join(self.modules), "CHOREO_MODULES", ("modules",),
             "modules that declare services, where none are named"),
            ("invariants", " ".join(self.invariants), "CHOREO_INVARIANTS", ("invariants",),
             "your own checks, module:function, which audit runs too"),
            ("store", self.store, "CHOREO_STORE", ("store",),
             "where steps are recorded; by default in the log's file"),
            ("codec", "avro" if codec.writes_avro else "json", "CHOREO_CODEC", (),
             "what values are written as; what they are read as, each says itself"),
            ("schemas", str(codec.folder or ""), "CHOREO_SCHEMAS", (),
             "the folder of Avro schemas, a file a version"),
            ("registry", codec.registry or "", REGISTRY, (),
             "the schema registry; values are framed for it, if there is one"),
            ("register", "yes" if codec.register else "", "CHOREO_SCHEMAS_REGISTER", (),
             "yes: who starts registers what the registry does not know"),
            ("recursion", "allow" if codec.recursive else "", "CHOREO_AVRO_RECURSION", (),
             "allow: take Avro records that contain themselves, 64 deep at most"),
            ("health", self.health, "CHOREO_HEALTH", (),
             "where /livez, /readyz, /startupz and /metrics are served"),
            ("telemetry", self.telemetry, "CHOREO_TELEMETRY", (),
             "whether traces and metrics leave the process"),
        )  # fmt: skip
        written = dotenv()
        found = []
        for name, value, variable, entries, meaning in named:
            entry = next((one for one in entries if one in self._table), None)
            told = os.environ.get(variable)
            if flags.get(name):
                where = "flag"
            elif told and (entry is None or self._table[entry] != told):
                by_file = written.get(variable) == os.environ[variable]
                where = f"{DOTENV} {variable}" if by_file else variable
            else:
                where = "default" if entry is None else f"[tool.choreo] {entry}"
            found.append(Setting(name, value, where, meaning))
        return found


def _check_entry(name: str, value: object) -> None:
    if name not in TABLE:
        raise wrong(
            f"[tool.choreo] {name} is no setting that this version has",
            known(name, TABLE),
            file=PROJECT,
        )
    if TABLE[name] is str:
        if not isinstance(value, str) or not value:
            raise _unreadable(f"[tool.choreo] {name} is no text")
    elif not isinstance(value, list) or not all(one and isinstance(one, str) for one in value):
        raise _unreadable(f"[tool.choreo] {name} is no list of texts")


def _variable(setting: str) -> str:
    return PREFIX + setting.upper()


def _unreadable(why: object) -> ConfigurationError:
    return wrong(f"{PROJECT} can not be read: {why}", "correct the file", file=PROJECT)
