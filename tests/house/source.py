"""The sources that the rules read: text and syntax tree, nothing imported."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file, or a planted one: `path` is relative to the repository, with slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        """The dotted name, of a package without its `__init__`."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_package(self) -> bool:
        return self.path.endswith("/__init__.py")

    def at(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class Import:
    """One imported module, absolute; `name` is what a `from` takes out of it."""

    node: ast.stmt
    module: str
    name: str | None = None


def sources(*folders: str) -> Sequence[Source]:
    """Return every Python file under the folders, in order of path."""
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def imports(source: Source) -> Iterator[Import]:
    """Yield every import: at the top, in functions and under TYPE_CHECKING alike."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node, alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                here = source.module.split(".")
                up = node.level - 1 if source.is_package else node.level
                module = ".".join([*here[: len(here) - up], *filter(None, [module])])
            for alias in node.names:
                yield Import(node, module, alias.name)


def functions(source: Source) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    """Yield every function with the class that directly holds it, if one does."""
    owners = {
        id(child): node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        for child in node.body
    }
    for node in ast.walk(source.tree):
        if isinstance(node, Function):
            yield node, owners.get(id(node))


def verbs(source: Source, *, properties: bool = True) -> dict[str, list[str]]:
    """Map each Protocol class to its public methods; a property is no verb, but has a name."""
    return {
        node.name: [
            child.name
            for child in node.body
            if isinstance(child, Function)
            and not child.name.startswith("_")
            and (properties or "property" not in map(ast.unparse, child.decorator_list))
        ]
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        and any("Protocol" in ast.unparse(base) for base in node.bases)
    }


def report(violations: Sequence[str]) -> str:
    """Write one violation a line, for the message of an assertion."""
    return "\n" + "\n".join(violations)
