"""A Kafka of our own, and what there is instead of one."""

import os
import socket
import unittest
from pathlib import Path

import pytest

from choreo.testing.servers import KafkaServer, free_ports
from choreo.testing.servers import program as programs


def test_it_answers_where_it_says(kafka_server: KafkaServer) -> None:
    for one in f"{kafka_server.bootstrap},{kafka_server.bootstrap_sasl}".split(","):
        host, _, port = one.rpartition(":")
        with socket.create_connection((host, int(port)), 5):
            pass
    kafka_server.start()


def test_one_that_is_named_is_used_and_never_ended(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_TEST_KAFKA", kafka_server.bootstrap)
    monkeypatch.delenv("CI", raising=False)
    with KafkaServer() as named:
        assert named.bootstrap == kafka_server.bootstrap
        for wants in (named.restart, lambda: named.nodes, lambda: named.bootstrap_sasl):
            with pytest.raises(unittest.SkipTest, match="CHOREO_TEST_KAFKA names one"):
                wants()
    assert kafka_server.nodes[0].running


def test_one_that_is_named_and_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_TEST_KAFKA", f"127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(unittest.SkipTest, match="nobody listens"):
        KafkaServer().start()


def test_without_java_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHOREO_TEST_KAFKA", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(unittest.SkipTest, match=r"java is not installed.*Java 17 and Maven"):
        KafkaServer().start()


ENGINE = """#!/bin/sh
echo "$@" >> {told}
case "$*" in
  version*) exit 0 ;;
  *kafka-server-start.sh*) echo "Kafka Server started"; exec sleep 600 ;;
esac
"""


def test_where_there_is_an_engine_it_runs_in_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the very settings that it has without one; what ends it is the engine."""
    told = tmp_path / "told"
    engine = tmp_path / "docker"
    engine.write_text(ENGINE.format(told=told))
    engine.chmod(0o755)
    monkeypatch.delenv("CHOREO_TEST_KAFKA", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with KafkaServer(users={"alice": "wonder"}) as server:
        (node,) = server.nodes
        assert node.running
        assert server.folder is not None
        folder = server.folder / "node-1"
        settings = (folder / "server.properties").read_text()
        assert f"advertised.listeners=PLAINTEXT://{server.bootstrap}," in settings
        node.kill()
        assert not node.running
    version, formatting, starting, *killings = told.read_text().splitlines()
    assert version.startswith("version")
    image = "apache/kafka:4.1.0"
    for words, script in ((formatting, "storage"), (starting, "server-start")):
        assert words.startswith("run --rm --init --network host --name ")
        assert f"--user {os.getuid()}:{os.getgid()} -v {folder}:{folder} " in words
        assert f"--entrypoint /opt/kafka/bin/kafka-{script}.sh {image} " in words
        assert words.endswith(f"{folder}/server.properties")
    assert f"{image} format -t " in formatting
    name = starting.split("--name ")[1].split()[0]
    assert set(killings) == {f"kill {name}"}
    assert "wonder" not in told.read_text()
    compose = (Path(__file__).parents[2] / "compose" / "compose.yaml").read_text()
    assert f"image: {image}" in compose


def test_ports_in_use_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        port = free_ports(1)[0]
        taken.bind(("127.0.0.1", port))
        monkeypatch.setattr(programs, "PORTS", range(port, port + 3))
        assert port not in free_ports(1)
