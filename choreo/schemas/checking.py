"""What is wrong with the schemas of these events: against their versions, and among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from choreo.events import Event
from choreo.schemas.deriving import derived
from choreo.schemas.evolving import Clash, clashes, misread
from choreo.schemas.folder import Version, added
from choreo.schemas.parsing import AvroSchema, examined

__all__ = ["SchemaFinding", "check_schemas", "owned_schemas"]


@dataclass(frozen=True, slots=True, order=True)
class SchemaFinding:
    """One thing that does not fit: a type, where in it, what is wrong, what to do."""

    code: str
    type: str
    field: str
    what: str
    fix: str
    reader: str = ""
    writer: str = ""


def owned_schemas(
    events: Iterable[type[Event]], *, recursive: bool = False
) -> dict[str, AvroSchema]:
    """Derive the schema of every owned event, by type; raises ConfigurationError."""
    return {
        event.__event__.type: examined(derived(event).schema, recursive=recursive)
        for event in events
        if event.__event__.key is not None
    }


def check_schemas(
    events: Sequence[tuple[str, type[Event]]],
    versions: Mapping[str, Sequence[Version]],
    *,
    recursive: bool = False,
) -> list[SchemaFinding]:
    """Compare every owned event with its versions, and every view with its owner's.

    `events` are classes, each with the service that declares it. A view of a type that has no
    version, and that nobody here owns, can not be judged and is left out.
    """
    owned = owned_schemas((event for _, event in events), recursive=recursive)
    found: list[SchemaFinding] = []
    writers: dict[str, list[tuple[str, AvroSchema]]] = {}
    for kind in dict.fromkeys(event.__event__.type for _, event in events):
        known = list(versions.get(kind, ()))
        if kind in owned and (new := added(known, kind, owned[kind])) is not None:
            found.append(_not_written(kind, known, new))
            known.append(new)
        writers[kind] = [(version.name, version.schema) for version in known]
        named = [(name, schema.root) for name, schema in writers[kind]]
        found += [_clash(kind, one) for one in clashes(named)]
    for service, event in events:
        if event.__event__.key is None:
            found += _view(service, event, writers[event.__event__.type])
    return sorted(set(found))


def _not_written(kind: str, known: Sequence[Version], new: Version) -> SchemaFinding:
    what = f"the class is not {known[-1].name} any more" if known else "it has no version yet"
    fix = f"run choreo schemas generate, which adds {new.file}, and check it in"
    return SchemaFinding("CH1120", kind, "", what, fix)


def _clash(kind: str, one: Clash) -> SchemaFinding:
    what = f"{one.reader} can not read {one.writer}: {one.reason.text}"
    return SchemaFinding("CH1121", kind, one.reason.field, what, one.fix, one.reader, one.writer)


def _view(
    service: str, event: type[Event], writers: Iterable[tuple[str, AvroSchema]]
) -> Iterator[SchemaFinding]:
    kind = event.__event__.type
    reader = derived(event).schema
    for name, writer in writers:
        for reason in misread(writer.root, reader, (name, "the view"), view=True):
            yield SchemaFinding(
                "CH1104", kind, reason.field,
                f"the view of {service} can not read {name}: {reason.text}",
                "change the view to what the owner publishes, or give the field a default",
                service, name,
            )  # fmt: skip
