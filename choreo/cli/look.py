"""What `doctor` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAIL", "OK", "WARN", "Look"]

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Look:
    """One thing that was looked at: ok, warn or fail; what is wrong has a code and a fix."""

    state: str
    what: str
    code: str = ""
    fix: str = ""
