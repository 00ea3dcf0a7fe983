"""`make mutants`: break each promise in a copy of the tree, and show the test that notices."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import typer

from tests.mutants.table import ABSENT, MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("choreo", "services", "tests", "pyproject.toml")
AT_ONCE = 2
TEST_S = 20
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_S}")
CAUGHT = Path(__file__).with_name("caught.json")
SIMULATED_MAX = 100
SIMULATE = ("-m", "choreo", "simulate", "--first", "--json", "--seeds", str(SIMULATED_MAX))
SIMULATED_S = 600
TESTS_S = 120  # each, with what comes before and after it
SEED = re.compile(r"seed (?:= )?(\d+)")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def main(
    only: str = typer.Option("", help="a part of a mutant's name"),
    write: bool = typer.Option(default=False, help="keep what was found, for docs/reference"),  # noqa: FBT001 - a flag
) -> None:
    """Show, for each mutant, the first test that fails; exit with 1 if none does.

    To keep what was found takes longer: the shop is simulated with each mutant as well, and the
    first seed that fails is noted.
    """
    chosen = [mutant for mutant in MUTANTS if only in mutant.name]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as threads:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(AT_ONCE):
            copies.put(copied(Path(folder) / str(number)))
        # Without a mutant all of them pass, or else their failing would show nothing.
        unbroken = Mutant("none", "nothing", (), tuple({t: 0 for one in chosen for t in one.tests}))
        text, failed = judged(unbroken, copies)
        if failed:
            typer.echo(f"✘ fails without any mutant: {text}")
            raise typer.Exit(1)
        bad = 0
        found: dict[str, dict[str, object]] = {}
        for mutant, (text, caught) in zip(
            chosen, threads.map(lambda one: judged(one, copies), chosen), strict=True
        ):
            bad += not caught
            if caught:
                found[mutant.name] = {"test": text.split("  ")[0]}
            typer.echo(f"{'✔' if caught else '✘'} {mutant.name}\n    {text}")
        if write:
            simulated = [mutant for mutant in chosen if mutant.simulated]
            for mutant, seed in zip(
                simulated, threads.map(lambda one: first_seed(one, copies), simulated), strict=True
            ):
                found.setdefault(mutant.name, {})["seed"] = seed
                typer.echo(f"  {mutant.name}: seed {seed or 'none'}")
                keep(found)
            keep(found)
    for name, why in ABSENT.items():
        typer.echo(f"- {name}\n    {why}")
    took = time.perf_counter() - begun
    typer.echo(f"{len(chosen) - bad} of {len(chosen)} mutants caught in {took:.0f} s")
    raise typer.Exit(1 if bad or not chosen else 0)


def copied(folder: Path) -> Path:
    """Copy what the tests need."""
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def judged(mutant: Mutant, copies: "SimpleQueue[Path]") -> tuple[str, bool]:
    """Apply a mutant to a copy and run its tests; say which one failed first."""
    begun = time.perf_counter()
    try:
        done = tested(mutant, copies, *mutant.tests)
    except ValueError as exc:
        return str(exc), False
    took = time.perf_counter() - begun
    first = FAILED.search(done.stdout)
    if done.returncode == 1 and first is not None and first[0].startswith("FAILED"):
        return f"{first[1].removeprefix('tests/')}  {took:.1f} s", True
    if done.returncode == 0:
        return f"survives {', '.join(mutant.tests)}", False
    return f"the tests could not run: {(done.stdout + done.stderr)[-2000:]}", False


def tested(
    mutant: Mutant, copies: "SimpleQueue[Path]", *tests: str
) -> "subprocess.CompletedProcess[str]":
    """Run tests in a copy with the mutant applied. Raises ValueError where it does not apply."""
    try:
        return _run(mutant, copies, PYTEST + tests, within_s=TESTS_S * len(tests))
    except subprocess.TimeoutExpired as exc:  # what it broke may hold up the end of the process
        said = exc.stdout.decode() if isinstance(exc.stdout, bytes) else exc.stdout or ""
        return subprocess.CompletedProcess(exc.cmd, 1, said, "it did not end")


def first_seed(mutant: Mutant, copies: "SimpleQueue[Path]") -> int | None:
    """Simulate the shop of seed after seed; give the first seed that fails.

    A simulation that can not be ended (nothing ever comes to rest) or judged fails as well.
    """
    try:
        done = _run(mutant, copies, SIMULATE, within_s=SIMULATED_S)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 0:
        return None
    if done.returncode == 1 and done.stdout.startswith("{"):
        return int(json.loads(done.stdout)["violations"][0]["seed"])
    said = SEED.search(done.stderr)
    if said is None:
        raise RuntimeError(f"{mutant.name}: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return int(said[1])


def _run(
    mutant: Mutant, copies: "SimpleQueue[Path]", call: tuple[str, ...], within_s: float
) -> "subprocess.CompletedProcess[str]":
    copy = copies.get()
    ours = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        with patched(mutant, copy):
            return subprocess.run(
                (sys.executable, *call),
                cwd=copy,
                env=os.environ | ours,
                capture_output=True,
                text=True,
                check=False,
                timeout=within_s,
            )
    finally:
        copies.put(copy)


def keep(found: dict[str, dict[str, object]]) -> None:
    """Write down what was found, beside what was found before."""
    known = json.loads(CAUGHT.read_text()) if CAUGHT.exists() else {}
    names = [mutant.name for mutant in MUTANTS]
    kept = {name: known.get(name, {}) | found.get(name, {}) for name in names}
    CAUGHT.write_text(json.dumps(kept, indent=1) + "\n")


@contextmanager
def patched(mutant: Mutant, folder: Path) -> Iterator[None]:
    """Apply the patches in a folder, and take them back."""
    before = {patch.file: (folder / patch.file).read_text() for patch in mutant.patches}
    after = dict(before)
    for patch in mutant.patches:
        if after[patch.file].count(patch.old) != 1:
            raise ValueError(f"no longer applies: {patch.file}: {patch.old.strip()!r}")
        after[patch.file] = after[patch.file].replace(patch.old, patch.new)
    try:
        for file, text in after.items():
            (folder / file).write_text(text)
        yield
    finally:
        for file, text in before.items():
            (folder / file).write_text(text)


if __name__ == "__main__":
    typer.run(main)
