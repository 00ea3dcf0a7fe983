"""Every mutant still breaks something, and names tests that are there; `make mutants` runs them."""

import ast
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]


def names(test: str) -> set[str]:
    """List the classes and functions of a test's file, inherited ones from the contracts."""
    path = ROOT / test.split("::", maxsplit=1)[0]
    paths = [path, *(ROOT / "choreo/testing/contracts").glob("*.py")]
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return {
        node.name
        for one in paths
        for node in ast.walk(ast.parse(one.read_text()))
        if isinstance(node, kinds)
    }


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_made(mutant: Mutant) -> None:
    """Its lines stand once, and what comes out can be compiled."""
    texts: dict[str, str] = {}
    for patch in mutant.patches:
        text = texts.get(patch.file) or (ROOT / patch.file).read_text()
        assert text.count(patch.old) == 1, f"{patch.file}: {patch.old!r} does not stand there once"
        assert patch.old != patch.new
        texts[patch.file] = text.replace(patch.old, patch.new)
    for file, text in texts.items():
        compile(text, file, "exec")
    for test in mutant.tests:
        assert (ROOT / test.split("::", maxsplit=1)[0]).exists()
        assert set(test.split("::")[1:]) <= names(test)


def test_names_tell_mutants_apart() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
