"""choreo: event-driven choreography with what only orchestrators had, and no orchestrator."""

from choreo.app import App, transaction
from choreo.audit import Evidence
from choreo.context import Context, Failure, State
from choreo.errors import (
    ChoreoError,
    ConfigurationError,
    HandlerError,
    Later,
    NotDone,
    OutcomeTimeoutError,
)
from choreo.events import Event, Secret
from choreo.policies import Retry
from choreo.ports import Tx
from choreo.running import run
from choreo.service import After, Cancel, Flow, Service

__all__ = [
    "After",
    "App",
    "Cancel",
    "ChoreoError",
    "ConfigurationError",
    "Context",
    "Event",
    "Evidence",
    "Failure",
    "Flow",
    "HandlerError",
    "Later",
    "NotDone",
    "OutcomeTimeoutError",
    "Retry",
    "Secret",
    "Service",
    "State",
    "Tx",
    "run",
    "transaction",
]
