"""Every bench runs and gives its figures. How large they are is nothing for a test to say."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from bench import figure
from bench.__main__ import MEASURES, WITH
from bench.codec import codec_avro
from bench.figure import Figure, kept
from bench.growth import inbox_growth, rss_growth
from bench.hop import hop, hop2
from bench.hot import hot_keys
from bench.kafka_growth import inbox_growth as kafka_inbox_growth
from bench.kafka_growth import kafka_rss_growth
from bench.kafka_handler import kafka_handler
from bench.kafka_hop import kafka_hop
from bench.kafka_recovery import kafka_recovery
from bench.kafka_saga import kafka_saga5, kafka_saga5_tx
from bench.kafka_views import kafka_tracker, kafka_tracker_faust
from bench.pace import percentile
from bench.saga import saga5, saga5_tx
from bench.store import postgres_steps
from bench.views import list_growth, tracker_events
from choreo.testing.servers import KafkaServer
from choreo.testing.servers.postgres import PostgresServer

SMALL = {
    "saga5": partial(saga5, 50, math.inf),
    "saga5_tx": partial(saga5_tx, 50, math.inf),
    "hop": partial(hop, 50),
    "hop2": partial(hop2, 50),
    "rss_growth": partial(rss_growth, 20, 40),
    "inbox_growth_sqlite": partial(inbox_growth, 10, 100, 20),
    "tracker_events": partial(tracker_events, 50),
    "kafka_saga5": partial(kafka_saga5, 30, 1),
    "kafka_saga5_tx": partial(kafka_saga5_tx, 30, 1),
    "kafka_handler": partial(kafka_handler, 30, 1),
    "kafka_hop": partial(kafka_hop, 50, 1),
    "kafka_rss_growth": partial(kafka_rss_growth, 20, 40),
    "inbox_growth": partial(kafka_inbox_growth, 10, 100, 20, 1),
    "kafka_recovery_s": partial(kafka_recovery, 2.0),
    "kafka_tracker": partial(kafka_tracker, 60),
    "kafka_tracker_faust": partial(kafka_tracker_faust, 60),
    "list_growth": partial(list_growth, 200, 600, 1),
    "hot_keys": partial(hot_keys, 50, 2, 1, 1),
    "postgres_steps": partial(postgres_steps, 300),
    "codec_avro": partial(codec_avro, 20, 1),
}

SHARING = {
    "kafka_saga5", "kafka_saga5_tx", "kafka_handler", "kafka_hop", "kafka_rss_growth",
    "inbox_growth", "kafka_recovery_s",
}  # fmt: skip
"""Those that run on servers that others have used."""


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    """One Kafka and one PostgreSQL for several: a start takes longer than a small run."""
    with KafkaServer() as kafka, PostgresServer.found() as postgres:
        yield kafka.bootstrap, postgres.url


def test_every_bench_has_a_small_run() -> None:
    assert SMALL.keys() == MEASURES.keys()


@pytest.mark.timeout(180)  # one of them starts a Kafka and a PostgreSQL
@pytest.mark.parametrize("name", SMALL)
def test_a_bench_runs(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in SHARING:
        kafka, postgres = request.getfixturevalue("servers")
        monkeypatch.setenv("CHOREO_TEST_KAFKA", kafka)
        monkeypatch.setenv("CHOREO_TEST_POSTGRES", postgres)
    measure: Callable[[], Sequence[Figure]] = SMALL[name]
    figures = measure()
    expected = {name} & {one.name for one in figures} | {a for a, b in WITH.items() if b == name}
    assert {one.name for one in figures} == expected
    for one in figures:
        assert one.baseline is not None
        assert one.unit
        assert one.about


def test_a_run_replaces_only_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "OUT", tmp_path / "out" / "latest.json")
    kept([Figure("one", 2.0, "ms", 4.0, ""), Figure("other", 1.0, "times", 1.0, "")])
    kept([Figure("one", 3.0, "ms", 4.0, "")])
    assert json.loads((tmp_path / "out" / "latest.json").read_text()) == {
        "one": {"value": 3.0, "unit": "ms", "baseline": 4.0, "ratio": 0.75},
        "other": {"value": 1.0, "unit": "times", "baseline": 1.0, "ratio": 1.0},
    }


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]
