"""The topology as a picture: what stands in it, and that a tool can read it."""

import re
from typing import Any

import pytest

from choreo.topology import Topology
from choreo.topology.drawing import FORMATS, drawn
from tests.unit.test_check_shop import SHOP
from tests.unit.tracking import manifests

MERMAID = (
    r"flowchart LR",
    r"subgraph s\d+\[\"[^\"]*\"\]",
    r"end",
    r"(e|h|f)[\d_]+(\[|\(\[|\(\(|\(\(\(|\{\{|\[/)\"[^\"]+\"(\]|\]\)|\)\)|\)\)\)|\}\}|/\])(:::\w+)?",
    r"(e|h|f)[\d_]+ (-->|-\.->)(\|\"[^\"]+\"\|)? (e|h|f)[\d_]+",
    r"classDef \w+ [\w:#,]+",
)
DOT = (
    r"digraph choreo \{",
    r"rankdir=LR; .*",
    r"subgraph cluster_\d+ \{ label=\"(\\.|[^\"\\])*\";",
    r"\}",
    r"(e|h|f)[\d_]+ \[label=\"(\\.|[^\"\\])+\", .*\];",
    r"(e|h|f)[\d_]+ -> (e|h|f)[\d_]+( \[.*\])?;",
)


def strange() -> dict[str, Any]:
    """Give a manifest from nowhere: its names mean something to the tools."""
    handler = {"name": 'a"b].on"e', "kind": "on", "inputs": ['t."x]-->'], "outputs": ["t.end"]}
    return {'a"b]': {"x-choreo": {"service": 'a"b]', "handlers": [handler]}}}


@pytest.mark.parametrize("told", [SHOP, manifests(), strange(), {}])
@pytest.mark.parametrize(("form", "grammar"), [("mermaid", MERMAID), ("dot", DOT)])
def test_every_line_is_of_the_grammar(
    told: dict[str, Any], form: str, grammar: tuple[str, ...]
) -> None:
    text = drawn(Topology(told), form)
    for line in text.splitlines():
        assert any(re.fullmatch(rule, line.strip()) for rule in grammar), line
    ids = re.findall(r"^ +([ehf][\d_]+)(?:\[|\(|\{| \[)", text, re.MULTILINE)
    assert len(ids) == len(set(ids))
    used = {name for edge in re.findall(r"^ +(\w+) -.*[> |](\w+)(?: \[.*)?;?$", text, re.MULTILINE)
            for name in edge}  # fmt: skip
    assert used <= set(ids)


def node(text: str, label: str) -> str:
    found = re.search(rf'^ +(\w+)\W+"[^"]*{label}"', text, re.MULTILINE)
    assert found is not None, label
    return found[1]


def test_the_shop_is_all_there() -> None:
    text = drawn(Topology(SHOP), "mermaid")
    for service in SHOP:
        assert f'["{service}"]' in text
    assert '"✘ PaymentDeclined"]):::failure' in text
    reserved, release = node(text, "StockReserved"), node(text, "↶ release")
    assert f'{reserved} -.->|"undoes"| {release}' in text
    assert f"{node(text, 'PaymentDeclined')} -.-> {release}" in text
    assert f"{release} -.-> {node(text, 'StockReleased')}" in text
    overdue = node(text, "⏰ overdue")
    assert f'{reserved} -->|"after 30 min"| {overdue}' in text
    assert f"{overdue} --> {node(text, 'PaymentTimedOut')}" in text
    assert f'{node(text, "capture")} -->|"gives up"| {node(text, "gave_up")}' in text
    ship = node(text, "ship")
    assert f'{node(text, "AnalyticsRecorded")} -.->|"or after 1 min"| {ship}' in text
    assert f"{node(text, 'PaymentCaptured')} --> {ship}" in text
    assert f"{node(text, 'order')} --> {node(text, 'OrderPlaced')}" in text


def test_deadlines_and_what_comes_later_are_labelled() -> None:
    text = drawn(Topology(manifests()), "mermaid")
    assert f'{node(text, "order")} -->|"after 1 h"| {node(text, "Late")}' in text
    assert f'{node(text, "remind")} -->|"later"| {node(text, "Reminder")}' in text
    assert '|"nothing to undo"|' in text


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_services_always_give_the_same_picture(form: str) -> None:
    there = drawn(Topology(SHOP), form)
    assert drawn(Topology(dict(reversed(SHOP.items()))), form) == there
