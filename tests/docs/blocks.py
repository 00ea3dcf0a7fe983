"""The code blocks of a page, and how they are run.

A block of a page is one of these:

- a file: its first line is a comment with a name, `# shop.py` or `-- migrations/0001_a.sql`;
  it is written to the page's folder (`# shop.py, at its end` adds to it);
- `console`: lines with `$ ` are commands, run in that folder one after the other, what follows
  is what they print (`…` alone on a line stands for any lines); one that ends with ` &` goes on
  until the page ends, or `$ kill %1` says so;
- `python` without a name: a piece of the page's module, which pytest runs;
- `mermaid` and `text`: nothing to run.

Any other block needs a line `<!-- not run: reason -->` above it. A page that says that it
"goes on from" another one is run in the folder that the other one leaves.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from tests.house.source import ROOT

FENCE = re.compile(r"```(?P<language>\w*)\s*")
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>\S.*) -->")
FILE = re.compile(r"(?:#|--) (?P<name>[\w./-]+\.\w+)(?P<added>, at its end)?")
GOES_ON = re.compile(r"goes on from \[[^]]+\]\((?P<page>[\w.-]+)\)")
KILL = re.compile(r"kill (?P<at_once>-9 )?%(?P<job>\d+)")
PROMPT = "$ "
COMMAND_S = 30
LOOK_S = 0.05
COLUMNS = "96"
RUNS = b"Ctrl-C ends it"
"""What a process of choreo says once it hears signals; before that one ends it as a crash does."""
ANY = "…"
# What differs from run to run, and what is put in its place before two outputs are compared.
VARIES = (
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{2,12})+\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)"), "<moment>"),
    (re.compile(r"\b\d+ (s|min|h|d) ago\b|\bnow\b"), "<ago>"),
    (re.compile(r"\b\d+(\.\d+)?(e-\d+)? (ms|s|min|h)\b|\bin \d+\.\d+s\b"), "<time>"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Block:
    """One fenced block: where its first line stands, what it is, why it is not run if so."""

    page: str
    line: int
    language: str
    lines: tuple[str, ...]
    not_run: str = ""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> re.Match[str] | None:
        """What names the file that this block is, if it is one."""
        return FILE.fullmatch(self.lines[0]) if self.lines else None


def pages() -> list[str]:
    """Name every page: the README and what lies in docs."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return ["README.md", *(path.relative_to(ROOT).as_posix() for path in found)]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    before = ""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        opened = FENCE.fullmatch(line)
        if opened:
            inside = []
            for _, one in lines:
                if one == "```":
                    break
                inside.append(one)
            reason = NOT_RUN.fullmatch(before)
            yield Block(
                page, number + 1, opened["language"], tuple(inside),
                reason["reason"] if reason else "",
            )  # fmt: skip
        if line.strip():
            before = line.strip()


@dataclass
class Page:
    """A page's blocks, sorted by what is done with them."""

    name: str
    before: str = ""
    steps: list[Block] = field(default_factory=list)
    module: list[Block] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, name: str, text: str) -> "Page":
        """Sort the blocks; `unclear` names those that are neither run nor exempt."""
        goes_on = GOES_ON.search(text)
        before = (Path(name).parent / goes_on["page"]).as_posix() if goes_on else ""
        page = cls(name, before)
        for block in blocks(name, text):
            if block.not_run or block.language in ("mermaid", "text"):
                continue
            if block.file or block.language == "console":
                page.steps.append(block)
            elif block.language == "python":
                page.module.append(block)
            else:
                page.unclear.append(f"{block.where}: a block of {block.language or 'nothing'}")
        return page

    @property
    def source(self) -> str:
        """The page's module; each line has the number that it has in the page."""
        lines: list[str] = []
        for block in self.module:
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.lines
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> Path:
        """Write the page's module for pytest."""
        stem = Path(self.name).stem.replace("-", "_").lower()
        path = folder / f"test_{stem}.py"
        path.write_text(self.source, encoding="utf-8")
        return path


