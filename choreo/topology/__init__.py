"""Who publishes and consumes what: manifests, what they make together, and what is wrong with it.

`manifest` tells one service; `Topology` joins many; `check` finds what does not fit.
"""

from choreo.topology.declared import (
    FlowDeclared,
    HandlerDeclared,
    ManifestDeclared,
    declared_in,
)
from choreo.topology.manifest import events_of, manifest, manifest_json

__all__ = [
    "FlowDeclared",
    "HandlerDeclared",
    "ManifestDeclared",
    "declared_in",
    "events_of",
    "manifest",
    "manifest_json",
]
