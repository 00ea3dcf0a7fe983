"""Dead letters on an operator's word: run again, edited, discarded; what is refused."""

import json

import pytest

from choreo import Context, Failure, Retry, Service, State
from choreo.app import open_broker, open_views
from choreo.events import Record
from choreo.testing import ManualClock
from choreo.tracker import Tracker, view_of
from tests.auditing import judged
from tests.semantics.events import Cancelled, Declined, Packed, Placed, Released, Reserved
from tests.semantics.lab import HASTY, Lab, record_of

ONCE = Retry(attempts_max=1)


class Desk:
    """A service whose handler fails for as long as it is broken."""

    def __init__(self, retry: Retry = ONCE) -> None:
        self.service = Service("desk")
        self.tried: list[tuple[int, int]] = []
        self.broken = True

        @self.service.on(Placed, retry=retry)
        async def reserve(placed: Placed, ctx: Context) -> Reserved:
            self.tried.append((placed.n, ctx.attempt))
            if self.broken:
                raise ValueError("no room")
            return Reserved(k=placed.k, n=placed.n)

        self.flow = self.service.flow("order", starts=Placed, ends=Reserved)


async def status(lab: Lab, flow: str) -> tuple[str, dict[str, str]]:
    """Give the flow's status and its steps' states, as a tracker that begins anew sees them."""
    broker, views = open_broker(lab.folder), open_views(lab.folder)
    try:
        await Tracker(broker, views, ManualClock()).catch_up()
        view = await view_of(views, flow)
        assert view is not None
        return view.summary.status, {one.handler: one.state for one in view.steps}
    finally:
        await views.close()
        await broker.close()


async def test_a_redrive_is_a_new_run_with_all_its_attempts(lab: Lab) -> None:
    desk = Desk(Retry(attempts_max=2, first_s=10, factor=1))
    async with lab.open(desk.service) as app:
        flow = await app.publish(Placed(n=1))
        await lab.clock.advance(100)
        assert await status(lab, flow) == ("failed", {"desk.reserve": "dead"})
        await lab.ask(app, "redrive")
        assert (await status(lab, flow))[0] == "retrying"
        await lab.clock.advance(5)
        desk.broken = False
        await lab.clock.advance(10)
    assert desk.tried == [(1, 1), (1, 2), (1, 1), (1, 2)]
    assert lab.kinds() == ["Placed", "Reserved"]
    assert await status(lab, flow) == ("completed", {"desk.reserve": "done"})
    assert await judged(lab.folder) == []
    (note,) = lab.notes("redriven")
    assert (note["reason"], note["by"], note["run"]) == ("the test says so", "tester", 1)


async def test_asking_twice_and_reading_it_twice_runs_it_once(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service, limits=HASTY) as app:
        await app.publish(Placed(n=1))
        await lab.clock.settle()
        desk.broken = False
        await lab.ask(app, "redrive")
        (asked,) = [one for one in lab.log() if one.topic == "choreo.control"]
        again = Record(asked.topic, asked.key, asked.headers, asked.value)
        await app.broker.publish([again])
        await lab.clock.advance(1)
        await lab.ask(app, "redrive")
    assert len(desk.tried) == 2
    assert lab.kinds() == ["Placed", "Reserved"]
    (refused,) = lab.notes("refused")
    assert "settled" in refused["reason"]


