"""`choreo doctor` and `choreo audit` where log and store are on servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from choreo.cli.servers import judged_cluster, judged_database
from choreo.ports import ClusterLook, DatabaseLook, TopicLook
from choreo.testing.servers import KafkaServer, free_ports
from tests.house.source import ROOT
from tests.postgres.database import database, server

DESK = """
from choreo import App, Event, Service

class Asked(Event, topic="{name}.asked", key="who"):
    who: str

class Answered(Event, topic="{name}.answered", key="who"):
    who: str

desk = Service("{name}", inbox_keep_s=3600)
desk.flow("question", starts=Asked, ends=Answered)

@desk.on(Asked)
async def answer(asked: Asked) -> Answered:
    return Answered(who=asked.who)
"""
WORK = """
import asyncio
from choreo import App
from desk import Asked, desk

async def main():
    async with App(desk) as app:
        flows = [await app.publish(Asked(who=str(n))) for n in range(20)]
        await asyncio.gather(*(app.outcome(flow, within_s=30) for flow in flows))

asyncio.run(main())
"""


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


@dataclass
class Place:
    folder: Path
    name: str
    environment: dict[str, str]

    def run(self, *words: str, **other: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env={**os.environ, **self.environment, **other},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def doctor(self, code: int, **other: str) -> dict[str, list[dict[str, Any]]]:
        """Give what it says, by code; those that are well under ""."""
        ran = self.run("-m", "choreo", "doctor", "--json", **other)
        assert ran.returncode == code, ran
        found: dict[str, list[dict[str, Any]]] = {}
        for one in json.loads(ran.stdout)["checks"]:
            assert one["state"] == "ok" or one["fix"]
            found.setdefault(one["code"], []).append(one)
        return found


@pytest.fixture
def place(tmp_path: Path, kafka_server: KafkaServer, url: str) -> Place:
    name = f"d{uuid.uuid4().hex[:8]}"
    (tmp_path / "desk.py").write_text(DESK.replace("{name}", name))
    (tmp_path / "work.py").write_text(WORK)
    environment = {
        "CHOREO_BROKER": f"kafka://{kafka_server.bootstrap}/{name}",  # topics of its own
        "CHOREO_STORE": url,
        "CHOREO_MODULES": "desk",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }
    return Place(tmp_path, name, environment)


def test_servers_that_answer_and_what_is_weak(place: Place, url: str) -> None:
    """One broker is no cluster; a database that does not wait for its disk is named."""
    missing = place.doctor(1)
    assert f"{place.name}.asked" in missing["CH3004"][0]["what"]
    place.run("-m", "choreo", "topics", "apply", "desk", "--retention-days", "2")
    well = place.doctor(0)
    said = " ".join(one["what"] for one in well[""])
    assert "Kafka answers: 1 broker" in said
    assert "PostgreSQL 15" in said
    assert any("min.insync.replicas=1" in one["what"] for one in well["CH6014"])
    (short,) = well["CH3027"]
    assert f"{place.name}.asked 2 d" in short["what"]
    name = url.rpartition("/")[2]
    server().run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    try:
        weak = place.doctor(0)["CH6014"]
        assert any("synchronous_commit=off" in one["what"] for one in weak)
    finally:
        server().run(f"ALTER DATABASE {name} RESET synchronous_commit")


def test_servers_that_do_not_answer(place: Place) -> None:
    (port,) = free_ports(1)
    away = place.doctor(
        1,
        CHOREO_BROKER=f"kafka://127.0.0.1:{port}",
        CHOREO_STORE=f"postgresql://choreo@127.0.0.1:{port}/choreo",
    )
    assert str(port) in away["CH3001"][0]["what"]
    assert str(port) in away["CH4001"][0]["what"]


@pytest.fixture
def alone(place: Place, kafka_server: KafkaServer) -> Iterator[Place]:
    """Have a cluster for oneself: an audit reads all that is there."""
    server_ = KafkaServer()
    server_.start()
    place.environment["CHOREO_BROKER"] = f"kafka://{server_.bootstrap}"
    yield place
    server_.stop()


def test_an_audit_reads_both_servers(alone: Place) -> None:
    """What has run is whole; a row that is taken away behind everybody's back is missed."""
    place = alone
    assert place.run("-m", "choreo", "topics", "apply", "desk").returncode == 0
    ran = place.run("work.py")
    assert ran.returncode == 0, ran.stderr
    audit = place.run("-m", "choreo", "audit")
    assert audit.returncode == 0, audit
    server().run(
        "DELETE FROM choreo.inbox WHERE ctid IN (SELECT ctid FROM choreo.inbox LIMIT 1)",
        url=place.environment["CHOREO_STORE"],
    )
    broken = place.run("-m", "choreo", "audit")
    assert broken.returncode == 1, broken


# ── what is judged, as values ────────────────────────────────────────────────────────────


def codes(looks: Any) -> list[str]:
    return [one.code for one in looks if one.code]


def test_a_cluster_that_keeps_its_promise() -> None:
    seen = ClusterLook(3, {"a": TopicLook(4, 3, 2, None)})
    assert codes(judged_cluster(seen, ["a"])) == []
    weak = ClusterLook(3, {"a": TopicLook(4, 3, 1, None)})
    assert codes(judged_cluster(weak, ["a", "b"])) == ["CH3004", "CH6014"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, []),
        ({"standby": True}, ["CH4001"]),
        ({"tables": 9}, ["CH4005"]),
        ({"tables": 1}, []),
        ({"unsent": 20_000}, ["CH3007"]),
        ({"off_s": -600.0}, ["CH4015"]),
    ],
)
def test_a_database_is_judged(changed: dict[str, Any], code: list[str]) -> None:
    good = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "remote_apply"}
    look = DatabaseLook("db", good, standby=False, tables=2, newest=2, unsent=0, off_s=0.0)
    assert codes(judged_database(look._replace(**changed))) == code
    for name in good:
        off = look._replace(settings={**good, name: "off"})
        assert codes(judged_database(off)) == ["CH6014"]
