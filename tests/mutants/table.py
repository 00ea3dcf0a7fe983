"""What is broken on purpose: a promise, the lines that keep it, and the tests that must fail.

A patch is exact text. When the code changes, `test_table.py` says which patch no longer
applies: find the lines that keep the promise now, and break those.
"""

from tests.mutants.avro import AVRO
from tests.mutants.mutant import Mutant, Patch
from tests.mutants.postgres import POSTGRES
from tests.mutants.relay import RELAYED
from tests.mutants.tracker import TRACKED

__all__ = ["ABSENT", "MUTANTS", "Mutant", "Patch"]

APPLY = "choreo/adapters/sqlite/apply.py"
CHANGES = "choreo/adapters/sqlite/changes.py"
SEEN = "choreo/adapters/sqlite/seen.py"
LOG = "choreo/adapters/sqlite/log.py"
DATABASE = "choreo/adapters/sqlite/database.py"
DECIDE = "choreo/step/decide.py"
PUBLISH = "choreo/step/publish.py"
CONTEXT = "choreo/context.py"
LANE = "choreo/worker/lane.py"
COMMIT = "choreo/worker/commit.py"

STORE = "tests/contracts/test_sqlite.py::TestSqliteFileStore::"
BROKER = "tests/contracts/test_sqlite.py::TestSqliteFileBroker::"
AT_MOST = "tests/semantics/test_at_most.py::"
ATTEMPTS = "tests/semantics/test_attempts.py::"
COMPENSATION = "tests/semantics/test_compensation.py::"
KEEPING = "tests/semantics/test_keeping.py::"
LIFE = "tests/semantics/test_life.py::"
ONCE = "tests/semantics/test_once.py::"
POWER = "tests/services/test_power_loss.py::"
UNKNOWN_COMMIT = "tests/semantics/test_unknown_commit.py::"
VISITS = "tests/semantics/test_visits.py::"


