"""The README says nothing that the repository can not show."""

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.house.source import ROOT, report, sources

FIGURE = re.compile(r"<!--\s*bench:([\w-]+)\s*-->")
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
PAGE = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def figure_violations(page: str, benches: str) -> Iterator[str]:
    """Yield each figure that no bench names in a string of its own."""
    for name in FIGURE.findall(page):
        if not re.search(rf"[\"']{re.escape(name)}[\"']", benches):
            yield f"README.md: the figure {name} has no bench that prints it"


def code_violations(page: str) -> Iterator[str]:
    """Yield each Python block that does not compile; `await` may stand at its top."""
    for found in FENCE.finditer(page):
        first = page.count("\n", 0, found.start(1))
        try:
            compile(found[1], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as exc:
            yield f"README.md:{first + (exc.lineno or 1)}: {exc.msg}"


def link_violations(page: str) -> Iterator[str]:
    """Yield each link to a file that is not there."""
    for target in PAGE.findall(CODE.sub("", page)):
        if not (ROOT / PurePosixPath(target)).exists():
            yield f"README.md: there is no {target}"


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_figures_have_a_bench() -> None:
    """A number that nobody can measure again is an opinion."""
    benches = "\n".join(source.text for source in sources("bench"))
    found = list(figure_violations(readme(), benches))
    assert not found, report(found)


def test_code_compiles() -> None:
    """The first lines that a newcomer copies have to be Python."""
    found = list(code_violations(readme()))
    assert not found, report(found)


def test_links_lead_somewhere() -> None:
    """A page that moved takes its readers with it."""
    found = list(link_violations(readme()))
    assert not found, report(found)


def test_a_false_readme_is_seen() -> None:
    """A rule that can not fail is none."""
    page = "7,000 flows <!-- bench:flows-per-s -->"
    assert list(figure_violations(page, "name = 'flows'"))
    assert not list(figure_violations(page, "name = 'flows-per-s'"))
    assert list(code_violations("Text\n\n```python\nx = = 1\n```\n"))
    assert not list(code_violations("```python\nflow = await app.publish(e)\n```\n"))
    assert list(link_violations("[a](docs/nowhere.md)"))
    assert not list(link_violations("[a](README.md#what) [b](https://example.org)"))
