"""Names that say what a thing is, and a repository that knows of no machine."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.house.source import ROOT, report, sources

# A module of such a name collects what nobody found a place for.
VAGUE = {"base", "common", "helpers", "manager", "types", "utils"}
FOREIGN = {
    "a path of one machine": re.compile(r"(?<![\w.:/])/(?:root|work|home/\w+|Users/\w+)/"),
    "the address of a package registry": re.compile(
        r"\bpypi[.]org\b|\bpythonhosted[.]org\b|\bnpmjs[.](?:org|com)\b"
        r"|https?://[^ \"'<>]*/(?:simple|packages|maven2)/|--(?:extra-)?index[-]url|--find[-]links"
    ),
    "a section of a page that is not here": re.compile(r"\b[A-Z]{5,}(?:[.]md)?\s+§"),
}


def name_violations(paths: Sequence[str]) -> Iterator[str]:
    """Yield each module or package of choreo with a vague name."""
    for path in paths:
        for part in Path(path).with_suffix("").parts:
            if part.strip("_") in VAGUE:
                yield f"{path}: '{part}' says nothing; name it after what it holds"


def text_violations(path: str, text: str) -> Iterator[str]:
    """Yield each line that is true on one machine only."""
    for number, line in enumerate(text.splitlines(), 1):
        for what, pattern in FOREIGN.items():
            if pattern.search(line):
                yield f"{path}:{number}: {what}"


def tracked() -> Iterator[tuple[str, str]]:
    """Yield path and text of every tracked text file."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("git is missing or this is no clone: which files are tracked is not known")
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            raw = (ROOT / name).read_bytes()
            if b"\0" not in raw:
                yield name, raw.decode(errors="replace")


def test_modules_have_telling_names() -> None:
    """`ls` is the first page of the documentation."""
    found = list(name_violations([source.path for source in sources("choreo")]))
    assert not found, report(found)


def test_no_file_knows_a_machine() -> None:
    """What names a place on somebody's disk, or their mirror, works for them alone."""
    found = [line for name, text in tracked() for line in text_violations(name, text)]
    assert not found, report(found)


@pytest.mark.parametrize(
    "path", ["choreo/utils.py", "choreo/base/__init__.py", "choreo/worker/_helpers.py"]
)
def test_a_vague_name_is_seen(path: str) -> None:
    """A rule that can not fail is none."""
    assert list(name_violations([path]))


@pytest.mark.parametrize(
    "text",
    [
        "open('/ro" + "ot/x.txt')",
        "cd /wo" + "rk/tree",
        "see /ho" + "me/ann/notes",
        "pip install --index" + "-url x",
        "https://pypi" + ".org/project/x",
        "https://mirror.example/" + "simple/",
        "as DESIGN" + " §7 says",
    ],
)
def test_a_foreign_word_is_seen(text: str) -> None:
    """Paths, registries and pages from elsewhere, one of each kind."""
    assert list(text_violations("a.md", text))


@pytest.mark.parametrize("text", ["sqlite:///shop.db", "a work/rest balance", "CloudEvents §3.1"])
def test_a_plain_word_passes(text: str) -> None:
    """A rule that forbids what is meant is soon switched off."""
    assert not list(text_violations("a.md", text))