async def test_what_was_asked_while_nothing_ran_is_done_later(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        await app.publish(Placed(n=1))
    desk.broken = False
    async with lab.open() as app:
        await lab.ask(app, "redrive")
        assert len(desk.tried) == 1
    async with lab.open(desk.service):
        await lab.clock.settle()
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_a_redrive_survives_a_stop_in_the_middle(lab: Lab) -> None:
    desk = Desk(Retry(attempts_max=2, first_s=10, factor=1))
    async with lab.open(desk.service) as app:
        await app.publish(Placed(n=1))
        await lab.clock.advance(100)
        await lab.ask(app, "redrive")
    desk.broken = False
    async with lab.open(desk.service):
        await lab.clock.advance(100)
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_one_that_fails_again_is_another_dead_letter(lab: Lab) -> None:
    desk = Desk()
    async with lab.open(desk.service) as app:
        flow = await app.publish(Placed(n=1))
        await lab.clock.settle()
        await lab.ask(app, "redrive")
        first, second = lab.dead()
        assert await status(lab, flow) == ("failed", {"desk.reserve": "dead"})
        await lab.ask(app, "redrive", first)
        (refused,) = lab.notes("refused")
        assert "run again since" in refused["reason"]
        await lab.ask(app, "discard", second)
    assert (await status(lab, flow))[1] == {"desk.reserve": "discarded"}
    assert [one.headers["choreo-dead-run"] for one in (first, second)] == ["0", "1"]


async def test_a_discarded_one_is_void_and_its_flow_has_not_failed(lab: Lab) -> None:
    desk = Desk()

    @desk.service.on(Placed)
    async def pack(placed: Placed) -> Reserved:
        return Reserved(k=placed.k, n=placed.n)

    async with lab.open(desk.service) as app:
        flow = await app.publish(Placed(n=1))
        await lab.clock.settle()
        await lab.ask(app, "discard")
        await lab.ask(app, "discard")
        await lab.ask(app, "redrive")
    assert await status(lab, flow) == (
        "completed",
        {"desk.reserve": "discarded", "desk.pack": "done"},
    )
    assert [one["state"] for one in lab.notes("refused", "discarded")] == [
        "discarded",
        "refused",
        "refused",
    ]
    assert await judged(lab.folder) == []


async def test_a_delivery_that_otherwise_has_decided_is_not_run_again(lab: Lab) -> None:
    desk = Desk()
    reserve = desk.service.handlers["desk.reserve"].fn

    @desk.service.otherwise(reserve)
    async def gave_up(placed: Placed, why: Failure) -> Declined:
        return Declined()

    other = Desk()
    async with lab.open(other.service) as app:
        flow = await app.publish(Placed(n=1))
        await lab.clock.settle()
    (letter,) = lab.dead()
    async with lab.open(desk.service) as app:
        await lab.ask(app, "redrive")  # now it has an `otherwise`, which decides
        assert lab.kinds() == ["Placed", "Declined"]
        letter.headers["choreo-dead-run"] = "1"
        desk.broken = False
        await lab.ask(app, "redrive", letter)
        await lab.ask(app, "discard", letter)
    assert [one["reason"] for one in lab.notes("refused")] == [
        "it is settled: by its handler, or by its `otherwise`"
    ] * 2
    assert lab.kinds() == ["Placed", "Declined"]
    assert (await status(lab, flow))[1]["desk.reserve"] == "given_up"


async def test_the_stand_in_itself_may_be_dead_and_redriven(lab: Lab) -> None:
    service = Service("desk")
    broken = True

    @service.on(Placed, retry=ONCE)
    async def reserve(placed: Placed) -> Reserved:
        raise ValueError("no room")

    @service.otherwise(reserve, retry=ONCE)
    async def gave_up(placed: Placed, why: Failure) -> Declined:
        if broken:
            raise ValueError("no paper")
        assert why.reason == "attempts used up"
        return Declined()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
        broken = False
        await lab.ask(app, "redrive")
    assert lab.kinds() == ["Placed", "Declined"]


async def test_joins_and_time_outs_may_be_redriven(lab: Lab) -> None:
    service = Service("desk")
    broken = True

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved()

    @service.join(retry=ONCE)
    async def pack(placed: Placed, reserved: Reserved) -> Packed:
        if broken:
            raise ValueError("no paper")
        return Packed()

    @service.expects(Cancelled, after=Placed, within_s=5, retry=ONCE)
    async def overdue(placed: Placed) -> Declined:
        if broken:
            raise ValueError("no paper")
        return Declined()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(10)
    async with lab.open(service) as app:
        broken = False
        letters = lab.dead()
        assert len(letters) == 2
        for letter in letters:
            await lab.ask(app, "redrive", letter, value=b"{}")
        assert len(lab.notes("refused")) == 2
        for letter in letters:
            await lab.ask(app, "redrive", letter)
    assert sorted(lab.kinds()) == ["Declined", "Packed", "Placed", "Reserved"]
    assert await judged(lab.folder) == []


async def test_one_whose_scope_was_closed_meanwhile_is_void(lab: Lab) -> None:
    desk = Desk()

    @desk.service.compensate(Reserved, on=Cancelled)
    async def release(reserved: Reserved, why: Cancelled) -> Released:
        return Released()

    async with lab.open(desk.service) as app:
        flow = await app.publish(Placed(n=1))
        await lab.clock.settle()
        await app.broker.publish([record_of(Cancelled(), "stop", flow=flow)])
        await lab.clock.settle()
        desk.broken = False
        await lab.ask(app, "redrive")
    assert lab.kinds() == ["Placed", "Cancelled"]
    assert len(lab.notes("void")) == 1


async def test_calls_that_were_undone_are_made_anew_under_another_key(lab: Lab) -> None:
    service = Service("desk")
    done: list[tuple[str, str]] = []
    broken = True

    @service.on(Placed, retry=ONCE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        key = ctx.idempotency_key
        await ctx.once(
            "charge", lambda: done.append(("charge", key)),
            undo=lambda _: done.append(("refund", key)),
        )  # fmt: skip
        if broken:
            raise ValueError("after the call")
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
    async with lab.open(service) as app:
        await lab.ask(app, "redrive")
        broken = False
        await lab.ask(app, "redrive", lab.dead()[1])
    assert [what for what, _ in done] == ["charge", "refund", "charge", "refund", "charge"]
    assert len({key for _, key in done}) == 3
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_a_result_that_was_not_undone_is_remembered(lab: Lab) -> None:
    service = Service("desk")
    keys: list[str] = []
    broken = True

    @service.on(Placed, retry=ONCE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        await ctx.once("charge", lambda: keys.append(ctx.idempotency_key))
        if broken:
            raise ValueError("after the call")
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
        broken = False
        await lab.ask(app, "redrive")
    assert len(keys) == 1
    assert lab.kinds() == ["Placed", "Reserved"]


# ── edits ────────────────────────────────────────────────────────────────────────────────


async def test_an_edit_is_an_event_of_its_own_for_the_step_that_failed_alone(lab: Lab) -> None:
    desk = Desk()
    desk.broken = False
    other = Service("other")
    seen: list[int] = []

    @other.on(Placed)
    async def look(placed: Placed) -> Packed:
        seen.append(placed.n)
        return Packed()

    bad = record_of(Placed(n=1), "one", value=b'{"k": "x", "n": "two"}')
    async with lab.open(desk.service) as app:
        await app.broker.publish([bad])
        await lab.clock.settle()
        await lab.ask(app, "redrive", value=b'{"k": "x", "n": 2}')
        await lab.ask(app, "redrive", value=b'{"k": "x", "n": 2}')
    async with lab.open(desk.service, other):
        await lab.clock.settle()
    assert desk.tried == [(2, 1)]
    assert seen == []
    edited = lab.only(Placed)[1]
    assert edited.headers["choreo-edited"] == "desk.reserve"
    assert edited.headers["ce_causationid"] == "one"
    (reserved,) = lab.only(Reserved)
    assert reserved.headers["ce_causationid"] == edited.headers["ce_id"]
    (discarded,) = lab.notes("discarded")
    assert discarded["edited"] == edited.headers["ce_id"]


async def test_the_flow_of_an_edit_is_whole(lab: Lab) -> None:
    desk = Desk()
    pack = Service("pack")

    @pack.on(Placed)
    async def wrap(placed: Placed) -> Packed:
        return Packed()

    async with lab.open(desk.service, pack) as app:
        flow = await app.publish(Placed(n=1))
        await lab.clock.settle()
        desk.broken = False
        await lab.ask(app, "redrive", value=b'{"k": "x", "n": 2}')
    assert lab.kinds() == ["Placed", "Packed", "Placed", "Reserved"]
    assert (await status(lab, flow))[0] == "completed"
    assert await judged(lab.folder) == []


async def test_an_edit_that_is_wrong_too_is_a_dead_letter_of_its_own(lab: Lab) -> None:
    desk = Desk()
    desk.broken = False
    async with lab.open(desk.service) as app:
        await app.broker.publish([record_of(Placed(), "one", value=b"{")])
        await lab.clock.settle()
        await lab.ask(app, "redrive", value=b"[")
        second = lab.dead()[1]
        assert second.value == b"["
        await lab.ask(app, "redrive", second, value=b'{"n": 3}')
    assert desk.tried == [(3, 1)]


# ── what is no request ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value",
    [b"{", b"[]", b"{}", b'{"action": "redrive"}',
     b'{"action":"burn","step":"desk.reserve","subject":"00","dead":"x","run":0}',
     b'{"action":"redrive","step":"desk.reserve","subject":"zz","dead":"x","run":0}',
     b'{"action":"redrive","step":"a","subject":"","dead":"x","run":0,"value":{"base64":"*"}}'],
)  # fmt: skip
async def test_bytes_that_are_no_request_are_a_dead_letter(lab: Lab, value: bytes) -> None:
    desk = Desk()
    headers = {"ce_id": "r", "ce_type": "choreo.control.Requested", "ce_source": "x"}
    async with lab.open(desk.service) as app:
        await app.broker.publish([Record("choreo.control", b"desk", headers, value)])
        await lab.clock.settle()
        (letter,) = lab.dead()
        assert letter.headers["choreo-dead-step"] == "desk!control"
        await lab.ask(app, "redrive", letter)
        assert len(lab.notes("refused")) == 1
        await lab.ask(app, "discard", letter)
        assert len(lab.notes("discarded")) == 1


@pytest.mark.parametrize("step", ["desk.nobody", "desk.reserve", "other.reserve"])
async def test_who_is_asked_for_what_is_not_there_says_so(lab: Lab, step: str) -> None:
    desk = Desk()
    said = {
        "action": "redrive", "service": "desk", "step": step, "subject": "00" * 16,
        "dead": "x", "run": 0,
    }  # fmt: skip
    headers = {"ce_id": "r", "ce_type": "choreo.control.Requested", "ce_source": "x"}
    value = json.dumps(said).encode()
    async with lab.open(desk.service) as app:
        await app.broker.publish([Record("choreo.control", b"desk", headers, value)])
        await lab.clock.settle()
    assert len(lab.notes("refused")) == 1


async def test_what_is_asked_of_another_service_is_left_alone(lab: Lab) -> None:
    desk, pack = Desk(), Service("pack")

    @pack.on(Placed)
    async def wrap(placed: Placed) -> Packed:
        return Packed()

    async with lab.open(desk.service, pack) as app:
        await app.publish(Placed(n=1))
        await lab.clock.settle()
        await lab.ask(app, "redrive")
    names = [name for (name,) in lab.rows("SELECT text FROM inbox JOIN name ON id = handler")]
    assert names.count("desk!control") == 1
    assert "pack!control" not in names


class Basket(State, key="k"):
    """A counter."""

    k: str
    count: int = 0


async def test_a_redriven_step_saves_its_state_once(lab: Lab) -> None:
    service = Service("desk")
    broken = True

    @service.on(Placed, retry=ONCE)
    async def reserve(placed: Placed, basket: Basket) -> None:
        basket.count += 1
        if broken:
            raise ValueError("no room")

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.settle()
        broken = False
        await lab.ask(app, "redrive")
        basket = await app.load(Basket, "x")
    assert basket is not None
    assert basket.count == 1
