"""What is wrong with services together: findings, each with a place and a fix."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that does not fit.

    `place` is a handler, a flow or an event type; `at` the module and line of the handler,
    if there is one; `example` a run that shows it, an event a line, from its beginning.
    """

    code: str
    place: str
    what: str
    fix: str
    at: str = ""
    example: tuple[str, ...] = ()
