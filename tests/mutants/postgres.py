"""Promises of the store in PostgreSQL, broken: what is locked, and when it is read."""

from tests.mutants.mutant import Mutant, Patch

__all__ = ["POSTGRES"]

PLAIN = "choreo/adapters/postgres/plain.py"
ROWS = "choreo/adapters/postgres/rows.py"
SECTIONS = "choreo/adapters/postgres/sections.py"
TX = "choreo/adapters/postgres/tx.py"
APPLY = "choreo/adapters/postgres/apply.py"
OWNING = "choreo/adapters/postgres/owning.py"
SEEN = "choreo/adapters/postgres/seen.py"

BOARD = "choreo/adapters/postgres/board.py"
ENLISTING = "choreo/adapters/postgres/enlisting.py"
TIMING = "choreo/adapters/postgres/timing.py"

STORE = "tests/postgres/test_contract.py::TestPostgresStore::"
BOLDNESS = "tests/postgres/test_boldness.py::"
ENLISTED = "tests/postgres/test_enlisting.py::"
GENERATION = "tests/postgres/test_generation.py::"
CLOCK = "tests/postgres/test_clock.py::"
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
        "PostgreSQL: SKIP LOCKED relay",
        "a row is published by the owner of its partition, in the order of commits",
        (
            Patch(
                SEEN,
                '" WHERE seq > $1 AND owner = ANY($2::int[]) ORDER BY seq LIMIT $3"',
                '" WHERE seq > $1 AND $2::int[] IS NOT NULL ORDER BY seq LIMIT $3"\n'
                '    " FOR UPDATE SKIP LOCKED"',
            ),
        ),
        (
            f"{STORE}test_what_came_of_no_delivery_is_with_the_orphans",
            f"{STORE}test_a_group_sees_its_own_rows",
        ),
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
    Mutant(
        "PostgreSQL: a plan that lost takes a timer with it",
        "each plan is written as a whole or not at all",
        (
            Patch(
                BOARD,
                "                    del table[key]  #",
                "                    table[key] = None  #",
            ),
        ),
        (f"{STORE}test_a_plan_that_lost_leaves_a_timer_as_it_was",),
    ),
    Mutant(
        "PostgreSQL: an older generation takes over",
        "where the broker counts generations, a lower one takes nothing from who lives",
        (Patch(OWNING, "row[3] > generation and", "row[3] > generation and not"),),
        (f"{GENERATION}test_an_older_generation_takes_nothing_over_from_who_lives",),
    ),
    Mutant(
        "PostgreSQL: callers do not stand in line",
        "what callers publish under one key is in the order of their commits",
        (Patch(ENLISTING, "pg_advisory_xact_lock({SPACE}, $1::int4)", "hashint4($1::int4)"),),
        (f"{ENLISTED}test_under_one_key_the_order_is_that_of_commits",),
    ),
    Mutant(
        "PostgreSQL: every group publishes what is nobody's",
        "one group at a time publishes what came of no delivery",
        (Patch(OWNING, "if first in (None, kept(group)) else []", "if group else []"),),
        (f"{STORE}test_one_group_at_a_time_publishes_what_is_enlisted",),
    ),
    Mutant(
        "PostgreSQL: nobody is told of a caller's records",
        "what a caller has committed is published at once",
        (Patch(ENLISTING, "pg_notify('{CHANNEL}', '')", "pg_notify('nobody', '')"),),
        (f"{ENLISTED}test_who_waits_is_told_at_once",),
    ),
    Mutant(
        "PostgreSQL: the machine's clock counts",
        "timers go by the store's clock",
        (Patch(TIMING, "        self._follow(now)\n", "        pass\n"),),
        (f"{CLOCK}test_what_one_host_sets_another_fires_in_time",),
    ),
)
