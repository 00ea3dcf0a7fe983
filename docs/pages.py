"""What pages of the reference are made of: names of Python, described from their own words."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["NOTICE", "described", "fenced", "page", "signature_lines"]

NOTICE = "<!-- written by `make docs` from docstrings: change those -->"
WIDTH = 100

# Public for other parts of choreo, not for users.
INNER = {
    "After.due", "Context.go_on", "Context.tx_opened", "Context.undo_all", "Context.undos",
    "Later.due", "Retry.delay_s", "Retry.retryable", "Service.handler_of", "Service.seal",
    "State.to_stored", "World.evidence", "World.happened", "World.resources_of",
}  # fmt: skip
MADE_BY_CHOREO = ("Context", "Given", "Secret")


def signature_lines(name: str, thing: Any, *, bound: bool = False) -> Iterator[str]:
    """Write a signature, on one line if it fits."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        yield name
        return
    params = [one for one in signature.parameters.values() if not (bound and one.name == "self")]
    written = list(_parameters(params))
    result = "" if signature.return_annotation in (inspect.Parameter.empty, "None", None) else (
        f" -> {_text(signature.return_annotation)}"
    )  # fmt: skip
    plain = inspect.unwrap(thing)
    prefix = "async " if inspect.iscoroutinefunction(plain) else ""
    if inspect.isasyncgenfunction(plain):  # a context manager
        prefix, result = "async with ", result.replace("AsyncIterator[", "").rstrip("]")
    line = f"{prefix}{name}({', '.join(written)}){result}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"{prefix}{name}("
    for one in written:
        yield f"    {one},"
    yield f"){result}"


def _parameters(params: Sequence[inspect.Parameter]) -> Iterator[str]:
    starred = False
    for one in params:
        if one.kind is one.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        starred = starred or one.kind is one.VAR_POSITIONAL
        text = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(one.kind.name, "") + one.name
        if one.annotation is not one.empty:
            text += f": {_text(one.annotation)}"
        if one.default is not one.empty:
            text += f" = {_default(one.default)}"
        yield text


def _text(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return getattr(annotation, "__name__", None) or str(annotation)


def _default(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = value == type(value)()
        return f"{type(value).__name__}()" if plain else repr(value)
    return repr(value)


def settings_of_class(thing: type) -> list[str]:
    """Write what a class statement of a subclass takes: `class E(Event, topic=…)`."""
    hook = vars(thing).get("__pydantic_init_subclass__")
    if hook is None:
        return []
    params = [
        one for one in inspect.signature(hook.__func__).parameters.values()
        if one.kind is one.KEYWORD_ONLY
    ]  # fmt: skip
    given_ = ", ".join(f"{one.name}={_default(one.default)}" for one in params)
    return [f"class Mine({thing.__name__}, {given_})"]


def described(name: str, thing: Any, level: str = "##") -> Iterator[str]:
    """Describe a class or a function, and the public methods of a class."""
    yield f"{level} `{name}`"
    yield ""
    is_class = inspect.isclass(thing)
    if not is_class and not callable(thing):  # a value
        yield from fenced([repr(thing)])
        return
    heads = settings_of_class(thing) if is_class else []
    if not heads and not getattr(thing, "_is_protocol", False) and name not in MADE_BY_CHOREO:
        heads = list(signature_lines(name, thing))
    if heads:
        yield from fenced(heads)
    yield from (inspect.getdoc(thing) or "").splitlines()
    yield ""
    if is_class:
        for verb, method in methods(thing):
            if f"{name}.{verb}" not in INNER:
                yield from described_method(verb, method)


def methods(thing: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class defines itself, as written."""
    for verb, method in vars(thing).items():
        if verb.startswith("_") or verb in (
            "model_config",
            "model_fields",
            "model_computed_fields",
        ):
            continue
        if isinstance(method, property | types.FunctionType | staticmethod) and _own_doc(method):
            yield verb, method


def _own_doc(method: Any) -> str:
    return inspect.cleandoc(getattr(method, "__doc__", "") or "")


def described_method(verb: str, method: Any) -> Iterator[str]:
    """Describe a method: its signature, and its docstring."""
    if isinstance(method, property):
        yield f"**`{verb}`** (a property)"
    else:
        yield from fenced(list(signature_lines(verb, method, bound=True)))
    yield ""
    yield from _own_doc(method).splitlines()
    yield ""


def fenced(lines: Sequence[str]) -> Iterator[str]:
    """Fence lines that are no program."""
    yield "```text"
    yield from lines
    yield "```"
    yield ""


def page(title: str, *parts: Iterator[str] | Sequence[str]) -> str:
    """Put a page together; blank lines never stand in a row."""
    lines = [NOTICE, "", f"# {title}", ""]
    for part in parts:
        for line in part:
            if line or lines[-1]:
                lines.append(line.rstrip())
    return "\n".join(lines).rstrip() + "\n"
