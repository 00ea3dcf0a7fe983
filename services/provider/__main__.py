"""`python -m services.provider`: the provider as a process of its own, until SIGTERM."""

import signal
import sqlite3
import threading
from pathlib import Path
from typing import Annotated

import typer

from services.provider.ledger import Ledger
from services.provider.plan import planned
from services.provider.server import Server


def main(
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8571,
    folder: Annotated[Path, typer.Option(help="Where provider.db lies.")] = Path(".choreo"),
    seed: Annotated[int, typer.Option(help="Decides what goes wrong.")] = 1,
    plan: Annotated[str, typer.Option(help='Shares, such as "error=0.1,late=0".')] = "",
) -> None:
    """Answer charges and refunds on 127.0.0.1; say where in the first line of output."""
    try:
        plans = planned(plan, seed)
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder / "provider.db")
        server = Server(port, ledger, plans)
    except (ValueError, OSError, sqlite3.Error) as exc:
        typer.echo(f"provider: {exc}", err=True)
        raise typer.Exit(2) from None

    def stop(*_: object) -> None:
        # From a thread of its own: `shutdown` waits for the loop that this signal interrupts.
        server.stopping.set()
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    typer.echo(f"provider listening on {server.url}")
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    ledger.close()


if __name__ == "__main__":
    typer.run(main)
