"""`choreo topics`: what services need of a cluster, planned, applied, never deleted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from choreo.ports import Topic
from choreo.testing.servers import KafkaServer, free_ports
from choreo.topology import Acl, acls_of, manifest, steps_of, topics_of
from services.payments import payments

DESK = """
from choreo import Event, Service

class Asked(Event, topic="{name}.asked", key="who"):
    who: str

class Answered(Event, topic="{name}.answered", key="who"):
    who: str

desk = Service("{name}")

@desk.on(Asked)
async def answer(asked: Asked) -> Answered:
    return Answered(who=asked.who)
"""


def test_topics_are_those_of_the_manifests_and_our_own() -> None:
    manifests = {"payments": manifest(payments)}
    found = topics_of(manifests, partitions=6, retention_s=60.0, given={"shop.payments": 12})
    assert {one.name: one.partitions for one in found} == {
        "choreo.control": 6,
        "choreo.dead": 6,
        "choreo.manifests": 6,
        "choreo.steps": 6,
        "shop.inventory": 6,
        "shop.payments": 12,
        "shop.shipping": 6,
    }
    assert [one.name for one in found if one.compact] == ["choreo.manifests"]
    assert {one.retention_s for one in found} == {None, 60.0}


def test_rights_are_the_least() -> None:
    rights = {
        ("group", "payments", "Read"),
        ("topic", "choreo.control", "Read"),
        ("topic", "choreo.dead", "Write"),
        ("topic", "choreo.manifests", "Write"),
        ("topic", "choreo.steps", "Write"),
        ("topic", "shop.inventory", "Read"),
        ("topic", "shop.payments", "Read"),
        ("topic", "shop.payments", "Write"),
        ("topic", "shop.shipping", "Read"),
    }
    found = acls_of({"payments": manifest(payments)})
    assert set(found) == {Acl("payments", act, kind, name) for kind, name, act in rights}


def test_growth_is_warned_of_and_nothing_shrinks() -> None:
    wanted = [Topic("new", 4), Topic("few", 4), Topic("same", 4), Topic("many", 4)]
    new, few, same, many = steps_of(wanted, {"few": 2, "same": 4, "many": 8, "other": 1})
    assert (new.act, few.act, same.act, many.act) == ("create", "grow", "keep", "keep")
    assert "another partition" in few.warning
    assert "8 partitions" in many.warning
    assert not new.warning
    assert not same.warning


def test_a_retention_that_is_another_one_is_warned_of() -> None:
    day = 86_400.0
    wanted = [Topic("other", 4, 7 * day), Topic("same", 4, 7 * day), Topic("any", 4)]
    kept = {"other": math.inf, "same": 7 * day, "any": day}
    other, same, any_ = steps_of(wanted, dict.fromkeys(kept, 4), kept)
    assert "for ever, not for 7 days" in other.warning
    assert f"--topic other --add-config retention.ms={7 * 86_400_000}" in other.warning
    assert not same.warning
    assert not any_.warning


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    name = f"d{uuid.uuid4().hex[:8]}"
    (tmp_path / "desk.py").write_text(DESK.replace("{name}", name))
    (tmp_path / "name").write_text(name)
    return tmp_path


def choreo(folder: Path, servers: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "choreo", "topics", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **named(servers)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def named(servers: str) -> dict[str, str]:
    if "://" not in servers:
        return {"KAFKA_BOOTSTRAP_SERVERS": servers}
    return {"CHOREO_BROKER": servers}  # of a store nothing is wanted


def test_names_on_the_cluster_begin_with_the_namespace(
    folder: Path, kafka_server: KafkaServer
) -> None:
    name = (folder / "name").read_text()
    broker = f"kafka://{kafka_server.bootstrap}/n{name}"
    applied = choreo(folder, broker, "apply", "desk", "--partitions", "1")
    assert applied.returncode == 0, applied.stderr
    assert f"+ {name}.asked  1 partition" in applied.stdout
    assert f"User:{name}  Read  group n{name}.{name}" in applied.stdout
    assert f"User:{name}  Read  topic n{name}.{name}.asked" in applied.stdout
    assert f"~ {name}.asked  1 → 4 partitions" in choreo(folder, broker, "plan", "desk").stdout
    outside = choreo(folder, kafka_server.bootstrap, "plan", "desk")
    assert f"+ {name}.asked  4 partitions" in outside.stdout


def test_what_is_planned_is_applied_once_and_grown_with_a_warning(
    folder: Path, kafka_server: KafkaServer
) -> None:
    name, servers = (folder / "name").read_text(), kafka_server.bootstrap
    planned = choreo(folder, servers, "plan", "desk", "--partitions", "2")
    assert planned.returncode == 0, planned.stderr
    assert f"+ {name}.asked  2 partitions" in planned.stdout
    assert f"User:{name}  Write  topic {name}.answered" in planned.stdout
    applied = choreo(folder, servers, "apply", "desk", "--partitions", "2")
    assert applied.returncode == 0, applied.stderr
    kept = choreo(folder, servers, "plan", "desk", "--partitions", "2")
    assert f"= {name}.asked  2 partitions" in kept.stdout
    assert not kept.stderr
    more = f"{name}.asked=5"
    grown = choreo(folder, servers, "apply", "desk", "--partitions", "2", "--topic", more)
    assert f"~ {name}.asked  2 → 5 partitions" in grown.stdout
    assert f"warning: {name}.asked: from then on most keys" in grown.stderr
    shown = choreo(folder, servers, "plan", "desk", "--json")
    before = {one["topic"]["name"]: one["before"] for one in json.loads(shown.stdout)["topics"]}
    assert before[f"{name}.asked"] == 5
    assert before[f"{name}.answered"] == 2


def test_what_is_declared_is_compared_with_the_retention_that_is_there(
    folder: Path, kafka_server: KafkaServer
) -> None:
    """`apply` makes new topics so, and leaves those alone that are there."""
    name, servers = (folder / "name").read_text(), kafka_server.bootstrap
    for verb, days in (("apply", "3"), ("plan", "3"), ("apply", "30"), ("plan", "30")):
        ran = choreo(folder, servers, verb, "desk", "--retention-days", days)
        assert ran.returncode == 0, ran.stderr
        said = f"warning: {name}.asked: it keeps records for 3 days, not for 30 days"
        assert (said in ran.stderr) == (days == "30"), ran.stderr


def test_wrong_calls_are_told(folder: Path) -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    gone = choreo(folder, nobody, "plan", "desk")
    assert gone.returncode == 1
    assert "CH3001" in gone.stderr
    unset = choreo(folder, "", "plan", "desk")
    assert unset.returncode == 1
    assert "CH1022" in unset.stderr
    typo = choreo(folder, nobody, "plan", "desk", "--topic", "asked:5")
    assert typo.returncode == 2
    assert "is no NAME=PARTITIONS" in typo.stderr
