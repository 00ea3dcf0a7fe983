"""A shop's log and store, written by hand: what the audit is tried on."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from choreo.adapters.sqlite.contents import contents_of, positions_of
from choreo.adapters.sqlite.schema import SCHEMA
from choreo.audit import Evidence, Report, Violation, judge
from choreo.events import Record, derived_id, id_bytes, id_text, rfc3339
from choreo.plan import GateKey, Memo, Status
from choreo.ports import Row, Unsent
from choreo.step.gates import gate_subject

NOW = 1_767_225_600.0
PLACED, ACCEPTED, RESERVED = "shop.orders.Placed", "shop.orders.Accepted", "shop.stock.Reserved"
DECLINED, RELEASED = "shop.pay.Declined", "shop.stock.Released"
PAID, OVERDUE, DONE, CANCELLED = (
    "shop.pay.Paid", "shop.pay.Overdue", "shop.orders.Done", "shop.orders.Cancelled",
)  # fmt: skip
BROKEN, REFUNDED = "shop.orders.Broken", "shop.pay.Refunded"


def handler(name: str, kind: str, inputs: Iterable[str], **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "inputs": list(inputs), **more}


MANIFESTS = {
    "orders": {
        "handlers": [
            handler("orders.accept", "on", [PLACED], outputs=[ACCEPTED]),
            handler("orders.finish", "join", [RESERVED, PAID], outputs=[DONE], within_s=5,
                    slots=[[[RESERVED], False], [[PAID], False]]),
            handler("orders.cancel", "on", [RELEASED], outputs=[CANCELLED]),
        ],
        "flows": [
            {"name": "order", "starts": PLACED, "ends": [DONE, CANCELLED], "deadline_s": 3600,
             "overdue": None},
        ],
    },
    "stock": {
        "handlers": [
            handler("stock.reserve", "on", [ACCEPTED], outputs=[RESERVED]),
            handler("stock.release", "compensate", [RESERVED], on=[DECLINED, OVERDUE, REFUNDED],
                    outputs=[RELEASED]),
        ],
    },
    "pay": {
        "handlers": [
            handler("pay.charge", "on", [RESERVED], outputs=[PAID, DECLINED]),
            handler("pay.overdue", "expects", [ACCEPTED], on=[PAID], outputs=[OVERDUE],
                    within_s=60),
            handler("pay.refund", "compensate", [PAID], on=[BROKEN], outputs=[REFUNDED]),
        ],
    },
}  # fmt: skip


@dataclass
class World:
    """A log and a store, written by hand."""

    tmp: Path
    history: list[Record] = field(default_factory=list)
    now: float = NOW
    outbox: list[Unsent] = field(default_factory=list)
    further: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.database.executescript(SCHEMA)
        for service, about in MANIFESTS.items():
            self.manifest(service, about)

    def manifest(self, service: str, about: dict[str, Any]) -> None:
        value = json.dumps({"x-choreo": {"service": service, **about}}).encode()
        self.append(Record("choreo.manifests", service.encode(), {}, value))

    def append(self, record: Record) -> Record:
        record.offset = len(self.history) + 1
        record.partition = 0
        self.history.append(record)
        return record

    def event(
        self, kind: str, cause: Record | None = None, step: str = "", **headers: str
    ) -> Record:
        """Append an event, and nothing else."""
        self.now += 0.25
        number = len(self.history)
        flow = cause.headers["ce_correlationid"] if cause else id_text(number.to_bytes(16, "big"))
        own = id_text(derived_id(id_bytes(flow), f"{kind}{number}".encode())) if cause else flow
        found = {
            "ce_id": own, "ce_type": kind, "ce_time": rfc3339(self.now), "ce_correlationid": flow,
            "ce_causationid": cause.headers["ce_id"] if cause else "",
        }  # fmt: skip
        if step:
            found["choreo-step"] = step
        topic = kind.rpartition(".")[0]
        return self.append(Record(topic, flow.encode(), found | headers, b"{}"))

    def settle(
        self, name: str, subject: Record | bytes, status: Status = Status.DONE, **row: object
    ) -> None:
        """Write an inbox row."""
        raw = subject if isinstance(subject, bytes) else id_bytes(subject.headers["ce_id"])
        self.execute("INSERT OR IGNORE INTO name (text) VALUES (?)", name)
        self.execute(
            "INSERT OR REPLACE INTO inbox SELECT id, ?, ?, x'', '', 0, 0, 0, 1, ?, ?, x'', ''"
            " FROM name WHERE text = ?",
            raw, status, row.get("due"), row.get("chain", ""), name,
        )  # fmt: skip

    def note(self, name: str, about: Record) -> None:
        """Tell that a step is done, and published nothing."""
        headers = {
            "ce_id": id_text(derived_id(id_bytes(about.headers["ce_id"]), name.encode())),
            "ce_causationid": about.headers["ce_id"], "choreo-step": name,
        }  # fmt: skip
        value = json.dumps({"state": "done", "subject": about.headers["ce_id"]}).encode()
        self.append(Record("choreo.steps", b"", headers, value))

    def call(self, name: str, about: Record, call: str, state: Memo) -> None:
        """Write down an outside call."""
        raw = id_bytes(about.headers["ce_id"])
        self.execute(
            "INSERT INTO memo SELECT ?, id, ?, ?, x'', 0 FROM name WHERE text = ?",
            raw, call, state, name,
        )  # fmt: skip

    def forget(self, name: str) -> None:
        """Delete the inbox rows of a handler."""
        self.execute("DELETE FROM inbox WHERE handler = (SELECT id FROM name WHERE text = ?)", name)

    def execute(self, sql: str, *values: object) -> None:
        self.database.execute(sql, values)

    def rows(self, sql: str, *values: object) -> list[Row]:
        named = {str(number): value for number, value in enumerate(values, 1)}
        found = self.database.execute(sql, named)
        columns = [column[0] for column in found.description]
        return [dict(zip(columns, row, strict=True)) for row in found]

    def evidence(self) -> Evidence:
        """Show all that is there, and what a test has put into `further`."""
        contents = replace(contents_of(self.database), outbox=[*self.outbox])
        positions = positions_of(self.database)
        return Evidence(
            list(self.history), self.rows, self.tmp, [contents], positions, **self.further
        )

    def judge(self, *, at_rest: bool = True, **more: Any) -> Report:
        return judge(self.evidence(), at_rest=at_rest, **more)

    def audit(self, *, at_rest: bool = True, **more: Any) -> list[Violation]:
        return [*self.judge(at_rest=at_rest, **more).violations]

    # ── what a shop does ─────────────────────────────────────────────────────────────────

    def begin(self) -> dict[str, Record]:
        """An order, accepted and reserved."""
        placed = self.event(PLACED)
        accepted = self.event(ACCEPTED, placed, "orders.accept")
        self.settle("orders.order.deadline!open", placed)
        self.settle("orders.accept", placed)
        reserved = self.event(RESERVED, accepted, "stock.reserve")
        self.settle("pay.overdue!open", accepted)
        self.settle("stock.reserve", accepted)
        self.settle("orders.finish!arrive", reserved)
        return {"placed": placed, "accepted": accepted, "reserved": reserved}

    def completed(self) -> dict[str, Record]:
        """An order that is paid and done."""
        made = self.begin()
        made["paid"] = paid = self.event(PAID, made["reserved"], "pay.charge")
        self.settle("pay.charge", made["reserved"])
        self.settle("orders.finish!arrive", paid)
        made["done"] = self.event(DONE, made["reserved"], "orders.finish")
        key = GateKey("join", "orders.finish", made["placed"].headers["ce_id"])
        self.settle("orders.finish", gate_subject(key))
        return made

    def cancelled(self, why: str = DECLINED) -> dict[str, Record]:
        """An order whose payment is declined, or overdue: released and cancelled."""
        made = self.begin()
        if why == DECLINED:
            made["why"] = self.event(DECLINED, made["reserved"], "pay.charge")
            self.settle("pay.charge", made["reserved"])
        else:
            self.settle("pay.charge", made["reserved"], Status.VOID)
            self.now += 60
            made["why"] = self.event(OVERDUE, made["accepted"], "pay.overdue")
            accepted = id_bytes(made["accepted"].headers["ce_id"])
            self.settle("pay.overdue", derived_id(accepted, b"pay.overdue/timer"))
        self.settle("stock.release!why", made["why"])
        undoes = {"choreo-undoes": made["reserved"].headers["ce_id"]}
        made["released"] = self.event(RELEASED, made["why"], "stock.release", **undoes)
        self.settle("stock.release", made["reserved"])
        made["cancelled"] = self.event(CANCELLED, made["released"], "orders.cancel")
        self.settle("orders.cancel", made["released"])
        return made

    def refunded(self) -> dict[str, Record]:
        """An order that is paid and can not be sent: refunded, then released, and cancelled."""
        made = self.begin()
        made["paid"] = self.event(PAID, made["reserved"], "pay.charge")
        self.settle("pay.charge", made["reserved"])
        self.settle("orders.finish!arrive", made["paid"])
        made["broken"] = self.event(BROKEN, made["paid"])
        self.settle("pay.refund!why", made["broken"])
        undoes = {"choreo-undoes": made["paid"].headers["ce_id"]}
        made["refunded"] = self.event(REFUNDED, made["broken"], "pay.refund", **undoes)
        self.settle("pay.refund", made["paid"])
        self.settle("stock.release!why", made["refunded"])
        undoes = {"choreo-undoes": made["reserved"].headers["ce_id"]}
        made["released"] = self.event(RELEASED, made["refunded"], "stock.release", **undoes)
        self.settle("stock.release", made["reserved"])
        made["cancelled"] = self.event(CANCELLED, made["released"], "orders.cancel")
        self.settle("orders.cancel", made["released"])
        return made
