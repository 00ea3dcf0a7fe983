"""Every verb, from the first event to the audit."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from choreo.events import keyed_root_id
from tests.cli.conftest import SHOP, WITHIN_S, Terminal

ESCAPE = "\x1b["
ORDER_1 = keyed_root_id("shop.orders.Placed", "1")


# ── publish ──────────────────────────────────────────────────────────────────────────────


def test_one_event_gives_its_flow(shop: Terminal) -> None:
    said = shop.call("publish", "shop.orders.Placed", "--json", '{"order": "1"}')
    assert said.code == 0
    (flow,) = shop.call("flows", "--json").json
    assert flow["flow"] == said.out.strip()
    assert (flow["status"], flow["key"], flow["steps"]) == ("running", "1", 0)


def test_a_bad_line_is_named_and_the_rest_goes_on(shop: Terminal) -> None:
    lines = ['{"order": "1"}', "", '{"order": "2", "units": "many"}', "nonsense",
             '{"order": "3"}', '{"ordre": "4"}', '{"order": "' + "5" * 2_000_000 + '"}',
             '{"order": "6"}']  # fmt: skip
    shop.write("orders.jsonl", "\n".join(lines))
    said = shop.call("publish", "Placed", "orders.jsonl", "--id", "order")
    assert said.code == 1
    *bad, count = said.err.splitlines()
    assert [line.split(" ")[:3] for line in bad] == [
        ["error:", "CH2001", "orders.jsonl:3:"],
        ["error:", "CH2002", "orders.jsonl:4:"],
        ["error:", "CH2001", "orders.jsonl:6:"],
        ["error:", "CH2002", "orders.jsonl:7:"],
    ]
    assert "units: " in bad[0]
    assert "order: Field required" in bad[2]
    assert count == "published 3 events from orders.jsonl, 4 bad lines"
    assert {flow["key"] for flow in shop.call("flows", "--json").json} == {"1", "3", "6"}


def test_publishing_again_with_the_same_keys_is_harmless(shop: Terminal) -> None:
    shop.write("orders.jsonl", "\n".join(json.dumps({"order": str(n)}) for n in range(600)))
    for _ in range(2):
        said = shop.call("publish", "Placed", "orders.jsonl", "--id", "order")
        assert (said.code, said.err) == (0, "published 600 events from orders.jsonl\n")
    assert len(shop.call("flows", "--json").json) == 600


def test_standard_input_is_a_file_too(shop: Terminal) -> None:
    said = shop.call("publish", "Placed", "-", stdin='{"order": "1"}\n{"order": "2"}\n')
    assert (said.code, said.err) == (0, "published 2 events from standard input\n")


def test_a_file_that_is_not_there_is_named(shop: Terminal) -> None:
    said = shop.call("publish", "Placed", "nothing.jsonl")
    assert said.code == 1
    assert said.err == (
        "error: CH1018 nothing.jsonl can not be read: No such file or directory."
        " Fix: name a readable file\n"
    )


# ── flows ────────────────────────────────────────────────────────────────────────────────


def test_where_nothing_is_nothing_is_made(terminal: Terminal) -> None:
    assert terminal.call("flows", "--json").json == []
    said = terminal.call("flows")
    assert (said.code, said.out) == (0, "")
    assert "there is no log at .choreo/choreo.db yet" in said.err
    assert terminal.call("flow", "1").code == 1
    assert terminal.call("audit").code == 1
    assert list(terminal.folder.iterdir()) == []


def test_flows_are_listed_for_people_and_programs(served: Terminal) -> None:
    flows = served.call("flows", "--json").json
    assert {flow["key"]: flow["end"] for flow in flows} == {
        "1": "shop.orders.Done", "2": "shop.orders.Done", "3": "shop.orders.Gone",
    }  # fmt: skip
    for flow in flows:
        assert flow["name"] == "order"
        assert (flow["retries"], flow["compensations"], flow["dead"], flow["steps"]) == (0, 0, 0, 2)
        assert (flow["overdue"], flow["stuck"]) == (False, False)
        assert 0 <= flow["duration_s"] < 60
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", flow["started"])
    shown = served.call("flows")
    assert shown.out.count("✔ completed") == 3
    assert ESCAPE not in shown.out
    assert "Done" not in shown.out
    assert ORDER_1 in served.call("flows", COLUMNS="140").out
    assert "Done" in served.call("flows", COLUMNS="140").out


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["--status", "completed"], "123"),
        (["--status", "failed,running"], ""),
        (["--name", "order"], "123"),
        (["--name", "other"], ""),
        (["--since", "1h"], "123"),
        (["--since", "2999-01-01"], ""),
        (["--search", "Gone"], "3"),
        (["--search", "2"], "2"),
        (["--search", ORDER_1], "1"),
    ],
)
def test_flows_are_filtered(served: Terminal, arguments: list[str], keys: str) -> None:
    found = served.call("flows", "--json", *arguments).json
    if arguments == ["--search", "2"]:  # a key, but the beginning of ids too
        assert "2" in {flow["key"] for flow in found}
    else:
        assert sorted(flow["key"] for flow in found) == list(keys)


def test_a_limit_says_that_there_is_more(served: Terminal) -> None:
    said = served.call("flows", "--limit", "2")
    assert said.out.count("completed") == 2
    assert "--limit 0 lists all" in said.err


# ── flow ─────────────────────────────────────────────────────────────────────────────────


def test_a_flow_is_drawn_as_a_tree(served: Terminal) -> None:
    said = served.call("flow", "3")
    lines = said.out.splitlines()
    assert lines[0] == "✔ completed  order  3  → Gone"
    assert lines[3] == "● Placed  app"
    assert lines[4].startswith("└── ✘ Refused  stock.reserve  ")
    assert lines[5].startswith("    └── ✘ Gone  orders.cancel  ")
    assert ESCAPE not in said.out
    assert served.call("flow", ORDER_1).out.startswith("✔ completed  order  1")
    assert served.call("flow", ORDER_1[:20]).out.startswith("✔ completed  order  1")


def test_a_flow_is_told_to_programs(served: Terminal) -> None:
    flow = served.call("flow", "1", "--json").json
    assert flow["status"] == "completed"
    assert [event["type"].rsplit(".")[-1] for event in flow["events"]] == [
        "Placed", "Reserved", "Done",
    ]  # fmt: skip
    assert [step["handler"] for step in flow["steps"]] == ["stock.reserve", "orders.complete"]
    assert flow["steps"][0]["attempts"][0]["state"] == "done"
    assert (flow["missing"], flow["anomalies"]) == ([], [])


def test_a_flow_that_is_not_there_is_said(served: Terminal) -> None:
    said = served.call("flow", "nobody")
    assert (said.code, said.out) == (1, "")
    assert "'nobody'" in said.err


def test_colours_are_for_terminals_that_want_them(served: Terminal) -> None:
    assert ESCAPE in served.call("flow", "1", FORCE_COLOR="1").out
    plain = served.call("flow", "1", FORCE_COLOR="1", NO_COLOR="1").out
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)


def test_what_is_missing_is_said_with_its_reason(shop: Terminal) -> None:
    process = shop.start("run", "shop:orders")  # nobody reserves
    assert process.stdout is not None
    assert "running orders on" in process.stdout.readline()
    shop.call("publish", "Placed", "--json", '{"order": "1"}')
    said = shop.call("flow", "1").out
    assert said.startswith("▶ running  order  1")
    assert "waiting for" not in said  # that service has never said that it exists
    other = shop.start("run", "shop:stock", "--folder", "elsewhere")
    assert other.stdout is not None
    assert "running stock on elsewhere/choreo.db" in other.stdout.readline()
    shop.end(process)
    shop.end(other)


def test_watching_ends_with_the_flow(shop: Terminal) -> None:
    shop.call("publish", "Placed", "--json", '{"order": "1"}')
    watching = shop.start("flow", "1", "--watch")
    assert watching.stdout is not None
    assert "running" in watching.stdout.readline()
    process = shop.serve("run")
    out, _ = watching.communicate(timeout=WITHIN_S)
    assert watching.returncode == 0
    assert "✔ completed" in out
    shop.end(process)


# ── run, tracker, dev ────────────────────────────────────────────────────────────────────


def test_settings_go_flag_then_environment_then_file(shop: Terminal) -> None:
    shop.write("pyproject.toml", '[tool.choreo]\nmodules = ["shop"]\nfolder = "from-file"\n')
    event = ("publish", "Placed", "--json", '{"order": "1"}')
    from_environment = {"CHOREO_BROKER": "sqlite:///from-environment/choreo.db"}
    for folder, more, environment in (
        ("from-file", (), {}),
        ("from-environment", (), from_environment),
        ("from-flag", ("--folder", "from-flag"), from_environment),
    ):
        assert not (shop.folder / folder).exists()
        assert shop.call(*event, *more, **environment).code == 0
        assert (shop.folder / folder / "choreo.db").exists()
        assert len(shop.call("flows", "--json", *more, **environment).json) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_tracker_follows_until_it_is_told_to_go(served: Terminal, number: int) -> None:
    tracker = served.serve("tracker")
    served.call("publish", "Placed", "--json", '{"order": "9"}')
    assert len(served.call("flows", "--json").json) == 4
    tracker.send_signal(number)
    assert tracker.wait(WITHIN_S) == 0


def test_a_second_signal_ends_a_tracker_at_once(served: Terminal) -> None:
    tracker = served.serve("tracker")
    os.kill(tracker.pid, signal.SIGSTOP)  # so that both have come when it goes on
    tracker.send_signal(signal.SIGTERM)
    tracker.send_signal(signal.SIGINT)
    os.kill(tracker.pid, signal.SIGCONT)
    assert tracker.wait(WITHIN_S) == 1
    assert served.call("flows", "--json").code == 0


def test_development_starts_again_after_a_change(shop: Terminal) -> None:
    process = shop.start("dev")
    assert process.stdout is not None
    assert "running orders, stock and the tracker" in process.stdout.readline()
    shop.call("publish", "Placed", "--json", '{"order": "1"}')
    shop.until("completed")
    changed(shop.folder / "shop.py", SHOP.replace("> 9", "> 99"))
    assert "has changed: starting again" in process.stdout.readline()
    assert "running" in process.stdout.readline()
    changed(shop.folder / "shop.py", "def broken(:\n")
    said = [process.stdout.readline() for _ in range(3)]
    assert "has changed" in said[0]
    assert "CH1001" in said[1]
    assert "waiting for a change" in said[2]
    changed(shop.folder / "shop.py", SHOP)
    assert "has changed" in process.stdout.readline()
    assert "running" in process.stdout.readline()
    shop.end(process)


def changed(path: Path, text: str) -> None:
    """Write a file so that its time differs, whatever the clock's grain."""
    later = path.stat().st_mtime_ns + 1_000_000_000
    other = path.with_suffix(".new")  # put in its place in one: else it may be seen to change twice
    other.write_text(text, encoding="utf-8")
    os.utime(other, ns=(later, later))
    other.replace(path)


