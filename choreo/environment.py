"""The environment: `CHOREO_…` variables, and `./.env`, which adds what is not set."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection
from pathlib import Path

from choreo.errors import ConfigurationError

__all__ = ["DOTENV", "PREFIX", "adopt_dotenv", "check_variable", "dotenv", "known", "wrong"]

DOTENV = ".env"
PREFIX = "CHOREO_"
FOR_TESTS = "CHOREO_TEST_"
VARIABLES = ("CHOREO_BROKER", "CHOREO_INVARIANTS", "CHOREO_MODULES")

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


def known(name: str, names: Collection[str]) -> str:
    """Say, as a fix, what may have been meant."""
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]}? Else take it out"
    return f"take it out; there are {', '.join(names)}"


def wrong(what: str, fix: str, **where: object) -> ConfigurationError:
    """Make the error for a setting that is not understood."""
    return ConfigurationError(what, code="CH1014", fix=fix, **where)
