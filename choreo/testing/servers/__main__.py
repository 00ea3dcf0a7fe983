"""`python -m choreo.testing.servers`: a Kafka and a PostgreSQL to play with, until it ends.

It prints the two settings that lead there, and stops what it started when its input ends (so
they end with whoever started it through a pipe), on SIGTERM, and on Ctrl-C in a terminal. Servers
that were there already stay: on them it makes names of its own.
"""

from __future__ import annotations

import signal
import sys
import unittest
import uuid
from contextlib import ExitStack, suppress

import typer

from choreo.errors import ChoreoError
from choreo.testing.servers.kafka import KafkaServer
from choreo.testing.servers.postgres import PostgresServer


def main() -> None:
    """Start both, say where they are, and keep them until the input ends."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    if not sys.stdin.isatty():  # whoever started us hears Ctrl-C too, and still has use for them
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ExitStack() as stack:
        try:
            kafka = stack.enter_context(KafkaServer())
            postgres = stack.enter_context(PostgresServer.found(fsync=True))
            url = postgres.database()
            if not postgres.ours:
                stack.callback(postgres.drop, url)
        except (ChoreoError, unittest.SkipTest) as exc:
            typer.echo(f"error: {exc}", err=True)
            raise typer.Exit(1) from None
        name = "" if kafka.ours else f"/try-{uuid.uuid4().hex[:8]}"
        typer.echo(f"CHOREO_BROKER=kafka://{kafka.bootstrap}{name}")
        typer.echo(f"CHOREO_STORE={url}")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            while sys.stdin.read(1):
                pass


if __name__ == "__main__":
    typer.run(main)
