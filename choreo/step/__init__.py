"""One delivery, decided.

Given a delivery, what the store has seen of it and what its handler did, this package
answers with the Plan to be written. It performs nothing, so that simulation, replay and
production run the very same code.
"""

from choreo.step.compiled import Compiled, compiled, route_of
from choreo.step.decide import (
    MoreGates,
    StepVoid,
    after_run,
    before_run,
    claim,
    intent,
    skipped,
    subject_event,
    void,
    want,
)
from choreo.step.delivery import NOT_RUN, Delivery, Role, Route
from choreo.step.failing import Verdict, failed, final, killed, parked_behind, parked_running
from choreo.step.parking import thawed, unfrozen_records
from choreo.step.publish import payload_hash

__all__ = [
    "NOT_RUN",
    "Compiled",
    "Delivery",
    "MoreGates",
    "Role",
    "Route",
    "StepVoid",
    "Verdict",
    "after_run",
    "before_run",
    "claim",
    "compiled",
    "failed",
    "final",
    "intent",
    "killed",
    "parked_behind",
    "parked_running",
    "payload_hash",
    "route_of",
    "skipped",
    "subject_event",
    "thawed",
    "unfrozen_records",
    "void",
    "want",
]
