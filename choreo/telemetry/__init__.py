"""What can be seen of a worker from outside: spans, metrics, fields of log records.

Telemetry is put around the ports and around the running of handlers when an App starts; where
nobody has configured OpenTelemetry there is nothing of it on the way of a step.
"""

from choreo.telemetry.around import Telemetry
from choreo.telemetry.attempts import Attempts
from choreo.telemetry.log_fields import CURRENT, LogFields, about, nobody
from choreo.telemetry.names import ATTRIBUTES, LOG_FIELDS, METRICS, SPANS, Metric, Span
from choreo.telemetry.sampler import Sampler
from choreo.telemetry.sdk import asked, configure, exported

__all__ = [
    "ATTRIBUTES",
    "CURRENT",
    "LOG_FIELDS",
    "METRICS",
    "SPANS",
    "Attempts",
    "LogFields",
    "Metric",
    "Sampler",
    "Span",
    "Telemetry",
    "about",
    "asked",
    "configure",
    "exported",
    "nobody",
]
