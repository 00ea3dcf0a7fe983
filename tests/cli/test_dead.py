"""`dead`: what was given up, and what an operator has done about it."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Terminal

DESK = """
from typing import Annotated

from choreo import Context, Event, Retry, Secret, Service


class Placed(Event, topic="desk.placed", key="k"):
    k: str
    n: int = 0
    card: Annotated[str, Secret] = "4111"


class Taken(Event, topic="desk.taken", key="k"):
    k: str


desk = Service("desk")


@desk.on(Placed, retry=Retry(attempts_max=1))
async def take(placed: Placed, ctx: Context) -> Taken:
    if placed.n == 1:
        raise ValueError("no room \\x1b[31m for it")
    if placed.n == 2:
        await ctx.once("charge", charge, returns=int, at_most=True)
    return Taken(k=placed.k)


def charge() -> int:
    raise ConnectionError("no answer")


order = desk.flow("order", starts=Placed, ends=Taken)
"""
WELL = DESK.replace("placed.n == 1", "placed.n == 99")
WHY = ("--reason", "the room is there now", "--by", "ana")


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """A desk with a dead letter of each kind: 1 failed, 2 unknown."""
    terminal.write("desk.py", DESK)
    terminal.write("pyproject.toml", '[tool.choreo]\nmodules = ["desk"]\n')
    for n in (1, 2):
        text = json.dumps({"k": f"key-{n}", "n": n, "card": "4242"})
        assert terminal.call("publish", "Placed", "--json", text).code == 0
    running = terminal.serve("run")
    terminal.wait(lambda: len(letters(terminal)) == 2)
    terminal.end(running)
    return terminal


def letters(terminal: Terminal, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = terminal.call("dead", "ls", "--json", *arguments).json
    return found


def the(terminal: Terminal, key: str) -> str:
    (found,) = [one["id"] for one in letters(terminal, "--all") if one["key"] == key]
    return str(found)


def test_none_is_no_error(terminal: Terminal) -> None:
    said = terminal.call("dead", "ls")
    assert (said.code, said.out) == (0, "")
    assert "no log" in said.err
    assert terminal.call("dead", "ls", "--json").json == []
    said = terminal.call("dead", "show", "x")
    assert said.code == 1
    assert said.err.startswith("error: CH1016")


@pytest.mark.parametrize("columns", ["80", "120"])
def test_they_are_listed_in_lines_that_fit(desk: Terminal, columns: str) -> None:
    said = desk.call("dead", "ls", COLUMNS=columns)
    assert said.code == 0
    head, *rows = said.out.splitlines()
    assert head.split()[:4] == ["id", "died", "step", "key"]
    assert len(rows) == 2
    assert all(len(line) <= int(columns) for line in (head, *rows))
    assert "\x1b[31m" not in said.out
    assert "desk.take" in rows[0]
    assert "2 dead letters" in said.err


def test_they_are_found_by_service_error_and_time(desk: Terminal) -> None:
    assert [one["key"] for one in letters(desk)] == ["key-2", "key-1"]
    assert [one["key"] for one in letters(desk, "--error", "valueerror")] == ["key-1"]
    assert [one["key"] for one in letters(desk, "--error", "CH5013")] == ["key-2"]
    assert letters(desk, "--service", "nobody") == []
    assert len(letters(desk, "--service", "desk", "--since", "1h")) == 2
    assert letters(desk, "--since", "2999-01-01") == []


def test_one_is_shown_without_its_secrets(desk: Terminal) -> None:
    own = the(desk, "key-1")
    said = desk.call("dead", "show", own)
    assert said.code == 0
    assert "4242" not in said.out + said.err
    assert '"card": "***"' in said.out
    assert "ValueError: no room" in said.out
    assert "4242" in desk.call("dead", "show", own, "--payload").out
    found = desk.call("dead", "show", own[:20], "--json").json
    assert (found["payload"]["card"], found["step"], found["state"]) == ("***", "desk.take", "dead")
    desk.write("pyproject.toml", "")
    said = desk.call("dead", "show", own)
    assert "4242" not in said.out
    assert "--payload" in said.err
    unknown = desk.call("dead", "show", the(desk, "key-2"))
    assert "outcome of charge" in unknown.out


def test_without_yes_nothing_is_done(desk: Terminal) -> None:
    own = the(desk, "key-1")
    said = desk.call("dead", "redrive", own, *WHY)
    assert said.code == 0
    assert said.out.startswith(f"would redrive {own}")
    assert "add --yes" in said.err
    assert the(desk, "key-1") == own
    assert {one["state"] for one in letters(desk, "--all")} == {"dead"}


def test_a_redrive_is_done_when_the_service_runs(desk: Terminal) -> None:
    own = the(desk, "key-1")
    desk.write("desk.py", WELL)
    said = desk.call("dead", "redrive", own, *WHY, "--yes")
    assert (said.code, said.out.split()[:2]) == (0, ["asked", own])
    running = desk.serve("run")
    desk.wait(lambda: len(letters(desk)) == 1)
    desk.wait(lambda: any(one["now"] == "done" for one in letters(desk, "--all")))
    (found,) = [one for one in letters(desk, "--all") if one["id"] == own]
    assert found["state"] == "redriven"
    (note,) = found["notes"]
    assert (note["by"], note["reason"]) == ("ana", "the room is there now")
    again = desk.call("dead", "redrive", own, *WHY, "--yes")
    assert again.code == 1
    assert again.err.startswith("error: CH1031")
    assert "by ana" in again.err
    desk.end(running)
    assert desk.call("audit", "--running").code == 0


def test_all_of_an_error_are_discarded_at_once_while_the_service_runs(desk: Terminal) -> None:
    running = desk.serve("run")
    said = desk.call("dead", "discard", "--all", "--error", "ValueError", *WHY, "--yes")
    assert said.code == 0
    assert "discarded" in said.out
    assert [one["key"] for one in letters(desk)] == ["key-2"]
    desk.end(running)


def test_an_unknown_outcome_needs_an_answer(desk: Terminal) -> None:
    own = the(desk, "key-2")
    for verb in ("redrive", "discard"):
        said = desk.call("dead", verb, own, *WHY, "--yes")
        assert said.code == 1
        assert len(said.err.splitlines()) == 1
        assert said.err.startswith("error: CH1031")
        assert "--answer charge=" in said.err
    many = desk.call("dead", "redrive", "--all", *WHY)
    assert many.code == 0
    assert f"left out: {own}" in many.err
    running = desk.serve("run")
    said = desk.call("dead", "redrive", own, "--answer", "charge=7", *WHY, "--yes")
    assert said.code == 0
    assert "redriven" in said.out
    desk.wait(lambda: any(one["now"] == "done" for one in letters(desk, "--all")))
    desk.end(running)


def test_an_edit_runs_another_value(desk: Terminal) -> None:
    own = the(desk, "key-1")
    desk.write("new.json", '{"k": "key-1", "n": 5}')
    running = desk.serve("run")
    said = desk.call("dead", "redrive", own, "--edit", "new.json", *WHY, "--yes")
    assert said.code == 0
    assert "edited" in said.out
    (found,) = [one for one in letters(desk, "--all") if one["id"] == own]
    assert found["state"] == "edited"
    assert desk.call("dead", "show", own).code == 0
    desk.end(running)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["show", "ffff"], 1, "error: CH1030"),
        (["redrive", "ffff", *WHY], 1, "error: CH1030"),
        (["redrive", "", *WHY], 1, "error: CH1030"),
        (["redrive", *WHY], 2, "Usage"),
        (["redrive", "x", "--all", *WHY], 2, "Usage"),
        (["redrive", "x"], 2, "Usage"),
        (["discard", "x"], 2, "Usage"),
        (["redrive", "x", "--answer", "nonsense", *WHY], 2, "Usage"),
        (["redrive", "x", "--answer", "a=nonsense", *WHY], 2, "Usage"),
        (["redrive", "x", "--answer", "a=NaN", *WHY], 2, "Usage"),
        (["redrive", "x", "--answer", 'a={"b": 1, "b": 2}', *WHY], 2, "Usage"),
        (["redrive", "x", "--answer", "a=1", "--answer", "a=2", *WHY], 2, "Usage"),
        (["redrive", "x", "y", "--answer", "a=1", *WHY], 2, "Usage"),
        (["redrive", "x", "--edit", "nowhere.json", *WHY], 1, "error: CH1018"),
        (["ls", "--since", "yesterday"], 2, "Usage"),
    ],
)
def test_wrong_calls_are_told_in_a_line(
    terminal: Terminal, arguments: list[str], code: int, line: str
) -> None:
    terminal.write("desk.py", DESK)
    assert terminal.call("publish", "Placed", "-m", "desk", "--json", '{"k": "x"}').code == 0
    said = terminal.call("dead", *arguments)
    assert said.code == code
    assert said.err.startswith(line)


def test_a_beginning_that_several_have_is_refused(desk: Terminal) -> None:
    ids = [str(one["id"]) for one in letters(desk)]
    shared = "".join(a for a, b in zip(*ids, strict=True) if a == b)[:1]
    said = desk.call("dead", "show", shared)
    assert said.code == 1
    assert "may be any of" in said.err
