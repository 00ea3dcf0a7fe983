"""`doctor`: what it finds, what it leaves alone, and that it writes nothing."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from choreo.app import Survey, survey
from choreo.cli.doctor import diagnosed
from tests.cli.conftest import Terminal

NOW = 1_767_225_600.0
MIB = 1 << 20


def told(terminal: Terminal, *arguments: str, code: int = 0) -> list[dict[str, str]]:
    said = terminal.call("doctor", "--json", *arguments)
    assert said.code == code, said
    checks: list[dict[str, str]] = said.json["checks"]
    assert all(one["code"] and one["fix"] for one in checks if one["state"] != "ok")
    return checks


def codes(checks: list[dict[str, str]]) -> list[str]:
    return [one["code"] for one in checks if one["state"] != "ok"]


def changed(terminal: Terminal, *statements: str) -> None:
    with closing(sqlite3.connect(terminal.folder / ".choreo" / "choreo.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_where_nothing_ran_nothing_is_made(terminal: Terminal) -> None:
    assert codes(told(terminal)) == ["CH6002"]
    assert list(terminal.folder.iterdir()) == []


def test_a_store_at_rest_is_well_and_left_as_it_is(served: Terminal) -> None:
    folder = served.folder / ".choreo"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    checks = told(served)
    assert codes(checks) == []
    assert "orders does not run; nothing waits for it" in [one["what"] for one in checks]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert served.call("doctor").out.endswith("✔ all is well\n")
    lines = served.call("doctor", COLUMNS="80").out.splitlines()
    assert max(map(len, lines)) <= 80


def test_a_store_at_work_is_well(shop: Terminal) -> None:
    process = shop.serve("run", "--tracker")
    shop.call("publish", "Placed", "--json", '{"order": "1"}')
    shop.until("completed")
    checks = told(shop)
    assert f"orders runs in process {process.pid}" in " ".join(one["what"] for one in checks)
    assert codes(checks) == []
    shop.end(process)


def test_what_waits_for_nobody_is_named(served: Terminal) -> None:
    served.call("publish", "Placed", "--json", '{"order": "9"}')
    assert set(codes(told(served))) == {"CH6007"}
    changed(
        served,
        "UPDATE inbox SET status = 3, error = 'LookupError: gone'",
        "INSERT INTO timer SELECT x'01', 5.0, min(id), x'', 1, 0, 1 FROM name",
    )
    checks = told(served)
    assert {"CH6007", "CH6010", "CH6011"} == set(codes(checks))
    assert "LookupError: gone" in next(one["what"] for one in checks if one["code"] == "CH6011")


def test_a_file_of_a_newer_version_fails(served: Terminal) -> None:
    changed(served, "PRAGMA user_version = 99")
    assert codes(told(served, code=1)) == ["CH4005"]


def test_a_damaged_file_fails(served: Terminal) -> None:
    file = served.folder / ".choreo" / "choreo.db"
    whole = file.read_bytes()
    size = len(whole) // 4096
    torn = b"".join(
        whole[n * 4096 : (n + 1) * 4096] if n < 3 else bytes(4096) for n in range(size)
    )  # fmt: skip
    file.write_bytes(torn)
    assert codes(told(served, code=1)) == ["CH4003"]
    file.write_text("no database at all " * 100)
    assert codes(told(served, code=1)) == ["CH4003"]


def test_wrong_settings_fail_beside_the_rest(served: Terminal) -> None:
    served.write("pyproject.toml", '[tool.choreo]\nmoduls = ["shop"]\n')
    said = served.call("doctor", "--json", CHOREO_FOO="1")
    assert said.code == 1
    assert codes(said.json["checks"]) == ["CH1014", "CH1014"]


# ── judging ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def seen(served: Terminal) -> Survey:
    folder = served.folder / ".choreo"
    return replace(survey(folder, now=NOW), newest=NOW - 1, disk_free=9000 * MIB)


def judged(seen: Survey, **changes: Any) -> list[tuple[str, str]]:
    looks = diagnosed(replace(seen, **changes), Path("choreo.db"), now=NOW)
    return [(one.state, one.code) for one in looks if one.state != "ok"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"damage": ("row 1 missing",)}, [("fail", "CH4003")]),
        ({"journal_mode": "delete"}, [("warn", "CH6003")]),
        ({"wal_size": 300 * MIB}, [("warn", "CH6004")]),
        ({"disk_free": 500 * MIB}, [("warn", "CH6005")]),
        ({"disk_free": MIB}, [("fail", "CH6005")]),
        ({"newest": NOW + 4}, []),
        ({"newest": NOW + 10}, [("warn", "CH6006")]),
        ({"newest": NOW + 3600}, [("fail", "CH6006")]),
        ({"newest": None}, []),
        ({"parked": (("a.b", 3, 0, None),)}, []),
        ({"parked": (("a.b", 3, 1, NOW - 10),)}, []),
        ({"parked": (("a.b", 3, 1, NOW - 100),)}, [("warn", "CH6010")]),
        ({"timers": (("a.b", 3, 0, NOW + 100),)}, []),
        ({"gates": (("join", 3, NOW - 8 * 86_400),)}, []),
        ({"unknown": 2}, []),
        ({"views": None}, []),
        ({"views": 5, "behind": 10_001}, [("warn", "CH6013")]),
    ],
)
def test_each_thing_is_judged(
    seen: Survey, changes: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert judged(seen, **changes) == expected


def test_groups_are_judged(seen: Survey) -> None:
    group = seen.groups[0]
    table: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
        ({"alive": ("7 1 x",), "lag": {"t-0": 9}}, []),
        ({"alive": ("7 1 x",), "lag": {"t-0": 20_000}}, [("warn", "CH6008")]),
        ({"alive": ("7 1 x",), "lag": {}, "orphaned": ("t-1",)}, [("warn", "CH6009")]),
        ({"alive": (), "gone": ("7 1 x",), "lag": {}}, []),
        ({"alive": (), "gone": ("7 1 x",), "lag": {"t-0": 1}}, [("warn", "CH6007")]),
    ]
    for changes, expected in table:
        changed = replace(group, **{"orphaned": (), **changes})
        assert judged(seen, groups=(changed,)) == expected


def test_only_gates_that_wait_for_something_are_told(served: Terminal) -> None:
    """A scope that was never to be undone stays open, and so do counts: nothing is amiss."""
    with closing(sqlite3.connect(served.folder / ".choreo" / "choreo.db")) as db:
        kinds = ("undo", "visits", "unless", "crash", "join", "expects")
        db.executemany(
            "INSERT INTO gate VALUES (?, 1, 'x', 1, 0, x'', 1)",
            [(kind,) for kind in kinds],
        )
        db.commit()
    found = survey(served.folder / ".choreo", now=NOW)
    assert {kind for kind, _, _ in found.gates} == {"join", "expects"}
