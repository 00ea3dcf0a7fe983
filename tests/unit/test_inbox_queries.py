"""What asks for a few rows of the inbox does not look at all that was ever settled."""

import re
import sqlite3
from contextlib import closing

import pytest

from choreo.adapters.sqlite import changes, names, owning
from choreo.adapters.sqlite.schema import SCHEMA

QUERIES = {
    "due": owning.DUE,
    "next due": owning.NEXT,
    "held": owning.HELD,
    "waiting for nobody": names.WAITING,
    "first of its chain": changes.BEFORE,
    "let the next one go": changes.WAKE,
}


@pytest.mark.parametrize("name", QUERIES)
def test_an_index_of_what_is_parked_serves(name: str) -> None:
    sql = QUERIES[name].replace("$1", "?1")
    values = [None] * max(map(int, re.findall(r"\?(\d)", sql)))
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    looks = [step for step in plan if re.search(r"(SCAN|SEARCH) inbox\b", step)]
    assert looks
    for step in looks:
        whole_key = "USING PRIMARY KEY (handler=? AND subject=?)"
        assert re.search("USING (COVERING )?INDEX inbox_(due|chain)", step) or whole_key in step, (
            plan
        )
