"""`simulate`: what it is asked, what it says, and how what it found is found again."""

import hashlib
import re

import pytest

from tests.cli.conftest import Terminal

SCENARIO = """
from random import random

from shop import Placed, orders, stock


def scenario(world):
    for number in range(4):
        world.publish(Placed(order=str(number), units=3 * number + 1), id=str(number))
    world.run(hours=1)


def single(world):
    world.publish(Placed(order="1"), id="1")
    world.run(hours=1)


def unseeded(world):
    world.publish(Placed(order=f"{random()}"), id="1")
    world.run(hours=1)


def wrong(world):
    raise LookupError("no such order")


def unlucky(evidence):
    placed = [one.key for one in evidence.history if one.headers["ce_type"].endswith(".Placed")]
    for key in placed:
        if placed.count(key) > 1:
            yield f"order {key.decode()}: it came twice"


number = 7
"""
UNLUCKY = '[tool.choreo]\nmodules = ["scenarios"]\ninvariants = ["scenarios:unlucky"]\n'
EACH = """
from choreo.testing.simulation import Case, Trial
from scenarios import orders, scenario, stock

for seed in (1, 2):
    print(Trial([orders, stock], scenario).run(Case(seed)).history_hash)
"""
LOSES = """
import shop
from shop import *
from choreo import Service

stock = Service("stock")
kept = []


@stock.on(Placed)
async def reserve(placed: Placed) -> Reserved | None:
    if placed.units > 3:
        return None  # forgotten: nobody is told
    return Reserved(order=placed.order)


def scenario(world):
    world.publish(Placed(order="1"), id="1")
    world.publish(Placed(order="2", units=4), id="2")
    world.run(hours=2)
"""


@pytest.fixture
def desk(shop: Terminal) -> Terminal:
    shop.write("scenarios.py", SCENARIO)
    return shop


def test_seeds_are_run_and_counted(desk: Terminal) -> None:
    said = desk.call("simulate", "scenarios", "--seeds", "6")
    assert said.code == 0, said
    assert re.search(r"^6 runs, 24 flows, \d+ awaits, \d+ flows a second$", said.out, re.MULTILINE)
    assert re.search(r"^faults: .*delayed \d+", said.out, re.MULTILINE)
    assert re.search(r"^history [0-9a-f]{64}$", said.out, re.MULTILINE)
    assert said.out.endswith("✔ no violations\n")


def test_for_programs_it_is_the_same_whatever_the_workers_and_the_hashing(desk: Terminal) -> None:
    arguments = ("simulate", "scenarios", "--seeds", "25", "--json")
    told = [
        desk.call(*arguments).json,
        desk.call(*arguments, "--workers", "2", PYTHONHASHSEED="77").json,
    ]
    for one in told:
        assert one.pop("flows_per_s") > 0
    assert told[0] == told[1]
    assert told[0]["violations"] == []
    assert told[0]["runs"] == 25
    assert told[0]["flows"] == 100
    assert told[0]["awaits"] > 1000
    assert told[0]["faults"]["delayed"] > 0


def test_the_hash_of_many_is_made_of_theirs_in_order(desk: Terminal) -> None:
    alone = [
        desk.call("simulate", "scenarios", "--seed", seed, "--json").json["history_hash"]
        for seed in ("1", "2")
    ]
    both = desk.call("simulate", "scenarios", "--seeds", "2", "--json").json["history_hash"]
    each = desk.folder / "each.py"
    each.write_text(EACH)
    hashes = desk.run_python(str(each)).communicate()[0].split()
    assert alone == [hashlib.sha256(one.encode()).hexdigest() for one in hashes]
    assert both == hashlib.sha256("".join(hashes).encode()).hexdigest()


def test_a_scenario_is_named_or_the_first_modules_own(desk: Terminal) -> None:
    desk.write("pyproject.toml", '[tool.choreo]\nmodules = ["scenarios"]\n')
    named = ("--scenario", "scenarios:single")
    assert desk.call("simulate", "--seeds", "2", "--json", *named).json["flows"] == 2
    assert desk.call("simulate", "--seeds", "2", "--json").json["flows"] == 8


