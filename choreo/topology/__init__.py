"""Who publishes and consumes what: manifests, what they make together, and what is wrong with it.

`manifest` tells one service; `Topology` joins many; `check` finds what does not fit.
"""

from choreo.topology.checking import check
from choreo.topology.declared import (
    FlowDeclared,
    HandlerDeclared,
    ManifestDeclared,
    declared_in,
)
from choreo.topology.findings import Finding
from choreo.topology.graph import Topology
from choreo.topology.manifest import classes_of, events_of, manifest, manifest_json
from choreo.topology.topics import Acl, TopicStep, acls_of, steps_of, topics_of

__all__ = [
    "Acl",
    "Finding",
    "FlowDeclared",
    "HandlerDeclared",
    "ManifestDeclared",
    "TopicStep",
    "Topology",
    "acls_of",
    "check",
    "classes_of",
    "declared_in",
    "events_of",
    "manifest",
    "manifest_json",
    "steps_of",
    "topics_of",
]
