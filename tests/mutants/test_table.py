"""Every mutant still breaks something, and names tests that are there; `make mutants` runs them."""

import ast
import json
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


def test_what_was_found_is_of_mutants_that_are_there() -> None:
    """`python -m tests.mutants --only NAME --write` finds it for a new one."""
    caught = json.loads((ROOT / "tests/mutants/caught.json").read_text())
    tests = {mutant.name: {file_of(test) for test in mutant.tests} for mutant in MUTANTS}
    assert caught.keys() <= tests.keys()
    for name, found in caught.items():
        assert not found or file_of(f"tests/{found['test']}") in tests[name], name


def file_of(test: str) -> str:
    return test.partition("::")[0]


def test_names_tell_mutants_apart() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
