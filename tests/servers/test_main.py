"""`python -m choreo.testing.servers`: says where they are, and ends with who started it."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from choreo.testing.servers import KafkaServer
from tests.postgres.database import server as postgres

COMMAND = [sys.executable, "-m", "choreo.testing.servers"]
LOOK_S = 0.05
WITHIN_S = 60.0


@contextmanager
def started(**environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        COMMAND,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def said(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(2)]
    assert all(lines), process.communicate()[1]
    return dict(line.split("=", 1) for line in lines)


def listens(url: str) -> bool:
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    try:
        socket.create_connection((where.hostname, where.port), 5).close()
    except OSError:
        return False
    return True


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("kafka_server")  # its jars are there
@pytest.mark.parametrize("kill", [True, False])
def test_servers_end_with_whoever_started_them(*, kill: bool) -> None:
    with started() as process:
        urls = said(process)
        assert urls["CHOREO_BROKER"].startswith("kafka://")
        assert urls["CHOREO_STORE"].startswith("postgresql://")
        assert all(listens(url) for url in urls.values())
        if kill:
            process.kill()
        else:
            assert process.stdin is not None
            process.stdin.close()
        process.wait()
        last, pause = time.monotonic() + WITHIN_S, threading.Event()
        while any(listens(url) for url in urls.values()):
            assert time.monotonic() < last, "they still listen"
            pause.wait(LOOK_S)


def test_servers_that_were_there_are_shared_and_stay(kafka_server: KafkaServer) -> None:
    named = {
        "CHOREO_TEST_KAFKA": kafka_server.bootstrap,
        "CHOREO_TEST_POSTGRES": postgres().url,
    }
    with started(**named) as one, started(**named) as other:
        first, second = said(one), said(other)
        assert first["CHOREO_BROKER"].startswith(f"kafka://{kafka_server.bootstrap}/try-")
        assert not {*first.values()} & {*second.values()}
        one.communicate()
        left = [name for (name,) in postgres().run("SELECT datname FROM pg_database")]
        assert urlsplit(first["CHOREO_STORE"]).path[1:] not in left
        assert urlsplit(second["CHOREO_STORE"]).path[1:] in left
    assert listens(f"kafka://{kafka_server.bootstrap}")


def test_what_is_missing_is_one_line(tmp_path: os.PathLike[str]) -> None:
    with started(CHOREO_TEST_KAFKA="127.0.0.1:1", CHOREO_TEST_POSTGRES=postgres().url) as process:
        _, why = process.communicate()
    assert process.returncode == 1
    assert why.startswith("error: CH7002 a Kafka broker can not be had here: nobody listens")
    assert "Traceback" not in why
