"""Services on a real Kafka and a real PostgreSQL: what is wrong at the start, and what goes later.

While a server is away the process says so, loses nothing, and does not turn in circles: its own
processor time is measured.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.testing.servers import KafkaServer, RegistryServer, free_ports
from tests.health.conftest import DESK, Process
from tests.house.source import ROOT
from tests.postgres.database import database, server

TICKS = os.sysconf("SC_CLK_TCK")
AWAY_S = 2.0
LINES_MAX = 60
"""Said in the whole of such a test: nobody reads a log that runs over."""
BUSY_MAX = 0.5
"""Of a processor, while a server is away; a loop that does not rest takes all of one."""


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


class Deployed:
    """A desk on servers, its topics made, and what is on them."""

    def __init__(self, desk: Process, kafka: KafkaServer, url: str) -> None:
        self.desk = desk
        self.kafka = kafka
        self.name = f"d{uuid.uuid4().hex[:8]}"
        program = DESK.replace("desk.a", f"{self.name}.a").replace('"desk"', f'"{self.name}"')
        (desk.folder / "desk.py").write_text(program)
        self.environment = {
            "CHOREO_BROKER": f"kafka://{kafka.bootstrap}",
            "CHOREO_STORE": url,
            "KAFKA_SESSION_TIMEOUT_MS": "6000",
        }

    def choreo(self, *words: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "choreo", *words],
            cwd=self.desk.folder,
            env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT)},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def topics(self) -> None:
        self.choreo("topics", "apply", "desk", "--partitions", "2")

    def run(self, **other: str) -> Process:
        return self.desk.start("-m", "choreo", "run", "desk", **(self.environment | other))

    def publish(self, key: str) -> None:
        self.choreo("publish", "Asked", "-m", "desk", "--json", f'{{"k": "{key}"}}')

    def answered(self) -> set[str]:
        """Give the keys of all answers that are on the log."""

        async def read() -> set[str]:
            broker = KafkaBroker(KafkaSettings(self.kafka.bootstrap))
            try:
                batches = broker.read([f"{self.name}.answered"])
                return {(one.key or b"").decode() async for batch in batches for one in batch}
            finally:
                await broker.close()

        return asyncio.run(read())

    def spent_s(self) -> float:
        """Give the processor time that the process has taken, all threads of it."""
        assert self.desk.process is not None
        stat = Path(f"/proc/{self.desk.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rests(self) -> None:
        """See that it does next to nothing while something is away."""
        before, began = self.spent_s(), time.monotonic()
        threading.Event().wait(AWAY_S)
        spent = self.spent_s() - before
        assert spent < BUSY_MAX * (time.monotonic() - began)


@pytest.fixture
def deployed(desk: Process, kafka_server: KafkaServer, url: str) -> Deployed:
    return Deployed(desk, kafka_server, url)


def outlasts(deployed: Deployed, part: str, go: Callable[[], object], come: Callable[[], object],
             codes: set[str]) -> None:  # fmt: skip
    """Have something go and come while the desk runs; all that was asked is answered."""
    desk = deployed.desk
    deployed.topics()
    deployed.run()
    desk.wait(desk.ready)
    deployed.publish("before")
    desk.wait(lambda: "before" in deployed.answered())
    go()
    try:
        desk.wait(lambda: codes & set(desk.codes()))
        status, body = desk.ask("/readyz")
        assert status == 503
        assert f'"part": "{part}"'.encode() in body.replace(b'":"', b'": "')
        assert desk.ask("/livez")[0] == 200
        deployed.rests()
    finally:
        come()
    desk.wait(desk.ready)
    deployed.publish("after")
    desk.wait(lambda: {"before", "after"} <= deployed.answered())
    status, said = desk.stop()
    assert status == 0, said
    assert len(said.splitlines()) < LINES_MAX, said


@pytest.mark.timeout(180)  # each of its waits has its own limit
def test_a_broker_that_goes_and_comes(deployed: Deployed) -> None:
    if not deployed.kafka.nodes:  # one that CHOREO_TEST_KAFKA names: others may use it
        pytest.skip("the broker is not ours to be killed")
    (node,) = deployed.kafka.nodes
    outlasts(deployed, "log", node.kill, deployed.kafka.begin, {"CH3001", "CH9004"})


@pytest.mark.timeout(180)  # each of its waits has its own limit
def test_a_database_that_goes_and_comes(deployed: Deployed) -> None:
    if not server().ours:  # one that CHOREO_TEST_POSTGRES names: others may use it
        pytest.skip("the server is not ours to be killed")
    outlasts(deployed, "store", server().kill, server().start, {"CH4001"})


# ── at the start ─────────────────────────────────────────────────────────────────────────


def refused(deployed: Deployed, code: str, *words: str, **other: str) -> str:
    """Start it; it ends at once, with one line that says what is wrong and what to do."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    deployed.run(**other)
    status, said = deployed.desk.ended()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert status == 1, said
    (line,) = [one for one in said.splitlines() if code in one and "Fix:" in one][-1:]
    assert all(word in line for word in words), line
    assert after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime < 10.0
    return said


