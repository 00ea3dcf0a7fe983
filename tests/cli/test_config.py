"""`config show`: what holds, where it comes from, and all that is wrong."""

import pytest

from choreo.cli.configuring import hidden
from tests.cli.conftest import Terminal


def rows(shop: Terminal, *arguments: str, **environment: str) -> dict[str, tuple[str, str]]:
    said = shop.call("config", "show", "--json", *arguments, **environment)
    assert said.code == 0, said
    assert said.json["wrong"] == []
    return {one["name"]: (one["value"], one["where"]) for one in said.json["settings"]}


AVRO = {
    "codec": ("json", "default"),
    "schemas": ("", "default"),
    "registry": ("", "default"),
    "register": ("", "default"),
    "recursion": ("", "default"),
}


def test_every_setting_says_where_it_comes_from(shop: Terminal) -> None:
    assert rows(shop) == {
        "database": (".choreo/choreo.db", "default"),
        "modules": ("shop", "[tool.choreo] modules"),
        "invariants": ("", "default"),
        "store": (".choreo/choreo.db", "default"),
        **AVRO,
        "health": ("", "default"),
        "telemetry": ("0", "default"),
    }
    assert rows(shop, "--folder", "here")["database"] == ("here/choreo.db", "flag")
    shop.write(".env", "CHOREO_MODULES=a b\nCHOREO_INVARIANTS=x:y\nCHOREO_HEALTH=8081\n")
    assert rows(shop)["modules"] == ("a b", ".env CHOREO_MODULES")
    found = rows(shop, CHOREO_MODULES="c", CHOREO_BROKER="sqlite:///there/choreo.db")
    assert found == {
        "database": ("there/choreo.db", "CHOREO_BROKER"),
        "modules": ("c", "CHOREO_MODULES"),
        "invariants": ("x:y", ".env CHOREO_INVARIANTS"),
        "store": ("there/choreo.db", "default"),
        **AVRO,
        "health": ("8081", ".env CHOREO_HEALTH"),
        "telemetry": ("0", "default"),
    }


def test_people_are_told_what_it_is_for(shop: Terminal) -> None:
    said = shop.call("config", "show", COLUMNS="120")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[:14] == [
        "database  from default",
        "  where the log is; by default the stores are in its file, views.db beside",
        "    .choreo/choreo.db",
        "modules  from [tool.choreo] modules",
        "  modules that declare services, where none are named",
        "    shop",
        "invariants  not set",
        "  your own checks, module:function, which audit runs too",
        "store  from default",
        "  where steps are recorded; by default in the log's file",
        "    .choreo/choreo.db",
        "codec  from default",
        "  what values are written as; what they are read as, each says itself",
        "    json",
    ]
    assert lines[-5:] == [
        "health  not set",
        "  where /livez, /readyz, /startupz and /metrics are served",
        "telemetry  from default",
        "  whether traces and metrics leave the process",
        "    0",
    ]
    assert max(map(len, shop.call("config", "show", COLUMNS="80").out.splitlines())) <= 80


def test_all_that_is_wrong_is_named(shop: Terminal) -> None:
    shop.write("pyproject.toml", '[tool.choreo]\nmoduls = ["shop"]\nfolder = 7\n')
    said = shop.call("config", "show", CHOREO_BROKR="x", CHOREO_COLOR="y")
    assert said.code == 1
    lines = said.out.splitlines()
    assert all(line.startswith("✘ CH1014 ") for line in lines)
    for word in ("moduls", "folder is no text", "CHOREO_BROKR", "CHOREO_COLOR"):
        assert sum(word in line for line in lines) == 1, (word, lines)
    shop.write("pyproject.toml", "[tool.choreo\n")
    assert len(shop.call("config", "show", "--json").json["wrong"]) == 1
    shop.write("pyproject.toml", "")
    shop.write(".env", "CHOREO_WHAT=1\n")
    assert "CHOREO_WHAT" in shop.call("config", "show").out
    said = shop.call("config", "show", CHOREO_BROKER="carrier-pigeon://a:secret@b")
    assert "secret" not in said.out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hush@host/db", "postgresql://me:***@host/db"),
        ("kafka://host:9092", "kafka://host:9092"),
        ("kafka://host:9092/staging", "kafka://host:9092/staging"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("x://:hush@host", "x://:***@host"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert hidden(text) == shown
