"""Plans of any changes, in any order, over stops: the store always agrees with a small model."""

import asyncio
import copy
import itertools
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.plan import (
    CancelTimer,
    Change,
    Gate,
    GateKey,
    Memo,
    Owned,
    Parked,
    Plan,
    Remember,
    SaveState,
    Sent,
    SetTimer,
    Settle,
    Status,
)
from choreo.ports import Applied, Seen, Tx, Want
from choreo.testing import ManualClock, Place
from choreo.testing.contracts.place import TOPIC, publish, published, source, subject, unsent
from tests.contracts.model import NEW, Model

HANDLERS = ("contract.take", "contract.take!why")
SUBJECTS = range(6)
TIMERS = range(20, 23)
GATES = tuple(GateKey("join", HANDLERS[0], scope) for scope in ("f", "f/1"))
STATES = (("contract.Basket", "1"), ("contract.Basket", "2"))
CALLS = ("charge", "ship")
MORE = 1_000_000


class Wrong(Exception):  # noqa: N818 - what a user's own code may raise
    """What a section raises."""


class StoreMachine(RuleBasedStateMachine):
    """Runs a store and the model side by side."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.model = Model()
        self.rows: list[int] = []
        self.former: list[Owned] = []
        self.count = 0
        self.open()
        self.run(self.prepare())

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def open(self) -> None:
        log = self.log("choreo.db")
        self.place = Place(SqliteStore(log, clock=self.clock), SqliteBroker(log), self.clock)

    def log(self, name: str) -> Log:
        return Log(Database(Path(self.folder.name) / name))

    async def prepare(self) -> None:
        await self.place.broker.ensure([TOPIC])
        async with self.place.store.transaction() as tx:
            await tx.execute("CREATE TABLE contract_row (n INTEGER)")
        self.owned = await self.place.own()

    # ── changes ──────────────────────────────────────────────────────────────────────────

    def settles(self, draw: st.DataObject) -> Settle:
        """A settle as one that saw the row, or no row, or another one would make it."""
        handler, number = draw.draw(st.sampled_from(HANDLERS)), draw.draw(st.sampled_from(SUBJECTS))
        row = self.model.inbox.get((handler, subject(number)))
        now = (row.run, row.attempt) if row is not None and row.parked else None
        seen = draw.draw(st.sampled_from([now, now, now, None, (0, 1)]))
        status = draw.draw(st.sampled_from([Status.PARKED, *Status]))
        parked = None
        if status in (Status.PARKED, Status.DEAD):
            chain = "ab"[number % 2]
            due = draw.draw(st.sampled_from([None, None, -1.0, 0.0, 5.0]))
            attempt = draw.draw(st.integers(1, 3))
            when = None if due is None or status is Status.DEAD else self.clock.now() + due
            parked = Parked(0, attempt, when, chain, b"record", "error")
        change = Settle(handler, subject(number), status, b"h", source(number), seen, parked)
        if seen is None and draw.draw(st.integers(0, 5)) == 0:
            return change._replace(spawn=True)
        return change

    def timers(self, draw: st.DataObject) -> Change:
        id_ = subject(draw.draw(st.sampled_from(TIMERS)))
        kept = self.model.timers.get(id_)
        what = draw.draw(st.sampled_from(["set", "set", "cancel", "fired", "late"]))
        if what == "set":
            due = self.clock.now() + draw.draw(st.sampled_from([0.0, 1.0, 60.0]))
            payload = draw.draw(st.sampled_from([b"", b"\x00p"]))
            return SetTimer(id_, due, HANDLERS[0], payload, source())
        if what == "fired" and kept is not None:
            return CancelTimer(id_, kept.due, kept.payload)
        return CancelTimer(id_, self.clock.now() - 0.5) if what == "late" else CancelTimer(id_)

    def change(self, draw: st.DataObject) -> Change:
        kind = draw.draw(st.sampled_from(["settle", "settle", "timer", "gate", "state", "memo"]))
        if kind == "timer":
            return self.timers(draw)
        data = draw.draw(st.sampled_from([b"", b"x", b"\x00\xff"]))
        right = draw.draw(st.integers(0, 3)) > 0
        if kind == "gate":
            key = draw.draw(st.sampled_from(GATES))
            seq, *_ = self.model.gates.get(key, (0, False, b""))
            return Gate(key, seq if right else seq + MORE, draw.draw(st.booleans()), data)
        if kind == "state":
            name = draw.draw(st.sampled_from(STATES))
            version, _ = self.model.states.get(name, (0, b""))
            return SaveState(*name, version if right else version + MORE, data)
        if kind == "memo":
            call = f"{HANDLERS[0]}/{draw.draw(st.sampled_from(CALLS))}"
            memo = draw.draw(st.sampled_from(list(Memo)))
            return Remember(subject(draw.draw(st.sampled_from([0, 1]))), call, memo, data)
        return self.settles(draw)

    def changes(self, draw: st.DataObject) -> tuple[Change, ...]:
        found = [self.change(draw) for _ in range(draw.draw(st.integers(1, 3)))]
        for _ in range(draw.draw(st.integers(0, 2))):
            self.count += 1
            found.append(publish(str(self.count), key=draw.draw(st.sampled_from("kl"))))
        return tuple(found)

    async def tell_model(self) -> None:
        """Learn which seq and version the store gave; none that was there before."""
        seen = await self.look()
        for key, (seq, closed, members) in self.model.gates.items():
            if seq == NEW:
                assert seen.gates[key].seq > 0
                self.model.gates[key] = (seen.gates[key].seq, closed, members)
        for name, (version, value) in self.model.states.items():
            if version == NEW:
                state = (await self.look(name)).state
                assert state is not None
                assert state.version > 0
                self.model.states[name] = (state.version, value)

    async def look(self, state: tuple[str, str] = STATES[0]) -> Seen:
        return await self.place.look(Want(HANDLERS[0], subject(0), GATES, state, memos=True))

    # ── rules ────────────────────────────────────────────────────────────────────────────

    @rule(draw=st.data(), plans=st.integers(1, 3))
    def apply(self, draw: st.DataObject, plans: int) -> None:
        """As if one after the other, in some order."""
        group = [Plan(self.owned, self.changes(draw)) for _ in range(plans)]
        results = list(self.run(self.place.store.apply(group)))
        log = self.run(self.values())
        for order in itertools.permutations(range(plans)):
            model = copy.deepcopy(self.model)
            wanted = {number: model.apply(group[number].changes) for number in order}
            if model.log == log and [wanted[number] for number in range(plans)] == results:
                self.model = model
                break
        else:
            raise AssertionError(f"no order gives {results} and {log}")
        self.run(self.tell_model())

    @rule(draw=st.data(), raises=st.booleans())
    def section(self, draw: st.DataObject, *, raises: bool) -> None:
        changes = self.changes(draw)
        number = len(self.rows)
        first = next((one for one in changes if isinstance(one, Settle)), None)
        row = first and self.model.inbox.get((first.handler, first.subject))

        async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
            assert (seen.status is None) == (row is None)
            await tx.execute("INSERT INTO contract_row VALUES ($1)", number)
            if raises:
                raise Wrong
            return changes

        want = Want(HANDLERS[0], subject(99)) if first is None else Want(*first[:2])
        (result,) = self.run(self.place.store.apply([Plan(self.owned, (), section, want)]))
        if row is not None and not row.parked:
            assert result is Applied.DUPLICATE
        elif raises:
            assert isinstance(result, Wrong)
        else:
            assert result is self.model.apply(changes)
            if result is Applied.DONE:
                self.rows.append(number)
        self.run(self.tell_model())

    @precondition(lambda self: self.former)
    @rule(draw=st.data())
    def zombie(self, draw: st.DataObject) -> None:
        owned = draw.draw(st.sampled_from(self.former))
        changes = self.changes(draw)
        assert self.run(self.place.apply(owned, *changes)) is Applied.STALE

    @rule(delay_s=st.sampled_from([0.5, 1.0, 30.0]))
    def wait(self, delay_s: float) -> None:
        self.run(self.clock.advance(delay_s))

    @rule()
    def take_over(self) -> None:
        self.former.append(self.owned)
        self.owned = self.run(self.place.own())
        assert set(self.owned.held) == self.model.held()

    @rule()
    def reopen(self) -> None:
        self.run(self.compare_rows())
        self.run(self.place.close())
        self.open()
        self.take_over()

    # ── what always holds ────────────────────────────────────────────────────────────────

    @invariant()
    def agrees(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        model = self.model
        names = [(handler, subject(n)) for handler in HANDLERS for n in SUBJECTS]
        seen = await self.place.store.load([Want(*name) for name in names])
        for name, one in zip(names, seen, strict=True):
            row = model.inbox.get(name)
            assert one.status is (row and row.status)
            if row is not None and row.parked:
                assert (one.run, one.attempt) == (row.run, row.attempt)
        looked = await self.look()
        for key in GATES:
            assert looked.gates[key] == model.gates.get(key, (0, False, b""))
        for state in STATES:
            version, value = model.states.get(state, (0, None))
            assert (await self.look(state)).state == (version, value)
        prefix = f"{HANDLERS[0]}/"
        memos = {n.removeprefix(prefix): m for (s, n), m in model.memos.items() if s == subject(0)}
        assert looked.memos == memos
        assert await self.values() == model.log
        await self.compare_due()

    async def compare_rows(self) -> None:
        async with self.place.store.transaction() as tx:
            found = [row["n"] for row in await tx.fetch("SELECT n FROM contract_row")]
        assert found == self.rows

    async def values(self) -> list[bytes]:
        return [value.encode() for value in await published(self.place)]

    async def compare_due(self) -> None:
        now, model = self.clock.now(), self.model
        found, after = await self.place.store.due(self.owned, skip=(), most=MORE)
        assert [one.due for one in found] == model.due(now)
        assert after == model.next_due(now)
        for one in found:
            if one.parked is None:
                timer = model.timers[one.subject]
                assert (one.due, one.handler, one.payload) == timer[1:4]
            else:
                row = model.inbox[one.handler, one.subject]
                assert (row.status, row.due) == (Status.PARKED, one.due)

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.run(self.compare_rows())
            self.run(self.place.close())
            self.runner.close()
            self.folder.cleanup()


class OutboxMachine(StoreMachine):
    """The same of a store that leaves publishing to a relay: what is told to be sent goes."""

    def open(self) -> None:
        store = SqliteStore(self.log("store.db"), clock=self.clock, publishes=False)
        self.place = Place(store, SqliteBroker(self.log("log.db")), self.clock)

    @precondition(lambda self: self.model.log)
    @rule(draw=st.data())
    def send(self, draw: st.DataObject) -> None:
        rows = self.run(unsent(self.place))
        chosen = draw.draw(st.sets(st.integers(0, len(rows) - 1)))
        changes = self.changes(draw)
        sent = Plan(None, (Sent(tuple(rows[n].row for n in chosen)),))
        result, told = self.run(self.place.store.apply([Plan(self.owned, changes), sent]))
        assert told is Applied.DONE
        assert result is self.model.apply(changes)
        self.model.log = [value for n, value in enumerate(self.model.log) if n not in chosen]
        self.run(self.tell_model())


TestOutboxStore = OutboxMachine.TestCase
TestOutboxStore.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
