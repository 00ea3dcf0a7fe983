"""The README's first program, as a stranger runs it."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_first_program_runs_and_may_be_run_again(tmp_path: Path) -> None:
    program = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "flow.py").write_text(program)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "flow.py"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "order_id='17'"
    shown = subprocess.run(
        [sys.executable, "-m", "choreo", "flow", "17"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "OrderShipped" in shown.stdout
    assert "completed" in shown.stdout
