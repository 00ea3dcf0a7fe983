"""Service declarations: what each decorator keeps, and every way in which one can be wrong."""
# mypy: disable-error-code="empty-body"

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from choreo.context import Context, Failure, State
from choreo.errors import ConfigurationError, HandlerConflictError
from choreo.events import Event
from choreo.policies import Retry
from choreo.ports import Tx
from choreo.service import Kind, ParamKind, Service


class Placed(Event, topic="unit.orders", key="order_id"):
    order_id: str
    total: int = 0


class Reserved(Event, topic="unit.stock", key="order_id"):
    order_id: str


class Short(Event, topic="unit.stock", key="order_id", failure=True):
    order_id: str
    missing: str


class Released(Event, topic="unit.stock", key="order_id"):
    order_id: str


class Nothing(Event, topic="unit.stock", key="order_id"):
    order_id: str
    note: str = ""


class Seen(Event, topic="unit.others"):
    order_id: str


class Topicless(Event):
    order_id: str


class Basket(State, key="order_id"):
    order_id: str
    lines: int = 0


class Provider:
    pass


Declare = Callable[[Service], object]


def service() -> Service:
    return Service("unit")


def code_of(declare: Declare) -> str:
    with pytest.raises(ConfigurationError) as caught:
        declare(service())
    error = caught.value
    assert error.fix, error
    assert error.fields, error
    return error.code


# ── what is kept ─────────────────────────────────────────────────────────────────────────


def test_a_decorator_gives_the_function_back() -> None:
    svc = service()

    async def reserve(placed: Placed) -> Reserved | Short | None: ...

    assert svc.on(Placed)(reserve) is reserve
    handler = svc.handlers["unit.reserve"]
    assert svc.handler_of(reserve) is handler
    assert (handler.kind, handler.inputs, handler.fn) == (Kind.ON, (Placed,), reserve)
    assert handler.signature.outputs.events == (Reserved, Short)
    assert handler.signature.outputs.silent
    assert not handler.signature.sync
    assert svc.handler_of(print) is None


def test_policies_and_names_are_kept() -> None:
    svc = service()
    retry = Retry(attempts_max=2)

    @svc.on(Placed, Reserved, retry=retry, timeout_s=5, unless=Short, by="order_id",
            name="take", was=("old", "older"))  # fmt: skip
    def whatever(event: Placed | Reserved) -> None: ...

    handler = svc.handlers["unit.take"]
    assert (handler.retry, handler.timeout_s) == (retry, 5)
    assert (handler.unless, handler.by, handler.was) == (
        (Short,),
        ("order_id",),
        ("unit.old", "unit.older"),
    )
    assert handler.signature.sync
    svc.seal()
    svc.seal()


def test_parameters_are_told_apart_by_type() -> None:
    svc = service()

    @svc.on(Placed)
    async def all_kinds(
        placed: Placed, ctx: Context, tx: Tx, basket: Basket, provider: Provider
    ) -> None: ...

    kinds = [
        (one.name, one.kind, one.of) for one in svc.handlers["unit.all_kinds"].signature.params
    ]
    assert kinds == [
        ("placed", ParamKind.EVENT, None),
        ("ctx", ParamKind.CONTEXT, None),
        ("tx", ParamKind.TX, None),
        ("basket", ParamKind.STATE, Basket),
        ("provider", ParamKind.RESOURCE, Provider),
    ]


def test_every_kind_of_handler_is_kept() -> None:
    svc = service()

    @svc.on(Placed)
    async def reserve(placed: Placed) -> Reserved: ...

    @svc.otherwise(reserve)
    async def gave_up(placed: Placed, why: Failure) -> Short: ...

    @svc.compensate(Reserved, on=(Short, Placed), nothing=Nothing, by="order_id")
    async def release(reserved: Reserved, why: Event) -> Released: ...

    @svc.expects(Released, Nothing, after=Reserved, within_s=60)
    async def overdue(reserved: Reserved) -> Short: ...

    @svc.join(within_s=30, unless=Short)
    async def done(a: Placed, b: Reserved | Released, c: Nothing | None) -> None: ...

    flow = svc.flow("order", starts=Placed, ends=(Released, Short), deadline_s=9, overdue=Nothing)
    svc.seal()
    handlers = svc.handlers
    assert {handler.kind for handler in handlers.values()} == set(Kind)
    assert handlers["unit.gave_up"].of is handlers["unit.reserve"]
    assert handlers["unit.release"].on == (Short, Placed)
    assert handlers["unit.release"].nothing is Nothing
    assert (handlers["unit.overdue"].inputs, handlers["unit.overdue"].on) == (
        (Reserved,), (Released, Nothing),
    )  # fmt: skip
    assert handlers["unit.done"].inputs == (Placed, Reserved, Released, Nothing)
    assert [slot.optional for slot in handlers["unit.done"].signature.events()] == [0, 0, 1]
    assert svc.flows == {"order": flow}
    assert (flow.service, flow.starts, flow.ends, flow.overdue) == (
        "unit", Placed, (Released, Short), Nothing,
    )  # fmt: skip
    assert "unit.reserve" in repr(svc)