def environment() -> dict[str, str]:
    """Give the environment of a reader: this tree, this interpreter, no settings of choreo."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHOREO_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {
        **kept, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": COLUMNS, "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip


def run(page: Page, folder: Path) -> None:
    """Do all that the page shows, in one folder: write files, run commands, then its module."""
    run_steps(page, folder)
    if page.module:
        run_module(page, folder)


def run_module(page: Page, folder: Path) -> None:
    """Run the page's module as the reader would: pasted into a file, by pytest."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error",
        "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function",
        f"--rootdir={folder}", str(page.write(folder)),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True,
        timeout=COMMAND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{page.name}\n{done.stdout}{done.stderr}"


def run_steps(page: Page, folder: Path) -> None:
    """Write the page's files and run its commands, in order; compare what they print."""
    if page.before:
        run_steps(Page.read(page.before, text_of(page.before)), folder)
    with ExitStack() as running:
        started: list[Background] = []
        for block in page.steps:
            if block.file:
                write_file(block, folder)
                continue
            for line, command, shown in commands(block):
                where = f"{page.name}:{line}: {command}"
                if command.endswith(" &"):
                    started.append(running.enter_context(background(command, folder)))
                elif told := KILL.fullmatch(command):
                    stop(started[int(told["job"]) - 1], where, at_once=bool(told["at_once"]))
                else:
                    assert_same(printed(command, folder), shown, where)
        for one in started:
            stop(one, page.name)


def write_file(block: Block, folder: Path) -> None:
    """Write a block's file, or add to it."""
    assert block.file is not None
    path = folder / block.file["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if block.file["added"] else ""
    path.write_text(before + "\n".join(block.lines) + "\n", encoding="utf-8")


def commands(block: Block) -> Iterator[tuple[int, str, list[str]]]:
    """Yield each command of a console block with its line, and what it is said to print."""
    found: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(block.lines, block.line):
        if line.startswith(PROMPT):
            found.append((number, line.removeprefix(PROMPT), []))
        else:
            assert found, f"{block.page}:{number}: output without a command"
            found[-1][2].append(line)
    yield from found


def printed(command: str, folder: Path) -> list[str]:
    """Run a command; give the lines that it wrote, whatever its exit code."""
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=COMMAND_S, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


@dataclass(frozen=True)
class Background:
    """A command that goes on, and the file to which it says what it has to say."""

    process: subprocess.Popen[bytes]
    said: Path


@contextmanager
def background(command: str, folder: Path) -> Iterator[Background]:
    """Start a command that ends with ` &`; it never waits for a reader."""
    with (
        NamedTemporaryFile() as said,
        subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command.removesuffix(' &')}"], cwd=folder,
            env=environment(), stdout=subprocess.DEVNULL, stderr=said,
        ) as process,
    ):  # fmt: skip
        yield Background(process, Path(said.name))


def told_to_end(one: Background) -> None:
    """End a process by SIGTERM, one of choreo when it says that it runs."""
    process = one.process
    if str(process.args[-1]).startswith("exec choreo "):  # type: ignore[index]
        while RUNS not in one.said.read_bytes():
            assert process.returncode is None, "it ended before it ran"
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_S)
    process.terminate()


def stop(one: Background, where: str, *, at_once: bool = False) -> None:
    """End what was started, once, and see that it ended as it was told."""
    process = one.process
    if process.returncode is None:
        if at_once:
            process.kill()
        else:
            told_to_end(one)
        ended = process.wait(timeout=COMMAND_S)
        assert ended == (-signal.SIGKILL if at_once else 0), f"{where}: ended with {ended}"


def alike(line: str) -> str:
    """Take out of a line what differs from run to run."""
    for pattern, instead in VARIES:
        line = pattern.sub(instead, line)
    return line.strip()


def assert_same(found: Sequence[str], shown: Sequence[str], where: str) -> None:
    """Compare what was printed with what the page shows."""
    have = [one for one in map(alike, found) if one]
    want = [one for one in map(alike, shown) if one]
    assert matches(have, want), f"{where} printed\n" + "\n".join(found)


def matches(have: Sequence[str], want: Sequence[str]) -> bool:
    """Tell whether the lines are the same, where `…` stands for any lines."""
    if not want:
        return not have
    if want[0] == ANY:
        return any(matches(have[skip:], want[1:]) for skip in range(len(have) + 1))
    return bool(have) and have[0] == want[0] and matches(have[1:], want[1:])
