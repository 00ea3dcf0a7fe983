"""A bug in a shipped service is found, shrunk and told, and what is told finds it again."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
HANDLERS = "services/payments/handlers.py"
WITHIN_S = 300


class Bug(NamedTuple):
    """What is written in place of what, where it shows, how many faults it takes, what is told."""

    old: str
    new: str
    shows: tuple[str, ...]
    faults: tuple[int, ...]
    told: tuple[str, ...]


FORGOTTEN = Bug(
    '    await ctx.once("refund", give_back, returns=Refund)\n',
    "    if not isinstance(why, ShipmentFailed):\n"
    '        await ctx.once("refund", give_back, returns=Refund)\n',
    ("--seeds", "20"),
    (0,),
    ("and no fault was needed", "unshipped → ShipmentFailed", "payments.refund → PaymentRefunded"),
)
"""A refund is booked and told, and the provider is forgotten where a shipment has failed."""

HASTY = Bug(
    '    answer = await ctx.once("charge", charge, returns=Charge, undo=back)\n',
    "    try:\n"
    "        answer = await charge()\n"
    "    except Exception:\n"
    '        return PaymentDeclined(order_id=order_id, reason="no answer")\n',
    ("--seeds", "200", "--workers", "2", "--scenario", "services.orders.scenario:single"),
    (1,),
    ("of outside PaymentProvider at /charges", "payments.capture → PaymentDeclined"),
)
"""An answer that did not come is taken for a refusal. Of one order: to leave out one fault after
the other takes many runs."""


def simulated(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "choreo", "simulate", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip


def story_of(said: str) -> str:
    return said[said.index("✘ ") :].rstrip()


@pytest.mark.parametrize("bug", [FORGOTTEN, HASTY], ids=["forgotten", "hasty"])
def test_a_planted_bug_is_found_shrunk_told_and_found_again(tmp_path: Path, bug: Bug) -> None:
    shutil.copytree(ROOT / "services", tmp_path / "services")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    handlers = tmp_path / HANDLERS
    right = handlers.read_text()
    assert right.count(bug.old) == 1
    handlers.write_text(right.replace(bug.old, bug.new))

    found = simulated(tmp_path, *bug.shows, "--first")
    assert found.returncode == 1, found
    story = story_of(found.stderr)
    assert story.startswith("✘ ledger: charge ch-"), story
    assert re.search(r"^  flow [0-9a-f-]{36}$", story, re.MULTILINE), story
    for words in bug.told:
        assert words in story
    shrunk = re.search(r"shrunk from (\d+) faults? to (\d+)$", story)
    assert shrunk is not None, story
    assert int(shrunk[2]) in bug.faults < (int(shrunk[1]),)

    replay = re.search(r"replay: choreo simulate (.*--seed \d+)$", story, re.MULTILINE)
    assert replay is not None, story
    again = simulated(tmp_path, *replay[1].split())
    assert (again.returncode, story_of(again.stderr)) == (1, story)

    handlers.write_text(right)
    mended = simulated(tmp_path, *replay[1].split())
    assert mended.returncode == 0, mended
