"""Every code block of every page runs, or says why not."""

from pathlib import Path

import pytest

from tests.docs.blocks import (
    Block,
    Page,
    alike,
    assert_same,
    blocks,
    pages,
    run,
    text_of,
)

PAGES = {name: Page.read(name, text_of(name)) for name in pages()}


RUN = [
    name
    for name, page in PAGES.items()
    if (page.steps or page.module) and name not in {other.before for other in PAGES.values()}
]
"""Pages with blocks to run; one that another goes on from is run with that one."""


@pytest.mark.parametrize("name", RUN)
def test_what_a_page_shows_is_so(name: str, tmp_path: Path) -> None:
    run(PAGES[name], tmp_path)


@pytest.mark.parametrize("name", list(PAGES))
def test_no_block_is_passed_over_in_silence(name: str) -> None:
    """A block that is not run says so in the page, with a reason."""
    assert not PAGES[name].unclear


def page_of(*lines: str) -> Page:
    return Page.read("a.md", "\n".join(lines))


def test_blocks_are_told_apart() -> None:
    page = page_of(
        "```python", "# a/b.py", "x = 1", "```",
        "```console", "$ true", "```",
        "```python", "y = 2", "```",
        "```text", "z", "```",
        "<!-- not run: it would install -->", "", "```sh", "pip install x", "```",
        "```sh", "true", "```",
    )  # fmt: skip
    assert [block.line for block in page.steps] == [2, 6]
    assert page.source == "\n" * 8 + "y = 2\n"
    assert page.unclear == ["a.md:20: a block of sh"]
    assert [one.not_run for one in blocks("a.md", "```text\n```")] == [""]


def test_files_are_written_and_added_to(tmp_path: Path) -> None:
    page = page_of(
        "```sql", "-- m/0001_a.sql", "```",
        "```python", "# a.py", "print(1)", "```",
        "```python", "# a.py, at its end", "print(2)", "```",
        "```console", "$ python a.py", "1", "2", "$ ls m", "0001_a.sql", "$ true", "```",
    )  # fmt: skip
    run(page, tmp_path)


@pytest.mark.parametrize("shown", [("1",), ("1", "2", "3"), ("2", "1"), (), ("…", "1")])
def test_another_output_is_seen(tmp_path: Path, shown: tuple[str, ...]) -> None:
    """A comparison that can not fail is none."""
    page = page_of("```console", "$ printf '1\\n2\\n'", *shown, "```")
    with pytest.raises(AssertionError, match="printed"):
        run(page, tmp_path)


def test_what_stays_in_the_background_is_ended(tmp_path: Path) -> None:
    page = page_of("```console", "$ sleep 60 &", "$ kill %1", "```")
    with pytest.raises(AssertionError, match="ended with -15"):
        run(page, tmp_path)


def test_what_says_much_in_the_background_goes_on(tmp_path: Path) -> None:
    page = page_of(
        "```python", "# talks.py", "import sys, time", "sys.stderr.write('x' * 1_000_000)",
        "open('there', 'w').close()", "time.sleep(60)  # until it is killed", "```",
        "```console", "$ python talks.py &", "$ until test -e there; do sleep 0.05; done",
        "$ kill -9 %1", "```",
    )  # fmt: skip
    run(page, tmp_path)


def test_a_failing_block_fails_its_page(tmp_path: Path) -> None:
    good = page_of("```python", "async def test_a() -> None:", "    assert 1 == 1", "```")
    bad = page_of("", "```python", "def test_a() -> None:", "    assert 1 == 2", "```")
    run(good, tmp_path)
    with pytest.raises(AssertionError, match=r"test_a.py:4: AssertionError"):
        run(bad, tmp_path)


def test_ids_times_and_gaps_do_not_matter() -> None:
    found = ["a  2b16c1ce-bcd2-8ee0-8611-e3172e91d664 (2 s ago), 0.1 ms", "", "b"]
    assert_same(found, ["a 300813c0-510b-8134 (now), 3 s", "b"], "here")
    assert_same(found, ["…", "b"], "here")
    assert alike("attempt 2 of 5") == "attempt 2 of 5"
    assert Block("a.md", 1, "python", ()).file is None