def test_a_broker_that_is_not_there(deployed: Deployed) -> None:
    (port,) = free_ports(1)
    refused(deployed, "CH3001", str(port), CHOREO_BROKER=f"kafka://127.0.0.1:{port}")


def test_a_database_that_is_not_there(deployed: Deployed) -> None:
    deployed.topics()
    (port,) = free_ports(1)
    where = f"127.0.0.1:{port}"
    refused(deployed, "CH4001", where, CHOREO_STORE=f"postgresql://choreo@{where}/choreo")


def test_a_wrong_password_of_the_database(deployed: Deployed, url: str) -> None:
    deployed.topics()
    parts = urlsplit(url)
    netloc = f"choreo:wr0ng@{parts.netloc.rpartition('@')[2]}"
    wrong = parts._replace(netloc=netloc).geturl()
    said = refused(deployed, "CH4011", "CHOREO_STORE", CHOREO_STORE=wrong)
    assert "wr0ng" not in said


def sasl(deployed: Deployed, password: str) -> dict[str, str]:
    return {
        "CHOREO_BROKER": f"kafka://{deployed.kafka.bootstrap_sasl}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": "alice",
        "KAFKA_SASL_PASSWORD": password,
    }


def test_a_wrong_password_of_the_broker(deployed: Deployed) -> None:
    said = refused(deployed, "CH3022", "KAFKA_SASL", **sasl(deployed, "wr0ng"))
    assert "wr0ng" not in said


def test_a_right_that_is_missing(deployed: Deployed) -> None:
    """The broker's own authorizer lets alice in, and allows her nothing."""
    deployed.topics()
    refused(deployed, "CH3023", "choreo topics plan", **sasl(deployed, "wonder"))


def test_a_topic_that_is_missing(deployed: Deployed) -> None:
    refused(deployed, "CH3004", f"{deployed.name}.asked", "choreo topics apply")


def test_a_registry_that_is_not_there(deployed: Deployed) -> None:
    (port,) = free_ports(1)
    where = f"http://127.0.0.1:{port}"
    refused(deployed, "CH2011", where, CHOREO_CODEC="avro", SCHEMA_REGISTRY_URL=where)


def test_a_registry_without_our_schemas(deployed: Deployed) -> None:
    with RegistryServer() as registry:
        refused(
            deployed, "CH1041", f"{deployed.name}.a", "choreo schemas register",
            CHOREO_CODEC="avro", SCHEMA_REGISTRY_URL=registry.url,
        )  # fmt: skip


def test_tables_of_a_newer_version(deployed: Deployed, url: str) -> None:
    deployed.topics()
    server().run("INSERT INTO choreo.version (number) VALUES (9000)", url=url)
    try:
        refused(deployed, "CH4005", "9000")
    finally:
        server().run("DELETE FROM choreo.version WHERE number = 9000", url=url)
