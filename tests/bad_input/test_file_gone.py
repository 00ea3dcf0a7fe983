"""The file deleted, moved or replaced under running processes: they notice, say so, and stop."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from choreo import App, Service
from choreo.errors import StoreError
from tests.bad_input.desk import WITHIN_S
from tests.cli.conftest import Terminal
from tests.semantics.events import Paid, Placed


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_suffix(".moved"))


def delete_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    copy.rename(path)


def delete_wal(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def ended(process: subprocess.Popen[str], file: str) -> None:
    """Wait until a process ends by itself; check what it says."""
    out, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1, out
    assert "Traceback" not in out, out
    (line,) = (line for line in out.splitlines() if line.startswith("error: "))
    assert line.startswith("error: CH4009 ")
    assert file in line
    assert "Fix: " in line
    assert len(out.splitlines()) <= 5, out


@pytest.mark.parametrize(
    "lose", [delete, move, move_folder, delete_folder, replace, delete_wal],
    ids=lambda lose: lose.__name__,
)  # fmt: skip
async def test_services_that_have_nothing_to_do_notice_it(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        return Paid(k=placed.k)

    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(StoreError) as caught:
            await lost(service, tmp_path / "desk", lose)
    assert caught.value.code == "CH4009"


async def lost(service: Service, folder: Path, lose: Callable[[Path], None]) -> None:
    """Lose the file of services that have done all there was, and serve on."""
    async with App(service, folder=folder) as app:
        await app.publish(Placed())
        lose(folder / "choreo.db")
        await app.serve()


@pytest.mark.parametrize(
    ("verb", "name"), [("run", "choreo.db"), ("tracker", "choreo.db"), ("tracker", "views.db")]
)
def test_a_process_says_so_and_ends(served: Terminal, verb: str, name: str) -> None:
    process = served.serve(verb)
    delete(served.folder / ".choreo" / name)
    ended(process, name)


async def test_nothing_is_told_to_be_there_that_is_not(tmp_path: Path) -> None:
    async with App(folder=tmp_path) as app:
        await app.publish(Placed(n=1))
        move(tmp_path / "choreo.db")
        with pytest.raises(StoreError) as caught:
            await app.publish(Placed(n=2))
        assert caught.value.code == "CH4009"
