"""What users see is listed, described, and explained when it fails."""

import ast
import importlib
import re
from collections.abc import Collection, Iterator, Sequence

from tests.house.source import ROOT, Function, Source, report, sources, verbs

FACADE_NAMES_MAX = 35
CODE = re.compile(r"\bCH\d{4}\b")
ERRORS_PAGE = ROOT / "docs" / "errors.md"
# Here a method may leave its docstring to the port whose verb it is.
PORT_USERS = ("choreo.adapters", "choreo.testing", "choreo.telemetry")


def is_public(name: str) -> bool:
    return not name.startswith("_")


def in_order(name: str) -> tuple[int, str]:
    """Sort as the linter does: CONSTANTS, Classes, functions."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def listed(source: Source) -> list[str] | None:
    """Return what `__all__` lists, or None where there is none."""
    for node in source.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if value is not None and any(ast.unparse(target) == "__all__" for target in targets):
            return list(ast.literal_eval(value))
    return None


def facade_violations(source: Source) -> Iterator[str]:
    """Yield what is wrong with the list of names in the façade."""
    bound = {
        alias.asname or alias.name
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and (node.level or node.module != "__future__")
        for alias in node.names
        if is_public(alias.asname or alias.name) and (node.level or "choreo" in str(node.module))
    }
    names = listed(source)
    if names is None:
        if bound:
            yield f"{source.path}: imports names but has no __all__"
        return
    public = {name for name in names if is_public(name)}
    if len(names) > FACADE_NAMES_MAX:
        yield f"{source.path}: {len(names)} names, at most {FACADE_NAMES_MAX}"
    if names != sorted(set(names), key=in_order):
        yield f"{source.path}: __all__ is not sorted, or names one twice"
    for name in sorted(bound ^ public):
        yield f"{source.path}: {name} is {'not in __all__' if name in bound else 'not imported'}"


def docstring_violations(source: Source, port_verbs: Collection[str]) -> Iterator[str]:
    """Yield each public module, class, function and method without a docstring."""
    if any(part.startswith("_") and part != "__main__" for part in source.module.split(".")):
        return
    if ast.get_docstring(source.tree) is None:
        yield f"{source.path}: the module has no docstring"
    exempt = port_verbs if source.module.startswith(PORT_USERS) else ()
    yield from _bare(source, source.tree.body, exempt)


def _bare(source: Source, body: Sequence[ast.stmt], exempt: Collection[str]) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | Function) or not is_public(node.name):
            continue
        is_class = isinstance(node, ast.ClassDef)
        if isinstance(node, Function) and is_described_elsewhere(node):
            continue
        if ast.get_docstring(node) is None and (is_class or node.name not in exempt):
            yield f"{source.at(node)}: {node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            yield from _bare(source, node.body, exempt)


def is_described_elsewhere(node: Function) -> bool:
    """Tell whether a function is an overload, a setter, or marked as an override."""
    marks = {ast.unparse(mark).split(".")[-1] for mark in node.decorator_list}
    return bool(marks & {"overload", "override", "setter", "deleter"})


def error_violations(source: Source, page: str) -> Iterator[str]:
    """Yield each error class that the page does not name, on one line with its code."""
    lines = page.splitlines()
    for node in source.tree.body:
        if not isinstance(node, ast.ClassDef) or not node.name.endswith("Error"):
            continue  # signals that steer a step are no errors
        code = next((found for part in node.body if (found := own_code(part))), None)
        wanted = [node.name] if code is None else [node.name, code]
        if not any(all(re.search(rf"\b{word}\b", line) for word in wanted) for line in lines):
            yield f"{source.at(node)}: docs/errors.md has no line with {' and '.join(wanted)}"


def own_code(part: ast.stmt) -> str | None:
    """Return the code that a statement of a class body gives to the class."""
    if not isinstance(part, ast.Assign | ast.AnnAssign) or not isinstance(part.value, ast.Constant):
        return None
    found = CODE.fullmatch(str(part.value.value))
    return found[0] if found else None


def code_violations(source: Source, page: str) -> Iterator[str]:
    """Yield each code in a source that the page does not explain."""
    known = set(CODE.findall(page))
    for number, line in enumerate(source.text.splitlines(), 1):
        for code in CODE.findall(line):
            if code not in known:
                yield f"{source.path}:{number}: {code} is not in docs/errors.md"


def errors_page() -> str:
    return ERRORS_PAGE.read_text(encoding="utf-8") if ERRORS_PAGE.exists() else ""


def test_the_facade_lists_its_names() -> None:
    """One short, sorted list is what a newcomer reads first, and all that we promise to keep."""
    facade = next(source for source in sources("choreo") if source.module == "choreo")
    found = list(facade_violations(facade))
    assert not found, report(found)
    module = importlib.import_module("choreo")
    missing = [name for name in listed(facade) or [] if not hasattr(module, name)]
    assert not missing, report(missing)


def test_public_names_have_docstrings() -> None:
    """What has no sentence has no promise that a test could hold it to."""
    every = sources("choreo")
    ports = [source for source in every if source.module.startswith("choreo.ports")]
    port_verbs = {verb for port in ports for names in verbs(port).values() for verb in names}
    found = [line for source in every for line in docstring_violations(source, port_verbs)]
    assert not found, report(found)


def test_errors_are_explained() -> None:
    """Who meets an error looks up its name or its code, and wants the fix."""
    errors = [source for source in sources("choreo") if source.module == "choreo.errors"]
    found = [line for source in errors for line in error_violations(source, errors_page())]
    assert not found, report(found)


def test_codes_are_explained() -> None:
    """A code is printed so that it can be looked up."""
    page = errors_page()
    found = [line for source in sources("choreo") for line in code_violations(source, page)]
    assert not found, report(found)


def test_a_wrong_facade_is_seen() -> None:
    """A rule that can not fail is none."""

    def facade(text: str) -> list[str]:
        return list(facade_violations(Source("choreo/__init__.py", text)))

    right = "from choreo.app import App\nfrom choreo.events import Event\n"
    many = [f"N{n:02}" for n in range(36)]
    assert not facade(right + "__all__ = ['App', 'Event']")
    assert facade(right)
    assert facade(right + "__all__ = ['App']")
    assert facade(right + "__all__ = ['Event', 'App']")
    assert facade(right + "__all__ = ['App', 'App', 'Event']")
    assert facade(right + "__all__ = ['App', 'Event', 'Flow']")
    assert facade(f"from choreo.app import {', '.join(many)}\n__all__ = {many!r}")


def test_a_missing_docstring_is_seen() -> None:
    """Each kind of name once, with what is exempt beside it."""

    def bare(text: str, path: str = "choreo/a.py") -> list[str]:
        return list(docstring_violations(Source(path, text), {"publish"}))

    assert bare("x = 1")
    assert bare("'''D.'''\ndef f(): ...")
    assert bare("'''D.'''\nclass A: ...")
    assert bare("'''D.'''\nclass A:\n    '''D.'''\n    async def f(self): ...")
    assert not bare("'''D.'''\ndef _f(): ...\nclass _A:\n    def f(self): ...")
    assert not bare("'''D.'''\n@overload\ndef f(): ...\ndef f():\n    '''D.'''")
    publish = "'''D.'''\nclass B:\n    '''D.'''\n    def publish(self): ..."
    assert bare(publish)
    assert not bare(publish, "choreo/adapters/b.py")
    assert bare(publish.replace("publish", "other"), "choreo/adapters/b.py")


def test_an_unexplained_error_is_seen() -> None:
    """The name and the code, and both on one line."""
    source = Source("choreo/errors.py", "class AError(ChoreoError):\n    code = 'CH0101'")
    assert not list(error_violations(source, "## CH0101 AError\n"))
    assert list(error_violations(source, "AError\nCH0101\n"))
    assert list(error_violations(source, "CH0101 AErrors\n"))
    assert not list(error_violations(Source("choreo/errors.py", "class Later(Exception): ..."), ""))
    assert not list(code_violations(source, "CH0101"))
    assert list(code_violations(source, "CH0102"))
