"""Nothing grows past what a reader can hold."""

import ast
from collections.abc import Iterator

from tests.house.source import Function, Source, functions, report, sources, verbs

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
LINE_CHARACTERS_MAX = 100
PORT_VERBS_MAX = 7
PARAMETERS_MAX = 7
SERVICE_PARAMETERS_MAX = 11
FOLDERS = ("choreo", "services", "tests", "bench")


def file_violations(source: Source) -> Iterator[str]:
    """Yield a file that is too long, and its lines that are too wide."""
    lines = source.text.splitlines()
    if len(lines) > FILE_LINES_MAX:
        yield f"{source.path}: {len(lines)} lines, at most {FILE_LINES_MAX}; make it a package"
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_CHARACTERS_MAX and "# noqa" not in line:
            yield f"{source.path}:{number}: {len(line)} characters, at most {LINE_CHARACTERS_MAX}"


def function_violations(source: Source) -> Iterator[str]:
    """Yield each function that is too long."""
    for node, _ in functions(source):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"{source.at(node)}: {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def port_violations(source: Source) -> Iterator[str]:
    """Yield each port with too many verbs."""
    for name, found in verbs(source, properties=False).items():
        if len(found) > PORT_VERBS_MAX:
            yield f"{source.path}: {name} has {len(found)} verbs, at most {PORT_VERBS_MAX}"


def parameter_violations(source: Source) -> Iterator[str]:
    """Yield each function that asks for too much."""
    for node, owner in functions(source):
        most = PARAMETERS_MAX
        if source.module.startswith("choreo.service") and owner is not None:
            is_decorator = owner.name == "Service" and not node.name.startswith("_")
            most = SERVICE_PARAMETERS_MAX if is_decorator else PARAMETERS_MAX
        count = parameter_count(node, owner)
        if count > most:
            yield f"{source.at(node)}: {node.name} has {count} parameters, at most {most}"


def parameter_count(node: Function, owner: ast.ClassDef | None) -> int:
    """Count what a caller may give; self and cls are not given."""
    takes = node.args
    positional = [*takes.posonlyargs, *takes.args]
    if owner is not None and positional and positional[0].arg in {"self", "cls"}:
        positional = positional[1:]
    rest = [found for found in (takes.vararg, takes.kwarg) if found is not None]
    return len([*positional, *takes.kwonlyargs, *rest])


def test_files_are_short() -> None:
    """A file that outgrows its limit holds two ideas; it becomes a package of the same name."""
    found = [line for source in sources(*FOLDERS) for line in file_violations(source)]
    assert not found, report(found)


def test_functions_are_short() -> None:
    """What does not fit on a screen can not be seen to be right."""
    found = [line for source in sources(*FOLDERS) for line in function_violations(source)]
    assert not found, report(found)


def test_ports_have_few_verbs() -> None:
    """Every verb of a port is written once per technology, and once more by every user's own."""
    ports = [s for s in sources("choreo") if s.module.startswith("choreo.ports")]
    found = [line for source in ports for line in port_violations(source)]
    assert not found, report(found)


def test_functions_take_few_parameters() -> None:
    """A signature grows by one keyword at a time; grouped in a frozen value, they get a name."""
    found = [line for source in sources(*FOLDERS) for line in parameter_violations(source)]
    assert not found, report(found)


def test_each_excess_is_seen() -> None:
    """A rule that can not fail is none."""
    body = "    x = 1\n"
    methods = "".join(f"    def v{n}(self) -> None: ...\n" for n in range(8))
    wide = ", ".join(f"p{n}" for n in range(8))
    assert list(file_violations(Source("choreo/a.py", "x = 1\n" * 501)))
    assert list(file_violations(Source("choreo/a.py", "#" * 101)))
    assert list(function_violations(Source("choreo/a.py", "async def f():\n" + body * 70)))
    assert list(port_violations(Source("choreo/ports.py", f"class P(Protocol):\n{methods}")))
    assert list(parameter_violations(Source("choreo/a.py", f"def f({wide}): ...")))
    assert list(parameter_violations(Source("choreo/a.py", f"def f(*, {wide}): ...")))


def test_each_limit_is_reached_in_peace() -> None:
    """The limits are what is allowed, and the decorators of Service have one of their own."""
    wide = ", ".join(f"p{n}" for n in range(11))
    few = ", ".join(f"p{n}" for n in range(7))
    service = f"class Service:\n    def on(self, *, {wide}): ..."
    assert not list(file_violations(Source("choreo/a.py", "x = 1\n" * 500)))
    assert not list(function_violations(Source("choreo/a.py", "def f():\n" + "    x = 1\n" * 69)))
    assert not list(parameter_violations(Source("choreo/service.py", service)))
    assert list(parameter_violations(Source("choreo/worker.py", service)))
    assert not list(
        parameter_violations(Source("choreo/a.py", f"class A:\n    def f(self, {few}): ..."))
    )
