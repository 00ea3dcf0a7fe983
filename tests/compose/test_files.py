"""What can be known of `compose/` without running it: it is read, and held to its rules."""

import re
import tomllib
from typing import Any

import pytest

from choreo.telemetry.names import METRICS
from tests.compose.files import (
    COMPOSE,
    OURS,
    dockerfile,
    filled,
    image_of,
    loaded,
    path_in,
    services,
)
from tests.house.source import ROOT

SERVICES = services()
SHOP = {name for name, one in SERVICES.items() if image_of(one) == OURS}
FIXED = re.compile(r"v?\d+\.\d+(\.\d+)?(-[a-z-]+)?")
CONDITIONS = {"service_healthy", "service_started", "service_completed_successfully"}
# Those of a single node: https://kafka.apache.org/documentation/#brokerconfigs. Where one is
# missing, the broker does not start, or waits for others that never come.
KAFKA = {
    "CLUSTER_ID", "KAFKA_NODE_ID", "KAFKA_PROCESS_ROLES", "KAFKA_LISTENERS",
    "KAFKA_ADVERTISED_LISTENERS", "KAFKA_CONTROLLER_LISTENER_NAMES",
    "KAFKA_INTER_BROKER_LISTENER_NAME", "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
    "KAFKA_CONTROLLER_QUORUM_VOTERS", "KAFKA_LOG_DIRS", "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR", "KAFKA_AUTO_CREATE_TOPICS_ENABLE",
}  # fmt: skip


def faults(name: str, one: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """List what is wrong with one container."""
    tag = str(one.get("image", "")).rpartition(":")[2]
    user = str(one.get("user", "0")).partition(":")[0]
    probe = one.get("healthcheck", {}).get("test")
    wanted = one.get("depends_on", {})
    named = [str(volume).partition(":")[0] for volume in one.get("volumes", ())]
    return [
        what
        for what, wrong in (
            ("its image floats", not FIXED.fullmatch(tag)),
            ("it runs as root", not user.isdecimal() or user == "0"),
            ("it has no health check", not isinstance(probe, list) or probe[0] != "CMD"),
            ("it keeps capabilities", one.get("cap_drop") != ["ALL"]),
            ("it may gain privileges", "no-new-privileges:true" not in one.get("security_opt", ())),
            ("it is privileged", bool(one.get("privileged"))),
            ("it does not come back", one.get("restart") != "unless-stopped"),
            (
                "a port is open to others",
                any(not str(port).startswith("127.0.0.1:") for port in one.get("ports", ())),
            ),
            (
                "it waits for nothing in particular",
                not isinstance(wanted, dict)
                or any(other not in known["services"] for other in wanted)
                or any(how.get("condition") not in CONDITIONS for how in wanted.values()),
            ),
            (
                "it waits for what its profile does not start",
                isinstance(wanted, dict)
                and any(
                    not set(known["services"].get(other, {}).get("profiles", ()))
                    <= set(one.get("profiles", ()))
                    for other in wanted
                ),
            ),
            (
                "a volume is neither named nor a file of compose/",
                any(
                    volume not in known["volumes"]
                    and not (volume.startswith("./") and path_in(volume).is_file())
                    for volume in named
                ),
            ),
        )
        if wrong
    ]  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_held_to_the_rules(name: str) -> None:
    assert faults(name, SERVICES[name], loaded("compose.yaml")) == []


GOOD: dict[str, Any] = {
    "image": "a:1.2", "user": "5:5", "cap_drop": ["ALL"], "restart": "unless-stopped",
    "security_opt": ["no-new-privileges:true"], "healthcheck": {"test": ["CMD", "true"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"image": "a:latest"}, "its image floats"),
        ({"image": "a"}, "its image floats"),
        ({"image": "a:17"}, "its image floats"),
        ({"user": "0:0"}, "it runs as root"),
        ({"user": "root"}, "it runs as root"),
        ({"healthcheck": {"disable": True}}, "it has no health check"),
        ({"cap_drop": []}, "it keeps capabilities"),
        ({"security_opt": []}, "it may gain privileges"),
        ({"privileged": True}, "it is privileged"),
        ({"restart": "no"}, "it does not come back"),
        ({"ports": ["5432:5432"]}, "a port is open to others"),
        ({"depends_on": ["b"]}, "it waits for nothing in particular"),
        ({"depends_on": {"x": {"condition": "service_healthy"}}},
         "it waits for nothing in particular"),
        ({"depends_on": {"b": {}}}, "it waits for nothing in particular"),
        ({"depends_on": {"p": {"condition": "service_healthy"}}},
         "it waits for what its profile does not start"),
        ({"volumes": ["other:/x"]}, "a volume is neither named nor a file of compose/"),
        ({"volumes": ["./none:/x"]}, "a volume is neither named nor a file of compose/"),
    ],
)  # fmt: skip
def test_each_fault_is_seen(wrong: dict[str, Any], what: str) -> None:
    known = {"services": {"b": GOOD, "p": {**GOOD, "profiles": ["p"]}}, "volumes": {"data": None}}
    assert faults("a", {**GOOD, "volumes": ["data:/x"]}, known) == []
    assert faults("a", {**GOOD, **wrong}, known) == [what]