def test_a_violation_is_told_and_the_command_that_it_names_finds_it_again(desk: Terminal) -> None:
    desk.write("pyproject.toml", UNLUCKY)
    said = desk.call("simulate", "--seeds", "40", "--first")
    assert said.code == 1, said
    assert "✘ 1 run with violations" in said.out
    story = said.err[said.err.index("✘ unlucky: order ") :]
    assert re.search(r"shrunk from \d+ faults? to 1$", story.rstrip()), story
    assert "⚡ duplicate of caller at publish" in story
    assert "published → Placed (again)" in story
    replay = re.search(r"replay: choreo (simulate scenarios --seed \d+)", story)
    assert replay is not None, story
    again = desk.call(*replay[1].split())
    assert again.code == 1
    assert again.err[again.err.index("✘ unlucky") :] == story


def test_one_that_needs_no_fault_says_so(desk: Terminal) -> None:
    desk.write("loses.py", LOSES)
    said = desk.call("simulate", "loses:orders", "loses:stock", "--seeds", "3", "--json")
    assert said.code == 1, said
    assert {one["invariant"] for one in said.json["violations"]} == {"reached-an-end"}
    assert [one["seed"] for one in said.json["violations"]] == [1, 2, 3]
    assert "and no fault was needed" in said.err
    assert "published → Placed" in said.err


def test_each_await_and_each_two_are_crashed_at(desk: Terminal) -> None:
    alone = desk.call(
        "simulate", "scenarios", "--exhaustive", "--scenario", "scenarios:single", "--workers", "2"
    )
    assert alone.code == 0, alone
    found = re.search(r"^every await: stock (\d+), orders (\d+)$", alone.out, re.MULTILINE) or (
        re.search(r"^every await: orders (\d+), stock (\d+)$", alone.out, re.MULTILINE)
    )
    assert found is not None, alone
    count = int(found[1]) + int(found[2])
    assert f"{count} runs, {count} flows, {count} crashes, one run each" in alone.out
    assert f"faults: crash {count}" in alone.out
    one = desk.call(
        "simulate", "scenarios", "--scenario", "scenarios:single",
        "--crash", "stock:3", "--crash", "orders:2", "--json",
    ).json  # fmt: skip
    assert (one["runs"], one["faults"]) == (1, {"crash": 2})


def test_what_does_not_hang_on_the_seed_is_found(desk: Terminal) -> None:
    said = desk.call("simulate", "scenarios", "--seeds", "2", "--scenario", "scenarios:unseeded")
    assert said.code == 1, said
    assert "✘ same-seed: the same seed gave two histories" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (("nowhere",), "CH1001", "nowhere"),
        (("shop",), "CH8004", "define scenario(world) in shop"),
        (("scenarios", "--scenario", "scenarios:nothing"), "CH1001", "scenarios:nothing"),
        (("scenarios", "--scenario", "scenarios:number"), "CH1001", "scenarios:number"),
        (("scenarios", "--scenario", "scenarios:wrong"), "CH8001", "LookupError: no such order"),
        (("scenarios", "--crash", "nobody:3"), "CH1007", "nobody"),
    ],
)
def test_what_can_not_be_run_is_told(
    desk: Terminal, arguments: tuple[str, ...], code: str, names: str
) -> None:
    said = desk.call("simulate", "--seeds", "2", *arguments)
    assert (said.code, said.out) == (1, ""), said
    assert code in said.err
    assert names in said.err


@pytest.mark.parametrize("option", ["--seeds", "--workers"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_numbers_that_are_none_are_refused(desk: Terminal, option: str, value: str) -> None:
    said = desk.call("simulate", "scenarios", option, value)
    assert said.code == 2
    assert option in said.err


def test_a_crash_that_is_none_is_refused(desk: Terminal) -> None:
    for value in ("stock", "stock:x", ":3"):
        said = desk.call("simulate", "scenarios", "--crash", value)
        assert said.code == 2
        assert "--crash" in said.err
