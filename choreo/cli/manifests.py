"""The manifests that `check` and `graph` look at: of modules, or of what is deployed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from choreo.app import open_broker
from choreo.cli.loading import services
from choreo.cli.output import counted, execute, fail
from choreo.cli.settings import Settings
from choreo.events import MANIFESTS_TOPIC, Record
from choreo.topology import Topology, manifest

__all__ = ["size_of", "topology_of", "where"]


def topology_of(settings: Settings, *, deployed: bool) -> Topology:
    """Join what the modules declare; `deployed`: what services told the log when they started."""
    if not deployed:
        found = services(settings.modules)
        return Topology({service.name: manifest(service) for service in found})
    if not settings.log_exists():
        fail("CH1016", f"there is no log at {settings.deployment} yet. Fix: run services first")
    return Topology(execute(_deployed(settings)))


async def _deployed(settings: Settings) -> dict[str, Mapping[str, Any]]:
    broker = open_broker(settings.folder)
    newest: dict[str, Mapping[str, Any]] = {}
    try:
        async for records in broker.read([MANIFESTS_TOPIC]):
            newest.update(_read(record) for record in records)
    finally:
        await broker.close()
    return newest


def _read(record: Record) -> tuple[str, Mapping[str, Any]]:
    name = (record.key or b"").decode(errors="replace")
    try:
        document = json.loads(record.value)
    except (ValueError, RecursionError):
        document = None
    return name, document if isinstance(document, dict) else {}


def where(at: str) -> str:
    """Turn module:line into file:line where the module is loaded."""
    name, _, line = at.rpartition(":")
    file = getattr(sys.modules.get(name), "__file__", None)
    if not file:
        return at
    path = Path(file)
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def size_of(topology: Topology) -> str:
    """Say how much that is."""
    return ", ".join(
        (
            counted(len(topology.of_service), "service"),
            counted(len(topology.handlers), "handler"),
            counted(len(topology.flows), "flow"),
        )
    )