def test_annotations_may_name_classes_of_the_function_around() -> None:
    svc = service()

    class Local(Event, topic="unit.local"):
        pass

    @svc.on(Local)
    async def handle(event: "Local") -> None: ...

    assert svc.handlers["unit.handle"].inputs == (Local,)


def test_migrations_lie_beside_the_module_of_the_service(tmp_path: Path) -> None:
    assert Service("a", migrations="sql").migrations == Path(__file__).parent / "sql"
    assert Service("a", migrations=tmp_path).migrations == tmp_path
    assert Service("a").migrations is None


async def test_a_resource_is_made_by_a_generator() -> None:
    svc = service()
    ended: list[bool] = []

    @svc.resource
    async def provider() -> AsyncIterator[Provider]:
        yield Provider()
        ended.append(True)

    async with svc.resources[Provider]() as made:
        assert isinstance(made, Provider)
    assert ended == [True]


# ── what is refused ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["", "Orders", "a b", "1a", "a.b", "a/b", "a!"])
def test_a_service_has_a_plain_name(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Service(name)
    assert caught.value.code == "CH1012"


async def star(placed: Placed, *rest: Placed) -> None: ...
async def stars(placed: Placed, **rest: Placed) -> None: ...
async def built_in(placed: Placed, n: int) -> None: ...
async def half_event(placed: Placed | int) -> None: ...
async def no_events(placed: Topicless) -> None: ...
async def no_such_output(placed: Placed) -> int: ...
async def topicless_output(placed: Placed) -> Topicless: ...
async def unknown_name(placed: "Missing") -> None: ...  # type: ignore[name-defined] # noqa: F821
async def unknown_output(placed: Placed) -> "Missing": ...  # type: ignore[name-defined] # noqa: F821
async def no_parameter() -> None: ...
async def other_subject(reserved: Reserved) -> None: ...
async def subject_second(ctx: Context, placed: Placed) -> None: ...
async def plain(placed: Placed) -> None: ...
async def of_reserved(reserved: Reserved) -> None: ...
def sync_tx(placed: Placed, tx: Tx) -> None: ...


def bare(placed, ctx: Context) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001


async def of_another(placed: Placed) -> Seen: ...


async def no_return(placed: Placed): ...  # type: ignore[no-untyped-def] # noqa: ANN201


@pytest.mark.parametrize(
    ("code", "fn"),
    [
        ("CH1003", star),
        ("CH1003", stars),
        ("CH1003", built_in),
        ("CH1003", half_event),
        ("CH1003", no_such_output),
        ("CH1003", topicless_output),
        ("CH1003", unknown_name),
        ("CH1003", unknown_output),
        ("CH1003", bare),
        ("CH1003", no_return),
        ("CH1003", no_events),
        ("CH1004", no_parameter),
        ("CH1004", other_subject),
        ("CH1004", subject_second),
        ("CH1004", sync_tx),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(
    code: str, fn: Callable[..., Awaitable[Any]]
) -> None:
    assert code_of(lambda svc: svc.on(Placed)(fn)) == code


WRONG: list[tuple[str, Declare]] = [
    # what is no event with a topic
    ("CH1003", lambda s: s.on(Topicless)(plain)),
    ("CH1003", lambda s: s.on(plain)),  # type: ignore[arg-type]
    ("CH1010", lambda s: s.on(Placed)(of_another)),
    ("CH1010", lambda s: s.compensate(Placed, on=Short, nothing=Seen)(plain)),
    ("CH1010", lambda s: s.flow("f", starts=Placed, ends=Short, overdue=Seen)),
    ("CH1003", lambda s: s.on(Event)(plain)),
    ("CH1003", lambda s: s.on(int)(plain)),  # type: ignore[arg-type]
    ("CH1003", lambda s: s.on("Placed")(plain)),  # type: ignore[arg-type]
    ("CH1003", lambda s: s.on(Placed, unless=Topicless)(plain)),
    ("CH1003", lambda s: s.compensate(Topicless, on=Short)(plain)),
    ("CH1003", lambda s: s.compensate(Placed, on=Topicless)(plain)),
    ("CH1003", lambda s: s.compensate(Placed, on=(Short, int))(plain)),  # type: ignore[arg-type]
    ("CH1003", lambda s: s.compensate(Placed, on=Short, nothing=Topicless)(plain)),
    ("CH1003", lambda s: s.expects(Topicless, after=Placed, within_s=1)(plain)),
    ("CH1003", lambda s: s.expects(Short, after=Topicless, within_s=1)(plain)),
    ("CH1003", lambda s: s.flow("f", starts=Topicless, ends=Short)),
    ("CH1003", lambda s: s.flow("f", starts=Placed, ends=(Short, Topicless))),
    ("CH1003", lambda s: s.flow("f", starts=Placed, ends=Short, overdue=Topicless)),
    # subjects
    ("CH1004", lambda s: s.on(Placed, Reserved)(plain)),
    ("CH1004", lambda s: s.compensate(Reserved, on=Short)(plain)),
    ("CH1004", lambda s: s.expects(Short, after=Reserved, within_s=1)(plain)),
    # events that can not be built
    ("CH1009", lambda s: s.compensate(Placed, on=Reserved, nothing=Short)(plain)),
    ("CH1009", lambda s: s.flow("f", starts=Placed, ends=Short, overdue=Short)),
    # durations
    ("CH1011", lambda s: s.expects(Short, after=Placed, within_s=0)(plain)),
    ("CH1011", lambda s: s.expects(Short, after=Placed, within_s=-1)(plain)),
    ("CH1011", lambda s: s.expects(Short, after=Placed, within_s=float("nan"))(plain)),
    ("CH1011", lambda s: s.flow("f", starts=Placed, ends=Short, deadline_s=0)),
    # joins
    ("CH1004", lambda s: s.join(within_s=1)(no_parameter)),
]


@pytest.mark.parametrize(("code", "declare"), WRONG)
def test_a_wrong_declaration_is_refused(code: str, declare: Declare) -> None:
    assert code_of(declare) == code


async def all_optional(a: Placed | None, b: Reserved | None) -> None: ...
async def any_event(a: Placed, b: Event) -> None: ...
async def twice(a: Placed, b: Placed | Reserved) -> None: ...
async def one_optional(a: Placed, b: Reserved | None) -> None: ...


@pytest.mark.parametrize(
    ("code", "fn", "within_s"),
    [
        ("CH1004", all_optional, 1),
        ("CH1004", any_event, 1),
        ("CH1004", twice, 1),
        ("CH1004", one_optional, None),
        ("CH1011", one_optional, 0),
        ("CH1011", plain, -1),
    ],
)
def test_a_join_says_what_it_waits_for(
    code: str, fn: Callable[..., Awaitable[Any]], within_s: float | None
) -> None:
    assert code_of(lambda svc: svc.join(within_s=within_s)(fn)) == code


def test_two_of_one_name_are_refused() -> None:
    def handlers(svc: Service) -> None:
        svc.on(Placed)(plain)
        svc.on(Reserved, name="plain")(of_reserved)

    def flows(svc: Service) -> None:
        for _ in range(2):
            svc.flow("f", starts=Placed, ends=Short)

    for declare in (handlers, flows):
        assert code_of(declare) == "CH1002"
        with pytest.raises(HandlerConflictError):
            declare(service())


def test_otherwise_stands_in_for_a_handler_that_can_be_given_up() -> None:
    def unknown(svc: Service) -> None:
        svc.otherwise(plain)(plain)

    def of_another_service(svc: Service) -> None:
        Service("other").on(Placed)(plain)
        svc.otherwise(plain)(plain)

    def of_an_otherwise(svc: Service) -> None:
        svc.on(Placed)(plain)
        svc.otherwise(plain)(one_more)
        svc.otherwise(one_more)(another)

    def of_an_undo(svc: Service) -> None:
        svc.compensate(Placed, on=Short)(plain)
        svc.otherwise(plain)(one_more)

    async def one_more(placed: Placed) -> None: ...
    async def another(placed: Placed) -> None: ...

    for declare in (unknown, of_another_service, of_an_otherwise, of_an_undo):
        assert code_of(declare) == "CH1006"

    def other(svc: Service) -> None:
        svc.on(Placed)(plain)
        svc.otherwise(plain)(other_subject)

    assert code_of(other) == "CH1004"


def test_only_the_publisher_of_an_effect_undoes_it() -> None:
    svc = service()

    @svc.on(Placed)
    async def reserve(placed: Placed) -> Short: ...

    @svc.compensate(Reserved, on=Short)
    async def release(reserved: Reserved) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        svc.seal()
    assert caught.value.code == "CH1005"
    assert caught.value.fields["handler"] == "unit.release"


@pytest.mark.parametrize(
    "declare",
    [
        lambda s: s.on(Placed, by="missing")(plain),
        lambda s: s.on(Placed, by=("order_id", "total"), unless=Short)(plain),
        lambda s: s.expects(Short, after=Placed, within_s=1, by="total")(plain),
    ],
)
def test_a_scope_is_named_by_fields_of_all_its_events(declare: Declare) -> None:
    svc = service()
    declare(svc)
    with pytest.raises(ConfigurationError) as caught:
        svc.seal()
    assert caught.value.code == "CH1009"


async def returns_no_type() -> AsyncIterator:  # type: ignore[type-arg]
    yield Provider()


async def returns_one() -> Provider:
    return Provider()


async def unannotated():  # type: ignore[no-untyped-def] # noqa: ANN201
    yield Provider()


async def of_unknown() -> AsyncIterator["Missing"]:  # type: ignore[name-defined] # noqa: F821
    yield Provider()


@pytest.mark.parametrize("maker", [returns_no_type, returns_one, unannotated, of_unknown])
def test_a_resource_that_is_none_is_refused(maker: Any) -> None:
    assert code_of(lambda svc: svc.resource(maker)) == "CH1008"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: type("NoKey", (State,), {"__annotations__": {"n": int}, "n": 0}),
        lambda: type("Odd", (State,), {"__annotations__": {"n": int}, "n": 0}, key="missing"),
        lambda: type("Unset", (State,), {"__annotations__": {"id": str, "n": int}}, key="id"),
    ],
)
def test_a_state_has_a_key_and_defaults(wrong: Callable[[], type]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wrong()
    assert caught.value.code == "CH1010"


def test_a_state_holds_its_fields_to_their_types() -> None:
    basket = Basket(order_id="1")
    with pytest.raises(ValueError, match="lines"):
        basket.lines = "many"  # type: ignore[assignment]


def test_declaring_needs_no_loop() -> None:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    service().on(Placed)(plain)


async def two_subjects(placed: Placed, reserved: Reserved) -> None: ...
async def failure_here(placed: Placed, why: Failure) -> None: ...
async def two_states(placed: Placed, one: Basket, other: Basket) -> None: ...
async def narrow_why(placed: Placed, why: Reserved) -> None: ...


@pytest.mark.parametrize(
    "declare",
    [
        lambda s: s.on()(plain),
        lambda s: s.expects(after=Placed, within_s=1)(plain),
        lambda s: s.compensate(Placed, on=())(plain),
        lambda s: s.flow("f", starts=Placed, ends=()),
        lambda s: s.on(Placed, timeout_s=0)(plain),
        lambda s: s.on(Placed, timeout_s=-1)(plain),
        lambda s: s.on(Placed)(two_subjects),
        lambda s: s.on(Placed)(failure_here),
        lambda s: s.on(Placed)(two_states),
        lambda s: s.compensate(Placed, on=(Short, Reserved))(narrow_why),
        lambda s: s.on(Placed, name="a.b c!")(plain),
    ],
)
def test_what_can_not_run_is_refused(declare: Declare) -> None:
    with pytest.raises(ConfigurationError):
        declare(service())