def test_the_file_is_of_the_present_form() -> None:
    whole = loaded("compose.yaml")
    assert "version" not in whole
    mounted = {
        str(v).partition(":")[0] for one in SERVICES.values() for v in one.get("volumes", ())
    }
    assert set(whole["volumes"]) == {name for name in mounted if not name.startswith(".")}
    shop = {"orders", "inventory", "payments", "notifications", "analytics", "shipping"}
    assert shop | {"tracker", "provider"} == SHOP
    assert SERVICES.keys() - SHOP == {
        "kafka", "postgres", "registry", "collector", "jaeger", "prometheus"
    }  # fmt: skip


def test_all_of_the_shop_are_one_image() -> None:
    images = {str(SERVICES[name]["image"]) for name in SHOP}
    assert len(images) == 1
    assert all(SERVICES[name]["read_only"] for name in SHOP)
    assert {SERVICES[name]["build"]["dockerfile"] for name in SHOP} == {"compose/Dockerfile"}


def test_kafka_is_told_everything() -> None:
    """Given one setting, the image forgets all that it was packaged with."""
    said = SERVICES["kafka"]["environment"]
    assert said.keys() >= KAFKA
    listeners = dict(one.split("://") for one in said["KAFKA_LISTENERS"].split(","))
    advertised = dict(one.split("://") for one in said["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(
        one.split(":") for one in said["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    assert listeners.keys() == protocols.keys()
    assert advertised.keys() == listeners.keys() - {said["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert said["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    port = listeners[said["KAFKA_CONTROLLER_LISTENER_NAMES"]]
    assert said["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"{said['KAFKA_NODE_ID']}@kafka{port}"
    (published,) = SERVICES["kafka"]["ports"]
    assert filled(published) == f"{advertised['OUTSIDE']}:{listeners['OUTSIDE'][1:]}"
    assert all(isinstance(value, str) for value in said.values())
    (volume,) = SERVICES["kafka"]["volumes"]
    assert volume.endswith(f":{said['KAFKA_LOG_DIRS']}")


def test_services_reach_what_is_there() -> None:
    """Each has a database of its own, which is made; the log is the broker's inside address."""
    made = set(
        re.findall(r"CREATE DATABASE (\w+);", (COMPOSE / "postgres/databases.sql").read_text())
    )
    made.add(SERVICES["postgres"]["environment"]["POSTGRES_DB"])
    used = []
    for name in sorted(SHOP - {"provider"}):
        said = SERVICES[name]["environment"]
        assert said["CHOREO_BROKER"] == "kafka://kafka:9092"
        store = re.fullmatch(
            r"postgresql://choreo:choreo@postgres:5432/(\w+)", filled(said["CHOREO_STORE"])
        )
        assert store is not None
        used.append(store[1])
    assert sorted(used) == sorted(made) == sorted(SHOP - {"provider"})


# ── the image ────────────────────────────────────────────────────────────────────────────


def test_the_image_is_small_pinned_and_not_roots() -> None:
    steps = dockerfile()
    bases = [words[1] for words in steps if words[0] == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])
    last = max(index for index, words in enumerate(steps) if words[0] == "FROM")
    final = {words[0]: words[1:] for words in steps[last:]}
    assert final["USER"][0].partition(":")[0].isdecimal()
    assert final["USER"][0] == SERVICES["orders"]["user"]
    assert any("/livez" in word for word in final["HEALTHCHECK"])
    (install,) = [words for words in steps if "install" in words]
    extras = re.search(r"\.\[([\w,]+)\]", " ".join(install))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras is not None
    assert set(extras[1].split(",")) <= known.keys() - {"dev"}
    assert {"kafka", "postgres", "services", "telemetry"} <= set(extras[1].split(","))
    pins = [
        word
        for words in steps
        for word in words
        if word.startswith("PIP_") and "CONSTRAINT" in word
    ]
    assert pins == [
        "PIP_CONSTRAINT=/src/constraints.txt",
        "PIP_BUILD_CONSTRAINT=/src/constraints.txt",
    ]


def test_what_the_image_copies_reaches_the_builder() -> None:
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = [
        word
        for words in dockerfile()
        if words[0] == "COPY" and not words[1].startswith("--from")
        for word in words[1:-1]
    ]
    assert {word.removeprefix("./") for word in copied} == set(kept)
    assert all((ROOT / name).exists() for name in kept)


# ── telemetry ────────────────────────────────────────────────────────────────────────────

WORDS = re.compile(r"\b[a-z_]+(?=[{\[])|\b(?:choreo|messaging)_[a-z_]+\b")


def exported() -> set[str]:
    """Name what Prometheus is given, by OpenTelemetry's rules for it."""
    names = {"up"}
    for metric in METRICS:
        name = metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        names.update(name + ending for ending in endings.get(metric.kind, [""]))
    return names


def labels() -> set[str]:
    return {label.replace(".", "_") for metric in METRICS for label in metric.attributes}


def test_alerts_look_at_metrics_that_there_are() -> None:
    known = exported() | labels()
    seen = set()
    for group in loaded("prometheus/alerts.yml")["groups"]:
        for rule in group["rules"]:
            used = set(WORDS.findall(rule["expr"]))
            assert used, rule["alert"]
            assert used <= known, rule["alert"]
            seen |= used & exported()
            assert set(rule["annotations"]) == {"summary", "fix"}
            said = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            assert said <= labels() | {"instance", "job"}
            assert rule["labels"]["severity"] in ("page", "warn")
            assert rule["expr"].count("(") == rule["expr"].count(")")
    assert len(seen) >= 7


def test_prometheus_comes_to_every_process() -> None:
    said = loaded("prometheus/prometheus.yml")
    (job,) = said["scrape_configs"]
    targets = {target for one in job["static_configs"] for target in one["targets"]}
    assert targets == {
        f"{name}:{SERVICES[name]['environment']['CHOREO_HEALTH'].rpartition(':')[2]}"
        for name in SHOP - {"provider"}
    }
    mounted = {str(volume).split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert set(said["rule_files"]) <= mounted


def test_spans_have_a_way() -> None:
    said = loaded("collector.yaml")
    for pipeline in said["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= said[kind].keys()
    port = said["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    given = dict(
        line.split("=", 1)
        for line in (COMPOSE / "telemetry.env").read_text().splitlines()
        if line and not line.startswith("#")
    )
    endpoint = filled(SERVICES["orders"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"], given)
    assert endpoint == f"http://collector:{port}"
    assert filled(SERVICES["orders"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]) == ""
    assert said["exporters"]["otlp/jaeger"]["endpoint"].partition(":")[0] in SERVICES
