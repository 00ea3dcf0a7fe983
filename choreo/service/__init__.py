"""A service: handlers, a store and a consumer group, and how a user declares them."""

from choreo.service.declared import Flow, Handler, Kind
from choreo.service.outputs import After, Cancel, Outputs
from choreo.service.service import Service
from choreo.service.signature import Param, ParamKind, Signature

__all__ = [
    "After",
    "Cancel",
    "Flow",
    "Handler",
    "Kind",
    "Outputs",
    "Param",
    "ParamKind",
    "Service",
    "Signature",
]
