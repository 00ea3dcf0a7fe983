"""Options that belong together, as the fields of a frozen value."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any

__all__ = ["grouped"]


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb take dataclasses: each of their fields is an option of its own.

    A field is annotated as a parameter of a verb would be, and has a default or is required.
    """
    hints = typing.get_type_hints(verb, include_extras=True)
    found: dict[str, inspect.Parameter] = {}
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if not hasattr(hints[name], "__dataclass_fields__"):
            found[name] = parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY)
            continue
        groups[name] = hints[name]
        inner = typing.get_type_hints(hints[name], include_extras=True)
        for one in fields(hints[name]):
            default = inspect.Parameter.empty if one.default is MISSING else one.default
            found[one.name] = inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=default,
                annotation=inner[one.name],
            )  # fmt: skip

    @wraps(verb)
    def called(**given: Any) -> None:
        values = {
            name: group(**{one.name: given.pop(one.name) for one in fields(group)})
            for name, group in groups.items()
        }
        verb(**given, **values)

    called.__signature__ = inspect.Signature(list(found.values()))  # type: ignore[attr-defined]
    called.__annotations__ = {}
    del called.__wrapped__
    return called
