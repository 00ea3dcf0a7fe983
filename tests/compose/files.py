"""The files of `compose/`, read as Docker and Prometheus read them."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.house.source import ROOT

__all__ = ["COMPOSE", "OURS", "filled", "loaded", "services"]

COMPOSE = ROOT / "compose"
OURS = "choreo-shop"
VARIABLE = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")


class Strict(yaml.SafeLoader):
    """Refuses a key that stands twice: which of the two holds nobody can see."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - the library's
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"{node.start_mark}: a key stands twice"
        return super().construct_mapping(node, deep)


def loaded(name: str) -> dict[str, Any]:
    """Read a file of `compose/`."""
    found = yaml.load((COMPOSE / name).read_text(encoding="utf-8"), Strict)  # noqa: S506 - a safe one
    assert isinstance(found, dict)
    return found


def services() -> dict[str, dict[str, Any]]:
    """Give all containers by name."""
    return dict(loaded("compose.yaml")["services"])


def filled(text: str, given: Mapping[str, str] | None = None) -> str:
    """Put values, or their defaults, where variables stand."""
    known = given or {}
    return VARIABLE.sub(lambda one: known.get(one["name"], one["default"]), text)


def image_of(service: Mapping[str, Any]) -> str:
    """Name the image without its tag."""
    return str(service["image"]).rpartition(":")[0]


def dockerfile() -> list[list[str]]:
    """Give the instructions of the Dockerfile as words."""
    text = (COMPOSE / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line.split() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line]


def path_in(name: str) -> Path:
    """Give the path of what a container mounts."""
    return (COMPOSE / name).resolve()
