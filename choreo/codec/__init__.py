"""Events to bytes and back: CloudEvents on a record; values as JSON, or as Avro.

`Codec` is what the rest of choreo is given; what it does stands in the modules beside it.
"""

from choreo.codec.avro import Avro, is_avro
from choreo.codec.cloudevents import (
    DEPTH_MAX,
    EVENT_BYTES_MAX,
    JSON_TYPE,
    STRUCTURED,
    binary_mode,
    check_json,
    decode,
    encode,
    headers_from_pairs,
    headers_from_text,
    headers_to_pairs,
    headers_to_text,
    pack_record,
    reasons,
    too_large,
    unpack_record,
)
from choreo.codec.codec import Codec
from choreo.codec.known import Schemas, subject_of

__all__ = [
    "DEPTH_MAX",
    "EVENT_BYTES_MAX",
    "JSON_TYPE",
    "STRUCTURED",
    "Avro",
    "Codec",
    "Schemas",
    "binary_mode",
    "check_json",
    "decode",
    "encode",
    "headers_from_pairs",
    "headers_from_text",
    "headers_to_pairs",
    "headers_to_text",
    "is_avro",
    "pack_record",
    "reasons",
    "subject_of",
    "too_large",
    "unpack_record",
]
