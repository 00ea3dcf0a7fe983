"""At a start it is said, once, what of the servers' settings makes a promise weaker."""

import logging
from collections.abc import Iterator

import pytest

from choreo import App, Service
from choreo.adapters.kafka import KafkaBroker
from choreo.adapters.postgres import PostgresStore
from choreo.app import system_clock
from choreo.ports import TopicLook, weaker_settings
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import member
from tests.postgres.database import database, server
from tests.semantics.events import Paid, Placed, Sent


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


def desk() -> Service:
    service = Service("desk")

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        return Paid(k=placed.k)

    return service


def dispatch() -> Service:
    service = Service("dispatch")

    @service.on(Paid)
    async def send(paid: Paid) -> Sent:
        return Sent(k=paid.k)

    return service


async def said_at_a_start(servers: str, url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    broker, store = KafkaBroker(member(servers)), PostgresStore(url, clock=system_clock())
    with caplog.at_level(logging.WARNING, "choreo.app"):
        async with App(desk(), dispatch(), broker=broker, store=store):
            pass
    return [one.message for one in caplog.records if one.name == "choreo.app"]


@pytest.fixture
def hasty(url: str) -> Iterator[str]:
    """Give a database that does not wait for its disk."""
    name = url.rpartition("/")[2]
    server().run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    yield url
    server().run(f"ALTER DATABASE {name} RESET synchronous_commit")


async def test_what_is_weaker_is_named_once(
    kafka_server: KafkaServer, hasty: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One broker is no cluster, and the database is told not to wait for its disk."""
    topics, settings = await said_at_a_start(kafka_server.bootstrap, hasty, caplog)
    assert topics.startswith("CH6014")
    assert "topics=7 of 7" in topics
    assert "replicas=1, min.insync.replicas=1" in topics
    assert settings.startswith("CH6014")
    assert "synchronous_commit=off" in settings
    assert all(" Fix: " in line for line in (topics, settings))


@pytest.fixture
def hidden(url: str) -> Iterator[str]:
    """Give the database as a role sees it that may not look at the settings."""
    server().script(
        "DO $$ BEGIN CREATE ROLE blinded LOGIN PASSWORD 'blinded';"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "REVOKE SELECT ON pg_settings FROM PUBLIC;"
        "GRANT USAGE ON SCHEMA choreo TO blinded;"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA choreo TO blinded;"
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA choreo TO blinded",
        url=url,
    )
    yield url.replace(url.partition("@")[0].partition("//")[2], "blinded:blinded", 1)
    server().script("GRANT SELECT ON pg_settings TO PUBLIC; DROP OWNED BY blinded", url=url)


async def test_a_look_that_is_refused_stops_no_start(
    kafka_server: KafkaServer, hidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    topics, refused = await said_at_a_start(kafka_server.bootstrap, hidden, caplog)
    assert topics.startswith("CH6014")
    assert "could not be looked at how the database is set up: CH4013" in refused


def test_what_keeps_the_promise_is_not_named() -> None:
    good = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    assert weaker_settings(good) == []
    for name in good:
        assert weaker_settings({**good, name: "off"}) == [f"{name}=off"]


@pytest.mark.parametrize(
    ("look", "weaker"),
    [
        (TopicLook(4, 3, 2, None), []),
        (TopicLook(4, 3, None, None), []),  # how it is set may not be seen
        (TopicLook(4, 2, 2, None), ["replicas=2"]),
        (TopicLook(4, 3, 1, None), ["min.insync.replicas=1"]),
        (TopicLook(4, 3, 2, None, unclean=True), ["unclean.leader.election.enable=true"]),
    ],
)
def test_a_topic_is_judged_by_what_may_be_seen(look: TopicLook, weaker: list[str]) -> None:
    assert look.weaker == weaker
