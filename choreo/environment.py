"""The environment: `CHOREO_…` variables, and `./.env`, which adds what is not set."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from choreo.codec import Avro, Codec, Schemas
from choreo.errors import ConfigurationError
from choreo.schemas import SchemaFolder, SchemaRegistry

__all__ = [
    "DOTENV",
    "PREFIX",
    "REGISTRY",
    "SCHEMAS",
    "CodecSettings",
    "adopt_dotenv",
    "check_variable",
    "codec_settings",
    "dotenv",
    "known",
    "wrong",
]

DOTENV = ".env"
PREFIX = "CHOREO_"
FOR_TESTS = "CHOREO_TEST_"
VARIABLES = (
    "CHOREO_AVRO_RECURSION", "CHOREO_BROKER", "CHOREO_CODEC", "CHOREO_HEALTH",
    "CHOREO_INVARIANTS", "CHOREO_MODULES", "CHOREO_SCHEMAS", "CHOREO_SCHEMAS_REGISTER",
    "CHOREO_STORE", "CHOREO_TELEMETRY",
)  # fmt: skip
REGISTRY = "SCHEMA_REGISTRY_URL"
SCHEMAS = "schemas"
CODECS = ("json", "avro")

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(["'])(.*?)\1\s*(?:#.*)?""")


def adopt_dotenv() -> None:
    """Take what `./.env` says into the environment, where that does not say it already.

    So what choreo starts sees it too, and so do the services' own settings.
    """
    for name, value in dotenv().items():
        os.environ.setdefault(name, value)


def dotenv() -> dict[str, str]:
    """Read `./.env`: a `NAME=value` a line. Values are never shown: they may be secret."""
    try:
        text = Path(DOTENV).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        why = "no UTF-8" if isinstance(exc, UnicodeDecodeError) else exc.strerror
        raise wrong(f"{DOTENV} can not be read: {why}", "correct the file", file=DOTENV) from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        value = None if match is None else _value(match[2])
        if match is None or value is None or "\0" in stripped:
            fix = "write NAME=value; quote a value with spaces or #, and close the quote"
            raise wrong("a line is not understood", fix, file=DOTENV, line=number)
        check_variable(match[1], DOTENV, line=number)
        found[match[1]] = value
    return found


def _value(text: str) -> str | None:
    """Take quotes and a comment off; None for a quote that is not closed."""
    if text[:1] in ("'", '"'):
        quoted = _QUOTED.fullmatch(text)
        return None if quoted is None else quoted[2]
    return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].rstrip()


def check_variable(name: str, where: str, **more: object) -> None:
    """Refuse a `CHOREO_…` variable that nobody reads: somebody believes in it."""
    if not name.startswith(PREFIX) or name.startswith(FOR_TESTS) or name in VARIABLES:
        return
    raise wrong(
        f"{name} is no setting that this version has", known(name, VARIABLES), at=where, **more
    )


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """What values are written as, and where schemas are had: a folder, a registry, or neither."""

    writes_avro: bool
    folder: Path | None
    registry: str | None
    register: bool
    recursive: bool

    def codec(self, registry: SchemaRegistry | None, *, elapsed: Callable[[], float]) -> Codec:
        """Make the codec; `elapsed` gives seconds of a clock that never goes back."""
        if self.folder is None and registry is None:
            return Codec()
        folder = SchemaFolder(self.folder, self.recursive) if self.folder else None
        schemas = Schemas(
            folder, registry, elapsed=elapsed, recursive=self.recursive, register=self.register
        )
        return Codec(Avro(schemas), writes_avro=self.writes_avro)


def codec_settings() -> CodecSettings:
    """Read them from the environment; raises ConfigurationError for one that is wrong.

    Avro is read wherever a folder or a registry is set; who writes it has `./schemas` without.
    """
    codec = os.environ.get("CHOREO_CODEC") or CODECS[0]
    if codec not in CODECS:
        raise wrong(f"CHOREO_CODEC: {codec!r} is no codec", f"use {' or '.join(CODECS)}")
    named = os.environ.get("CHOREO_SCHEMAS")
    registry = os.environ.get(REGISTRY) or None
    if registry is not None and not registry.startswith(("http://", "https://")):
        raise wrong(f"{REGISTRY} is no address of a registry", "write http://host:8081")
    folder = Path(named) if named else None
    if folder is None and registry is None and codec == "avro":
        folder = Path(SCHEMAS)
    return CodecSettings(
        codec == "avro",
        folder,
        registry,
        _chosen("CHOREO_SCHEMAS_REGISTER", "yes"),
        _chosen("CHOREO_AVRO_RECURSION", "allow"),
    )


def _chosen(name: str, word: str) -> bool:
    """Tell whether a variable has its one word; nothing else may stand in it."""
    value = os.environ.get(name)
    if value not in (None, "", word):
        raise wrong(f"{name}: {value!r} is not understood", f"write {word}, or take it out")
    return value == word


def known(name: str, names: Collection[str]) -> str:
    """Say, as a fix, what may have been meant."""
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]}? Else take it out"
    return f"take it out; there are {', '.join(names)}"


def wrong(what: str, fix: str, **where: object) -> ConfigurationError:
    """Make the error for a setting that is not understood."""
    return ConfigurationError(what, code="CH1014", fix=fix, **where)
