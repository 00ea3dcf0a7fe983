"""Pages are short, their links lead somewhere, and every page can be found from the index."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from tests.docs.blocks import pages, text_of
from tests.house.source import ROOT, report

LINES_MAX = 200
CODE = re.compile(r"```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
# Of outside effects nobody can promise that.
NEVER = re.compile(r"exactly[- ]once", re.IGNORECASE)
INDEX = "docs/README.md"


def anchors(text: str) -> set[str]:
    """Name the places of a page that a link may lead to, as code hosts make them."""
    found = set()
    for heading in HEADING.findall(re.sub(r"```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "")).lower()
        found.add(plain.replace(" ", "-"))
    return found


def targets(page: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield what a page links to: path from the root, and anchor."""
    folder = PurePosixPath(page).parent
    for target, anchor in LINK.findall(CODE.sub("", text)):
        path = (ROOT / folder / target).resolve() if target else ROOT / page
        yield path.relative_to(ROOT).as_posix(), anchor


def link_violations(page: str, text: str) -> Iterator[str]:
    """Yield each link that leads nowhere."""
    for target, anchor in targets(page, text):
        if not (ROOT / target).exists():
            yield f"{page}: there is no {target}"
        elif anchor and anchor not in anchors(text if target == page else text_of(target)):
            yield f"{page}: {target} has no heading #{anchor}"


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    found = list(link_violations(page, text_of(page)))
    assert not found, report(found)


@pytest.mark.parametrize("page", [page for page in pages() if page != "README.md"])
def test_pages_are_short(page: str) -> None:
    assert len(text_of(page).splitlines()) <= LINES_MAX


@pytest.mark.parametrize("page", pages())
def test_nothing_is_promised_that_nobody_can_keep(page: str) -> None:
    found = [line for line in text_of(page).splitlines() if NEVER.search(line)]
    assert not found, report(found)


def test_the_index_names_every_page() -> None:
    linked = {target for target, _ in targets(INDEX, text_of(INDEX))}
    folders = {target for target in linked if Path(ROOT / target).is_dir()}
    lost = [
        page
        for page in pages()
        if page not in {*linked, INDEX, "README.md"}
        and not any(PurePosixPath(page).is_relative_to(folder) for folder in folders)
    ]
    assert not lost, report(lost)


def test_a_dead_link_is_seen() -> None:
    """A rule that can not fail is none."""
    assert list(link_violations(INDEX, "[a](nowhere.md)"))
    assert list(link_violations(INDEX, "# A b\n[a](#b)"))
    assert not list(link_violations(INDEX, "# A `b`, c\n[a](#a-b-c) [x](../README.md)"))
    assert not list(link_violations(INDEX, "`[a](nowhere.md)`"))
    assert NEVER.search("Exactly-once")
