"""Errors: the tree as it is drawn, a code for each, and what is shown of one."""

import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from choreo import errors
from choreo.errors import ChoreoError, ConfigurationError, DecodeError, Later, NotDone

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
DRAWN = re.compile(r"^ {4}(?P<indent>[│├└─ ]*)(?P<name>\w+Error)\b(?P<transient>.*transient)?")


def classes() -> list[type[ChoreoError]]:
    return [
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, ChoreoError)
    ]


def drawn() -> Iterator[tuple[str, str | None, bool]]:
    """Yield name, base and transience of each class in the drawing of the docstring."""
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := DRAWN.match(line):
            level = len(found["indent"]) // 4
            del above[level:]
            yield found["name"], above[-1] if above else None, bool(found["transient"])
            above.append(found["name"])


def test_the_drawing_is_the_tree() -> None:
    real = {
        (one.__name__, one.__base__.__name__ if one.__base__ and one is not ChoreoError else None)
        for one in classes()
    }
    assert {(name, base) for name, base, _ in drawn()} == real


def test_the_drawing_says_what_is_transient() -> None:
    assert {name for name, _, transient in drawn() if transient} == {
        one.__name__ for one in classes() if one.transient
    }


def test_codes_are_unique_and_inherited_by_nobody() -> None:
    codes = [vars(one)["code"] for one in classes()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"CH\d{4}", code) for code in codes)


def test_every_class_is_exported() -> None:
    assert {one.__name__ for one in classes()} <= set(errors.__all__)


@pytest.mark.parametrize("one", classes())
def test_every_class_has_a_line_with_its_code(one: type[ChoreoError]) -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert any(one.__name__ in line and one.code in line for line in lines)


def test_every_line_of_the_page_names_a_class_and_says_what_to_do() -> None:
    names = {one.__name__ for one in classes()}
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "| CH" in line]
    codes = []
    for row in rows:
        code, name, meaning, fix = (cell.strip() for cell in row.strip("|").split("|"))
        codes.append(code)
        assert name.strip("`") in names, row
        assert meaning, row
        assert fix, row
    assert codes == sorted(set(codes))


def test_transience_is_read_from_the_class_and_said_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8").splitlines()
    for one in classes():
        said = any(f"`{one.__name__}`" in line and "transient |" in line for line in page)
        assert said is one.transient, one.__name__


def test_an_error_says_code_sentence_place_and_fix() -> None:
    error = DecodeError("too long", code="CH2002", fix="cut it", topic="a.b", offset=7)
    assert str(error) == "CH2002 too long [topic=a.b, offset=7] Fix: cut it"
    assert (error.code, error.what, error.fix) == ("CH2002", "too long", "cut it")
    assert error.fields == {"topic": "a.b", "offset": 7}
    assert str(DecodeError("odd")) == "CH2001 odd"


@pytest.mark.parametrize("signal", [Later, NotDone])
def test_signals_are_no_errors(signal: type[Exception]) -> None:
    assert not issubclass(signal, ChoreoError)


def test_later_takes_one_moment() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert Later(after_s=5).due(100.0) == 105.0
    assert Later(after_s=0).due(100.0) == 100.0
    assert Later(at=at).due(100.0) == datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"after_s": 1, "at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"at": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is refused
    ],
)
def test_later_refuses_another_moment(wrong: dict[str, datetime]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Later(**wrong)  # type: ignore[arg-type]
    assert caught.value.code == "CH1011"
