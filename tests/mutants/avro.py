"""What is broken on purpose where values are Avro."""

from tests.mutants.mutant import Mutant, Patch

__all__ = ["AVRO"]

BYTES = "tests/bad_input/test_avro_bytes.py::"
REGISTRY = "tests/unit/test_registry.py::"
RUNNING = "tests/semantics/test_avro.py::"
SCHEMAS = "tests/unit/test_schemas.py::"

AVRO = (
    Mutant(
        "ends unseen",
        "bytes that break off are a dead letter, whatever a view passes over",
        (Patch("choreo/codec/avro.py", 'io.BytesIO(value + b"\\0")', "io.BytesIO(value)"),),
        (f"{BYTES}test_the_process_lives_on",),
    ),
    Mutant(
        "schemas unexamined",
        "few bytes never stand for a great many values",
        (
            Patch(
                "choreo/schemas/parsing.py",
                '        if each - (VALUES_A_BYTE if kind == "map" else 0) > 0:',
                "        if False:",
            ),
        ),
        (f"{SCHEMAS}test_a_schema_that_few_bytes_could_abuse_is_refused",),
    ),
    Mutant(
        "depth unmeasured",
        "where recursion is allowed, 64 levels are",
        (Patch("choreo/codec/measuring.py", "        if depth > DEPTH_MAX:", "        if False:"),),
        (f"{BYTES}test_depth_is_bounded_where_recursion_is_allowed",),
    ),
    Mutant(
        "registry stormed",
        "an id that nobody knows is asked for less and less often",
        (
            Patch(
                "choreo/codec/known.py",
                "missing.wait_s = min(missing.wait_s * 2, AGAIN_LONGEST_S)",
                "missing.wait_s = 0.0",
            ),
        ),
        (f"{REGISTRY}test_an_unknown_id_is_asked_for_less_and_less_often",),
    ),
    Mutant(
        "outage counted",
        "a registry that is down costs no attempt",
        (
            Patch(
                "choreo/step/failing.py",
                "isinstance(error, (RegistryUnavailableError, StoreError))",
                "isinstance(error, StoreError)",
            ),
        ),
        (f"{RUNNING}test_a_registry_that_is_down_costs_no_attempt",),
    ),
    Mutant(
        "defaults not asked for",
        "every version of a schema reads every other",
        (
            Patch(
                "choreo/schemas/evolving.py",
                'if not self._reader or not field.keys() & {"default", "x-optional"}:',
                "if not self._reader:",
            ),
        ),
        ("tests/unit/test_evolving.py::test_a_change_that_somebody_can_not_read_is_told",),
    ),
)
