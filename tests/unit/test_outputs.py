"""What a handler may return: every form of the grammar, and every value that is not named."""

import functools
import operator
import typing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from choreo.errors import ConfigurationError, HandlerError
from choreo.events import Event
from choreo.service.outputs import After, Cancel, Outputs, outputs_of

NOW = 1_767_225_600.0


class A(Event, topic="unit.outputs"):
    n: int = 0


class B(Event, topic="unit.outputs"):
    n: int = 0


class Topicless(Event):
    n: int = 0


a, b = A(), B()
later = After(a, after_s=5)


def read(annotation: object) -> Outputs:
    return outputs_of(annotation, name="unit.handler")


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (A, a, [a]),
        (A | B, b, [b]),
        (A | None, None, []),
        (A | None, a, [a]),
        (None, None, []),
        (tuple[A, B], (a, b), [a, b]),
        (tuple[A, B | None], (a, None), [a]),
        (tuple[A, B] | A, a, [a]),
        (A | tuple[A, B], (a, b), [a, b]),
        (tuple[A, A] | tuple[A, B], (a, b), [a, b]),
        (list[A], [], []),
        (list[A], [a, a], [a, a]),
        (list[A | B], [b, a], [b, a]),
        (tuple[A, list[B]], (a, [b, b]), [a, b, b]),
        (After[A], later, [later]),
        (A | After[A], later, [later]),
        (tuple[B, After[A]], (b, later), [b, later]),
        (Cancel, Cancel("x"), [Cancel("x")]),
        (tuple[A, Cancel] | Cancel, Cancel("x"), [Cancel("x")]),
        (typing.Optional[A], None, []),  # noqa: UP045 - the old spelling is read as well
        (typing.Union[A, B], b, [b]),  # noqa: UP007 - as above
    ],
)
def test_what_is_named_may_be_returned(
    annotation: object, value: object, expected: list[Any]
) -> None:
    assert read(annotation).take(value) == expected


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (A, b),
        (A, None),
        (A, [a]),
        (A, (a,)),
        (A, "a"),
        (A, A),
        (None, a),
        (None, False),
        (A | B, None),
        (tuple[A, B], (b, a)),
        (tuple[A, B], (a,)),
        (tuple[A, B], (a, b, b)),
        (tuple[A, B], [a, b]),
        (list[A], [a, b]),
        (list[A], (a, a)),
        (list[A], a),
        (After[A], a),
        (A, later),
        (After[B], later),
        (After[A], Cancel("x")),
        (Cancel, later),
        (Cancel, None),
    ],
)
def test_what_is_not_named_is_an_error(annotation: object, value: object) -> None:
    with pytest.raises(HandlerError) as caught:
        read(annotation).take(value)
    assert caught.value.code == "CH5002"
    assert caught.value.fields["handler"] == "unit.handler"


def test_an_alternative_that_fits_by_half_leaves_nothing_behind() -> None:
    assert read(tuple[A, A] | list[A] | tuple[A, B, B]).take((a, b, b)) == [a, b, b]


def test_a_subclass_of_what_is_named_is_another_event() -> None:
    class Special(A, topic="unit.special"):
        pass

    with pytest.raises(HandlerError):
        read(A).take(Special())


def test_the_error_says_what_came_and_what_may_come() -> None:
    with pytest.raises(
        HandlerError, match=r"returned tuple\(A, list\(B, None\), After\)"
    ) as caught:
        read(A | B).take((a, [b, None], later))
    assert caught.value.fields["annotation"] == "A, B"
    with pytest.raises(HandlerError, match="annotation=None"):
        read(None).take(a)


@pytest.mark.parametrize(
    "annotation",
    [
        int, str, Event, Topicless, Any, object, dict[str, A], set[A], tuple, list, After,
        tuple[A, ...], tuple[()], list[int], tuple[A, int], A | int, After[Event],
        After[int],  # type: ignore[type-var] # a checker of types sees it too

        A(), "A", typing.Literal[1],
    ],
)  # fmt: skip
def test_an_annotation_that_is_no_event_is_refused(annotation: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(annotation)
    assert caught.value.code == "CH1003"
    assert caught.value.fields["handler"] == "unit.handler"


def test_a_bare_list_of_old_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        read(typing.List)  # noqa: UP006 - the old spelling


def test_the_events_of_an_annotation_are_listed() -> None:
    outputs = read(tuple[A, list[B]] | After[B] | A | None)
    assert outputs.events == (A, B)
    assert outputs.later == {B}
    assert outputs.silent
    assert not read(A | B).silent
    assert read(None).events == ()
    assert not read(tuple[A, B | None]).silent


def test_after_knows_when() -> None:
    at = datetime.fromtimestamp(NOW, UTC) + timedelta(minutes=1)
    assert After(a, after_s=5).due(NOW) == NOW + 5
    assert After(a, at=at).due(NOW) == NOW + 60
    assert After(a, after_s=1, name="x").name == "x"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"after_s": 1, "at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"at": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is refused
    ],
)
def test_after_takes_one_moment_with_a_zone(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        After(a, **wrong)
    assert caught.value.code == "CH1011"


def told(annotation: object) -> list[str]:
    """Write the ways of an annotation: names, later ones in brackets, ! for what takes back."""
    return [
        " ".join(
            sorted(event.__name__ for event in way.now)
            + sorted(f"({event.__name__})" for event in way.later)
            + ["!"] * way.cancels
        )
        for way in read(annotation).ways()
    ]


@pytest.mark.parametrize(
    ("annotation", "ways"),
    [
        (A, ["A"]),
        (A | B | None, ["A", "B", ""]),
        (None, [""]),
        (tuple[A, B], ["A B"]),
        (tuple[A, B | None], ["A B", "A"]),
        (list[A], ["", "A"]),
        (list[A | B], ["", "A", "B", "A B"]),
        (tuple[A, After[B]] | Cancel, ["A (B)", "!"]),
        (tuple[A, A], ["A"]),
    ],
)
def test_every_way_is_listed_once(annotation: object, ways: list[str]) -> None:
    assert told(annotation) == ways


def test_of_too_many_ways_the_least_and_the_most_are_listed() -> None:
    many: list[Any] = [
        type(f"E{n}", (Event,), {"__module__": __name__}, topic="unit.outputs") for n in range(7)
    ]
    ways = told(list[functools.reduce(operator.or_, many)])  # type: ignore[misc]
    assert ways[0] == ""
    assert ways[1:8] == [f"E{n}" for n in range(7)]
    assert ways[8] == " ".join(f"E{n}" for n in range(7))
