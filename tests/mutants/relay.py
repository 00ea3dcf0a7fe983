"""Promises of the relay, broken: what is lost between the store and the broker."""

from tests.mutants.mutant import Mutant, Patch

__all__ = ["RELAYED"]

COMMIT = "choreo/worker/commit.py"
RELAY = "choreo/worker/relay.py"
TESTS = "tests/semantics/test_relay.py::"

RELAYED = (
    Mutant(
        "publish by cursor",
        "what is committed is published, also where its row is below one that was sent",
        (
            Patch(
                RELAY,
                "        after = 0\n",
                "        after = max((self._cursor, *self._gone))\n",
            ),
            Patch(
                RELAY,
                "        self._late: list[int] = []\n",
                "        self._late: list[int] = []\n        self._cursor = 0\n",
            ),
            Patch(
                RELAY,
                "            self._sent += rows\n",
                "            self._sent += rows\n"
                "            self._cursor = max((self._cursor, *rows))\n",
            ),
        ),
        (f"{TESTS}test_a_row_below_what_was_sent_is_found",),
    ),
    Mutant(
        "marked before it is published",
        "what is committed is published, whoever dies",
        (
            Patch(
                RELAY,
                "            self._publishing = True\n",
                "            self._publishing = True\n"
                "            self._sent += [one.row for _, part in batch for one in part]\n",
            ),
        ),
        (f"{TESTS}test_what_is_left_is_published_by_the_next_start_before_what_is_new",),
    ),
    Mutant(
        "not read again after an unknown commit",
        "what is committed is published, also where nobody was told",
        (
            Patch(RELAY, "            self.look(lines)  # before", "            pass  # before"),
            Patch(RELAY, "                self.look([plan.owned])\n", "                pass\n"),
            Patch(COMMIT, "            self._relay.look([d.owned])\n", "            pass\n"),
        ),
        (f"{TESTS}test_what_an_unknown_commit_left_is_read_again",),
    ),
    Mutant(
        "leftovers passed over at the takeover",
        "what a former owner has left is published, before anything new",
        (
            Patch(
                RELAY,
                "        if lines:\n            self._read",
                "        if False:\n            self._read",
            ),
        ),
        (f"{TESTS}test_what_is_left_is_published_by_the_next_start_before_what_is_new",),
    ),
)
