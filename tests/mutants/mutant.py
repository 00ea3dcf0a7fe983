"""What a mutant is."""

from dataclasses import dataclass

__all__ = ["Mutant", "Patch"]

UNSIMULATED = (
    "choreo/adapters/faust/",
    "choreo/adapters/kafka/",
    "choreo/adapters/postgres/",
    "choreo/adapters/sqlite/log.py",
    "choreo/adapters/sqlite/subscription.py",
    "choreo/adapters/sqlite/database.py",
    "choreo/adapters/sqlite/views.py",
    "choreo/codec/avro.py",
    "choreo/codec/known.py",
    "choreo/codec/measuring.py",
    "choreo/ports/merging.py",
    "choreo/schemas/",
    "choreo/tracker/shared.py",
)
"""What a simulation replaces, or has no use for."""


@dataclass(frozen=True, slots=True)
class Patch:
    """In `file`, `old` stands exactly once, and becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A promise that is broken, and the tests one of which must say so."""

    name: str
    breaks: str
    patches: tuple[Patch, ...]
    tests: tuple[str, ...]

    @property
    def simulated(self) -> bool:
        """Whether a simulation runs any of what is broken."""
        return not all(patch.file.startswith(UNSIMULATED) for patch in self.patches)
