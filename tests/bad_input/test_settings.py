"""A wrong setting, wherever it stands: one line that says which, where, and what to do."""

import math
import os
from pathlib import Path
from typing import Any

import pytest

from choreo import App, ConfigurationError, Retry, Service
from choreo.cli.settings import Settings
from choreo.environment import adopt_dotenv
from choreo.worker import Limits
from tests.cli.conftest import Terminal
from tests.cli.test_wrong_calls import one_line
from tests.semantics.events import Paid, Placed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty folder to work in, and an environment that is put back."""
    monkeypatch.chdir(tmp_path)
    before = {name: value for name, value in os.environ.items() if "CHOREO" not in name}
    monkeypatch.setattr(os, "environ", before)
    return tmp_path


def begin() -> None:
    """Do what every verb does first."""
    adopt_dotenv()
    Settings().check()


def refused(folder: Path, dotenv: str = "", table: str = "") -> ConfigurationError:
    """Read the settings, which must be refused; give why."""
    (folder / ".env").write_text(dotenv, encoding="utf-8")
    (folder / "pyproject.toml").write_text(f"[tool.choreo]\n{table}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        begin()
    assert caught.value.code == "CH1014"
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("dotenv", "words"),
    [
        ("A=1\nno line", ["file=.env", "line=2"]),
        ("A='never closed", ["file=.env", "line=1"]),
        ("=1", ["line=1"]),
        ("CHOREO_BROKR=x", ["CHOREO_BROKR", "line=1", "did you mean CHOREO_BROKER?"]),
        ("CHOREO_STORE=mysql://me:secret@host", ["CHOREO_STORE", "'mysql'", "postgresql://"]),
        ("CHOREO_BROKER=amqp://me:secret@host", ["CHOREO_BROKER", "'amqp'", "sqlite:///"]),
        ("CHOREO_BROKER=kafka://me:secret@host", ["CHOREO_BROKER", "'kafka'", "KAFKA_SASL"]),
        ("CHOREO_BROKER=sqlite:///", ["CHOREO_BROKER"]),
    ],
)
def test_a_wrong_line_of_dotenv_is_named(folder: Path, dotenv: str, words: list[str]) -> None:
    said = str(refused(folder, dotenv=dotenv))
    for word in words:
        assert word in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('module = ["shop"]', ["[tool.choreo] module ", "did you mean modules?"]),
        ("flavour = 7", ["flavour", "broker, folder, invariants, modules, store"]),
        ('modules = "shop"', ["modules is no list"]),
        ('modules = ["shop", ""]', ["modules is no list"]),
        ("folder = 7", ["folder is no text"]),
        ("invariants = [7]", ["invariants is no list"]),
    ],
)
def test_a_wrong_entry_of_pyproject_is_named(folder: Path, table: str, words: list[str]) -> None:
    said = str(refused(folder, table=table))
    assert "pyproject.toml" in said
    for word in words:
        assert word in said


def test_a_variable_that_nobody_reads_is_named(folder: Path) -> None:
    os.environ["CHOREO_MODULS"] = "shop"
    said = str(refused(folder))
    assert "CHOREO_MODULS" in said
    assert "did you mean CHOREO_MODULES?" in said
    del os.environ["CHOREO_MODULS"]
    os.environ["CHOREO_TEST_POSTGRES"] = "elsewhere"  # for tests: no setting of ours
    Settings().check()


def test_a_setting_is_taken_from_the_first_place_that_has_it(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[tool.choreo]\nfolder = "table"\nmodules = ["table"]\n')
    (folder / ".env").write_text(
        "# of one machine\nexport CHOREO_BROKER='sqlite:///dotenv/choreo.db' # quoted\n"
        "\nCHOREO_MODULES=dotenv  # plain\nSHOP_SEED = 7\n"
    )

    def found(settings: Settings) -> list[tuple[str, str]]:
        settings.check()
        return [(one.value, one.where) for one in settings.shown()]

    assert found(Settings())[:4] == [
        (str(Path("table/choreo.db")), "[tool.choreo] folder"),
        ("table", "[tool.choreo] modules"),
        ("", "default"),
        (str(Path("table/choreo.db")), "default"),
    ]
    adopt_dotenv()
    assert found(Settings())[:2] == [
        (str(Path("dotenv/choreo.db")), ".env CHOREO_BROKER"),
        ("dotenv", ".env CHOREO_MODULES"),
    ]
    assert os.environ["SHOP_SEED"] == "7"  # the services' own settings, too
    os.environ["CHOREO_MODULES"] = "environment, more"
    adopt_dotenv()
    assert found(Settings())[1] == ("environment more", "CHOREO_MODULES")
    flags = Settings(Path("flag"), ("flag",))
    assert found(flags)[:2] == [(str(Path("flag/choreo.db")), "flag"), ("flag", "flag")]


def test_every_verb_refuses_what_is_wrong(shop: Terminal) -> None:
    shop.write(".env", "CHOREO_MODULE=shop\n")
    assert "CHOREO_MODULES?" in one_line(shop.call("flows"), "CH1014")
    shop.write(".env", "CHOREO_BROKER=sqlite:///from-dotenv/choreo.db\n")
    assert shop.call("publish", "Placed", "--json", '{"order": "1"}').code == 0
    assert (shop.folder / "from-dotenv" / "choreo.db").exists()
    shop.write("a-file", "")
    assert "a-file" in one_line(shop.call("run", "--folder", "a-file"), "CH4004")
    assert "a-file" in one_line(shop.call("tracker", "--folder", "a-file/below"), "CH4004")


@pytest.mark.parametrize(
    "limits",
    [
        {"runners_max": 0},
        {"runners_max": 2.5},
        {"batch_max": "many"},
        {"poll_max": True},
        {"committers": -1},
        {"in_flight_max": None},
        {"drain_s": -1},
        {"outage_s": 0},
        {"commit_every_s": math.nan},
        {"drain_s": math.inf},
        {"gc_threshold": 0},
    ],
)
def test_a_limit_that_no_worker_can_keep_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Limits(**limits)
    assert caught.value.code == "CH1011"
    assert next(iter(limits)) in str(caught.value)
    assert caught.value.fix
    Limits(drain_s=0, gc_threshold=None, switch_interval_s=None)


@pytest.mark.parametrize(
    "policy",
    [
        {"attempts_max": "5"},
        {"attempts_max": 2.5},
        {"attempts_max": True},
        {"first_s": "1"},
        {"first_s": math.nan},
        {"longest_s": math.inf},
        {"factor": math.inf},
        {"jitter": 2},
        {"never": ("ValueError",)},
        {"never": (ValueError("x"),)},
    ],
)
def test_a_schedule_that_nothing_can_be_made_of_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Retry(**policy)
    assert caught.value.code == "CH1011"
    assert next(iter(policy)) in str(caught.value)
    Retry(never=(ValueError, OSError), longest_s=0)


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"timeout_s": "5"}, {"timeout_s": math.inf}, {"retry": 5}]
)
def test_an_option_of_a_decorator_that_is_wrong_is_refused(options: dict[str, Any]) -> None:
    desk = Service("desk")
    with pytest.raises(ConfigurationError) as caught:

        @desk.on(Placed, **options)
        async def pay(placed: Placed) -> Paid:
            return Paid(k=placed.k)

    assert caught.value.code == "CH1011"
    assert "desk.pay" in str(caught.value)
    assert not desk.handlers


def test_an_app_names_what_does_not_fit(folder: Path) -> None:
    os.environ["CHOREO_BROKER"] = "carrier-pigeon://loft"
    with pytest.raises(ConfigurationError) as caught:
        App()
    assert caught.value.code == "CH1014"


def test_broker_and_store_stand_in_pyproject_and_the_environment_goes_before(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(
        '[tool.choreo]\nbroker = "sqlite:///t/log.db"\nstore = "postgresql://me:secret@h/d"\n'
    )
    settings = Settings()
    settings.check()
    shown = {one.name: (one.value, one.where) for one in settings.shown()}
    assert shown["database"] == ("t/log.db", "[tool.choreo] broker")
    assert shown["store"] == ("postgresql://…", "[tool.choreo] store")
    assert os.environ["CHOREO_STORE"] == "postgresql://me:secret@h/d"  # for what it starts
    os.environ["CHOREO_STORE"] = "sqlite:///own.db"
    shown = {one.name: (one.value, one.where) for one in Settings().shown()}
    assert shown["store"] == ("own.db", "CHOREO_STORE")
