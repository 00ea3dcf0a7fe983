"""Fields of log records: which flow, handler and event a line is about."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

from choreo.events import ID
from choreo.step import Delivery
from choreo.step.publish import flow_of

__all__ = ["CURRENT", "LogFields", "about", "nobody"]


def nobody() -> Delivery | None:
    """Give no delivery."""
    return None


CURRENT: ContextVar[Callable[[], Delivery | None]] = ContextVar("choreo_delivery", default=nobody)
"""Gives the delivery that is being handled here: in this task, or this thread.

Set once a runner, not once a delivery: only who logs pays for it.
"""

NOTHING: dict[str, object] = {"flow_id": "", "handler": "", "event_id": "", "attempt": 0}


def about(d: Delivery) -> dict[str, object]:
    """Give the fields of a delivery, as `extra=` of a log line."""
    return {
        "flow_id": flow_of(d.record),
        "handler": d.route.name,
        "event_id": d.record.headers.get(ID, ""),
        "attempt": d.attempt,
    }


class LogFields(logging.Filter):
    """Gives log records `flow_id`, `handler`, `event_id`, `attempt`; lets every record pass.

    Add it to a logging handler: then each line that is logged while an event is handled, by
    whatever library, says which. Elsewhere the fields are empty. It needs no OpenTelemetry.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what is not there."""
        d = CURRENT.get()()
        for name, value in (NOTHING if d is None else about(d)).items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
