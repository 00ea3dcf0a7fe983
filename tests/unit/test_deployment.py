"""What settings name becomes adapters: the folder, then CHOREO_BROKER and CHOREO_STORE."""

import sys
from pathlib import Path

import pytest

from choreo import App, ConfigurationError, Service
from choreo.adapters.sqlite import SqliteBroker, SqliteStore
from choreo.app import Deployment, deployed, open_views
from choreo.testing import ManualClock
from tests.semantics.events import Placed, Reserved

SECRET = "postgresql://shop:secret@db.example/shop"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("CHOREO_BROKER", "CHOREO_STORE", "KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, Deployment(log=".choreo/choreo.db", own=".choreo/choreo.db")),
        ({"CHOREO_BROKER": "sqlite:///a/log.db"}, Deployment(log="a/log.db", own="a/log.db")),
        (
            {"CHOREO_BROKER": "sqlite:///a/log.db", "CHOREO_STORE": "sqlite:///b.db"},
            Deployment(log="a/log.db", own="b.db"),
        ),
        (
            {"CHOREO_BROKER": "kafka://one:9092,two:9092", "CHOREO_STORE": SECRET},
            Deployment(servers="one:9092,two:9092", database=SECRET),
        ),
        (
            {"CHOREO_BROKER": "kafka://one:9092", "CHOREO_STORE": "sqlite:///b.db"},
            Deployment(servers="one:9092", own="b.db"),
        ),
        (
            {"CHOREO_BROKER": "kafka://", "KAFKA_BOOTSTRAP_SERVERS": "k:1", "DATABASE_URL": SECRET},
            Deployment(servers="k:1", database=SECRET),
        ),
        (
            {"CHOREO_BROKER": "kafka://one:9092,two:9092/staging", "CHOREO_STORE": SECRET},
            Deployment(servers="one:9092,two:9092", database=SECRET, namespace="staging."),
        ),
        (
            {
                "CHOREO_BROKER": "kafka:///staging/",
                "KAFKA_BOOTSTRAP_SERVERS": "k:1",
                "DATABASE_URL": SECRET,
            },
            Deployment(servers="k:1", database=SECRET, namespace="staging."),
        ),
        (
            {"CHOREO_STORE": "postgresql://", "DATABASE_URL": SECRET},
            Deployment(log=".choreo/choreo.db", database=SECRET),
        ),
        # Nobody has chosen a server: what others put into the environment changes nothing.
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "k:1", "DATABASE_URL": SECRET},
            Deployment(log=".choreo/choreo.db", own=".choreo/choreo.db"),
        ),
    ],
)
def test_settings_say_where_log_and_store_are(
    variables: dict[str, str], wanted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Deployment.of() == wanted
    assert "secret" not in f"{Deployment.of()} {Deployment.of()!r}"
    assert Deployment.of("x") == Deployment(log="x/choreo.db", own="x/choreo.db")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CHOREO_BROKER": "amqp://user:secret@host"}, "amqp"),
        ({"CHOREO_BROKER": "kafka://"}, "name the servers"),
        ({"CHOREO_BROKER": "kafka:///staging"}, "name the servers"),
        ({"CHOREO_BROKER": "kafka://k:1/a/b", "CHOREO_STORE": SECRET}, "name the namespace"),
        ({"CHOREO_BROKER": "kafka://k:1/me:secret", "CHOREO_STORE": SECRET}, "the namespace"),
        ({"CHOREO_BROKER": "kafka://k:1"}, "CHOREO_STORE"),
        ({"CHOREO_BROKER": "kafka://k:1", "DATABASE_URL": "mysql://u:secret@h"}, "CHOREO_STORE"),
        ({"CHOREO_STORE": "mysql://user:secret@host"}, "mysql"),
        ({"CHOREO_STORE": "postgresql://"}, "CHOREO_STORE"),
    ],
)
def test_what_is_not_understood_is_refused_and_no_secret_told(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        deployed(clock=ManualClock())
    assert caught.value.code == "CH1014"
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_store_in_a_file_of_its_own_has_a_relay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_BROKER", f"sqlite:///{folder}/log.db")
    monkeypatch.setenv("CHOREO_STORE", f"sqlite:///{folder}/store.db")
    service = Service("desk")
    service.flow("booking", starts=Placed, ends=(Reserved,))

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved(n=placed.n)

    async with App(service) as app:
        assert isinstance(app.broker, SqliteBroker)
        assert isinstance(app.store, SqliteStore)
        assert not app.store.traits.publishes
        flow = await app.publish(Placed(n=7))
        assert await app.outcome(flow, within_s=20) == Reserved(n=7)
    assert (folder / "log.db").exists() == (folder / "store.db").exists() is True
    views = open_views()
    await views.close()


@pytest.mark.parametrize(
    ("module", "extra", "variables"),
    [
        ("asyncpg", "choreo[postgres]", {"CHOREO_STORE": SECRET}),
    ],
)
def test_a_library_that_is_missing_is_named(
    module: str, extra: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in sys.modules if name.startswith("choreo.adapters.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError) as caught:
        deployed(clock=ManualClock())
    assert extra in str(caught.value)
