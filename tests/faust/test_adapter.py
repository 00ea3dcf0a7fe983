"""The faust adapter by itself: what an agent waits for, which traps of the library are closed."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest

from choreo.adapters.faust import faust_app
from choreo.adapters.faust.subscription import FaustSubscription
from choreo.adapters.faust.worker import SETTINGS
from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.errors import BrokerClosedError, ConfigurationError
from choreo.events import Partition, Record
from choreo.faust import tracker_app
from choreo.ports import Broker, Topic

FIRST, SECOND = Partition("t", 0), Partition("t", 1)


def record(place: Partition, offset: int) -> Record:
    return Record(place.topic, b"k", {}, b"", place.number, offset)


class Told:
    """Who is told of partitions."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, set[Partition]]] = []

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        assert generation is None  # whoever polls here owns nothing by it
        self.heard.append(("assigned", set(partitions)))

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.heard.append(("revoked", set(partitions)))


class Place:
    """A subscription, and what the worker has."""

    def __init__(self) -> None:
        self.ours = {FIRST, SECOND}
        self.told = Told()
        self.subscription = FaustSubscription(lambda: self.ours, self.told)

    def hand(self, *records: Record) -> asyncio.Task[None]:
        return asyncio.create_task(self.subscription.hand(records))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# ── handing over ─────────────────────────────────────────────────────────────────────────


async def test_an_agent_waits_until_its_records_are_committed() -> None:
    """All of them, and not only given to who polls."""
    place = Place()
    handing = place.hand(record(FIRST, 4), record(SECOND, 7), record(FIRST, 5))
    await turns()
    assert [one.offset for one in await place.subscription.poll(2)] == [4, 7]
    assert [one.offset for one in await place.subscription.poll(9)] == [5]
    await place.subscription.commit({FIRST: 6})
    await turns()
    assert not handing.done()
    await place.subscription.commit({SECOND: 8})
    await handing


async def test_a_partition_that_is_taken_away_is_waited_for_no_more() -> None:
    """Its records are another worker's: who polls is not given them, and nothing hangs."""
    place = Place()
    handing = place.hand(record(FIRST, 4), record(SECOND, 7))
    await turns()
    place.ours = {SECOND}
    await place.subscription.taken([FIRST])
    assert place.told.heard == [("revoked", {FIRST})]
    assert [one.offset for one in await place.subscription.poll(9)] == [7]
    await turns()
    assert not handing.done()
    await place.subscription.commit({SECOND: 8})
    await handing


async def test_a_partition_that_comes_back_is_waited_for_again() -> None:
    """What was committed before says nothing: the group may stand before it."""
    place = Place()
    await place.subscription.commit({FIRST: 9})
    await place.subscription.taken([FIRST])
    await place.subscription.given([FIRST])
    assert place.told.heard[-1] == ("assigned", {FIRST})
    handing = place.hand(record(FIRST, 4))
    await turns()
    assert not handing.done()
    await place.subscription.commit({FIRST: 9})
    await handing


async def test_after_close_nobody_waits() -> None:
    place = Place()
    handing = place.hand(record(FIRST, 4))
    polling = [asyncio.create_task(place.subscription.poll(1)) for _ in range(2)]
    await turns()
    await place.subscription.close()
    await place.subscription.close()
    await handing
    assert [len(await one) for one in polling] == [1, 0]
    with pytest.raises(BrokerClosedError):
        await place.subscription.commit({FIRST: 5})


# ── the library's traps ──────────────────────────────────────────────────────────────────


async def nothing(broker: Broker) -> None:
    """Work that does nothing."""


def client(**more: str) -> dict[str, Any]:
    return {"bootstrap_servers": "a:1, b:2", "security_protocol": "PLAINTEXT", **more}


async def begun(path: Path) -> tuple[faust.App, SqliteBroker]:
    """Make an app that knows its topics; any broker can say which there are."""
    broker = SqliteBroker(Log(Database(str(path / "log.db"))))
    await broker.ensure([Topic("t.orders"), Topic("t.stock")])
    app = faust_app(broker, nothing, group="g", client=client(), namespace="x.")
    await app.on_first_start()
    return app, broker


