"""A real Kafka for tests: one node or three, ready in seconds, gone with its test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from choreo.errors import ConfigurationError
from choreo.testing.servers.container import Container, docker
from choreo.testing.servers.jars import kafka_jars
from choreo.testing.servers.program import HOST, Program, absent, free_ports, own_folder

__all__ = ["KafkaServer"]

NAMED = "CHOREO_TEST_KAFKA"
IMAGE = "apache/kafka:4.1.0"
READY_S = 90.0
STOP_S = 30.0
FORMAT_S = 60
JVM = ("-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
LOGGING = "-Dlog4j2.level=INFO"
SETTINGS: Mapping[str, object] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
    "SASL_PLAINTEXT:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "offsets.topic.num.partitions": 3,
    "transaction.state.log.num.partitions": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "log.cleaner.dedupe.buffer.size": 4 << 20,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
}


@dataclass(frozen=True, slots=True)
class _Ports:
    client: int
    sasl: int
    controller: int


class KafkaServer:
    """A cluster, on the loopback. As a context manager it starts and stops.

    `bootstrap` speaks PLAINTEXT, whoever comes there may do anything; `bootstrap_sasl` speaks
    SASL_PLAINTEXT with PLAIN for the `users` (name to password), who may do what they have
    ACLs for. Verbs block: call them from a fixture, or with `asyncio.to_thread`.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        users: Mapping[str, str] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Say what is wanted; nothing is started. `settings` go into `server.properties`."""
        self._count = nodes
        self._users = dict(users or {})
        self._settings = dict(settings or {})
        self._nodes: list[Program] = []
        self._ports: list[_Ports] = []
        self._named = os.environ.get(NAMED, "")
        self.folder: Path | None = None
        """Where settings, data and logs are; deleted at the end, unless a test failed."""

    @property
    def bootstrap(self) -> str:
        """Give `host:port`s to begin with."""
        return self._named or ",".join(f"{HOST}:{one.client}" for one in self._ports)

    @property
    def bootstrap_sasl(self) -> str:
        """Give `host:port`s where one has to say who one is."""
        self._ours()
        return ",".join(f"{HOST}:{one.sasl}" for one in self._ports)

    @property
    def ours(self) -> bool:
        """Tell whether it is started here, and may be killed."""
        return not self._named

    @property
    def nodes(self) -> Sequence[Program]:
        """Give the nodes' processes; node ids count from 1."""
        self._ours()
        return tuple(self._nodes)

    # ── life ─────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop; after a failure the folder stays."""
        self.stop(keep=kind is not None)

    def start(self) -> None:
        """Find a cluster, or start one; returns when it answers. May be called twice.

        Raises what `absent` makes where there is none.
        """
        if self._named:
            _answers(self._named)
            return
        if self._nodes:
            return
        jars = None if docker() else kafka_jars()
        self.folder = own_folder("kafka")
        numbers = free_ports(3 * self._count)
        self._ports = [_Ports(*numbers[3 * n : 3 * n + 3]) for n in range(self._count)]
        # Its first letter is an A: one that began with a dash would be taken for an option.
        cluster = urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        for number in range(1, self._count + 1):
            settings = self._write(number)
            log = settings.with_name("log")
            if jars is None:
                _format(_contained(settings, "storage"), settings, cluster)
                command = [*_contained(settings, "server-start"), str(settings)]
                self._nodes.append(Container(command, log=log))
            else:
                _format([*_java(jars), "kafka.tools.StorageTool"], settings, cluster)
                command = [*_java(jars), "kafka.Kafka", str(settings)]
                self._nodes.append(Program(command, log=log))
        try:
            self.begin()
        except BaseException:
            self.stop(keep=True)
            raise

    def begin(self) -> None:
        """Start every node that does not run, and wait until all answer."""
        self._ours()
        starting = [node for node in self._nodes if not node.running]
        for node in starting:
            node.start()
        for node in starting:
            node.until(partial(_started, node), within_s=READY_S)

    def restart(self) -> None:
        """Stop every node in order, and start it again with all it had."""
        for node in self.nodes:
            node.stop(within_s=STOP_S)
        self.begin()

    def stop(self, *, keep: bool = False) -> None:
        """End what was started. Its folder goes too, unless it is to be kept."""
        for node in self._nodes:
            node.kill()
        self._nodes.clear()
        self._ports.clear()
        if self.folder is not None and not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    # ── how ──────────────────────────────────────────────────────────────────────────────

    def _ours(self) -> None:
        if not self.ours:
            raise absent("a Kafka broker of our own", f"{NAMED} names one that is not ours to end")

    def _write(self, number: int) -> Path:
        assert self.folder is not None
        folder = self.folder / f"node-{number}"
        folder.mkdir()
        ports = self._ports[number - 1]
        listeners = {"PLAINTEXT": ports.client, "SASL_PLAINTEXT": ports.sasl}
        advertised = ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items())
        voters = (f"{n}@{HOST}:{one.controller}" for n, one in enumerate(self._ports, 1))
        users = "".join(f' user_{name}="{word}"' for name, word in self._users.items())
        settings: dict[str, object] = {
            **SETTINGS,
            "node.id": number,
            "controller.quorum.voters": ",".join(voters),
            "listeners": f"{advertised},CONTROLLER://{HOST}:{ports.controller}",
            "advertised.listeners": advertised,
            "log.dirs": folder / "data",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": "org.apache.kafka.common."
            f"security.plain.PlainLoginModule required{users};",
            **dict.fromkeys(
                (
                    "offsets.topic.replication.factor",
                    "transaction.state.log.replication.factor",
                    "share.coordinator.state.topic.replication.factor",
                ),
                self._count,
            ),
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.min.isr": 1,
            **self._settings,
        }
        path = folder / "server.properties"
        path.touch(mode=0o600)  # it holds passwords
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        return path


def _started(node: Program) -> bool:
    return "Kafka Server started" in node.heard()


def _java(jars: Path) -> list[str]:
    return ["java", *JVM, LOGGING, "-cp", f"{jars}/*"]


def _contained(settings: Path, script: str) -> list[str]:
    """Give the words that run one of Kafka's scripts in a container, as ourselves.

    It has the machine's network and the node's folder: settings, ports and data are what they
    are without one.
    """
    folder = settings.parent
    return [
        *("docker", "run", "--rm", "--init", "--network", "host"),
        *("--name", f"{folder.parent.name}-{folder.name}-{script}"),
        *("--user", f"{os.getuid()}:{os.getgid()}", "-v", f"{folder}:{folder}"),
        *("-e", f"KAFKA_HEAP_OPTS={JVM[0]}", "-e", f"LOG_DIR={folder}"),
        *("--entrypoint", f"/opt/kafka/bin/kafka-{script}.sh", IMAGE),
    ]


def _format(tool: Sequence[str], settings: Path, cluster: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        [*tool, "format", "-t", cluster, "-c", str(settings)],
        capture_output=True,
        text=True,
        check=False,
        timeout=FORMAT_S,
    )
    if done.returncode:
        raise ConfigurationError(
            f"the server's storage could not be made: {(done.stderr or done.stdout).strip()}",
            code="CH7001",
            fix="read its settings",
            file=settings,
        )


def _answers(named: str) -> None:
    """Raise unless one of the brokers that the environment names takes a connection."""
    for one in named.split(","):
        host, _, port = one.strip().rpartition(":")
        with suppress(OSError, ValueError), socket.create_connection((host, int(port)), 5):
            return
    raise absent("a Kafka broker", f"nobody listens at {NAMED}={named}")
