"""Promises of the store in PostgreSQL, broken: what is locked, and when it is read."""

from tests.mutants.mutant import Mutant, Patch

__all__ = ["POSTGRES"]

PLAIN = "choreo/adapters/postgres/plain.py"
ROWS = "choreo/adapters/postgres/rows.py"
SECTIONS = "choreo/adapters/postgres/sections.py"
TX = "choreo/adapters/postgres/tx.py"
APPLY = "choreo/adapters/postgres/apply.py"
OWNING = "choreo/adapters/postgres/owning.py"

STORE = "tests/postgres/test_contract.py::TestPostgresStore::"
BOLDNESS = "tests/postgres/test_boldness.py::"
INTERLEAVINGS = "tests/postgres/test_interleavings.py::"

POSTGRES = (
    Mutant(
        "PostgreSQL: gate read before its lock",
        "what two parties may decide at once is decided by one of them",
        (
            Patch(
                ROWS,
                '"INSERT INTO choreo.gate AS g (kind, handler, scope, seq, closed, members, at)"',
                '"WITH locked AS (INSERT INTO choreo.gate AS g"'
                '" (kind, handler, scope, seq, closed, members, at)"',
            ),
            Patch(
                ROWS,
                'SET seq = g.seq"\n    " RETURNING kind, handler, scope, seq, closed, members"',
                'SET seq = g.seq"\n    " RETURNING 1)'
                " SELECT kind, handler, scope, seq, closed, members FROM choreo.gate JOIN"
                ' unnest($1::text[], $2::int[], $3::text[]) AS a (kind, handler, scope)"'
                '" USING (kind, handler, scope)"',
            ),
        ),
        (
            f"{INTERLEAVINGS}test_a_void_that_comes_while_the_action_runs",
            f"{INTERLEAVINGS}test_arrivals_in_two_processes_at_once",
        ),
    ),
    Mutant(
        "PostgreSQL: epoch not checked",
        "a former owner writes nothing",
        (
            Patch(
                ROWS,
                "        if any(epochs.get(place)",
                "        if False and any(epochs.get(place)",
            ),
            Patch(PLAIN, "WHERE held.id IS NULL", "WHERE false"),
        ),
        (
            f"{STORE}test_a_former_owner_writes_nothing",
            f"{INTERLEAVINGS}test_a_section_of_a_zombie_does_not_run",
        ),
    ),
    Mutant(
        "PostgreSQL: inbox conflict ignored",
        "handlers: never again after their step is recorded",
        (
            Patch(
                PLAIN,
                "    ON CONFLICT DO NOTHING RETURNING handler, subject",
                "    ON CONFLICT (handler, subject) DO UPDATE SET status = excluded.status"
                " RETURNING handler, subject",
            ),
        ),
        (
            f"{STORE}test_a_delivery_is_settled_once",
            f"{INTERLEAVINGS}test_the_same_delivery_in_two_processes",
        ),
    ),
    Mutant(
        "PostgreSQL: no FOR SHARE",
        "nothing of a former owner is committed after the takeover",
        (
            Patch(ROWS, "ORDER BY id FOR SHARE", "ORDER BY id"),
            Patch(PLAIN, "ORDER BY id FOR SHARE", "ORDER BY id"),
        ),
        (f"{INTERLEAVINGS}test_a_takeover_waits_for_what_its_former_owner_is_writing",),
    ),
    Mutant(
        "PostgreSQL: epochs locked and not read again",
        "a zombie that waits for the takeover goes by what it became",
        (
            Patch(
                PLAIN,
                "    LEFT JOIN held USING (id, epoch) WHERE held.id IS NULL",
                "    LEFT JOIN (SELECT o.id, o.epoch FROM choreo.owner o, held"
                " WHERE held.id = o.id) AS held USING (id, epoch) WHERE held.id IS NULL",
            ),
        ),
        (f"{INTERLEAVINGS}test_a_zombie_that_comes_during_the_takeover_is_stale",),
    ),
    Mutant(
        "PostgreSQL: who is parked behind another is not counted",
        "order per key and handler, also over a takeover",
        (Patch(OWNING, '"SELECT handler, chain, 0,', '"SELECT DISTINCT handler, chain, 0,'),),
        (f"{STORE}test_a_held_delivery_waits_for_the_one_before_it",),
    ),
    Mutant(
        "PostgreSQL: deadlock told",
        "rows that two groups want cost nobody a failure",
        (Patch(APPLY, "CONFLICTS_MAX = 20", "CONFLICTS_MAX = 1"),),
        (f"{INTERLEAVINGS}test_groups_that_lock_rows_in_opposite_order",),
    ),
    Mutant(
        "PostgreSQL: a section that raises is kept",
        "what a section did is taken back when it raises",
        (Patch(SECTIONS, "        if not boldly:", "        if False:"),),
        (f"{STORE}test_a_section_that_raises_leaves_nothing",),
    ),
    Mutant(
        "PostgreSQL: a section that raises boldly is kept",
        "what a section did without a savepoint is taken back when it raises",
        (Patch(SECTIONS, "        if boldly and run.saying:", "        if False:"),),
        (f"{BOLDNESS}test_one_that_raises_is_taken_back_alone",),
    ),
    Mutant(
        "PostgreSQL: other answers than before are taken",
        "what a section was told holds when its step is committed",
        (
            Patch(
                SECTIONS,
                "            if await statements.run_unsaved(sql, values) != answer:",
                "            if await statements.run_unsaved(sql, values) is None:",
            ),
        ),
        (f"{BOLDNESS}test_other_answers_than_before_are_a_conflict",),
    ),
    Mutant(
        "PostgreSQL: a swallowed conflict is kept",
        "what can not be serialized is run again, whatever its handler makes of it",
        (
            Patch(
                SECTIONS, "            if statements.doomed is not None:", "            if False:"
            ),
        ),
        (f"{INTERLEAVINGS}test_a_section_that_can_not_be_serialized_says_so",),
    ),
)
