"""Schemas of events: derived from models, kept in a folder, compared."""

from choreo.schemas.checking import SchemaFinding, check_schemas, owned_schemas
from choreo.schemas.deriving import derived, full_name
from choreo.schemas.evolving import misread
from choreo.schemas.folder import SchemaFolder, Version, added, written
from choreo.schemas.forms import Form, Json, NotWritableError
from choreo.schemas.parsing import DEPTH_MAX, AvroSchema, avro_library, examined, parsed
from choreo.schemas.registry import SchemaRegistry

__all__ = [
    "DEPTH_MAX",
    "AvroSchema",
    "Form",
    "Json",
    "NotWritableError",
    "SchemaFinding",
    "SchemaFolder",
    "SchemaRegistry",
    "Version",
    "added",
    "avro_library",
    "check_schemas",
    "derived",
    "examined",
    "full_name",
    "misread",
    "owned_schemas",
    "parsed",
    "written",
]
