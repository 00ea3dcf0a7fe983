"""`check` and `graph`: from modules and from what is deployed, for people and for programs."""

from tests.cli.conftest import SHOP, Terminal

BROKEN = SHOP.replace(
    """@orders.on(Refused)
async def cancel(refused: Refused) -> Gone:
    return Gone(order=refused.order)
""",
    "",
)


def test_services_that_fit_are_clean(shop: Terminal) -> None:
    said = shop.call("check")
    assert (said.code, said.out) == (
        0, "✔ nothing found; checked 2 services, 3 handlers, 1 flow\n",
    )  # fmt: skip
    said = shop.call("check", "--json")
    assert said.code == 0
    assert said.json == {
        "findings": [],
        "checked": {"services": 2, "handlers": 3, "flows": 1},
    }


def test_what_is_found_has_code_place_and_fix(shop: Terminal) -> None:
    shop.write("shop.py", BROKEN)
    said = shop.call("check")
    assert said.code == 1
    assert said.out.startswith("✘ CH1101  shop.stock.Refused  shop.py:")
    assert "  stock.reserve publishes it, and nobody takes it\n  Fix: " in said.out
    assert said.out.endswith("2 findings; checked 2 services, 2 handlers, 1 flow\n")
    said = shop.call("check", "--json")
    assert said.code == 1
    first, second = said.json["findings"]
    assert (first["code"], first["place"]) == ("CH1101", "shop.stock.Refused")
    assert first["at"].startswith("shop.py:")
    assert (second["code"], second["place"]) == ("CH1102", "shop.orders.Gone")
    assert all(one["fix"] for one in said.json["findings"])


def test_some_of_the_modules_can_be_checked(shop: Terminal) -> None:
    said = shop.call("check", "shop:orders", "--json")
    assert {one["code"] for one in said.json["findings"]} == {"CH1101", "CH1102"}
    assert shop.call("check", "nowhere").err.startswith("error: CH1001 ")


def test_what_is_deployed_is_checked_and_drawn(served: Terminal) -> None:
    served.write("shop.py", "this does not import")
    said = served.call("check", "--deployed")
    assert (said.code, said.out.count("checked 2 services")) == (0, 1), said
    assert served.call("graph", "--deployed").out.startswith("flowchart LR\n")


def test_without_a_log_nothing_is_deployed(shop: Terminal) -> None:
    for verb in ("check", "graph"):
        said = shop.call(verb, "--deployed")
        assert (said.code, said.out) == (1, "")
        assert said.err.startswith("error: CH1016 ")


def test_a_graph_is_text_for_a_tool(shop: Terminal) -> None:
    assert '["reserve"]' in shop.call("graph").out
    assert shop.call("graph", "--format", "dot").out.startswith("digraph choreo {\n")
    said = shop.call("graph", "--format", "png")
    assert said.code == 2
    assert "'png' is none of mermaid, dot" in said.err