# ── audit ────────────────────────────────────────────────────────────────────────────────


def test_an_audit_finds_nothing_where_nothing_is_wrong(served: Terminal) -> None:
    said = served.call("audit", "--json")
    assert said.code == 0, said
    assert said.json["violations"] == []
    assert said.json["checked"]["flows"] == 3
    assert "✔ no violations" in served.call("audit").out


def test_a_violation_exits_with_1(served: Terminal) -> None:
    served.write("rules.py", "def never(evidence):\n    yield f'{len(evidence.history)} records'\n"
                 "def fails(evidence):\n    return 1 / 0\n")  # fmt: skip
    served.write("pyproject.toml", '[tool.choreo]\ninvariants = ["rules:never", "rules:fails"]\n')
    said = served.call("audit", "--json")
    assert said.code == 1
    never, fails = said.json["violations"]
    assert never.startswith("never: ")
    assert "ZeroDivisionError" in fails
    assert served.call("audit").out.startswith("✘ never: ")
    served.write("pyproject.toml", '[tool.choreo]\ninvariants = ["rules:nothing"]\n')
    assert served.call("audit").err.startswith("error: CH1001 ")


def test_flows_on_their_way_are_a_violation_only_at_rest(shop: Terminal) -> None:
    process = shop.serve("run")
    shop.end(process)
    shop.call("publish", "Placed", "--json", '{"order": "1"}')
    assert shop.call("audit").code == 1
    assert shop.call("audit", "--running").code == 0