MUTANTS = (
    # ── GUARANTEES, "the tests themselves are tested" ────────────────────────────────────
    Mutant(
        "inbox check dropped",
        "handlers: never again after their step is recorded",
        (
            Patch(APPLY, "        if changed != len(plain):", "        if False:"),
            Patch(
                CHANGES,
                "            if not cursor.rowcount and not change.spawn:",
                "            if False:",
            ),
            Patch(DECIDE, "    if seen.status is not None and (\n", "    if False and (\n"),
        ),
        (
            f"{STORE}test_a_delivery_is_settled_once",
            f"{ATTEMPTS}test_an_event_that_comes_twice_is_handled_once",
        ),
    ),
    Mutant(
        "gate read before its lock",
        "what two parties may decide at once is decided by one of them",
        (
            Patch(
                CHANGES,
                '" WHERE kind = ? AND handler = ? AND scope = ? AND seq = ?"',
                '" WHERE kind = ? AND handler = ? AND scope = ? AND ? > 0"',
            ),
            Patch(
                CHANGES,
                'f"INSERT INTO gate VALUES (?, ?, ?, 1, ?, ?, {LAST}) ON CONFLICT DO NOTHING"',
                'f"INSERT OR REPLACE INTO gate VALUES (?, ?, ?, 1, ?, ?, {LAST})"',
            ),
        ),
        (f"{STORE}test_counted_side_by_side_nothing_is_lost",),
    ),
    Mutant(
        "transaction split",
        "one transaction holds what a step leaves",
        (
            Patch(
                APPLY,
                "        self._append(connection, published, self._log.rows(published, left))",
                '        for sql in ("COMMIT", "BEGIN", "SAVEPOINT work", "SAVEPOINT plan"):\n'
                "            connection.execute(sql)\n"
                "        self._append(connection, published, self._log.rows(published, left))",
            ),
        ),
        (f"{STORE}test_a_plan_that_fails_takes_no_other_with_it",),
    ),
    Mutant(
        "offset committed before the work",
        "process crash: nothing lost",
        (
            Patch(
                LANE, "        for batch in reversed(self._open):\n", "        for batch in ():\n"
            ),
        ),
        (f"{ONCE}test_a_call_that_a_stop_cut_off_is_made_again_with_the_same_key",),
    ),
    Mutant(
        "event ids at random",
        "a step that runs again publishes the same ids",
        (
            Patch(
                PUBLISH,
                "    raw_id = derived_id(d.subject, salt)\n",
                '    raw_id = __import__("os").urandom(16)\n',
            ),
        ),
        (f"{LIFE}test_all_outputs_of_a_step_have_ids_of_their_own_and_the_same_in_any_run",),
    ),
    Mutant(
        "one event id for two outputs",
        "every event has an id of its own",
        (
            Patch(
                PUBLISH,
                '    salt = spec.salt + b"%d/" % n + key.encode("utf-8", "surrogatepass")\n',
                '    salt = b"out"\n',
            ),
        ),
        (f"{LIFE}test_all_outputs_of_a_step_have_ids_of_their_own_and_the_same_in_any_run",),
    ),
    Mutant(
        "no void",
        "an action after its void has no effect that stays",
        (Patch(PUBLISH, '    record.headers[VOID] = "1"\n', ""),),
        (f"{COMPENSATION}test_a_trigger_while_the_outcome_of_a_call_is_unknown_waits_for_it",),
    ),
    Mutant(
        "records in order of their timestamps",
        "order per key is the order of publishing",
        (
            Patch(
                LOG,
                "{where}ORDER BY position LIMIT ?",
                "{where}ORDER BY headers ->> '$.ce_time', -position LIMIT ?",
            ),
        ),
        (f"{BROKER}test_order_per_key_is_order_of_publishing",),
    ),
    Mutant(
        "what is held in order of its arrival",
        "order per key and handler, through retries and crashes",
        (Patch(CHANGES, '" ORDER BY offset LIMIT 1', '" ORDER BY rowid LIMIT 1'),),
        (f"{STORE}test_a_held_delivery_waits_for_the_one_before_it",),
    ),
    Mutant(
        "timers without claim",
        "one effective firing a timer",
        (
            Patch(
                CHANGES,
                '"DELETE FROM timer WHERE id = ? AND due = ? AND payload = ?"',
                '"DELETE FROM timer WHERE id = ? AND ? > 0 AND ? IS NOT NULL"',
            ),
        ),
        (f"{STORE}test_a_timer_that_fired_and_was_replaced_is_not_handled",),
    ),
    # ── of our own making ────────────────────────────────────────────────────────────────
    Mutant(
        "epoch not checked",
        "a former owner writes nothing",
        (Patch(APPLY, "            if id(plan.owned) in lost:", "            if False:"),),
        (f"{STORE}test_a_former_owner_writes_nothing",),
    ),
    Mutant(
        "timers early",
        "never early by the store's clock",
        (
            Patch(
                "choreo/adapters/sqlite/store.py",
                "lambda c: due_rows(c, owned, now, ",
                "lambda c: due_rows(c, owned, now + 0.5, ",
            ),
        ),
        (f"{STORE}test_a_timer_fires_in_time_and_once",),
    ),
    Mutant(
        "undo gate released early",
        "a scope is not called empty while an outside call in it is under way",
        (Patch("choreo/step/gates.py", "            intents.append(name)\n", ""),),
        (f"{COMPENSATION}test_a_trigger_while_the_outcome_of_a_call_is_unknown_waits_for_it",),
    ),
    Mutant(
        "effect of a closed scope",
        "a handler whose outputs hold an effect of a closed scope does not run",
        (
            Patch(
                DECIDE,
                '        undone = key.kind == "undo" and',
                '        undone = key.kind == "none" and',
            ),
        ),
        (f"{COMPENSATION}test_a_step_whose_scope_is_closed_does_not_run",),
    ),
    Mutant(
        "intent not written",
        "an unknown outcome is never taken for a failure",
        (
            Patch(
                CONTEXT,
                'known = await self._memory.remember(name, Memo.INTENT, b"")',
                'known = (Memo.INTENT, b"")',
            ),
        ),
        (f"{ONCE}test_an_unknown_outcome_is_tried_for_ever_with_one_key_and_uses_no_attempt",),
    ),
    Mutant(
        "result not remembered",
        "an outside call is remembered when answered",
        (
            Patch(
                CONTEXT,
                """            ) from exc
        return await self._memory.remember(name, Memo.RESULT, data, undo=undo)""",
                """            ) from exc
        return Memo.RESULT, data""",
            ),
        ),
        (f"{ONCE}test_a_result_is_remembered_over_attempts_and_restarts",),
    ),
    Mutant(
        "later result wins",
        "the first recorded result of an outside call wins",
        (Patch(CHANGES, '        unless = "state <> 2"', '        unless = "1"'),),
        (f"{STORE}test_the_first_result_is_the_result",),
    ),
    Mutant(
        "unknown outcome uses attempts up",
        "a delivery with an open call can not be exhausted",
        (
            Patch(
                "choreo/step/failing.py",
                "    elif d.unknown or d.owes_undo or down or",
                "    elif d.owes_undo or down or",
            ),
        ),
        (f"{ONCE}test_an_unknown_outcome_is_tried_for_ever_with_one_key_and_uses_no_attempt",),
    ),
    Mutant(
        "idempotency key by attempt",
        "outside effects: with a stable key",
        (
            Patch(
                "choreo/worker/call.py",
                'derived_id(d.subject, f"{d.call_prefix}{named}".encode())',
                'derived_id(d.subject, b"%d" % d.attempt)',
            ),
        ),
        (f"{ONCE}test_an_unknown_outcome_is_tried_for_ever_with_one_key_and_uses_no_attempt",),
    ),
    Mutant(
        "state saved over another",
        "a keyed state is written if it still has the version seen",
        (
            Patch(
                CHANGES,
                '" WHERE type = ? AND key = ? AND version = ?"',
                '" WHERE type = ? AND key = ? AND ? > 0"',
            ),
            Patch(
                CHANGES,
                '"INSERT INTO state VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING"',
                '"INSERT OR REPLACE INTO state VALUES (?, ?, 1, ?)"',
            ),
        ),
        (f"{STORE}test_a_state_is_saved_as_it_was_seen",),
    ),
    Mutant(
        "held chain forgotten",
        "later deliveries of a key wait behind one that is parked",
        (Patch(LANE, "        return bool(self.held) and", "        return False and"),),
        (f"{ATTEMPTS}test_a_parked_delivery_holds_its_key_and_no_other",),
    ),
    Mutant(
        "chains not kept",
        "one delivery of a key and handler at a time",
        (Patch(LANE, "        if last is None:\n            return True", "        return True"),),
        (
            f"{ATTEMPTS}test_time_goes_on_while_a_key_waits_behind_a_retry_inside_the_step",
            f"{ATTEMPTS}test_whatever_fails_each_key_ends_in_its_order",
        ),
    ),
    Mutant(
        "one bad plan takes all",
        "a plan that fails takes no other with it",
        (Patch(APPLY, '        connection.execute("ROLLBACK TO plan")\n', ""),),
        (f"{STORE}test_a_section_that_raises_leaves_nothing",),
    ),
    Mutant(
        "unknown commit taken for a duplicate of others",
        "what was parked by a plan whose answer was lost is run when it is due",
        (
            Patch(
                COMMIT,
                '            self._pipeline.spawn(self._look_what_became(d), "look what became")\n',
                "            self._committed(d, ())\n",
            ),
        ),
        (f"{UNKNOWN_COMMIT}test_what_was_parked_runs_when_it_is_due",),
    ),
    Mutant(
        "floor not looked at",
        "a record older than what is remembered is a dead letter, not run again",
        (
            Patch(
                DECIDE,
                "    if seen.floor is not None and forgotten(",
                "    if False and forgotten(",
            ),
        ),
        (f"{KEEPING}test_a_forgotten_record_that_comes_again_is_a_dead_letter",),
    ),
    Mutant(
        "partition handed over at work",
        "a partition moves once its member has come to rest in it",
        (
            Patch(
                "choreo/adapters/sqlite/subscription.py",
                "            await self._assignee.revoked(partitions)\n",
                "            pass\n",
            ),
        ),
        (f"{BROKER}test_a_partition_moves_once_its_member_has_come_to_rest",),
    ),
    Mutant(
        "no dead letter",
        "given up is never silent",
        (
            Patch(
                "choreo/step/failing.py",
                """        Publish(dead_letter(d, now, {**about, "reason": reason})),
        Publish(note(d, "dead", now, reason=reason""",
                """        Publish(note(d, "dead", now, reason=reason""",
            ),
        ),
        (f"{ATTEMPTS}test_when_attempts_are_used_up_a_dead_letter_keeps_the_very_bytes",),
    ),
    Mutant(
        "same id other payload silent",
        "same id, other value bytes: quarantined, shown, never silent",
        (
            Patch(
                "choreo/step/decide.py",
                "        return quarantined(d, seen, now)",
                "        return Plan(d.owned, ())",
            ),
        ),
        ("tests/semantics/test_quarantine.py",),
    ),
    Mutant(
        "at most once called again",
        "a call with at_most whose outcome is not known is never made again by itself",
        (
            Patch(
                CONTEXT,
                "            if at_most and known is not None and known[0] is Memo.INTENT:",
                "            if False:",
            ),
        ),
        (f"{AT_MOST}test_a_call_that_a_stop_cut_off_is_not_made_again",),
    ),
    Mutant(
        "visits not counted",
        "a handler with visits_max runs so often in a scope, and no more",
        (
            Patch(
                "choreo/step/failing.py",
                '{"visits": visits(gate) + 1}',
                '{"visits": visits(gate)}',
            ),
        ),
        (f"{VISITS}test_of_visits_at_the_same_time_as_many_count_as_may",),
    ),
    Mutant(
        "misfitting answer kept",
        "an answer that does not fit leaves the outcome unknown",
        (Patch("choreo/step/failing.py", "    if call not in d.answers:", "    if True:"),),
        (f"{AT_MOST}test_an_answer_that_returns_does_not_name_may_be_given_again",),
    ),
    Mutant(
        "told before it is written",
        "what is acknowledged is committed",
        (
            Patch(
                DATABASE,
                '                retried(lambda: connection.execute("COMMIT"))\n        except',
                "                self._hand_over(lambda g=group, o=outcomes: self._finish(g, o))\n"
                # So long that whoever is told can look before the COMMIT.
                "                time.sleep(0.002)\n"
                "                group, outcomes = [], []\n"
                '                retried(lambda: connection.execute("COMMIT"))\n        except',
            ),
        ),
        (f"{POWER}test_whatever_is_left_of_the_log_is_a_prefix_of_what_was_acknowledged",),
    ),
    Mutant(
        "commit not synced",
        "power loss: nothing lost with synchronous=FULL",
        (Patch(DATABASE, '"PRAGMA synchronous=FULL"', '"PRAGMA synchronous=NORMAL"'),),
        (f"{POWER}test_what_is_acknowledged_is_in_the_log_by_then_and_is_synced",),
    ),
    Mutant(
        "claims of a piece kept",
        "a delivery that was settled before keeps no other from being written",
        (Patch(APPLY, '                connection.execute("ROLLBACK TO piece")\n', ""),),
        (f"{STORE}test_a_claim_that_was_made_before_keeps_no_other_out",),
    ),
    *AVRO,
    *POSTGRES,
    *RELAYED,
    *TRACKED,
)

ABSENT: dict[str, str] = {}
"""Mutants of the list that have nothing to break here, and why."""