@pytest.mark.blocks("the library looks for the source of what declares an agent")
async def test_each_trap_is_closed(tmp_path: Path) -> None:
    """A restart after a kill waits for no minute; nothing hangs on a topic, or on a port."""
    app, broker = await begun(tmp_path)
    for name, value in SETTINGS.items():
        got = getattr(app.conf, name)
        assert getattr(got, "value", got) == value, name
    assert (app.conf.id, [str(url) for url in app.conf.broker]) == (
        "x.g", ["kafka://a:1", "kafka://b:2"],
    )  # fmt: skip
    app.conf.web_enabled = True  # as the command line does without --without-web
    parts = {type(one).__name__ for one in app.boot_strategy.server()}
    assert {"Consumer", "AgentManager"} <= parts
    assert not {"Web", "Producer"} & parts
    assert not app.tables
    (agent,) = app.agents.values()
    assert set(agent.channel.topics) == {"x.t.orders", "x.t.stock"}
    assert not app.conf.datadir.exists()
    await broker.close()


@pytest.mark.blocks("the library looks for the source of what declares an agent")
async def test_records_are_as_they_lie_there(tmp_path: Path) -> None:
    """Whatever the bytes are: the agent reads no more of them than the tracker does."""
    app, broker = await begun(tmp_path)
    given = app._work_broker  # type: ignore[attr-defined]
    twice = (("ce_id", b"1"), ("ce_id", b"2"))
    for headers, value, wanted in (
        ((("ce_id", b"1"),), b"{}", {"ce_id": "1"}),
        ((("a", b"\xff"), ("b", None)), None, {"a": "\udcff", "b": ""}),
        (None, b"", {}),
    ):
        message = SimpleNamespace(
            topic="x.t.orders", key=b"k", value=value, headers=headers, partition=2, offset=7
        )
        assert given._record(message) == Record("t.orders", b"k", wanted, value or b"", 2, 7)
    message.headers = twice
    assert "stands twice" in given._record(message).headers["choreo-unreadable"]
    await broker.close()


@pytest.mark.parametrize(
    ("words", "protocol"),
    [
        ({"security_protocol": "SASL_PLAINTEXT"}, "SASL_PLAINTEXT"),
        ({"security_protocol": "SASL_SSL", "ssl_context": object()}, "SASL_SSL"),
        ({"security_protocol": "SSL", "ssl_context": object()}, "SSL"),
    ],
)
def test_it_says_who_we_are(words: dict[str, Any], protocol: str) -> None:
    said = client(
        sasl_plain_username="me", sasl_plain_password="secret", sasl_mechanism="SCRAM-SHA-256"
    )
    app = faust_app(None, nothing, group="g", client={**said, **words})  # type: ignore[arg-type]
    credentials = app.conf.broker_credentials
    assert credentials is not None
    assert credentials.protocol.value == protocol
    if protocol.startswith("SASL"):
        assert credentials.username == "me"  # type: ignore[attr-defined]
        assert credentials.mechanism.value == "SCRAM-SHA-256"  # type: ignore[attr-defined]
    assert "secret" not in repr(credentials)


def test_without_a_cluster_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHOREO_BROKER", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        tracker_app()
    assert caught.value.code == "CH1014"
    assert "CHOREO_BROKER" in caught.value.fix


@pytest.mark.blocks("the library looks for the source of what declares an agent")
async def test_work_that_fails_ends_the_worker_and_no_part_by_itself(tmp_path: Path) -> None:
    """A part that has ended by itself answers nobody, and the others wait for its answer."""
    broker = SqliteBroker(Log(Database(str(tmp_path / "log.db"))))
    error = ConfigurationError("it can not be done")

    async def fails(_: Broker) -> None:
        raise error

    app = faust_app(broker, fails, group="g", client=client())
    worker = faust.Worker(app)
    app.beacon.reattach(worker.beacon)
    part = app.add_dependency(faust.Service())
    await app._run()  # type: ignore[attr-defined]
    assert worker.crashed
    assert worker.crash_reason is error
    assert not part.crashed
    await broker.close()
