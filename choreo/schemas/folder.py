"""Schemas in a folder: `<type>.v<N>.avsc`, a file a version, checked in beside the code.

It is all that services share, and a registry for those that run no server: bytes name their
schema by its fingerprint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from choreo.errors import ConfigurationError, DecodeError
from choreo.schemas.forms import Json
from choreo.schemas.parsing import AvroSchema, parsed

__all__ = ["SchemaFolder", "Version", "added", "written"]

FILE = re.compile(r"(?P<type>.+)\.v(?P<number>[1-9][0-9]*)\.avsc")


class Version(NamedTuple):
    """One version of one event type."""

    type: str
    number: int
    schema: AvroSchema

    @property
    def name(self) -> str:
        """How it is called in a sentence."""
        return f"version {self.number}"

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.type}.v{self.number}.avsc"


@dataclass(frozen=True, slots=True)
class SchemaFolder:
    """The versions in a folder. `recursive`: take records that contain themselves."""

    path: Path
    recursive: bool = False

    def versions(self) -> Mapping[str, Sequence[Version]]:
        """Read all versions of all types, oldest first.

        Raises ConfigurationError for a file that is no acceptable schema. No folder: none.
        """
        found: dict[str, list[Version]] = {}
        for version in self._files():
            found.setdefault(version.type, []).append(version)
        return {kind: sorted(many, key=lambda one: one.number) for kind, many in found.items()}

    def by_fingerprint(self) -> Mapping[bytes, AvroSchema]:
        """Read all versions, as bytes name them."""
        return {version.schema.fingerprint: version.schema for version in self._files()}

    def _files(self) -> Iterator[Version]:
        try:
            paths = sorted(self.path.glob("*.avsc"))
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc
        for path in paths:
            match = FILE.fullmatch(path.name)
            if match is None:
                raise ConfigurationError(
                    "a file of schemas has no version in its name",
                    code="CH1043",
                    fix="name it <type>.v<N>.avsc, or move it elsewhere",
                    file=path,
                )
            try:
                schema = parsed(path.read_bytes(), recursive=self.recursive, where=str(path))
            except (OSError, DecodeError) as exc:
                raise _unreadable(path, exc) from exc
            yield Version(match["type"], int(match["number"]), schema)


def added(known: Sequence[Version], kind: str, schema: AvroSchema) -> Version | None:
    """Give the version to be added for what the code declares now; None if it is the newest."""
    if known and known[-1].schema.root == schema.root:
        return None
    return Version(kind, known[-1].number + 1 if known else 1, schema)


def written(schema: Json) -> str:
    """Write a schema as a file has it: the same one always gives the same text."""
    return json.dumps(schema, indent=2) + "\n"


def _unreadable(path: Path, why: Exception) -> ConfigurationError:
    what = why.what if isinstance(why, DecodeError) else str(why)
    return ConfigurationError(
        f"a file of schemas can not be read: {what}",
        code="CH1043",
        fix="restore it from version control; a version is never edited",
        file=path,
    )
