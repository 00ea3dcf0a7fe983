"""`choreo schemas`: generate, check, register; what each says, and with which exit code."""

import json
from collections.abc import Iterator

import pytest

from choreo.testing.servers.registry import RegistryServer
from tests.cli.conftest import SHOP, Terminal


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


def test_a_version_is_added_only_when_the_class_has_changed(shop: Terminal) -> None:
    said = shop.call("schemas", "generate")
    assert said.code == 0
    assert said.out.endswith("5 versions added; 5 events owned\n")
    assert "schemas/shop.orders.Placed.v1.avsc" in said.out
    assert shop.call("schemas", "generate", "--json").json == {"added": []}
    assert shop.call("schemas", "check").out == "✔ nothing found; checked 5 events, 5 versions\n"
    shop.write("shop.py", SHOP.replace("units: int = 1", "units: int = 1\n    note: str = ''"))
    said = shop.call("schemas", "check")
    assert said.code == 1
    assert "✘ CH1120  shop.orders.Placed\n" in said.out
    assert shop.call("schemas", "generate", "--json").json == {
        "added": [{"file": "schemas/shop.orders.Placed.v2.avsc"}]
    }
    assert shop.call("schemas", "check").code == 0


def test_a_change_that_breaks_readers_is_told_in_words(shop: Terminal) -> None:
    assert shop.call("schemas", "generate").code == 0
    shop.write("shop.py", SHOP.replace("    units: int = 1", "    units: int = 1\n    note: str"))
    said = shop.call("schemas", "check", "--json")
    assert said.code == 1
    broken = [one for one in said.json["findings"] if one["code"] == "CH1121"]
    assert [(one["type"], one["field"]) for one in broken] == [("shop.orders.Placed", "note")]
    assert broken[0]["what"] == (
        "version 2 can not read version 1: note is no field of version 1, version 2 requires it"
    )
    assert broken[0]["fix"].startswith("give the new field a default")
    assert "\n  Fix: give the new field a default" in shop.call("schemas", "check").out


def test_a_field_without_a_form_is_one_line(shop: Terminal) -> None:
    shop.write("shop.py", SHOP.replace("units: int = 1", "units: dict[int, str] = {}"))
    for verb in ("generate", "check"):
        said = shop.call("schemas", verb)
        assert said.code == 1
        assert said.err.startswith("error: CH1040 ")
        assert "event=shop.orders.Placed, field=units" in said.err


def test_all_versions_are_registered_and_nothing_else(
    shop: Terminal, server: RegistryServer
) -> None:
    url = server.url
    said = shop.call("schemas", "register", SCHEMA_REGISTRY_URL=url)
    assert said.code == 1
    assert "CH1120" in said.err
    assert shop.call("schemas", "generate").code == 0
    said = shop.call("schemas", "register", "--json", SCHEMA_REGISTRY_URL=url)
    assert said.code == 0
    done = said.json["registered"]
    assert [one["id"] for one in done] == [1, 2, 3, 4, 5]
    assert "shop.orders-shop.orders.Placed" in {one["subject"] for one in done}
    assert {one.split()[0] for one in server.asked} == {"POST"}
    assert all(one.endswith("/versions") for one in server.asked)
    again = shop.call("schemas", "register", "--json", SCHEMA_REGISTRY_URL=url)
    assert again.json == said.json


def test_a_registry_that_refuses_or_is_not_there_is_one_line(
    shop: Terminal, server: RegistryServer
) -> None:
    assert shop.call("schemas", "generate").code == 0
    shop.write("shop.py", SHOP.replace("    units: int = 1", "    units: int = 1\n    note: str"))
    assert shop.call("schemas", "generate").code == 0
    said = shop.call("schemas", "register", SCHEMA_REGISTRY_URL=server.url)
    assert (said.code, said.err[:13]) == (1, "error: CH2009")
    said = shop.call("schemas", "register", SCHEMA_REGISTRY_URL="http://127.0.0.1:1")
    assert (said.code, said.err[:13]) == (1, "error: CH2011")
    said = shop.call("schemas", "register")
    assert (said.code, said.err[:13]) == (1, "error: CH1014")


def test_wrong_calls_are_two(shop: Terminal) -> None:
    assert shop.call("schemas", "nonsense").code == 2
    assert shop.call("schemas", "check", "--nonsense").code == 2


def test_flows_run_in_avro_from_the_command_line(shop: Terminal) -> None:
    shop.write(".env", "CHOREO_CODEC=avro\n")
    said = shop.call("run")
    assert (said.code, "CH1041" in said.err) == (1, True)
    assert shop.call("schemas", "generate").code == 0
    process = shop.serve("run", "--tracker")
    flow = shop.call("publish", "Placed", "--json", '{"order": "1"}')
    assert flow.code == 0, flow.err
    assert len(shop.until("completed")) == 1
    shop.end(process)
    assert shop.call("audit").code == 0
    shown = shop.call("config", "show", "--json")
    settings = {one["name"]: (one["value"], one["where"]) for one in shown.json["settings"]}
    assert settings["codec"] == ("avro", ".env CHOREO_CODEC")
    assert settings["schemas"] == ("schemas", "default")
    assert json.loads(shown.out)["wrong"] == []
