"""Ends what the demo has started when the demo itself was killed, and could not.

`python -m services.demo.reaper`: standard input names processes, `+pid` for one that was
started, `-pid` for one that has ended. When it ends, whoever wrote it is gone, and so are they.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Listen until the end of input; then end what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who started us hears it too
    left: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        (left.add if line.startswith("+") else left.discard)(pid)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
