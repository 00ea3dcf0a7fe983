"""Services and event types, found in the modules that the user names."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from choreo.errors import ChoreoError, ConfigurationError
from choreo.events import Event
from choreo.service import Service

__all__ = ["event_type", "functions", "services"]


def services(modules: Sequence[str]) -> list[Service]:
    """Import modules, each `module` or `module:service`; give the services that they declare."""
    if not modules:
        raise ConfigurationError(
            "no modules are named",
            code="CH1001",
            fix="name them as arguments, or in pyproject.toml: [tool.choreo] modules = [...]",
        )
    found: dict[str, Service] = {}
    for named in modules:
        name, _, wanted = named.partition(":")
        declared = _services_of(_imported(name))
        if wanted:
            declared = {one: service for one, service in declared.items() if one == wanted}
        if not declared:
            what = f"service {wanted!r}" if wanted else "service"
            known = ", ".join(_services_of(_imported(name))) or "none"
            raise ConfigurationError(
                f"no {what} in this module",
                code="CH1007",
                fix="look at the spelling; a service is a variable of the module",
                module=name,
                services=known,
            )
        for service in declared.values():
            if found.setdefault(service.name, service) is not service:
                raise ConfigurationError(
                    "two services of one name",
                    code="CH1012",
                    fix="rename one",
                    service=service.name,
                    module=name,
                )
    for service in found.values():
        service.seal()
    return list(found.values())


def functions(names: Sequence[str]) -> list[Callable[..., Any]]:
    """Import functions, each `module:function`."""
    found = []
    for named in names:
        name, _, wanted = named.partition(":")
        function = getattr(_imported(name), wanted, None)
        if not callable(function):
            raise ConfigurationError(
                "no such function", code="CH1001", fix="write module:function", function=named
            )
        found.append(function)
    return found


def event_type(name: str) -> type[Event]:
    """Find an event class by its full type, or by its own name if only one type has that.

    Of several classes of one type the one that owns it is given.
    """
    known: dict[str, type[Event]] = {}
    for event in _events(Event):
        kind = event.__event__.type
        if kind not in known or event.__event__.key is not None:
            known[kind] = event
    if name in known:
        return known[name]
    short = [kind for kind in known if kind.rsplit(".", 1)[-1] == name]
    if len(short) == 1:
        return known[short[0]]
    if short:
        raise ConfigurationError(
            f"{name} may be any of {', '.join(sorted(short))}",
            code="CH1006",
            fix="write the full name",
        )
    names = {kind.rsplit(".", 1)[-1].lower(): kind for kind in known}
    names.update({kind.lower(): kind for kind in known})
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    meant = " or ".join(dict.fromkeys(names[one] for one in near))
    raise ConfigurationError(
        f"no event type {name!r} in these modules",
        code="CH1006",
        fix=f"did you mean {meant}?" if meant else "import the module that declares it",
        types=", ".join(sorted(known)) if not meant else len(known),
    )


def _imported(name: str) -> ModuleType:
    here = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ChoreoError:
        raise
    except (Exception, SystemExit) as exc:
        fix = f'run `python -c "import {name}"` and correct what it says'
        if "/" in name or name.endswith(".py"):
            fix = "name the module, not its file: shop.orders for shop/orders.py"
        raise ConfigurationError(
            f"module {name!r} does not import: {type(exc).__name__}: {exc}",
            code="CH1001",
            fix=fix,
            **_place(exc),
        ) from exc


def _place(error: BaseException) -> dict[str, object]:
    """Name the last line outside of Python's own import machinery."""
    if isinstance(error, SyntaxError) and error.filename:
        return {"file": error.filename, "line": error.lineno}
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]  # fmt: skip
    return {"file": frames[-1].filename, "line": frames[-1].lineno} if frames else {}


def _services_of(module: ModuleType) -> dict[str, Service]:
    found: dict[str, Service] = {}
    for value in vars(module).values():
        if isinstance(value, Service) and found.setdefault(value.name, value) is not value:
            raise ConfigurationError(
                "two services of one name",
                code="CH1012",
                fix="rename one",
                service=value.name,
                module=module.__name__,
            )
    return found


def _events(base: type[Event]) -> Iterator[type[Event]]:
    subclasses: Iterable[type[Event]] = base.__subclasses__()
    for event in subclasses:
        if hasattr(event, "__event__"):
            yield event
        yield from _events(event)
