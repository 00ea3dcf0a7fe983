"""Figures of states name the states that the code has."""

import enum
import importlib
import re
from collections.abc import Iterator

import pytest

from tests.docs.blocks import pages, text_of

FIGURE = re.compile(
    r"<!-- states: (?P<module>[\w.]+):(?P<name>\w+) -->\s+"
    r"```mermaid\nstateDiagram-v2\n(?P<lines>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
ARROW = re.compile(r"^\s*(\[\*\]|\w+) --> (\[\*\]|\w+)(:.*)?$")
START = "[*]"


def drawn(lines: str) -> set[str]:
    """Name the states of a figure; raises ValueError for a line that is no arrow."""
    found: set[str] = set()
    for line in lines.splitlines():
        arrow = ARROW.match(line)
        if arrow is None:
            raise ValueError(line)
        found |= {arrow[1], arrow[2]}
    return found - {START}


def coded(module: str, name: str) -> set[str]:
    """Name the states that the code has: members of an Enum, or texts."""
    found = getattr(importlib.import_module(module), name)
    if isinstance(found, enum.EnumMeta):
        return {str(member.name).lower() for member in list[enum.Enum](found)}
    return set(found)


def figures() -> Iterator[tuple[str, str, str, str]]:
    for page in pages():
        for found in FIGURE.finditer(text_of(page)):
            yield page, found["module"], found["name"], found["lines"]


@pytest.mark.parametrize(("page", "module", "name", "lines"), list(figures()))
def test_a_figure_has_the_states_of_the_code(page: str, module: str, name: str, lines: str) -> None:
    assert drawn(lines) == coded(module, name)


def test_every_state_of_a_delivery_is_drawn_somewhere() -> None:
    names = {name for _, _, name, _ in figures()}
    assert names >= {"Status", "Memo", "Applied", "STATUSES"}


def test_another_state_is_seen() -> None:
    """A comparison that can not fail is none."""
    assert drawn("    [*] --> a: b\n    a --> c\n") == {"a", "c"}
    with pytest.raises(ValueError, match="nonsense"):
        drawn("    nonsense\n")
