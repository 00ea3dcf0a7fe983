"""What a mutant is."""

from dataclasses import dataclass

__all__ = ["Mutant", "Patch"]


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
