"""The simulated deployment: a whole system in one process, on virtual time, from one seed."""

from choreo.testing.simulation.broker import SimBroker
from choreo.testing.simulation.chance import Crash, Fired, Injected
from choreo.testing.simulation.cluster import Cluster
from choreo.testing.simulation.outside import Outside, RefusedError, UnansweredError
from choreo.testing.simulation.trial import Case, Outcome, Trial, hashed, run_all, totals
from choreo.testing.simulation.world import Plan, World, simulate

__all__ = [
    "Case",
    "Cluster",
    "Crash",
    "Fired",
    "Injected",
    "Outcome",
    "Outside",
    "Plan",
    "RefusedError",
    "SimBroker",
    "Trial",
    "UnansweredError",
    "World",
    "hashed",
    "run_all",
    "simulate",
    "totals",
]
