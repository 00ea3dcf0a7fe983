"""What is wrong is said in one line, with a code, and nothing is lost by it."""

import pytest

from tests.cli.conftest import SHOP, Said, Terminal


def one_line(said: Said, code: str) -> str:
    """Check that a call failed with one line that carries this code; give the line."""
    assert said.code == 1, said
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith(f"error: {code} ")
    assert " Fix: " in line
    return line


def test_help_names_every_verb(terminal: Terminal) -> None:
    said = terminal.call("--help")
    assert said.code == 0
    for verb in (
        "dev",
        "run",
        "tracker",
        "publish",
        "flows",
        "flow",
        "audit",
        "check",
        "graph",
        "migrations",
        "doctor",
        "config",
    ):
        assert f"  {verb} " in said.out
        assert terminal.call(verb, "--help").code == 0


@pytest.mark.parametrize(
    "call",
    [
        ["fly"],
        ["flows", "--status", "happy"],
        ["flows", "--since", "the other day"],
        ["flows", "--limit", "-1"],
        ["flow"],
        ["publish", "Placed"],
        ["publish", "Placed", "a.jsonl", "--json", "{}"],
        ["publish", "Placed", "--json", '{"order": "1"}', "--id", "colour"],
    ],
)
def test_a_wrong_call_exits_with_2(shop: Terminal, call: list[str]) -> None:
    said = shop.call(*call)
    assert said.code == 2, said
    assert "Error" in said.err


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("import nowhere_to_be_found", "CH1001", ["ModuleNotFoundError", "bad.py", "line=1"]),
        ("x = 1\ndef f(:\n", "CH1001", ["SyntaxError", "bad.py", "line=2"]),
        ("raise SystemExit(3)", "CH1001", ["SystemExit"]),
        ("x = 1", "CH1007", ["no service", "services=none"]),
        (SHOP + "\n@stock.on(Placed, name='reserve')\nasync def again(p: Placed) -> None: ...",
         "CH1002", ["stock.reserve"]),
        (SHOP + "\n@stock.on(int)\nasync def odd(p: int) -> None: ...", "CH1003", ["odd"]),
        (SHOP + "\n@stock.on(Placed)\nasync def odd(p: Placed) -> int: ...", "CH1003", ["odd"]),
        (SHOP + "\n@orders.compensate(Reserved, on=Gone)\n"
         "async def undo(r: Reserved, why: Gone) -> None: ...", "CH1005", ["undo"]),
    ],
)  # fmt: skip
def test_a_module_that_can_not_run_is_explained(
    terminal: Terminal, text: str, code: str, words: list[str]
) -> None:
    terminal.write("bad.py", text)
    line = one_line(terminal.call("run", "bad"), code)
    for word in words:
        assert word in line


def test_a_module_that_is_not_there_is_named(terminal: Terminal) -> None:
    assert "'nobody.home'" in one_line(terminal.call("run", "nobody.home"), "CH1001")
    assert "[tool.choreo]" in one_line(terminal.call("run"), "CH1001")
    for file in ("home.py", "shop/home.py", "../home"):
        assert "not its file" in one_line(terminal.call("check", file), "CH1001")


def test_a_service_that_is_not_there_is_named(shop: Terminal) -> None:
    line = one_line(shop.call("run", "shop:payments"), "CH1007")
    assert "payments" in line
    assert "services=orders, stock" in line


def test_an_event_type_that_is_not_there_has_near_matches(shop: Terminal) -> None:
    line = one_line(shop.call("publish", "Plased", "--json", "{}"), "CH1006")
    assert "did you mean shop.orders.Placed" in line
    one_line(shop.call("publish", "Zzz", "--json", "{}"), "CH1006")


def test_a_name_that_two_types_have_is_refused(shop: Terminal) -> None:
    shop.write("more.py", SHOP.replace('topic="shop.', 'topic="more.').replace(
        'Service("', 'Service("more-'))  # fmt: skip
    call = ["publish", "--json", '{"order": "1"}', "-m", "shop", "-m", "more"]
    assert "more.orders.Placed" in one_line(shop.call(*call, "Placed"), "CH1006")
    assert shop.call(*call, "more.orders.Placed").code == 0


def test_a_view_is_not_published(terminal: Terminal) -> None:
    terminal.write("shop.py", SHOP.replace('topic="shop.orders", key="order"', 'topic="shop.o"'))
    one_line(terminal.call("publish", "Placed", "--json", "{}", "-m", "shop"), "CH1010")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("{}", "CH2001", "order: Field required"),
        ('{"order": 1}', "CH2001", "order: "),
        ('{"order": "1", "colour": "red"}', "CH2001", "colour: "),
        ('{"order": "1", "order": "2"}', "CH2002", "twice"),
        ('{"order": "1", "units": NaN}', "CH2002", "NaN"),
        ("no json", "CH2002", ""),
        ("[" * 100, "CH2002", "nested"),
    ],
)
def test_a_bad_event_is_refused(shop: Terminal, text: str, code: str, words: str) -> None:
    said = shop.call("publish", "Placed", "--json", text)
    assert said.code == 1
    assert said.err.startswith(f"error: {code} ")
    assert words in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("text", ["[tool.choreo", "[tool.choreo]\nmodules = 7", "tool = 7",
                                  "[tool]\nchoreo = 7"])  # fmt: skip
def test_a_broken_pyproject_is_named(terminal: Terminal, text: str) -> None:
    terminal.write("pyproject.toml", text)
    assert "pyproject.toml" in one_line(terminal.call("run"), "CH1014")


def test_a_deployment_that_is_unknown_is_named(shop: Terminal) -> None:
    one_line(shop.call("run", CHOREO_BROKER="carrier-pigeon://loft"), "CH1014")


@pytest.mark.parametrize("verb", [["flows"], ["flow", "1"], ["audit"], ["run"]])
def test_a_damaged_log_is_named_and_left_as_it_is(shop: Terminal, verb: list[str]) -> None:
    (shop.folder / ".choreo").mkdir()
    broken = shop.write(".choreo/choreo.db", "this is no database\n" * 500)
    before = broken.read_bytes()
    assert "choreo.db" in one_line(shop.call(*verb), "CH4003")
    assert broken.read_bytes() == before


def test_damaged_views_are_named(served: Terminal) -> None:
    for name in ("views.db-wal", "views.db-shm"):
        (served.folder / ".choreo" / name).unlink(missing_ok=True)
    served.write(".choreo/views.db", "this is no database\n" * 500)
    assert "views.db" in one_line(served.call("flows"), "CH4003")
    (served.folder / ".choreo" / "views.db").unlink()
    assert len(served.call("flows", "--json").json) == 3
