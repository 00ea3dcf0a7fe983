"""What stands between a test and a server it started: when the test is gone, so is the server.

Run as a program of its own: `guard.py [--user NAME] -- command …`. It starts the command in a
session of its own, prints its process id, and kills it when standard input ends, which it does
however the process at its other end died.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys

GONE_S = 0.2


def main() -> int:
    """Start, tell the process id, wait for the end of either; give the server's exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--user")
    parser.add_argument("command", nargs="+")
    told = parser.parse_args()
    server = subprocess.Popen(  # noqa: S603 - the caller's own command
        told.command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=told.user,
        group=told.user,
        extra_groups=[] if told.user else None,
        start_new_session=True,
    )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    while server.poll() is None:
        heard, _, _ = select.select([sys.stdin], [], [], GONE_S)
        if heard and not os.read(sys.stdin.fileno(), 1):
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    return server.returncode


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Whoever starts us ends us by closing the pipe. Not SIG_IGN: the server would inherit it.
        signal.signal(number, lambda *_: None)
    sys.exit(main() & 0xFF)
