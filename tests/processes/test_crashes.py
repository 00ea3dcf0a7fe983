"""Events that kill the process: given up after a while, so that all others go on."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from choreo.codec import headers_from_text
from tests.processes.desk import Asked
from tests.processes.test_sharing import KEYS, ROOT, WITHIN_S, Desk, in_order

CRASHES_MAX = 2
STARTS_MAX = 12
CHILD = f"""
import asyncio, sys
from choreo import App
from choreo.worker import Limits
from tests.processes.desk import desk

async def main():
    async with App(desk, folder=sys.argv[1], limits=Limits(crashes_max={CRASHES_MAX})) as app:
        print("up", flush=True)
        await app.serve()

asyncio.run(main())
"""


class Supervised(Desk):
    """One process, started again whenever it has died."""

    def supervise(self, wanted: int) -> int:
        """Start it until so many were answered; tell how often it died."""
        deaths = 0
        while deaths < STARTS_MAX:
            path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            with subprocess.Popen(
                [sys.executable, "-c", CHILD, str(self.folder)],
                env={**os.environ, "PYTHONPATH": path, "DESK": str(self.folder)},
                cwd=ROOT, stdout=subprocess.DEVNULL, text=True,
            ) as process:  # fmt: skip
                try:
                    self.until(partial(self._over, process, wanted))
                finally:
                    process.terminate()
            if process.wait(WITHIN_S) != -signal.SIGKILL:
                return deaths
            deaths += 1
        raise AssertionError(f"it dies for ever; answered were {self.answers()}")

    def _over(self, process: subprocess.Popen[str], wanted: int) -> bool:
        return process.poll() is not None or len(self.answers()) >= wanted

    def dead(self) -> list[tuple[str, str, str]]:
        """List the dead letters: who asked, the error, the code's line."""
        rows = self.ask(
            "SELECT headers, value FROM log JOIN topic ON topic.id = log.topic"
            " WHERE name = 'choreo.dead'"
        )
        found = []
        for text, value in rows:
            headers = headers_from_text(text)
            said = (headers["choreo-dead-error"], headers["choreo-dead-message"])
            found.append((json.loads(value)["who"], *said))
        return found


async def test_an_event_that_kills_is_set_aside_and_the_others_are_answered(
    tmp_path: Path,
) -> None:
    desk = Supervised(tmp_path)
    await desk.put(*(Asked(who=who, n=0) for who in KEYS[1:]))
    await desk.put(Asked(who=KEYS[0], n=-1, what="die"))
    await desk.put(*(Asked(who=who, n=0) for who in KEYS[:1]))
    await desk.put(*(Asked(who=who, n=1) for who in KEYS))
    deaths = desk.supervise(2 * len(KEYS))
    assert CRASHES_MAX < deaths < STARTS_MAX
    ((who, error, message),) = desk.dead()
    assert (who, error) == (KEYS[0], "HandlerError")
    assert message.startswith("CH5012")
    assert in_order(desk.answers())
    assert len([run for run in desk.runs() if run[1:] == (KEYS[0], -1)]) == deaths
