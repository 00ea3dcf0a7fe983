"""Schemas that are not known, or not to be had, while services run: what waits, what is not."""

import asyncio
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import choreo.adapters.registry  # noqa: F401 - to import it in a loop blocks that
from choreo import App, ConfigurationError, Event, Service
from choreo.codec import subject_of
from choreo.errors import RegistryUnavailableError
from choreo.events import Record
from choreo.schemas import derived, examined
from choreo.testing.servers.registry import RegistryServer
from tests.semantics.lab import Lab
from tests.unit.avro_events import kept_in

HOUR_S = 3600.0


class Asked(Event, topic="lab.asked"):
    k: str


class Asking(Event, topic="lab.asked", key="k", name="Asked"):
    """The owner's class, elsewhere."""

    k: str
    more: int = 0


class Told(Event, topic="lab.told", key="k"):
    k: str


def telling() -> Service:
    desk = Service("desk")

    @desk.on(Asked)
    async def tell(asked: Asked) -> Told:
        return Told(k=asked.k)

    return desk


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    """One that is waited for: only what it answers makes it one that is down."""
    monkeypatch.setattr("choreo.adapters.registry.TIMEOUT_S", None)
    with RegistryServer() as running:
        monkeypatch.setenv("CHOREO_CODEC", "avro")
        monkeypatch.setenv("SCHEMA_REGISTRY_URL", running.url)
        monkeypatch.setenv("CHOREO_SCHEMAS_REGISTER", "yes")
        yield running


def asked(number: int, k: str, id: str, datum: bytes | None = None) -> Record:
    """Make a record of a stranger's, by a schema that has this id."""
    headers = {
        "ce_specversion": "1.0", "ce_id": id, "ce_source": "stranger",
        "ce_type": "lab.asked.Asked", "content-type": "application/avro",
    }  # fmt: skip
    value = bytes([2 * len(k)]) + k.encode() + b"\x00" if datum is None else datum
    return Record("lab.asked", k.encode(), headers, struct.pack(">bI", 0, number) + value)


SCHEMA = examined(derived(Asking).schema)


async def test_an_unknown_id_becomes_one_dead_letter_and_its_key_goes_on(
    lab: Lab, server: RegistryServer
) -> None:
    async with lab.open(telling()) as app:
        await app.broker.publish([asked(77, "a", "bad"), asked(77, "b", "bad too")])
        await lab.clock.advance(HOUR_S)
        assert [one.headers["ce_id"] for one in lab.dead()] == ["bad", "bad too"]
        assert lab.dead()[0].headers["choreo-dead-message"].startswith("CH2006")
        assert sum("/schemas/ids/77" in one for one in server.asked) < 8
        number = app.codec.encode(Told(k="x"))[4] + 1
        server.asked.clear()
        await register(server)
        await app.broker.publish([asked(number, "a", "good")])
        await lab.clock.advance(1)
        assert [one.key for one in lab.only(Told)] == [b"a"]


async def register(server: RegistryServer) -> None:
    await asyncio.to_thread(server._register, subject_of(Asking.__event__), SCHEMA.text)


async def test_a_schema_that_comes_late_is_waited_for(lab: Lab, server: RegistryServer) -> None:
    async with lab.open(telling()) as app:
        number = app.codec.encode(Told(k="x"))[4] + 1
        await app.broker.publish([asked(number, "a", "early"), asked(number, "a", "later")])
        await lab.clock.settle()
        assert not lab.only(Told)
        await register(server)
        await lab.clock.advance(HOUR_S)
        assert [one.headers["ce_causationid"] for one in lab.only(Told)] == ["early", "later"]
        assert not lab.dead()


async def test_a_registry_that_is_down_costs_no_attempt(lab: Lab, server: RegistryServer) -> None:
    """Hours of it: nothing is given up, other keys go on, and all is done once it answers."""
    async with lab.open(telling()) as app:
        number = app.codec.encode(Told(k="x"))[4] + 1
        await register(server)
        server.broken = 503
        await app.broker.publish([asked(number, "a", "one")])
        await lab.clock.advance(2 * HOUR_S)
        assert not lab.dead()
        assert not lab.only(Told)
        assert {note["state"] for note in lab.notes()} == {"retrying"}
        assert "CH2011" in lab.notes("retrying")[0]["message"]
        server.broken = 0
        await lab.clock.advance(HOUR_S)
        assert [one.headers["ce_causationid"] for one in lab.only(Told)] == ["one"]


async def test_a_registry_that_is_down_at_the_start_is_told(
    lab: Lab, server: RegistryServer
) -> None:
    await asyncio.to_thread(server.stop)
    with pytest.raises(RegistryUnavailableError, match="start it, or correct"):
        async with lab.open(telling()):
            pass
    await asyncio.to_thread(server.start)
    async with lab.open(telling()):
        pass


async def test_what_is_parked_is_read_after_a_restart(lab: Lab, server: RegistryServer) -> None:
    await register(server)
    async with lab.open(telling()) as app:
        server.broken = 503
        await app.broker.publish([asked(2, "a", "one"), asked(1, "a", "two")])
        await lab.clock.advance(5)
    server.broken = 0
    async with lab.open(telling()):
        await lab.clock.advance(HOUR_S)
    assert len(lab.only(Told)) + len(lab.dead()) == 2
    assert lab.only(Told)


async def test_bytes_that_are_no_value_are_a_dead_letter_at_once(
    lab: Lab, server: RegistryServer
) -> None:
    await register(server)
    bad = [b"", b"\xff", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x02a\x00\x00trailing"]
    async with lab.open(telling()) as app:
        await app.broker.publish([asked(1, "a", f"bad {n}", one) for n, one in enumerate(bad)])
        await app.broker.publish([asked(1, "a", "good")])
        await lab.clock.settle()
        assert len(lab.dead()) == len(bad)
        assert [one.headers["ce_causationid"] for one in lab.only(Told)] == ["good"]


async def test_a_dead_letter_in_avro_is_run_again_edited_in_json(
    lab: Lab, server: RegistryServer
) -> None:
    await register(server)
    async with lab.open(telling()) as app:
        await app.broker.publish([asked(1, "a", "bad", b"\xff")])
        await lab.clock.settle()
        await lab.ask(app, "redrive", value=b'{"k": "mended"}')
        assert [one.headers["ce_subject"] for one in lab.only(Told)] == ["mended"]


# ── settings ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("CHOREO_CODEC", "protobuf", "no codec"),
        ("SCHEMA_REGISTRY_URL", "localhost:8081", "no address"),
        ("CHOREO_SCHEMAS_REGISTER", "maybe", "write yes"),
        ("CHOREO_AVRO_RECURSION", "1", "write allow"),
    ],
)
def test_a_wrong_setting_is_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, value: str, word: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=word) as told:
        App(telling(), folder=lab.folder)
    assert told.value.code == "CH1014"
    assert name in str(told.value)


async def test_a_class_that_is_not_in_the_folder_is_told_at_the_start(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHOREO_CODEC", "avro")
    monkeypatch.setenv("CHOREO_SCHEMAS", str(tmp_path / "schemas"))
    with pytest.raises(ConfigurationError, match="choreo schemas generate") as told:
        async with lab.open(telling()):
            pass
    assert told.value.code == "CH1041"
    await asyncio.to_thread(kept_in, tmp_path / "schemas", Told, Asking)
    async with lab.open(telling()):
        pass
