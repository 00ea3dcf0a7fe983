"""What a supervisor asks of a process: does it live, has it started, may it be given work.

Served over HTTP by the process's own event loop: one that is blocked does not answer, and that
is the answer.
"""

from choreo.health.address import Address
from choreo.health.probes import BothProbe, Probe, Problem, ServicesProbe, TrackerProbe
from choreo.health.served import served
from choreo.health.server import HealthServer

__all__ = [
    "Address",
    "BothProbe",
    "HealthServer",
    "Probe",
    "Problem",
    "ServicesProbe",
    "TrackerProbe",
    "served",
]
